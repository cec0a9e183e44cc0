"""Files from elsewhere run no code."""

import io
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import Linear

from xraytune.base.errors import XraytuneError
from xraytune.base.files import write_bytes
from xraytune.base.tensors import read_weights
from xraytune.nets.checkpoint import load_best, resume
from xraytune.nets.optimizer import build_optimizer
from xraytune.study.folder import StudyFolder
from xraytune.synth.saved_generator import load_generator


class Trap:
    """Unpickled, it creates a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.mark),)


def pickles_of(trap: Trap) -> Iterator[bytes]:
    """By pickle, as early releases of torch wrote it; by torch; by NumPy."""
    yield pickle.dumps({"version": 1, "network": trap}, protocol=2)
    by_torch = io.BytesIO()
    torch.save({"version": 1, "network": trap}, by_torch)
    yield by_torch.getvalue()
    by_numpy = io.BytesIO()
    np.save(by_numpy, np.array([trap], dtype=object), allow_pickle=True)
    yield by_numpy.getvalue()


def resume_training(file: Path) -> None:
    network = Linear(2, 2)
    resume(file.parent, network, build_optimizer("adam", network, lr=1e-3))


def read_results(file: Path) -> None:
    StudyFolder(file.parents[2]).results(0)


READERS: dict[str, Callable[[Path], object]] = {
    "own.pth": read_weights,
    "own.safetensors": read_weights,
    "generator.safetensors": load_generator,
    "best.safetensors": lambda file: load_best(file.parent, Linear(2, 2)),
    "checkpoint.pt": resume_training,
    "trials/0000/val_b.npy": read_results,
}


@pytest.mark.parametrize("name", READERS)
def test_malicious_pickle_is_refused_and_not_executed(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "it ran"
    for number, content in enumerate(pickles_of(Trap(mark))):
        file = tmp_path / f"{number}" / name
        file.parent.mkdir(parents=True)
        write_bytes(file, content, is_recorded=name.endswith(".npy"))

        with pytest.raises(XraytuneError):
            READERS[name](file)

    assert not mark.exists()
    pickle.loads(next(pickles_of(Trap(mark))))  # noqa: S301  otherwise, the test would see nothing
    assert mark.is_dir()
