"""What ASHA saved in a study, after the fact (`search/asha.py` decides)."""

from __future__ import annotations

from dataclasses import dataclass

from xraytune.study.status import StudyView


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What ASHA did to the complete and pruned trials of a study.

    `epochs` is the total as if ASHA had stopped no trial, `saved_epochs` the part that it saved.
    """

    trials: int
    stopped: int
    epochs: int
    saved_epochs: int

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
    return Pruning(
        trials=len(ended),
        stopped=len(saved),
        epochs=sum(trial.epochs for trial in ended) + sum(saved),
        saved_epochs=sum(saved),
    )
