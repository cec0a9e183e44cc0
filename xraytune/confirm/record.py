"""The result of a confirmation, as `verdict.json` and as two paragraphs for a paper.

The records load neither torch nor Ray, so that `report` and `export` can read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter

from xraytune.base.errors import about
from xraytune.base.files import markdown, read_json, require_recorded, write_json, write_text
from xraytune.base.records import frozen, to_json
from xraytune.base.templates import open_templates
from xraytune.confirm.arms import MOST_REPLICATES, UNUSED_KINDS, TestKind
from xraytune.stats.classification import LEAST_FIT
from xraytune.stats.verdict import Interval, Overall, PairVerdict, decisive_rope
from xraytune.study.folder import explain_damage

if TYPE_CHECKING:
    import pandas as pd

TEST_FOLDER = "the test folder"
"""The name of the study's own test images, in a verdict."""
VERDICT_FILE = "verdict.json"
VERDICT_FIX = "run the same `xraytune confirm` again: it rewrites the file without training"


@frozen
class HeldOutSet:
    """What is scored: the number of images and patients, and the fingerprint of their content.

    `name` is `the test folder`, or the name of another folder that was given instead.
    """

    kind: TestKind
    name: str
    images: int
    patients: int
    fingerprint: str
    positive: str = ""

    @property
    def is_given(self) -> bool:
        """Whether the images are not the study's, so that `confirm` needs to be given them."""
        return self.kind not in UNUSED_KINDS and self.name != TEST_FOLDER


@frozen
class Searched:
    """What was searched, and with what, for the methods of a paper.

    Attributes:
        trials, pruned: Number of ended trials of the search, and how many of them ASHA pruned.
        networks, generators: Descriptions of the finalists' networks and generators.
        packages: Versions of the packages that trained the replicates.
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
    """The gain from real images of other patients in place of a finalist's synthetic images.

    Attributes:
        gain, low, high: The gain, with its 95 % interval.
        share, share_low, share_high: The share of this gain, from 0 to 1, that the synthetic images
            reached, with its 95 % interval; None unless the interval of the gain lies above 0.
    """

    gain: float
    low: float
    high: float
    share: float | None
    share_low: float | None = None
    share_high: float | None = None

    @property
    def share_in_words(self) -> str:
        """The share with its interval, such as "44% of that (8% to 66%)"; "" if there is none."""
        if self.share is None:
            return ""
        if self.share_low == 1:
            return "all of that"
        share = f"{self.share:.0%} of that"
        if self.share_low is not None:
            share += f" ({self.share_low:.0%} to {self.share_high:.0%})"
        return share


@frozen
class SecondaryOutcome:
    """The difference between a finalist and a control in another metric; it has no verdict.

    Attributes:
        metric: A name of `stats.secondary.SECONDARY`.
        score, control_score: Means over the replicates.
        difference, low, high: The finalist minus the control, with a 95 % interval.
    """

    metric: str
    score: float
    control_score: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class ControlVerdict(PairVerdict, Interval):
    """The difference between a finalist and a control on the test images, and the verdict on it.

    `variance_components` are as returned by `stats.verdict.variance_components`.
    """

    arm: str
    control_score: float
    variance_components: Mapping[str, float]
    secondary: tuple[SecondaryOutcome, ...] = ()
    backbone: str = ""


@frozen
class FinalistVerdict:
    """The verdict on a finalist, with all of its comparisons on the test images.

    `score` is the mean over the finalist's replicates. `because_of` names the controls that the
    verdict rests on.
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
    """What the finalist's synthetic images lack, in words; empty if no lack was found."""
    backbone: str = ""
    copied_files: tuple[str, ...] = ()
    """The scored images that the finalist's synthetic images copy, in a verdict that is invalid."""

    @property
    def internal_controls(self) -> list[ControlVerdict]:
        """The comparisons with controls that use only the study's own images."""
        return [
            result for result in self.comparisons if result.kind in ("none", "duplicate", "tuned")
        ]

    @property
    def strongest(self) -> str:
        """The best control that uses only the study's own images, or else the best of all."""
        best = max(
            self.internal_controls or self.comparisons, key=lambda result: result.control_score
        )
        return best.control

    @property
    def is_small_gain(self) -> bool:
        """Whether the finalist beats all `internal_controls`, but its verdict is `no_better`."""
        controls = self.internal_controls
        is_better = bool(controls) and all(result.is_better for result in controls)
        return self.verdict == "no_better" and is_better

    @property
    def encoder_caveat(self) -> str:
        """A caveat if the best internal control has another encoder and is at least as good."""
        best = max(self.internal_controls, key=lambda result: result.control_score, default=None)
        if best is None or best.backbone == self.backbone or best.control_score < self.score:
            return ""
        return (
            f"The encoder explains more than synthetic images: without them, {best.control} with "
            f"{best.backbone} was as good as {self.arm} with {self.backbone}, or better."
        )

    @property
    def donor_scores(self) -> dict[str, float]:
        """The mean score with all that a donor sent, best first; empty if it sent only images."""
        scores = {
            result.control: result.control_score
            for result in self.comparisons
            if result.kind in ("donor", "donor_start")
        }
        if scores:
            scores[self.arm] = self.score
        return dict(sorted(scores.items(), key=itemgetter(1), reverse=True))

    def verdict_words(self, comparison: ControlVerdict) -> tuple[str, ...]:
        """Return the words to show for a comparison.

        They are all words that hold. If only `undecided` does, but an improvement is ruled out, the
        word is `no better`.
        """
        is_ruled_out = self.verdict == "no_better" and comparison.control in self.because_of
        if is_ruled_out and comparison.verdict == ("undecided",):
            return ("no better",)
        return comparison.verdict


@frozen
class Subgroup:
    """The first finalist minus its strongest control, on the test images with a value of a column.

    Attributes:
        is_of_one_class: Whether all images of the group are of one of two classes, so that they are
            scored together with all images of the other class.
        difference: The difference in score; None if there are too few patients of a class.
        scores: Mean score of each arm over its replicates; empty if `difference` is None.
        rates: Sensitivity and specificity of each arm at the thresholds chosen on validation
            images; empty unless there are two classes, both of them in the group.
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
    """The verdict on the first finalist on further test images, such as a hospital's."""

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

    The fields are keys of `verdict.json`, which also has the `verdict` on the first finalist, the
    `answer` and the `methods`.

    Attributes:
        study: Folder of the study.
        metric: Name of the scores by which arms are compared, such as AUROC.
        objective: Name of the scores that selected the finalists.
        network: What is trained, such as `classifier`.
        exploratory: The reasons why the verdict is exploratory; empty if it is confirmatory.
        rope: Half-width of the region of practical equivalence, in units of `metric`.
        replicates: Number of trainings of each arm.
        train_images, train_patients: Number of images and of patients of one training.
        test: The test images and their patients.
        finalists: The verdict on each finalist, in the order of val-B.
        notes: Sentences on what could not be done.
        searched: The search that the finalists come from; None if xraytune ran none.
        subgroups: The comparisons in each subgroup.
        hospitals: The verdict of each further hospital.
        sites: The site that each replicate left out; empty if none did. The verdict is over these
            sites.
        declared: What nobody has checked of trainings that xraytune did not run; empty if it ran
            them.
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
    searched: Searched | None
    subgroups: tuple[Subgroup, ...] = ()
    hospitals: tuple[Hospital, ...] = ()
    sites: tuple[str, ...] = ()
    declared: tuple[str, ...] = ()

    @property
    def verdict(self) -> Overall:
        """The verdict on the first finalist."""
        word = self.finalists[0].verdict
        assert word != "not_tested", "the first finalist is always tested"
        return word

    @property
    def scope(self) -> str:
        """The scope of the verdict if all replicates are known to have had the same patients."""
        if self.test.kind != "folder" or not self.train_patients:
            return ""
        return f"for these {self.train_patients} training patients, "

    @property
    def misfit(self) -> str:
        """What a donor's classifier at chance says of what it sent, in words; "" otherwise.

        There is no chance level of Dice.
        """
        comparisons = self.finalists[0].comparisons
        scores = [result.control_score for result in comparisons if result.kind == "donor"]
        if not scores or scores[0] >= LEAST_FIT or "AUROC" not in self.metric:
            return ""
        return (
            "What the other hospital sent does not fit these patients: its classifier has "
            f"{self.metric} {scores[0]:.2f} on them, which is chance."
        )

    @property
    def missing(self) -> str:
        """What would decide an undecided verdict.

        If the numbers of patients and replicates are both multiplied by a factor, the variances are
        divided by this factor or more. The text is "" for other verdicts, and over sites.
        """
        if self.verdict != "undecided" or self.sites:
            return ""
        pairs = [pair for pair in self.finalists[0].comparisons if pair.kind != "synthetic_only"]
        rope = decisive_rope(pairs)
        growth = (rope / self.rope) ** 2
        patients = about(growth * self.test.patients)
        replicates = growth * self.replicates
        if replicates <= MOST_REPLICATES:
            needed = f"{patients} patients to score and {about(replicates)} replicates"
            return f"To decide takes at most {needed}."
        width = max(pair.high - pair.low for pair in pairs)
        return (
            f"More replicates will not decide it, since the widest interval is {width:.2g} wide, "
            f"and the equivalence margin is {self.rope:g}: it takes {patients} patients to score, "
            f"or a new study with a margin of {rope:.2g}."
        )

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
            "version": 1,
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
    """Return the record in `verdict.json`, or None if there is no such file.

    Raises StudyError if the file is not as `confirm` wrote it.
    """
    with explain_damage(folder / VERDICT_FILE, VERDICT_FIX) as file:
        if not file.exists():
            return None
        require_recorded(file)
        return TypeAdapter(Confirmation).validate_python(read_json(file))


def paragraph(name: Literal["answer", "methods"], confirmation: Confirmation) -> str:
    """Return the paragraph of results, with limitations, or of methods, from `templates/`."""
    file = f"judged_{name}.txt" if name == "methods" and confirmation.declared else f"{name}.txt"
    template = open_templates("xraytune.confirm").get_template(file)
    text = template.render(record=confirmation)
    return " ".join(text.split())
