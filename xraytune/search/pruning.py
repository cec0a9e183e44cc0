"""What ASHA saved in a study, and which searched values it never let train to the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from xraytune.config.domains import Value
from xraytune.records import time_range
from xraytune.search.status import StudyView, TrialView

_COMPARED = ("source", "gan.architecture", "gan.steps", "diffusion.steps")
"""Parameters whose values are checked. Ratios need no warning: `confirm` trains its finalist at several ratios."""
_ADVICE = (
    "trials that trail early may still catch up; to compare them, start a new study (--set name={name}-2) "
    "with a later first rung (scheduler.grace) or without pruning (scheduler.name=none)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What ASHA did to the complete and pruned trials of a study.

    `epochs` and `seconds` are totals as if ASHA had stopped no trial; `saved_epochs` and `saved_seconds` are the part that
    it saved, at each trial's median time per epoch. `warnings` name the values for which ASHA stopped every trial, and say
    how to compare them; there are none while the search runs.
    """

    trials: int
    stopped: int
    epochs: int
    saved_epochs: int
    seconds: float
    saved_seconds: float
    warnings: tuple[str, ...]

    @property
    def summary(self) -> str:
        """What was saved, as one line."""
        saved, full = (time_range(one, one) for one in (self.saved_seconds, self.seconds))
        time = f" (about {saved} of {full})" if self.saved_seconds else ""
        epochs = f"{self.saved_epochs:,} of {self.epochs:,} epochs"
        return f"ASHA stopped {self.stopped} of {self.trials} trials and saved {epochs}{time}"


def pruning_of(view: StudyView) -> Pruning | None:
    """Return what ASHA did in a study; None if it stopped no trial."""
    ended = [trial for trial in view.trials if trial.status in ("complete", "pruned")]
    saved = {trial.number: view.max_epochs - trial.epochs for trial in ended if trial.status == "pruned"}
    if not saved:
        return None
    saved_seconds = sum(saved.get(trial.number, 0) * (trial.epoch_seconds or 0.0) for trial in ended)
    untrained = [] if view.is_running else list(_untrained(view))
    return Pruning(
        trials=len(ended),
        stopped=len(saved),
        epochs=sum(trial.epochs for trial in ended) + sum(saved.values()),
        saved_epochs=sum(saved.values()),
        seconds=sum(trial.seconds or 0.0 for trial in ended) + saved_seconds,
        saved_seconds=saved_seconds,
        warnings=(*untrained, _ADVICE.format(name=view.name)) if untrained else (),
    )


def _untrained(view: StudyView) -> Iterator[str]:
    """Yield a warning for each value whose trials were all stopped, unless earlier warnings cover all these trials."""
    named = set[int]()
    for name in (one for one in _COMPARED if one in view.searched):
        trials: dict[Value, list[TrialView]] = {}
        for trial in view.trials:
            if trial.status != "failed" and (value := trial.parameters.get(name)) is not None:
                trials.setdefault(value, []).append(trial)
        for value, own in trials.items():
            if all(one.status == "pruned" for one in own) and not {one.number for one in own} <= named:
                named |= {one.number for one in own}
                stops = Counter(sorted(one.epochs for one in own))
                when = ", ".join(f"{count} after epoch {epoch}" for epoch, count in stops.items())
                yield f"no trial with {name} {value} was trained to the end: ASHA stopped all of them ({when})"
