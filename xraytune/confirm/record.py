"""The result of a confirmation, as `verdict.json` and as two paragraphs for a paper.

The keys are listed in docs/confirm.md.

The records load neither torch nor Ray, so that `report` and `export` can read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter

from xraytune.base.files import markdown, read_json, require_recorded, write_json, write_text
from xraytune.base.records import frozen, to_json
from xraytune.base.templates import open_templates
from xraytune.confirm.arms import TestKind
from xraytune.stats.verdict import Interval, Overall, PairVerdict
from xraytune.study.folder import damage_explained

if TYPE_CHECKING:
    import pandas as pd

VERDICT_FILE = "verdict.json"
VERDICT_FIX = "run the same `xraytune confirm` again: it rewrites the file without training"


@frozen
class HeldOutSet:
    """What is scored: the number of images and patients, and the fingerprint of their content."""

    kind: TestKind
    images: int
    patients: int
    fingerprint: str
    positive: str = ""


@frozen
class Searched:
    """What was searched, and with what, for the methods of a paper.

    Attributes:
        trials, pruned: The ended trials of the search, and how many of them ASHA pruned.
        networks, generators: Of the finalists, in words.
        packages: The versions that trained the replicates.
    """

    trials: int
    pruned: int
    sampler: str
    image_size_px: int
    networks: tuple[str, ...]
    generators: tuple[str, ...]
    packages: Mapping[str, str]


@frozen
class HeadroomReached:
    """The gain from real images of other patients, with a 95 % interval.

    They are in the place of a finalist's synthetic images.

    `share`, from 0 to 1, is the share of it that the synthetic images gained, with its interval;
    None unless that of the gain lies above 0.
    """

    gain: float
    low: float
    high: float
    share: float | None
    share_low: float | None = None
    share_high: float | None = None


@frozen
class SecondaryOutcome:
    """A finalist minus one control by another metric, with a 95 % interval, and no verdict.

    `metric` is a name of `stats.secondary.SECONDARY`; scores are means over the replicates.
    """

    metric: str
    score: float
    control_score: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class ControlVerdict(PairVerdict, Interval):
    """A finalist minus one control on the test images, with `stats.verdict.variance_components`."""

    arm: str
    control_score: float
    variance_components: Mapping[str, float]
    secondary: tuple[SecondaryOutcome, ...] = ()
    backbone: str = ""


@frozen
class FinalistVerdict:
    """A finalist and all of its comparisons, on the test images.

    Its score is the mean over its replicates.
    """

    arm: str
    trial: str
    generator: str
    mixing: str
    score: float
    replicate_scores: tuple[float, ...]
    headroom: HeadroomReached | None
    verdict: Overall | Literal["not_tested"]
    because_of: tuple[str, ...]
    comparisons: tuple[ControlVerdict, ...]
    caveat: str = ""
    """What the quality of its images falls short of."""
    backbone: str = ""

    @property
    def own(self) -> list[ControlVerdict]:
        """The comparisons with controls of the study's own images."""
        return [each for each in self.comparisons if each.kind in ("none", "duplicate", "tuned")]

    @property
    def strongest(self) -> str:
        """The best control of the study's own images."""
        best = max(self.own or self.comparisons, key=lambda each: each.control_score)
        return best.control

    @property
    def is_small_gain(self) -> bool:
        """Whether it beats all of these, but without the gain that `helps` needs."""
        is_better = bool(self.own) and all(each.is_better for each in self.own)
        return self.verdict == "no_better" and is_better

    @property
    def encoder_caveat(self) -> str:
        """A sentence, if the best control without synthetic images has another, better encoder."""
        best = max(self.own, key=lambda each: each.control_score, default=None)
        if best is None or best.backbone == self.backbone or best.control_score < self.score:
            return ""
        return (
            f"The encoder explains more than synthetic images: without them, {best.control} with "
            f"{best.backbone} was as good as {self.arm} with {self.backbone}, or better."
        )

    @property
    def gifts(self) -> dict[str, float]:
        """The mean score with each thing that a donor sent, best first; empty if it sent one."""
        gifts = {
            result.control: result.control_score
            for result in self.comparisons
            if result.kind in ("donor", "donor_start")
        }
        if gifts:
            gifts[self.arm] = self.score
        return dict(sorted(gifts.items(), key=itemgetter(1), reverse=True))

    def words(self, comparison: ControlVerdict) -> tuple[str, ...]:
        """Return what to show.

        All words that hold, or `no better` if at least an improvement is ruled out.
        """
        is_ruled_out = self.verdict == "no_better" and comparison.control in self.because_of
        if is_ruled_out and comparison.verdict == ("undecided",):
            return ("no better",)
        return comparison.verdict


@frozen
class Subgroup:
    """The first finalist minus its strongest control, on the test images with a value of a column.

    Attributes:
        is_of_one_class: Whether all are of one of two classes, so that they are scored with all
            images of the other.
        scores: Of both arms, the means over their replicates; empty, and the difference None, with
            too few patients of a class.
        rates: Sensitivity and specificity of both arms at the thresholds of validation; of two
            classes.
    """

    column: str
    value: str
    images: int
    patients: int
    is_of_one_class: bool = False
    difference: Interval | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    rates: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@frozen
class Hospital:
    """The verdict on the first finalist on further test images, such as those of a hospital."""

    name: str
    exploratory: tuple[str, ...]
    test: HeldOutSet
    finalist: FinalistVerdict
    notes: tuple[str, ...] = ()

    @property
    def replicates(self) -> int:
        """How often each arm was trained."""
        return len(self.finalist.replicate_scores)

    @property
    def sentence(self) -> str:
        """The verdict in a sentence."""
        exploratory = "exploratory, " if self.exploratory else ""
        word = self.finalist.verdict.replace("_", " ")
        size = f"{self.test.images:,} images of {self.test.patients:,} patients"
        return f"At {self.name}: {exploratory}{word} ({size})."


@frozen
class Confirmation:
    """The result of a confirmation.

    The fields are keys of `verdict.json`, with finalists in the order of val-B.
    """

    study: Path
    metric: str
    objective: str
    network: str
    exploratory: tuple[str, ...]
    rope: float
    replicates: int
    train_images: int
    train_patients: int
    test: HeldOutSet
    finalists: tuple[FinalistVerdict, ...]
    notes: tuple[str, ...]
    searched: Searched
    subgroups: tuple[Subgroup, ...] = ()
    hospitals: tuple[Hospital, ...] = ()
    sites: tuple[str, ...] = ()
    """The sites that the verdict is over, each of which one replicate left out."""

    @property
    def verdict(self) -> Overall:
        """The verdict: that of the first finalist."""
        word = self.finalists[0].verdict
        assert word != "not_tested", "the first finalist is always tested"
        return word

    @property
    def scope(self) -> str:
        """What limits the verdict, if all replicates were trained on the same patients; else ""."""
        if self.test.kind != "folder":
            return ""
        return f"for these {self.train_patients} training patients, "

    def with_hospital(self, found: Hospital) -> Confirmation:
        """Return the record with the verdict at a hospital, in place of an earlier one there."""
        hospitals = {hospital.name: hospital for hospital in self.hospitals}
        hospitals[found.name] = found
        return replace(self, hospitals=tuple(hospitals.values()))

    def to_dataframe(self) -> pd.DataFrame:
        """Return the differences in score as a table, a row for each finalist and control."""
        import pandas as pd  # takes most of a second

        rows = [
            {"finalist": finalist.arm, **asdict(result), "verdict": ", ".join(result.verdict)}
            for finalist in self.finalists
            for result in finalist.comparisons
        ]
        columns = [*Interval.__dataclass_fields__, "verdict"]
        return pd.DataFrame(rows).set_index(["finalist", "control"])[columns]

    def to_json(self) -> dict[str, Any]:
        """Return the content of `verdict.json`."""
        return to_json(self) | {
            "version": 11,
            "study": self.study.name,
            "verdict": self.verdict,
            "answer": paragraph("answer", self),
            "methods": paragraph("methods", self),
        }


def write_verdict(folder: Path, confirmation: Confirmation) -> None:
    """Write `verdict.json` and `methods.md`."""
    content = confirmation.to_json()
    write_json(folder / VERDICT_FILE, content, is_recorded=True)
    write_text(
        folder / "methods.md", f"{markdown(content['answer'])}\n\n{markdown(content['methods'])}\n"
    )


def read_verdict(folder: Path) -> Confirmation | None:
    """Return the record in `verdict.json`.

    None if there is none, StudyError if it is not what `confirm` wrote.
    """
    with damage_explained(folder / VERDICT_FILE, VERDICT_FIX) as file:
        if not file.exists():
            return None
        require_recorded(file)
        return TypeAdapter(Confirmation).validate_python(read_json(file))


def paragraph(name: Literal["answer", "methods"], confirmation: Confirmation) -> str:
    """Return the paragraph of results, with limitations, or of methods, from `templates/`."""
    template = open_templates("xraytune.confirm").get_template(f"{name}.txt")
    text = template.render(record=confirmation)
    return " ".join(text.split())
