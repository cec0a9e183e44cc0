"""A whole confirm, in this process and without Ray: inputs, refusals and resuming."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.transform_folder import transform_folder
from tests.in_process import confirm_in_process, search_in_process
from xraytune.base.errors import DataError, MachineError, StudyError
from xraytune.base.files import read_json, read_jsonl, write_json
from xraytune.confirm.record import Confirmation
from xraytune.confirm.run import confirm
from xraytune.confirm.test_access import TEST_ACCESS_FILE
from xraytune.data.phantom import draw_phantoms
from xraytune.model.best import export
from xraytune.present.page import write_report
from xraytune.search.callbacks import Callbacks
from xraytune.space.load import load_space
from xraytune.study.folder import StudyFolder

pytestmark = pytest.mark.slow

SPACE = """\
name: small
data: {path: xrays, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {values: [none, folder]}
  folder: {when: {source: folder}, parameters: {path: {value: copies}}}
  synthetic_ratio: {value: 0.5, when: {source: folder}}
  backbone: {value: small_cnn}
  weights: {value: none}
  batch_size: {value: 8}
budget: {trials: 2, max_epochs: 1, steps_per_epoch: 2}
scheduler: {name: none}
quality: {allow_memorised: true}
confirm: {finalists: 1, replicates: 2, controls: {matched: [none], tuned: []}}
points_to_evaluate: [{source: folder}, {source: none}]
"""


@dataclass(frozen=True, slots=True)
class Lab:
    """X-rays without `test/`, copies of them to train on, a study that has ended, and test images elsewhere."""

    path: Path

    @property
    def study(self) -> Path:
        return self.path / "studies" / "small"

    @property
    def test(self) -> Path:
        return self.path / "test"

    def confirm(self, **options: Any) -> Confirmation:
        return confirm(self.study, test=self.test, **options)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab(tmp_path_factory.mktemp("confirm"))
    draw_phantoms(lab.path / "xrays", patients=60, seed=4, image_size_px=32)
    shutil.move(lab.path / "xrays" / "test", lab.test)
    (lab.path / "space.yaml").write_text(SPACE, encoding="utf-8")
    space = load_space(lab.path / "space.yaml")
    transform_folder(space.settings.data.path, lab.path / "copies", copies=2)
    search_in_process(space, lab.path)
    return lab


def copied(source: Lab, folder: Path) -> Iterator[Lab]:
    """Yield a private copy of a lab, whose confirmations run in this process."""
    shutil.copytree(source.path, folder / "lab")
    with confirm_in_process():
        yield Lab(folder / "lab")


@pytest.fixture
def lab(ended: Lab, tmp_path: Path) -> Iterator[Lab]:
    """A private copy of the lab."""
    yield from copied(ended, tmp_path)


@pytest.fixture(scope="module")
def confirmed(ended: Lab, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, Confirmation]:
    """The lab after a confirmation, and its result."""
    for copy in copied(ended, tmp_path_factory.mktemp("confirmed")):
        return copy, copy.confirm()
    raise AssertionError


@pytest.fixture
def done(confirmed: tuple[Lab, Confirmation], tmp_path: Path) -> Iterator[Lab]:
    """A private copy of the lab after the confirmation."""
    yield from copied(confirmed[0], tmp_path)


@pytest.fixture
def first(confirmed: tuple[Lab, Confirmation], tmp_path: Path) -> Confirmation:
    """The result of that confirmation, of the study in the private copy."""
    return replace(confirmed[1], study=tmp_path / "lab" / "studies" / "small")


def test_a_folder_of_unknown_origin_adds_a_note_on_leakage(first: Confirmation) -> None:
    (note,) = first.notes

    assert "leakage cannot be excluded" in note


def test_a_confirm_resumes_with_its_own_test_images_and_refuses_others(
    done: Lab, first: Confirmation
) -> None:
    """After it was killed while it scored; a copy of the folder has the same images, in the same order."""
    other = shutil.copytree(done.test, done.path / "other")
    copy = shutil.copytree(done.test, done.path / "harmless")
    next((other / "NORMAL").iterdir()).unlink()
    one, *_, last = sorted((done.test / "NORMAL").iterdir())
    one.rename(done.path / "one")
    last.rename(one)
    (done.path / "one").rename(last)

    with pytest.raises(
        StudyError, match=r"scored on other test images\n.*use those, or move confirm/ away"
    ):
        confirm(done.study, test=other)
    with pytest.raises(
        StudyError,
        match=r"renamed since this confirmation scored them(.|\n)*fix: restore their names",
    ):
        done.confirm()
    next((done.study / "confirm").rglob("test.npy")).unlink()

    assert confirm(done.study, test=copy).to_json() == first.to_json()
    assert [row["fingerprint"] for row in read_jsonl(done.study / TEST_ACCESS_FILE)] == [
        first.test.fingerprint
    ]


class Stopped(Exception):
    """Raised after all training to leave the test images sealed."""


def test_the_test_images_stay_sealed_if_asked_and_their_access_is_logged_before_they_are_scored(
    lab: Lab,
) -> None:
    """Four: with fewer, it would be exploratory."""

    def leave_sealed() -> None:
        raise Stopped

    def stop_while_scoring(what: str, *_: int) -> None:
        if what.startswith("scoring test"):
            raise Stopped

    with pytest.raises(Stopped):
        lab.confirm(before_test=leave_sealed, replicates=4)

    assert not (lab.study / TEST_ACCESS_FILE).exists()
    assert not list(lab.study.rglob("test.npy"))
    with pytest.raises(
        StudyError,
        match=r"4 replicates, and 5 were asked for\n.*omit --replicates, or move confirm/",
    ):
        lab.confirm(replicates=5)
    with pytest.raises(Stopped):
        lab.confirm(callbacks=Callbacks(on_progress=stop_while_scoring))
    logged = read_jsonl(lab.study / TEST_ACCESS_FILE)
    assert len(logged) == 1, "before the first score"
    found = lab.confirm()
    assert (found.replicates, found.exploratory) == (4, ())
    assert read_jsonl(lab.study / TEST_ACCESS_FILE) == logged
    assert lab.confirm(before_test=leave_sealed) == found, "called only while they are sealed"


ONCE_BEFORE = "test images had been accessed once before, by `confirm` of study small"
FEW = "it has only 2 replicates, and the 95 % intervals need at least 4"


def test_results_that_were_changed_are_refused_until_they_are_computed_again(
    done: Lab, first: Confirmation
) -> None:
    """Scores that could be real, and a verdict."""
    scores, verdict = (
        next((done.study / "confirm").rglob("test.npy")),
        done.study / "confirm" / "verdict.json",
    )
    np.save(scores, np.load(scores)[:, ::-1])
    edit(verdict, "test", images="many")

    with pytest.raises(
        StudyError,
        match=r"(?s)test\.npy: .*not what was written.*remove it, and run the same command",
    ):
        done.confirm()
    for read in (write_report, partial(export, out=done.path / "best.yaml")):
        with pytest.raises(
            StudyError, match=r"(?s)verdict\.json: .*not what was written.*`xraytune confirm` again"
        ):
            read(done.study)

    scores.unlink()
    assert done.confirm().to_json() == first.to_json()
    export(done.study, out=done.path / "best.yaml")


@pytest.mark.parametrize("fault", ["a flipped bit", "the network of another replicate"])
def test_only_the_network_that_a_run_trained_is_scored(
    done: Lab, first: Confirmation, fault: str
) -> None:
    """Any other is found before the test images are accessed, and trained again by the next start."""
    scored = sorted((done.study / "confirm").rglob("test.npy"))
    networks = [file.parent / "checkpoint" / "best.safetensors" for file in scored]
    content = bytearray(networks[0].read_bytes())
    content[-1] ^= 64
    networks[0].write_bytes(content if fault == "a flipped bit" else networks[1].read_bytes())
    for file in scored:
        file.unlink()
    logged = read_jsonl(done.study / TEST_ACCESS_FILE)

    with pytest.raises(
        StudyError,
        match=r"0000/.*: this is not the network that was trained\n.*run the same command",
    ):
        done.confirm()

    assert not [*(done.study / "confirm").rglob("test.npy")]
    assert read_jsonl(done.study / TEST_ACCESS_FILE) == logged
    again = done.confirm()
    assert again.finalists == first.finalists
    assert networks[0].read_bytes() != content


def another_study(lab: Lab) -> Path:
    """A second study of the same images, which is not confirmed."""
    names = ("confirm", TEST_ACCESS_FILE)
    return shutil.copytree(
        lab.study, lab.study.with_name("other"), ignore=shutil.ignore_patterns(*names)
    )


def test_a_second_study_on_the_same_test_folder_is_exploratory_and_names_the_first(
    done: Lab, first: Confirmation
) -> None:
    other, copy = another_study(done), shutil.copytree(done.test, done.path / "harmless")

    second = confirm(other, test=copy)
    resumed = done.confirm()

    assert first.exploratory == (FEW,)
    assert resumed.to_json() == first.to_json()
    assert second.exploratory == (ONCE_BEFORE, FEW)
    assert second.to_json()["answer"].startswith("Exploratory, not a confirmation: ")


def test_an_access_by_another_study_during_the_training_makes_the_verdict_exploratory(
    done: Lab,
) -> None:
    other = another_study(done)
    shutil.copytree(
        done.study / "confirm", other / "confirm"
    )  # as if it had been planned and trained before
    (other / "confirm" / "verdict.json").unlink()
    for scores in other.glob("confirm/trials/*/test.npy"):
        scores.unlink()

    for _ in range(2):
        assert confirm(other, test=done.test).exploratory == (ONCE_BEFORE, FEW)


def test_test_images_among_the_extra_images_are_refused_before_anything_is_trained(
    lab: Lab,
) -> None:
    leaked = next((lab.test / "NORMAL").iterdir())
    shutil.copy(leaked, lab.path / "copies" / "NORMAL" / "synthetic.jpeg")
    with (lab.path / "copies" / "patients.csv").open("a", encoding="utf-8") as table:
        table.write("NORMAL/synthetic.jpeg,nobody\n")

    with pytest.raises(DataError, match=f"used for training or validation: .*{leaked.name}"):
        lab.confirm()

    assert not (lab.study / "confirm").exists()


def test_moved_images_are_decoded_again_and_runs_use_the_given_locations(lab: Lab) -> None:
    shutil.rmtree(lab.path / "cache")
    moved, weights_dir = lab.path / "elsewhere", lab.path / "weights"
    (lab.path / "xrays").rename(moved)

    assert lab.confirm(data=moved, weights_dir=weights_dir).finalists

    settings = StudyFolder(lab.study / "confirm").experiment(0).settings
    assert (settings.data.path, settings.weights_dir) == (moved, weights_dir)


def test_a_study_searched_on_a_gpu_needs_a_gpu(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    edit(lab.study / "environment.json", "compute", device="cuda")

    with pytest.raises(MachineError, match="searched on a GPU, but torch sees no GPU here"):
        lab.confirm()

    assert not (lab.study / "confirm").exists()


def edit(file: Path, where: str, **values: str) -> None:
    """Change a record, as if it came from another machine."""
    content = read_json(file)
    content[where] |= values
    write_json(file, content)


def test_scores_of_a_gpu_and_of_a_cpu_are_never_compared(done: Lab) -> None:
    """If some are missing and there is no GPU any more, as on the head node of a cluster, all are computed again."""
    for folder in (done.study, done.study / "confirm"):
        edit(folder / "environment.json", "compute", device="cuda")
    edit(done.study / "confirm" / "scoring.json", "compute", device="cuda")
    scored = sorted((done.study / "confirm").rglob("test.npy"))
    for file in scored[1:]:
        file.write_bytes(b"of a GPU")
    scored[0].unlink()

    found = done.confirm(address="head:6379")

    assert sorted((done.study / "confirm").rglob("test.npy")) == scored
    assert all(np.load(file).dtype == np.float64 for file in scored)
    assert "all replicates were trained on GPUs and scored on a CPU" in found.notes
    assert read_json(done.study / "confirm" / "scoring.json")["compute"]["device"] == "cpu"


def test_replicates_of_two_versions_of_torch_are_never_compared(
    done: Lab, first: Confirmation
) -> None:
    """Nor are those of another version than in the search, without a note."""
    edit(done.study / "environment.json", "packages", torch="2.0.0")
    found = done.confirm()
    assert found.verdict == first.verdict
    assert any(
        note.startswith("trials of the search were trained with torch 2.0.0")
        for note in found.notes
    )

    edit(done.study / "confirm" / "environment.json", "packages", torch="2.0.1")
    assert done.confirm().verdict == first.verdict, "nothing is left to train"
    runs = done.study / "confirm" / "runs.jsonl"
    runs.write_text(
        "".join(runs.read_text("utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8"
    )
    with pytest.raises(
        StudyError, match=r"trained with torch 2\.0\.1 .* is installed(.|\n)*move confirm/ away"
    ):
        done.confirm()
