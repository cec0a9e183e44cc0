"""`xraytune extension check`: each broken promise is named with what to change."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.extension_files import write_blend
from tests.in_process import one_thread, other_process
from tests.pair_files import draw_xrays
from xraytune.base.errors import ConfigError
from xraytune.model.extension_check import Promise, extension_check


@pytest.fixture(scope="module")
def xrays(module_path: Path) -> Path:
    draw_xrays(module_path, patients=60, seed=4, difficulty=0.0)
    return module_path / "xrays"


@pytest.fixture(autouse=True)
def _pinned() -> Iterator[None]:
    with one_thread():
        yield


def check(place: str, xrays: Path) -> dict[str, Promise]:
    promises = extension_check(place, data=xrays, image_size=32, overrides=["steps=4"])
    return {promise.name: promise for promise in promises}


def test_an_extension_that_keeps_all_promises(xrays: Path, tmp_path: Path) -> None:
    """A broken image does not matter."""
    images = shutil.copytree(xrays, tmp_path / "xrays")
    (images / "train/NORMAL/broken.jpeg").write_bytes(b"")

    promises = check(write_blend(tmp_path), images)

    assert {name for name, promise in promises.items() if not promise.is_kept} == set()
    assert {"same seed", "killed and resumed", "classes", "no copies"} <= promises.keys()


@pytest.mark.parametrize(
    ("swapped", "copied", "broken"),
    [
        (False, True, {"same seed", "killed and resumed", "no copies"}),
        (True, False, {"same seed", "killed and resumed", "classes"}),
    ],
)
def test_broken_promises_say_what_to_change(
    xrays: Path, tmp_path: Path, swapped: bool, copied: bool, broken: set[str]
) -> None:
    """Random numbers without a seed, and copies, or the images of the other class."""
    changes = {"default_rng(seed)": "default_rng()"}
    if copied:
        changes |= {"(first + second) / 2": "first", "* settings.noise": "* 0.1"}
    if swapped:
        changes["images[labels == target]"] = "images[labels == 1 - target]"
    place = write_blend(tmp_path)
    code = (tmp_path / "blend.py").read_text()
    for old, new in changes.items():
        assert old in code
        code = code.replace(old, new)
    (tmp_path / "blend.py").write_text(code)

    promises = check(place, xrays)

    assert {name for name, promise in promises.items() if not promise.is_kept} == broken
    assert all(promises[name].fix for name in broken)
    assert promises["same seed"].found == "other images"


def test_a_size_that_no_study_may_have_is_refused(xrays: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="image_size"):
        extension_check(write_blend(tmp_path), data=xrays, image_size=4)


def test_a_training_that_is_not_killed_is_not_said_to_resume(xrays: Path, tmp_path: Path) -> None:
    """There is nothing to kill it at, if it reports no progress."""
    place = write_blend(tmp_path, "            progress(step + 1, settings.steps)\n")

    promises = check(place, xrays)

    broken = {name for name, promise in promises.items() if not promise.is_kept}
    assert broken == {"progress", "killed and resumed"}
    assert "not tested" in promises["killed and resumed"].found


def test_a_process_that_fails_before_it_is_killed_is_not_said_to_resume(
    xrays: Path, tmp_path: Path
) -> None:
    """As in a script that other processes cannot import."""
    place = write_blend(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(
        "from xraytune.api import extension_check\n"
        f"promises = extension_check({place!r}, data={str(xrays)!r}, image_size=32)\n"
        "print(*[f'{promise.name}: {promise.found}' for promise in promises], sep='\\n')\n"
    )

    done = other_process(sys.executable, str(script))

    assert "killed and resumed: not tested" in done.stdout
    assert "__main__" in done.stderr
