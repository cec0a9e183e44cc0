"""A program with a command line as a generator: arguments, progress, failures, and its end."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from xraytune.base.errors import ConfigError, TrialError
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.program import Program

DESCRIPTION = """\
settings: {steps: 3}
longer_by: steps
fit: [python, tool.py, fit, "{images}", "{out}", "{steps}"]
sample: [python, tool.py, sample, "{model}", "{out}", "{class}", "{n}", "{seed}"]
"""
TOOL = """\
import json, pathlib, sys
import numpy as np
from PIL import Image

what, source, out = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
if what == "fit":
    for folder in sorted(source.iterdir()):
        images = [np.asarray(Image.open(file)) for file in sorted(folder.iterdir())]
        Image.fromarray(np.mean(images, axis=0).astype(np.uint8)).save(out / f"{folder.name}.png")
    for step in range(int(sys.argv[4])):
        print("a line of a log")
        print(json.dumps({"done": step + 1, "total": int(sys.argv[4])}))
else:
    mean = np.asarray(Image.open(source / f"{sys.argv[4]}.png"))
    random = np.random.default_rng(int(sys.argv[6]))
    for number in range(int(sys.argv[5])):
        noisy = mean + random.normal(size=mean.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(out / f"{number:04d}.png")
"""
CLASSES = ("NORMAL", "lobar; rm -rf pneumonia")


@pytest.fixture
def description(tmp_path: Path) -> Path:
    (tmp_path / "tool.py").write_text(TOOL)
    (tmp_path / "tool.yaml").write_text(DESCRIPTION)
    return tmp_path / "tool.yaml"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model folder"
    folder.mkdir()
    return folder


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended may wait for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def fit(program: Program, model: Path) -> Iterator[tuple[int, int]]:
    progress: list[tuple[int, int]] = []
    images = np.zeros((6, 8, 8), dtype=np.uint8)
    images[3:] = 200
    program.fit(
        images,
        np.repeat([0, 1], 3),
        classes=CLASSES,
        masks=None,
        settings=program.Settings(steps=2),
        folder=model,
        seed=1,
        device="cpu",
        progress=lambda *step: progress.append(step),
    )
    yield from progress


def sample(program: Program, model: Path) -> NDArray[np.uint8]:
    return program.sample(
        np.ones(5, dtype=np.int64),
        classes=CLASSES,
        settings=program.Settings(steps=2),
        folder=model,
        seed=3,
        device="cpu",
        size=32,
    )


def test_a_program_is_trained_and_makes_images_of_a_class(description: Path, model: Path) -> None:
    """No shell reads a name with a semicolon, and the copy of the images is gone at the end."""
    program = Program(description)

    progress = [*fit(program, model)]
    images = sample(program, model)

    assert progress == [(1, 2), (2, 2)]
    assert images.shape == (5, 8, 8)
    assert images.dtype == np.uint8
    assert 195 < images.mean() < 205
    assert [file.name for file in model.iterdir()] == ["model"]


def test_the_log_of_a_program_need_not_be_text(description: Path, model: Path) -> None:
    changed = TOOL.replace('print("a line of a log")', "sys.stdout.buffer.write(bytes([255, 10]))")
    (description.parent / "tool.py").write_text(changed)

    assert [*fit(Program(description), model)] == [(1, 2), (2, 2)]


def test_a_program_that_fails_is_shown_with_its_last_lines(description: Path, model: Path) -> None:
    (description.parent / "tool.py").write_text("import sys\nsys.exit('no CUDA here')\n")

    with pytest.raises(TrialError, match="exit code 1\n  no CUDA here"):
        [*fit(Program(description), model)]


def test_the_identity_of_a_program_has_the_files_that_it_names(description: Path) -> None:
    EXTENSIONS.register([str(description)])
    before = EXTENSIONS.declared["tool"]
    (description.parent / "tool.py").write_text(TOOL + "\n")

    EXTENSIONS.register([str(description)])

    assert EXTENSIONS.declared["tool"].changes(before) == ["tool.py"]
    assert before.settings == {"steps": 3}
    assert before.seen is None, "it may have seen everybody"


def test_an_unknown_placeholder_is_refused_at_its_line(description: Path) -> None:
    description.write_text(DESCRIPTION.replace("{n}", "{count}"))

    with pytest.raises(ConfigError, match=r"tool\.yaml:4: .* \{count\}"):
        Program(description)


@pytest.mark.parametrize("name", ["size", "seed", "out"])
def test_a_setting_with_the_name_of_a_placeholder_is_refused(description: Path, name: str) -> None:
    """The placeholder would hide its value, and trials that differ in it would be equal."""
    description.write_text(DESCRIPTION.replace("{steps: 3}", f"{{steps: 3, {name}: 64}}"))

    with pytest.raises(ConfigError, match=rf"tool\.yaml:1: .* \{{{name}\}} is .* placeholder"):
        Program(description)


def test_images_of_several_sizes_are_a_failure_of_the_program(
    description: Path, model: Path
) -> None:
    tool = description.parent / "tool.py"
    tool.write_text(TOOL.replace("(noisy.clip", "(noisy[number:].clip"))
    program = Program(description)
    [*fit(program, model)]

    with pytest.raises(TrialError, match=r"sample of tool\.yaml .* several sizes"):
        sample(program, model)


def test_images_of_16_bits_are_a_failure_of_the_program(description: Path, model: Path) -> None:
    """All grey values above 255 would become white."""
    tool = description.parent / "tool.py"
    tool.write_text(TOOL.replace("clip(0, 255).astype(np.uint8)", "astype(np.uint16)"))
    program = Program(description)
    [*fit(program, model)]

    with pytest.raises(TrialError, match=r"sample of tool\.yaml .* more than 8 bits"):
        sample(program, model)


def test_a_program_ends_when_the_process_of_its_trial_is_killed(
    description: Path, model: Path
) -> None:
    pid_file = model / "pid"
    code = f"import os, pathlib, time\npathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))"
    (description.parent / "tool.py").write_text(f"{code}\ntime.sleep(600)\n")
    trial = (
        "from pathlib import Path; from tests.space.test_program import Program, fit; "
        f"[*fit(Program(Path({str(description)!r})), Path({str(model)!r}))]"
    )
    process = subprocess.Popen([sys.executable, "-c", trial])
    while not (pid_file.exists() and pid_file.read_text()):
        time.sleep(0.1)

    process.kill()
    process.wait()

    while is_running(int(pid_file.read_text())):  # for ever, if nothing ends it
        time.sleep(0.1)
