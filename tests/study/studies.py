"""A study on disk whose trials are not trained: tests send the messages that trials would."""

from datetime import UTC, datetime
from pathlib import Path

from xraytune.base.files import read_jsonl
from xraytune.base.records import Compute, EpochRecord, TrialResult
from xraytune.data.images import ImageFile, SideName
from xraytune.data.prepare import SplitData
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.search.loop import LineageToTrain
from xraytune.search.trials import SearchTrials
from xraytune.space.load import load_space
from xraytune.space.parameters import Parameters
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import create_journal
from xraytune.study.row import RunRow, TrialRow
from xraytune.study.start import create_study
from xraytune.study.status import StudyView

SPACE = """\
name: small
data: {path: xrays}
parameters:
  source: {values: [none, duplicate, gan]}
  synthetic_ratio: {values: [0.5, 1.0], when: {source: [duplicate, gan]}}
  gan: {when: {source: gan}, parameters: {steps: {values: [100, 200]}}}
  lr: {min: 1e-5, max: 1e-2, distribution: log_uniform_values}
budget: {trials: 6, max_epochs: 9}
scheduler: {name: asha, grace: 1, reduction: 3, within: all}
sampler: {startup_trials: 2, seed: 3}
"""


CPU = Compute(device="cpu", threads=1, precision="float32")


def write_space(folder: Path, *overrides: str) -> Space:
    file = folder / "small.yaml"
    file.write_text(SPACE)
    return load_space(file, overrides)


def new_study(root: Path, *overrides: str, compute: Compute = CPU) -> StudyFolder:
    """A study of `SPACE` with two images, and without trials."""
    study = StudyFolder(root / "studies/small")
    create_study(study, write_space(root, *overrides), two_images(), compute)
    return study


def space_of(study: StudyFolder, *overrides: str) -> Space:
    """The space with some overrides, with which a study without trials begins."""
    space = write_space(study.path.parent.parent, *overrides)
    if overrides and b'"op_code": 4' not in study.journal_path.read_bytes():
        study.journal_path.unlink()
        create_journal(study.journal_path, space, study.path)
        study.space_path.write_text(space.to_yaml(study.path))
    return space


def two_images() -> SplitData:
    sides: tuple[SideName, ...] = ("train", "val_a", "val_b")
    images = tuple(
        ImageFile(file=f"{side}.jpeg", patient=side, label=0, side=side, row=row, sha256=side)
        for row, side in enumerate(sides)
    )
    return SplitData(
        resize="squash",
        pixels_sha256="0" * 64,
        class_names=("NORMAL", "PNEUMONIA"),
        positive=1,
        image_size_px=128,
        pixels="pixels-1/none",
        test_fingerprint=None,
        images=images,
    )


def no_gan(generator: object, draw: int | None, size_px: int) -> str | None:
    """Return None: every GAN exists."""
    del generator, draw, size_px
    return None


def direct(
    study: StudyFolder,
    *overrides: str,
    lineage_to_train: LineageToTrain = no_gan,
    callbacks: Callbacks = NO_CALLBACKS,
) -> SearchTrials:
    """A search without workers, as each start of it creates it."""
    return SearchTrials(study, space_of(study, *overrides), lineage_to_train, callbacks)


def epoch(number: int, value: float) -> EpochRecord:
    """A trial's message after an epoch."""
    scores = {"val_score": value, "best_val_score": value}
    return EpochRecord(
        epoch=number, steps=8 * number, train_loss=0.5, val_loss=0.5, lr=1e-3, seconds=1.0, **scores
    )


def ended(value: float, epochs: int = 9) -> TrialResult:
    """A trial's message at its end."""
    return TrialResult(
        value=value, best_epoch=1, epochs=epochs, val_b_score=value - 0.01, threshold=0.5
    )


def run_trial(loop: SearchTrials, number: int, value: float) -> None:
    """Let the next trial, of this number, end after an epoch."""
    loop.next_trial()
    loop.on_result(number, epoch(1, value))
    loop.on_result(number, ended(value, epochs=1))


def ended_trials(study: StudyFolder) -> dict[int, RunRow]:
    """The rows of `trials.jsonl` by number."""
    return {row["number"]: RunRow.model_validate(row) for row in read_jsonl(study.rows_path)}


ENDED = datetime(2026, 1, 1, tzinfo=UTC)


def trial(number: int, status: str, *values: float, **more: object) -> TrialRow:
    """A trial as it is shown, with a value after each epoch; it took 7 s if it has ended."""
    has_ended = status in {"complete", "pruned", "failed"}
    fields = {
        "number": number,
        "mix": f"gan r={number}",
        "status": status,
        "epochs": len(values),
        "values": values,
        "value": values[-1] if values else None,
        "parameters": Parameters(),
        "seconds": 7.0 if has_ended else None,
        "ended_at": ENDED if has_ended else None,
    }
    return TrialRow(**{**fields, **more})  # type: ignore[arg-type]


def view_of(*trials: TrialRow, **more: object) -> StudyView:
    """What is shown of a study with these trials."""
    fields = {
        "path": Path("small"),
        "metric": "AUROC",
        "trials": trials,
        "trial_budget": 7,
        "max_epochs": 4,
        "seconds": 31.0,
        "is_running": True,
        "searched": ("lr",),
    }
    return StudyView(**{**fields, **more})  # type: ignore[arg-type]
