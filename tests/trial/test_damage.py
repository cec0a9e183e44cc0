"""Artifacts that are damaged, lost or of another version are rebuilt once, bit for bit."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import pytest
from safetensors.torch import load_file, save

from tests.in_process import CPU, one_thread
from tests.trial.conftest import Bench, flip_a_bit, frozen, gan
from xraytune.base import artifacts
from xraytune.base.errors import ArtifactError, StudyError
from xraytune.base.files import read_json, sha256_of
from xraytune.base.records import Progress, ignore_progress
from xraytune.data.pixels import PIXELS_STAGE
from xraytune.data.prepare import RunContext, prepare, restore_pixels, side_image_set
from xraytune.nets.feature_store import FEATURES_FILE, FEATURES_STAGE
from xraytune.space.settings import Experiment
from xraytune.synth.generator_inputs import GAN_STAGE, inputs_of
from xraytune.synth.memorisation import MEMORISATION_STAGE
from xraytune.synth.sources.source import POOL_STAGE
from xraytune.trial.run import run_trial

STAGES = {
    PIXELS_STAGE: "pixels.npy",
    GAN_STAGE: "generator.safetensors",
    POOL_STAGE: "pixels.npy",
    MEMORISATION_STAGE: "memorisation.json",
    FEATURES_STAGE: FEATURES_FILE,
}
"""Every stage that the trial depends on, and a file of its artifacts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A finished trial that depends on every stage: its cache, the hashes there, its results."""

    bench: Bench
    experiment: Experiment
    cache: Path
    hashes: dict[str, str]
    figures: tuple[float | None, ...]


def run(
    bench: Bench,
    experiment: Experiment,
    cache: Path,
    trial_dir: Path,
    on_progress: Progress = ignore_progress,
) -> tuple[float | None, ...]:
    """As a worker runs a trial."""
    restore_pixels(bench.settings, bench.prepared, cache)
    context = RunContext(prepared=bench.prepared, cache=cache, compute=CPU, on_progress=on_progress)
    result = run_trial(experiment, context, trial_dir=trial_dir)
    return result.value, result.val_b_score, result.threshold, result.best_epoch


def hashes(cache: Path) -> dict[str, str]:
    return {
        str(file.relative_to(cache)): said_by(file)
        for file in sorted(cache.rglob("*"))
        if file.is_file()
    }


def said_by(file: Path) -> str:
    """The hash of a file's content.

    safetensors writes its metadata, and with it the manifest's hash, in any order.
    """
    if file.name == "manifest.json":
        return str(sorted(read_json(file).get("files", ())))
    if file.suffix == ".safetensors":
        return hashlib.sha256(save(load_file(file))).hexdigest()
    return sha256_of(file)


@pytest.fixture(scope="module")
def done(bench: Bench, module_path: Path) -> Done:
    cache = module_path / "cache"
    prepare(bench.settings, cache)
    experiment = frozen(bench, module_path, source="gan", gan=gan(seed=21), augmentation="flip")
    with one_thread():
        result = run(bench, experiment, cache, module_path / "trial")
    return Done(
        bench=bench, experiment=experiment, cache=cache, hashes=hashes(cache), figures=result
    )


@pytest.fixture
def cache(done: Done, tmp_path: Path) -> Path:
    """A copy that this process has not verified yet."""
    return Path(shutil.copytree(done.cache, tmp_path / "cache"))


def delete_the_folder(file: Path) -> None:
    shutil.rmtree(file.parent)


@pytest.mark.parametrize("damage", [flip_a_bit, delete_the_folder])
@pytest.mark.parametrize("stage", STAGES)
def test_trial_on_damaged_cache_has_same_result(
    done: Done,
    cache: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    stage: str,
    damage: Callable[[Path], None],
) -> None:
    """Each artifact of a stage is rebuilt once, and those that depend on it are not.

    More damages of one artifact are in test_artifacts.py.
    """
    damaged = sorted(cache.glob(f"{stage}/*/{STAGES[stage]}"))
    for file in damaged:
        damage(file)
    others = (
        file
        for file in cache.glob("*/*/*")
        if stage not in file.parts and file.name != "manifest.json"
    )
    untouched = {file: file.stat().st_mtime_ns for file in others}

    again = run(done.bench, done.experiment, cache, tmp_path / "trial")

    assert damaged
    assert again == done.figures
    assert hashes(cache) == done.hashes, "all rebuilt, no leftovers"
    assert {file: file.stat().st_mtime_ns for file in untouched} == untouched
    told = [
        record.message
        for record in caplog.records
        if "is damaged and will be built again" in record.message
    ]
    assert len(told) == (0 if damage is delete_the_folder else len(damaged))


def test_damaged_pixels_are_never_trained_on(done: Done, cache: Path) -> None:
    """The error says how to restore them."""
    flip_a_bit(cache / done.bench.prepared.pixels / "pixels.npy")

    with pytest.raises(ArtifactError, match=r"decoded images are missing"):
        side_image_set("train", done.bench.prepared, cache)


def install(package: str, release: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the metadata of another release of a package."""
    metadata = folder / f"{package}-{release}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {release}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(artifacts, "_version", version)  # without its memory


@pytest.mark.parametrize(
    ("package", "stages"),
    [
        ("torch", {GAN_STAGE, POOL_STAGE, MEMORISATION_STAGE, FEATURES_STAGE}),
        ("torchvision", {FEATURES_STAGE}),
    ],
)
def test_upgrade_rebuilds_dependent_artifacts_and_keeps_old_ones(
    done: Done,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    stages: set[str],
) -> None:
    before = {stage: {path.name for path in (cache / stage).glob("[!.]*")} for stage in STAGES}
    install(package, "99.0.1", tmp_path, monkeypatch)

    run(done.bench, done.experiment, cache, tmp_path / "trial")

    after = {stage: {path.name for path in (cache / stage).glob("[!.]*")} for stage in STAGES}
    assert {stage for stage in STAGES if after[stage] != before[stage]} == stages
    assert all(after[stage] >= before[stage] for stage in STAGES)


def test_pixels_of_another_decoder_are_not_reused(done: Done, cache: Path) -> None:
    """As after losing the cache and upgrading Pillow: same fingerprint, other pixels."""
    prepared, _ = prepare(done.bench.settings, cache)
    began = replace(prepared, pixels_sha256="0" * 64)

    with pytest.raises(StudyError, match=r"Pillow .* decodes the images differently"):
        restore_pixels(done.bench.settings, began, cache)
    assert inputs_of(gan(), began, CPU) != inputs_of(gan(), prepared, CPU)
