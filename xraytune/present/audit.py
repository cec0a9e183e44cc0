"""The result of an audit, and its headline."""

from pathlib import Path

from xraytune.base.records import Json, frozen, to_json
from xraytune.confirm.record import Confirmation
from xraytune.present.verdict import verdict_sentence
from xraytune.synth.generator_quality import PoolReport


@frozen
class Audit:
    """The content of `audit.json`.

    `faults` are plain defects of the images, the most elementary first; `identical` images are
    training images; `why_not` says why there is no verdict.
    """

    study: Path
    faults: tuple[str, ...]
    identical: int
    report: PoolReport
    verdict: Confirmation | None
    why_not: str

    def to_json(self) -> dict[str, Json]:
        """Return the content of `audit.json`."""
        verdict = self.verdict.to_json() if self.verdict else None
        return to_json(self) | {
            "headline": self.headline,
            "study": self.study.name,
            "verdict": verdict,
        }

    @property
    def headline(self) -> str:
        """The most serious finding in one sentence."""
        if self.faults:
            return self.faults[0]
        if self.report.copies:
            return "These images are copies of training images."
        quality = self.report.quality
        if quality and quality.gan_train is not None and quality.real_train is not None:
            if quality.gan_train < 0.5 < quality.real_train:
                opposite = "These images teach a classifier the opposite of real ones"
                return f"{opposite}: are their labels swapped?"
        if self.verdict is None:
            return f"Whether these images help was not measured: {self.why_not}."
        return verdict_sentence(self.verdict)
