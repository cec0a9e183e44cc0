"""The whole way as a newcomer would go it, on phantom X-rays: draw, search, export, train, evaluate.

Each step is the Python function behind the command that is shown before it. What an earlier demo made is left as it is, so
that the same call again goes on where the last one stopped.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import join
from typing import Any, Protocol, TypeAlias

from xraytune.data.phantom import PhantomSet, draw_phantoms
from xraytune.errors import MachineError, Problem
from xraytune.export.best import Exported, export
from xraytune.export.evaluate import Evaluation, evaluate
from xraytune.export.train import Trained, train
from xraytune.records import Progress, ignore_progress
from xraytune.search.controller import Observer
from xraytune.search.run import Quiet, SearchSummary, search
from xraytune.search.study import StudyFolder

Outcome: TypeAlias = PhantomSet | SearchSummary | Exported | Trained | Evaluation
_IMAGE_SIZE_PX = 128


class Screen(Observer, Protocol):
    """Who sees one step happen: its progress, and what a search tells."""

    @property
    def on_progress(self) -> Progress:
        """Told how far the step is."""


class Guide(Protocol):
    """Who leads a newcomer through."""

    def step(self, why: str, command: str) -> AbstractContextManager[Screen]:
        """What comes next, and the command that does it; the block does it."""

    def outcome(self, record: Outcome) -> None:
        """What the step gave."""

    def is_there(self, path: Path) -> None:
        """An earlier demo has done the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much a demo does: patients to search on and others to evaluate on, and `--set` lines of the search."""

    patients: int
    other_patients: int
    overrides: tuple[str, ...]


WHOLE = Size(patients=120, other_patients=300, overrides=())
QUICK = Size(
    patients=60,
    other_patients=100,
    overrides=("budget.trials=4", "budget.max_epochs=4", "scheduler.grace=1", "gan.steps=60"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBest:
    """How far the trials with one source came: how many there were, the best val-A AUROC, and that trial's epochs."""

    source: str
    trial_count: int
    val_auroc: float
    epochs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What the demo ends with.

    Attributes:
        xrays: The images that were searched on.
        study: The study's folder.
        sources: How far each source came.
        config: The exported configuration.
        model: The trained model.
        evaluation: Of the model, on phantom X-rays of other patients.
    """

    xrays: Path
    study: Path
    sources: tuple[SourceBest, ...]
    config: Path
    model: Path
    evaluation: Evaluation


def demo(*, folder: Path = Path("demo"), quick: bool = False, guide: Guide | None = None) -> Demo:
    """Go the whole way in `folder`, or with `quick` a short one in `folder/quick`.

    Raises:
        XraytuneError: Of the step that could not be done.
        KeyboardInterrupt: Ctrl-C; the same call goes on.
    """
    size, here = (QUICK, folder / "quick") if quick else (WHOLE, folder)
    return _walk(size, here, guide or _Alone())


def _walk(size: Size, here: Path, guide: Guide) -> Demo:
    xrays, others, config, model = here / "xrays", here / "other_xrays", here / "best.yaml", here / "model"
    _draw(guide, xrays, size.patients, 1, "Draw chest X-rays to search on. Nobody looks at their test/ folder.")
    _draw(guide, others, size.other_patients, 2, "Draw X-rays of other patients, to see what the model is worth.")

    space, studies = _space_file(), here / "studies"
    settings = (word for override in size.overrides for word in ("--set", override))
    command = _typed("search", "--space", space, "--data", xrays, "--studies", studies, *settings)
    with guide.step(
        "Search: is it better to add nothing, real images again, or GAN images? How many?", command
    ) as screen:
        summary = search(
            space,
            data=xrays,
            overrides=size.overrides,
            studies=studies,
            observer=screen,
            on_progress=screen.on_progress,
        )
    guide.outcome(summary)

    study = studies / summary.study.name
    with guide.step("Export the configuration that is best on val-B.", _typed("export", study, "-o", config)):
        exported = export(study, out=config)
    guide.outcome(exported)

    with guide.step("Train the final model from it.", _typed("train", "--config", config, "-o", model)) as screen:
        trained = None if model.exists() else train(config, out=model, on_progress=screen.on_progress)
    guide.outcome(trained) if trained else guide.is_there(model)

    data = others / "test"
    with guide.step("Evaluate the model on the other patients.", _typed("evaluate", model, "--data", data)) as screen:
        evaluation = evaluate(model, data=data, on_progress=screen.on_progress)
    guide.outcome(evaluation)
    return Demo(
        xrays=xrays,
        study=study,
        sources=_sources(study),
        config=config,
        model=model,
        evaluation=evaluation,
    )


def _draw(guide: Guide, out: Path, patients: int, seed: int, why: str) -> None:
    command = _typed("data", "phantom", out, "--patients", patients, "--seed", seed, "--size", _IMAGE_SIZE_PX)
    with guide.step(why, command) as screen:
        drawn = None
        if not out.exists():
            drawn = draw_phantoms(
                out, patients=patients, seed=seed, image_size_px=_IMAGE_SIZE_PX, on_progress=screen.on_progress
            )
    guide.outcome(drawn) if drawn else guide.is_there(out)


def _typed(*words: object) -> str:
    """A command as a shell takes it."""
    return join(map(str, words))


def _sources(study: Path) -> tuple[SourceBest, ...]:
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in StudyFolder(study).rows():
        if row["value"] is not None:
            rows[row["parameters"]["source"]].append(row)
    best = {source: max(trials, key=lambda row: (row["value"], -row["number"])) for source, trials in rows.items()}
    return tuple(
        SourceBest(source=source, trial_count=len(rows[source]), val_auroc=row["value"], epochs=row["epochs"])
        for source, row in best.items()
    )


def _space_file() -> Path:
    """`search_spaces/demo.yaml`: beside the package in a clone, inside it in an installation.

    Raises:
        MachineError: It is in neither place.
    """
    package = Path(__file__).parents[1]
    for folder in (package.parent, package):
        file = folder / "search_spaces" / "demo.yaml"
        if file.is_file():
            return Path(os.path.relpath(file)) if file.is_relative_to(Path.cwd()) else file
    raise MachineError(Problem("search_spaces/demo.yaml is missing", package, "install xraytune again"))


class _Unseen(Quiet):
    on_progress = staticmethod(ignore_progress)


class _Alone:
    """A `Guide` of a caller who only wants the result."""

    @contextmanager
    def step(self, why: str, command: str) -> Iterator[Screen]:  # noqa: ARG002 (a guide's signature)
        """Nothing is shown."""
        yield _Unseen()

    def outcome(self, record: Outcome) -> None:
        """Nothing."""

    def is_there(self, path: Path) -> None:
        """Nothing."""
