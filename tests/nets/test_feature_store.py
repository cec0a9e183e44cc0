"""The store of features: shared by processes, whole after a kill, repaired where it is damaged."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from xraytune.base.arrays import Float32Array, Int64Array
from xraytune.base.artifacts import artifact_path
from xraytune.nets.feature_store import FEATURES_FILE, FEATURES_STAGE, FeatureStore

INPUTS = {"network": "small"}
WIDTH = 3


def keys_of(images: Sequence[int]) -> list[bytes]:
    return [hashlib.sha256(b"%d" % image).digest()[:16] for image in images]


def features_of(images: Sequence[int] | Int64Array) -> Float32Array:
    return np.outer(images, range(1, WIDTH + 1)).astype(np.float32)


def find(cache: Path, images: Sequence[int], store: FeatureStore | None = None) -> list[int]:
    """Look up images, check that their features are right, and return those that were computed."""
    computed = list[int]()

    def compute(places: Int64Array) -> Iterator[Float32Array]:
        for part in np.array_split(places, 2):
            chosen = np.array(images)[part]
            computed.extend(chosen.tolist())
            yield features_of(chosen)

    store = store or FeatureStore(cache, INPUTS)
    rows, places = store.find(keys_of(images), compute)
    assert np.array_equal(rows[places], features_of(images))
    return computed


def test_an_image_is_computed_once_whatever_set_it_is_in(tmp_path: Path) -> None:
    """More than a block; equal images count once."""
    assert sorted(find(tmp_path, [*range(600), 7, 7])) == [*range(600)]
    assert find(tmp_path, [5, 5, 3]) == []
    assert find(tmp_path, [3, 700, 5, 701, 701]) == [700, 701]


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def cut(file: Path, count: int) -> None:
    file.write_bytes(file.read_bytes()[:-count])


def zero(file: Path, count: int) -> None:
    cut(file, count)
    file.write_bytes(file.read_bytes() + bytes(count))


def remove(file: Path, is_with_folder: int) -> None:
    if is_with_folder:
        shutil.rmtree(file.parent)
    else:
        file.unlink()


ROW = 24 + 4 * WIDTH
DAMAGES: dict[str, tuple[Callable[[Path, int], object], int, int]] = {
    "a torn row": (cut, 1, 1),
    "rows that were not written": (cut, 4 * ROW + 5, 5),
    "half of the first row": (cut, 10 * ROW - 20, 10),
    "an empty file": (cut, 10 * ROW, 10),
    "no file": (remove, 0, 10),
    "no folder": (remove, 1, 10),
    "rows of zeros, after a power loss": (zero, 2 * ROW, 2),
    "a flipped bit of a feature": (flip, 4 * ROW - 1, 1),
    "a flipped bit of a key": (flip, 3 * ROW + 10, 1),
    "a flipped bit of a later width": (flip, 3 * ROW, 1),
    "a flipped bit of a checksum": (flip, 3 * ROW + 5, 1),
    "a flipped bit of the first width": (flip, 0, 10),
    "a row of another version": (flip, 2, 10),
}
"""What is done to a store of ten images, and how many are computed again."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_a_kill_or_a_disk_has_damaged_is_computed_again(tmp_path: Path, damage: str) -> None:
    """Nothing else is; further images can be added afterwards."""
    find(tmp_path, range(10))
    file = artifact_path(tmp_path, FEATURES_STAGE, INPUTS) / FEATURES_FILE
    act, amount, count = DAMAGES[damage]
    act(file, amount)

    again = find(tmp_path, [*range(10), 50])

    assert len(again) == count + 1
    assert find(tmp_path, [*range(10), 50, 60]) == [60]
    if damage in ("a flipped bit of a feature", "a flipped bit of a checksum"):
        assert file.stat().st_size == 12 * ROW, "repaired in its place"


def test_a_row_that_another_node_wrote_over_is_computed_again(tmp_path: Path) -> None:
    """On storage whose locks hold on one node only, two nodes may append at the same place."""
    store = FeatureStore(tmp_path, INPUTS)
    find(tmp_path, [100])
    file = artifact_path(tmp_path, FEATURES_STAGE, INPUTS) / FEATURES_FILE
    one_row = file.read_bytes()

    assert find(tmp_path, [1, 2], store) == [1, 2]
    file.write_bytes(one_row)  # the other node has not seen these rows ...
    find(tmp_path, [3, 4, 5])  # ... and writes its own in their place

    assert sorted(find(tmp_path, [1, 2], store)) == [1, 2]
    assert find(tmp_path, [1, 2, 3, 4, 5], store) == []


def test_a_file_of_another_network_has_no_rows(tmp_path: Path) -> None:
    find(tmp_path, [1, 2])
    other = {"network": "another"}
    store = FeatureStore(tmp_path, other)
    folder = artifact_path(tmp_path, FEATURES_STAGE, other)
    shutil.copytree(artifact_path(tmp_path, FEATURES_STAGE, INPUTS), folder)

    assert find(tmp_path, [1, 2], store) == [1, 2]


def test_rows_can_be_read_after_the_store_was_removed(tmp_path: Path) -> None:
    """A process that has it open finds what it looks up next in another one."""
    store = FeatureStore(tmp_path, INPUTS)
    find(tmp_path, [1, 2], store)
    rows, places = store.find(keys_of([1, 2]), lambda _: iter(()))
    path = artifact_path(tmp_path, FEATURES_STAGE, INPUTS)
    path.rename(path.with_name(".aside"))

    find(tmp_path, [3, 1], store)

    assert np.array_equal(rows[places], features_of([1, 2]))


WORKER = """
import sys
from pathlib import Path
import numpy as np
from tests.nets.test_feature_store import INPUTS, features_of, keys_of
from xraytune.nets.feature_store import FeatureStore

cache, log, images = Path(sys.argv[1]), Path(sys.argv[2]), range(*map(int, sys.argv[3:5]))

def compute(places):
    print("computing", flush=True)
    sys.stdin.readline()
    chosen = np.array(images)[places]
    yield features_of(chosen)
    with log.open("a") as stream:
        stream.writelines(f"{image}\\n" for image in chosen)

def show(what, done, total):
    if "waiting" in what:
        print(what, flush=True)

store = FeatureStore(cache, INPUTS)
rows, places = store.find(
    keys_of(images), compute, on_progress=show
)
assert np.array_equal(rows[places], features_of(images))
"""


@pytest.mark.parametrize("is_killed", [False, True])
def test_two_processes_share_the_work_and_one_takes_over_when_the_other_dies(
    tmp_path: Path, is_killed: bool
) -> None:
    """The second one computes what the first has not begun, and then waits for the rest."""
    log = tmp_path / "computed"

    def worker(first: int, end: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, str(tmp_path / "cache"), str(log)]
        return subprocess.Popen(
            [*command, str(first), str(end)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    first = worker(0, 500)
    assert first.stdout is not None
    assert first.stdout.readline() == "computing\n"
    second = worker(100, 600)
    assert second.stdin is not None
    assert second.stdout is not None
    second.stdin.write("\n" * 10)
    second.stdin.flush()
    while second.stdout.readline() == "computing\n":
        pass
    shared = log.read_text().split()
    if is_killed:
        first.kill()
    first.communicate("" if is_killed else "\n" * 10)
    second.communicate()

    assert len(shared) > 100
    assert (first.returncode, second.returncode) == (-9 if is_killed else 0, 0)
    computed = sorted(map(int, log.read_text().split()))
    assert computed == [*range(100 if is_killed else 0, 600)], "each once"
