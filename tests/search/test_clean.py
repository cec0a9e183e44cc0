"""`clean` frees only what can be computed again: the study continues with the same numbers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.in_process import CPU, controller_of, one_thread
from xraytune.config.load import load_space
from xraytune.config.settings import DiffusionSettings, Experiment
from xraytune.confirm.run_list import Run, RunList
from xraytune.data.phantom import draw_phantoms
from xraytune.errors import StudyError
from xraytune.export.best import export
from xraytune.export.train import train
from xraytune.files import read_json, sha256_of, write_json
from xraytune.pipeline.artifacts import artifact_path, build_once
from xraytune.pipeline.prepare import RunContext, prepare
from xraytune.pipeline.synthesize import (
    DIFFUSION_STAGE,
    GAN_STAGE,
    generator_inputs,
    generator_need,
    generator_work_path,
    trained_generator,
)
from xraytune.pipeline.trial import train_own_generator, trial_epochs
from xraytune.search.cache import clean, clean_cache, list_cache
from xraytune.search.messages import TrialSuggestion
from xraytune.search.status import status
from xraytune.search.study import StudyFolder, create_study, locked

pytestmark = pytest.mark.slow

SPACE = """\
version: 1
name: small
data: {path: xrays, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {values: [none, gan]}
  synthetic_ratio: {value: 0.5, when: {source: gan}}
  gan:
    when: {source: gan}
    parameters: {image_size: {value: 32}, steps: {values: [2, 3]}, batch_size: {value: 8}, width: {value: 4}}
  backbone: {value: small_cnn}
  weights: {value: none}
  lr: {min: 1e-4, max: 1e-2, distribution: log_uniform_values}
  batch_size: {value: 16}
budget: {trials: 3, max_epochs: 2, steps_per_epoch: 4}
scheduler: {name: none}
points_to_evaluate:
  - {source: gan, gan.steps: 2, lr: 5e-3}
  - {source: none, lr: 3e-3}
  - {source: gan, gan.steps: 3, lr: 1e-3}
"""
GENERATOR_SPACE = """\
version: 1
name: generator
data: {path: xrays, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
objective: {metric: gan_kid}
quality: {backbone: mobilenet_v2}
parameters:
  source: {value: gan}
  gan: {parameters: {image_size: {value: 32}, steps: {value: 4}, batch_size: {value: 8}, width: {value: 4}}}
budget: {max_epochs: 2}
"""
INTERRUPTED = 2
"""The trial that was stopped after its first epoch."""


@pytest.fixture(autouse=True, scope="module")
def pinned() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def searched(pinned: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `cache` and `studies/small`, in which two trials have ended and one was interrupted."""
    del pinned
    root = tmp_path_factory.mktemp("searched")
    draw_phantoms(root / "xrays", patients=30, seed=3, image_size_px=48)
    begin_study(root, "small")
    search(root, stop_in_trial=INTERRUPTED)
    return root


@pytest.fixture
def root(searched: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(searched, tmp_path / "copy", symlinks=True))


def begin_study(root: Path, name: str, *overrides: str) -> StudyFolder:
    (root / "space.yaml").write_text(SPACE, encoding="utf-8")
    space = load_space(root / "space.yaml", [f"name={name}", *overrides])
    folder = StudyFolder(root / "studies" / name)
    create_study(folder, space, prepare(space.settings, root / "cache")[0], CPU)
    return folder


def search(root: Path, *overrides: str, stop_in_trial: int | None = None) -> None:
    """Run the trials in turn, as a search does; optionally stop after the first epoch of one."""
    folder, cache = StudyFolder(root / "studies" / "small"), root / "cache"
    space = load_space(root / "space.yaml", overrides)
    prepared, _ = prepare(space.settings, cache)
    with locked(folder):
        controller = controller_of(folder, space, prepared, cache)
        while isinstance(suggestion := controller.next_trial(), TrialSuggestion):
            experiment = folder.experiment(suggestion.number)
            context = RunContext(prepared=prepared, cache=cache, compute=CPU)
            if suggestion.only_generator:
                train_own_generator(experiment, context)
                controller.on_result(suggestion.number, {"generator": "trained"})
                continue
            epochs = trial_epochs(experiment, context, trial_dir=folder.trial_path(suggestion.number))
            should_continue = True
            while should_continue:
                try:
                    should_continue = controller.on_result(suggestion.number, {"epoch": asdict(next(epochs))})
                except StopIteration as end:
                    should_continue = controller.on_result(suggestion.number, {"ended": asdict(end.value)})
                if suggestion.number == stop_in_trial:
                    epochs.close()
                    controller.close()
                    return
        controller.close()


def contents(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): sha256_of(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def results(root: Path) -> list[dict[str, Any]]:
    rows = StudyFolder(root / "studies" / "small").rows()
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def stages(root: Path) -> set[str]:
    """The stages that have an artifact."""
    return {manifest.parts[-3] for manifest in (root / "cache").glob("*/*/manifest.json")}


def in_an_hour() -> float:
    return time.time() + 3700


def leave_checkpoints(root: Path) -> int:
    """As after a kill; returns their bytes."""
    for number in (0, 1):
        (root / f"studies/small/trials/{number:04d}/checkpoint/checkpoint.pt").write_bytes(b"x" * 1000)
    return 2000


def test_cleaned_study_resumes_identically(root: Path, tmp_path: Path) -> None:
    """A larger budget, an interrupted trial, and an export, all with an empty cache."""
    untouched = Path(shutil.copytree(root, tmp_path / "untouched"))

    cleaned = clean(root / "studies" / "small")
    for each in (root, untouched):
        search(each, "budget.trials=5")
        export(each / "studies" / "small", out=each / "best.yaml")

    assert cleaned.total_bytes > 0
    assert len(results(root)) == 5
    assert results(root) == results(untouched)
    assert (root / "best.yaml").read_bytes() == (untouched / "best.yaml").read_bytes()


def test_clean_reports_freed_bytes_and_keeps_results(root: Path) -> None:
    study, cache = root / "studies" / "small", root / "cache"
    checkpoint_bytes = leave_checkpoints(root)
    before = contents(study)
    pixels = sum(file.stat().st_size for file in (cache / "pixels-2").rglob("*") if file.is_file())
    everything = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())

    cleaned = clean(study)

    assert cleaned.freed_bytes["checkpoints of ended trials"] == checkpoint_bytes
    assert cleaned.freed_bytes["decoded images"] == pixels
    left = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    assert everything - left == cleaned.total_bytes
    gone = {name for name in before if name not in contents(study)}
    assert gone == {f"trials/{number:04d}/checkpoint/checkpoint.pt" for number in (0, 1)}
    assert {name: sha for name, sha in before.items() if name not in gone} == contents(study)
    assert [trial.status for trial in status(study).trials] == ["complete", "complete", "unfinished"]


def test_dry_run_lists_files_and_removes_nothing(root: Path) -> None:
    leave_checkpoints(root)
    before = contents(root)

    would = clean(root / "studies" / "small", dry_run=True)

    assert contents(root) == before
    assert would.is_dry_run
    assert clean(root / "studies" / "small").freed_bytes == would.freed_bytes
    assert clean(root / "studies" / "small").freed_bytes == {}, "nothing is left to free"


def test_clean_keeps_checkpoints_of_interrupted_trials(root: Path) -> None:
    """Its checkpoint and its GAN, but not the GAN of the trial that ended."""
    folder, cache = StudyFolder(root / "studies" / "small"), root / "cache"
    prepared = folder.prepared()
    ended, interrupted = (folder.experiment(number).parameters.gan for number in (0, INTERRUPTED))
    assert ended is not None
    assert interrupted is not None
    for gan in (ended, interrupted):
        work = generator_work_path(cache, GAN_STAGE, generator_inputs(gan, None, prepared, CPU))
        work.mkdir(parents=True)
        (work / "checkpoint.pt").write_bytes(b"x")

    clean(folder.path)

    assert (folder.trial_path(INTERRUPTED) / "checkpoint" / "checkpoint.pt").is_file()
    for stage, path in (
        ("gan-3", artifact_path),
        ("gan-3", generator_work_path),
    ):
        assert path(cache, stage, generator_inputs(interrupted, None, prepared, CPU)).is_dir()
        assert not path(cache, stage, generator_inputs(ended, None, prepared, CPU)).exists()


def test_unfinished_gans_are_matched_by_recorded_torch_version(root: Path) -> None:
    folder, cache = StudyFolder(root / "studies" / "small"), root / "cache"
    content = read_json(folder.path / "environment.json")
    content["packages"]["torch"] = "2.0.1"
    write_json(folder.path / "environment.json", content)
    ended, interrupted = (folder.experiment(number).parameters.gan for number in (0, INTERRUPTED))
    assert ended is not None
    assert interrupted is not None
    left, needed = (
        generator_work_path(cache, GAN_STAGE, generator_inputs(gan, None, folder.prepared(), CPU, torch="2.0.1"))
        for gan in (ended, interrupted)
    )
    for work in (left, needed):
        work.mkdir(parents=True)

    clean(folder.path)

    assert (left.exists(), needed.exists()) == (False, True)


def assert_stays_until_its_run_ends(gan: Path, folder: StudyFolder, experiment: Experiment) -> None:
    """Start a run of a confirmation, and clean before and after it ends."""
    run = Run(number=0, label="gan", experiment=experiment)
    runs = StudyFolder(folder.path / "confirm")
    work = RunList(runs, [run], what="runs", generator_need=lambda _: None, retries=0)
    work.next_trial()

    clean(folder.path)
    stayed = gan.is_dir()
    ended = {"value": 0.9, "best_epoch": 1, "epochs": 2, "val_b_score": 0.9, "threshold": 0.5, "seconds": 1.0}
    work.on_result(0, {"ended": ended})
    clean(folder.path)

    assert stayed
    assert not gan.exists()


def test_clean_keeps_generator_of_unfinished_confirm(root: Path) -> None:
    folder, cache = StudyFolder(root / "studies" / "small"), root / "cache"
    experiment = folder.experiment(0)
    assert experiment.parameters.gan is not None
    gan = artifact_path(cache, "gan-3", generator_inputs(experiment.parameters.gan, None, folder.prepared(), CPU))

    assert_stays_until_its_run_ends(gan, folder, experiment)


def test_the_generators_of_a_confirmation_are_those_of_its_own_threads(root: Path) -> None:
    folder, cache = StudyFolder(root / "studies" / "small"), root / "cache"
    runs = StudyFolder(folder.path / "confirm")
    settings, prepared = folder.experiment(0).parameters.gan, folder.prepared()
    assert settings is not None
    own = replace(CPU, generator_threads=3)
    write_json(runs.path / "environment.json", read_json(folder.path / "environment.json") | {"compute": asdict(own)})
    RunList(
        runs,
        [Run(number=0, label="gan", experiment=folder.experiment(0))],
        what="runs",
        generator_need=lambda _: None,
        retries=0,
    ).next_trial()
    of_search = artifact_path(cache, GAN_STAGE, generator_inputs(settings, None, prepared, CPU))
    of_run = generator_work_path(cache, GAN_STAGE, generator_inputs(settings, None, prepared, own))
    of_run.mkdir(parents=True)

    clean(folder.path)

    assert (of_search.exists(), of_run.exists()) == (False, True)


def test_clean_keeps_work_shared_with_another_study(root: Path) -> None:
    """A study of the same images and split may be running, or need the same GANs."""
    begin_study(root, "other")
    before = contents(root / "cache")

    cleaned = clean(root / "studies" / "small")

    assert contents(root / "cache") == before
    assert cleaned.freed_bytes == {}
    assert "another study uses too" in " ".join(cleaned.notes)


def test_study_with_another_split_shares_only_decoded_images(root: Path) -> None:
    begin_study(root, "other", "data.split.seed=9")
    clean(root / "studies" / "small")
    finished = {manifest.parent.name for manifest in (root / "cache").glob("gan-3/*/manifest.json")}

    assert "pixels-2" in stages(root)
    assert "pool-1" not in stages(root)
    assert len(finished) == 1, "the interrupted trial's"


def test_unreadable_study_keeps_all_shared_work(root: Path) -> None:
    begin_study(root, "other")
    (root / "studies" / "other" / "split.json").write_text("{", encoding="utf-8")
    before = contents(root / "cache")

    cleaned = clean(root / "studies" / "small")

    assert contents(root / "cache") == before
    assert "split.json" in " ".join(cleaned.notes)


def test_clean_keeps_work_of_unknown_origin(root: Path) -> None:
    """Pixels and features of another folder, cached weights, and damaged artifacts."""
    cache = root / "cache"

    def build(folder: Path) -> None:
        (folder / "content").write_bytes(b"x")

    foreign = [
        build_once(cache, "pixels-2", {"files": [["a.png", "0"]], "image_size_px": 32, "resize": "squash"}, build),
        build_once(cache, "features-2", {"group": ["folder", {"pixels": "0" * 32}]}, build),
        build_once(cache, "gan-3", {"train": "0" * 32}, build),
        build_once(cache, "pool-1", {"generator": "0" * 32, "label": 0}, build),
        build_once(cache, "weights-1", {"backbone": "vgg16"}, build),
    ]
    damaged = cache / "pool-1" / ("f" * 32)
    damaged.mkdir()
    (damaged / "manifest.json").write_text("{", encoding="utf-8")

    clean(root / "studies" / "small")

    assert all(path.is_dir() for path in (*foreign, damaged))


def test_clean_removes_a_diffusion_model_and_its_images(root: Path) -> None:
    folder, cache = StudyFolder(root / "studies" / "small"), root / "cache"

    def build(folder: Path) -> None:
        (folder / "content").write_bytes(b"x")

    inputs = generator_inputs(DiffusionSettings(image_size=32), None, folder.prepared(), CPU)
    model = build_once(cache, DIFFUSION_STAGE, inputs, build)
    pool = build_once(cache, "pool-1", {"generator": model.name, "label": 0}, build)

    cleaned = clean(folder.path)

    assert not model.exists()
    assert not pool.exists()
    assert cleaned.freed_bytes["diffusion models"] > 0


def test_the_generator_of_one_study_serves_the_next(root: Path) -> None:
    """Unless its training images differ."""
    gan, cache = StudyFolder(root / "studies" / "small").experiment(0).parameters.gan, root / "cache"
    same, other = begin_study(root, "same"), begin_study(root, "other", "data.split.seed=9")

    assert generator_need(gan, same.prepared(), CPU, cache) is None
    assert generator_need(gan, other.prepared(), CPU, cache) is not None


def test_cache_clean_keeps_what_unfinished_trials_need(root: Path) -> None:
    """Even if no command is running; once they have ended, it is removed, too."""
    folder, cache = StudyFolder(root / "studies" / "small"), root / "cache"
    prepared = folder.prepared()
    ended, needed = (
        artifact_path(cache, GAN_STAGE, generator_inputs(gan, None, prepared, CPU))
        for number in (0, INTERRUPTED)
        if (gan := folder.experiment(number).parameters.gan)
    )

    cleaned = clean_cache(cache, max_size="0")
    during = ended.exists(), needed.is_dir(), (cache / prepared.pixels).is_dir()
    search(root)
    clean_cache(cache, max_size="0")

    assert during == (False, True, True)
    assert "needed by unfinished trials" in cleaned.notes[0]
    assert not list(cache.glob("*/*/manifest.json"))


def test_cache_clean_keeps_what_a_final_training_uses(root: Path) -> None:
    folder, cache = StudyFolder(root / "studies" / "small"), root / "cache"
    gan = folder.experiment(0).parameters.gan
    assert gan is not None
    generator = artifact_path(cache, GAN_STAGE, generator_inputs(gan, None, folder.prepared(), CPU))
    calls = list[str]()

    def on_progress(what: str, done: int, total: int) -> None:
        del done, total
        calls.append(what)
        clean_cache(cache, max_size="0")

    export(folder.path, out=root / "trial.yaml", trial=0, exact=True)
    trained = train(root / "trial.yaml", out=root / "model", on_progress=on_progress)

    assert trained.equals_trial
    assert calls
    assert generator.is_dir()


def test_a_damaged_study_keeps_the_cache_from_being_cleaned(root: Path) -> None:
    (root / "studies" / "small" / "split.json").write_text("{", encoding="utf-8")
    before = contents(root / "cache")

    with pytest.raises(StudyError, match="missing or damaged"):
        clean_cache(root / "cache", max_size="0")

    assert contents(root / "cache") == before
    assert {one.studies for one in list_cache(root / "cache")} == {()}


def test_the_cache_names_the_studies_of_its_artifacts(root: Path) -> None:
    studies = {one.kind: one.studies for one in list_cache(root / "cache")}
    described = {one.what.partition(": ")[2] for one in list_cache(root / "cache") if one.kind == "GANs"}

    assert studies["decoded images"] == studies["GANs"] == studies["synthetic images"] == ("small",)
    assert described == {"pca, 32 px, 2 steps, seed 0", "pca, 32 px, 3 steps, seed 0"}


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


PLACES: tuple[Callable[[Path], Path], ...] = (
    lambda root: root / "studies",
    lambda root: root / "studies" / "small" / "trials" / "0000" / "checkpoint",
    lambda root: root / "studies" / "small" / "confirm" / "trials",
    lambda root: root / "cache" / "gan-3",
    lambda root: root / "cache" / "gan-3.work" / ("0" * 32) / "grids",
)


@pytest.mark.parametrize("place", PLACES)
def test_old_leftovers_of_killed_processes_are_removed(root: Path, place: Callable[[Path], Path]) -> None:
    folder = place(root)
    folder.mkdir(parents=True, exist_ok=True)
    left = folder / f".small.{dead_process()}-0123abcd.tmp"
    left.mkdir()
    (left / "config.json").write_bytes(b"x" * 77)
    in_use = folder / f".small.{os.getpid()}-0123abcd.tmp"
    in_use.write_bytes(b"x")

    young = clean(root / "studies" / "small")
    stayed = left.is_dir()
    old = clean(root / "studies" / "small", clock=in_an_hour)

    assert stayed
    assert "leftovers of killed processes" not in young.freed_bytes
    assert old.freed_bytes == {"leftovers of killed processes": 77}
    assert not left.exists()
    assert in_use.is_file()


def test_clean_removes_ray_tune_scratch(root: Path) -> None:
    scratch = root / "studies" / "small" / ".tune"
    (scratch / "tune").mkdir(parents=True)
    (scratch / "tune" / "state.json").write_bytes(b"x" * 10)

    assert clean(root / "studies" / "small").freed_bytes["leftovers of killed processes"] == 10
    assert not scratch.exists()


def test_links_are_never_followed_out_of_the_folders(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / f".kept.{dead_process()}-0123abcd.tmp").write_bytes(b"x")
    (root / "cache" / "linked").symlink_to(elsewhere)
    wandb = root / "studies" / "small" / "trials" / "0000" / "wandb"
    wandb.mkdir()
    (wandb / "linked").symlink_to(elsewhere)

    clean(root / "studies" / "small", clock=in_an_hour)

    assert len(list(elsewhere.iterdir())) == 1


def test_a_study_that_is_being_searched_is_refused(root: Path) -> None:
    leave_checkpoints(root)
    folder = StudyFolder(root / "studies" / "small")
    before = contents(root / "cache"), contents(folder.path / "trials")

    with locked(folder), pytest.raises(StudyError, match="the study is being searched by"):
        clean(folder.path)

    assert (contents(root / "cache"), contents(folder.path / "trials")) == before


def test_folder_that_is_not_a_study_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "notes.json", {})

    with pytest.raises(StudyError, match="no study here"):
        clean(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["notes.json"]


def test_the_last_generator_of_an_unfinished_trial_stays(root: Path) -> None:
    """In a search for a generator, an unfinished trial continues from the generator of its last epoch."""
    (root / "generator.yaml").write_text(GENERATOR_SPACE, encoding="utf-8")
    space = load_space(root / "generator.yaml")
    folder = StudyFolder(root / "studies" / "generator")
    create_study(folder, space, prepare(space.settings, root / "cache")[0], CPU)
    prepared, cache = folder.prepared(), root / "cache"
    with locked(folder):
        controller_of(folder, space, prepared, cache).next_trial()
    halfway, _ = folder.experiment(0).generator_stages
    assert halfway.parameters.gan is not None
    kept = trained_generator(halfway.parameters.gan, None, RunContext(prepared=prepared, cache=cache, compute=CPU))

    clean(folder.path)

    assert halfway.parameters.gan.steps == 2
    assert kept.exists()
