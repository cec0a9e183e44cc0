"""What ASHA saved in a study, and which values it never let train to the end, after the fact (`search/asha.py` decides)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from xraytune.space.domains import Value
from xraytune.study.status import StudyView, TrialView

_COMPARED = ("source", "gan.architecture", "gan.steps", "diffusion.steps")
"""Those that `Pruning.warnings` is about. Ratios need no warning: `confirm` trains its finalist at several ratios."""
_ADVICE = (
    "trials that trail early may still catch up; to compare them, start a new study (--set name={name}-2) "
    "with a later first rung (scheduler.grace) or without pruning (scheduler.name=none)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What ASHA did to the complete and pruned trials of a study.

    `epochs` is the total as if ASHA had stopped no trial, `saved_epochs` the part that it saved. `warnings` name the values
    for which ASHA stopped every trial, and say how to compare them; there are none while the search runs.
    """

    trials: int
    stopped: int
    epochs: int
    saved_epochs: int
    warnings: tuple[str, ...]

    @property
    def summary(self) -> str:
        """What was saved, as one line."""
        epochs = f"{self.saved_epochs:,} of {self.epochs:,} epochs"
        return f"ASHA stopped {self.stopped} of {self.trials} trials and saved {epochs}"


def pruning_of(view: StudyView) -> Pruning | None:
    """Return what ASHA did in a study; None if it stopped no trial."""
    ended = [trial for trial in view.trials if trial.status in ("complete", "pruned")]
    saved = [view.max_epochs - trial.epochs for trial in ended if trial.status == "pruned"]
    if not saved:
        return None
    untrained = [] if view.is_running else list(_untrained(view))
    return Pruning(
        trials=len(ended),
        stopped=len(saved),
        epochs=sum(trial.epochs for trial in ended) + sum(saved),
        saved_epochs=sum(saved),
        warnings=(*untrained, _ADVICE.format(name=view.name)) if untrained else (),
    )


def _untrained(view: StudyView) -> Iterator[str]:
    """Yield a warning for each value whose trials were all stopped, unless earlier warnings cover all these trials."""
    covered = set[int]()
    for name in (name for name in _COMPARED if name in view.searched):
        by_value = defaultdict[Value, list[TrialView]](list)
        for trial in view.trials:
            if trial.status != "failed" and (value := trial.by_name.get(name)) is not None:
                by_value[value].append(trial)
        for value, trials in by_value.items():
            numbers = {trial.number for trial in trials}
            if all(trial.status == "pruned" for trial in trials) and not numbers <= covered:
                covered |= numbers
                stops = Counter(sorted(trial.epochs for trial in trials))
                when = ", ".join(f"{count} after epoch {epoch}" for epoch, count in stops.items())
                yield f"no trial with {name} {value} was trained to the end: ASHA stopped all of them ({when})"
