"""The verdict of `confirm` as lines and tables."""

from collections.abc import Iterator, Sequence

from xraytune.base.errors import counted, join_names
from xraytune.base.tables import Cell, Frame, Row, Table, Tone, sentence
from xraytune.confirm.arms import UNUSED_KINDS
from xraytune.confirm.record import Confirmation, FinalistVerdict, Subgroup
from xraytune.stats.secondary import SECONDARY
from xraytune.stats.verdict import Overall

_TEXTS: dict[Overall, str] = {
    "helps": "synthetic images help",
    "hurts": "synthetic images hurt",
    "no_better": "synthetic images do not improve {metric}",
    "invalid": "invalid: synthetic images are copies of images that were scored",
    "undecided": "inconclusive: neither an improvement nor its absence was shown",
}
_TONES: dict[str, Tone] = {
    "helps": "good",
    "better": "good",
    "hurts": "bad",
    "invalid": "bad",
    "worse": "bad",
}


def verdict_frame(record: Confirmation) -> Frame:
    """Lay out the verdict on the first finalist, notes on it, and the comparisons behind it."""
    tables = [comparison_table(finalist, record.metric) for finalist in record.finalists]
    lead = Cell(verdict_sentence(record), _TONES.get(record.verdict, "strong"))
    return [lead, *_notes(record), *tables, *subgroup_tables(record), *_hospitals(record)]


def comparison_table(finalist: FinalistVerdict, metric: str, where: str = "") -> Table:
    """Lay out the comparisons of a finalist with its controls; `where` begins the title."""
    rows: list[Row] = []
    for comparison in finalist.comparisons:
        words = finalist.verdict_words(comparison)
        chance = comparison.p_better_by_rope
        rows.append(
            {
                "control": comparison.control,
                metric: f"{comparison.control_score:.3f}",
                "difference": f"{comparison.difference:+.4f}",
                "95 % interval": f"{comparison.low:+.4f} to {comparison.high:+.4f}",
                "p (gain >= ROPE)": "< 0.001" if chance < 0.001 else f"{chance:.3f}",
                "result": Cell(", ".join(words), _TONES.get(words[0], "plain")),
            }
        )
    word = finalist.verdict.replace("_", " ")
    title = f"{where}{finalist.arm}, {metric} {finalist.score:.3f}: {word}"
    return Table(rows, title, optional=("p (gain >= ROPE)",))


def _hospitals(record: Confirmation) -> Iterator[str | Table]:
    for hospital in record.hospitals:
        yield hospital.sentence
        for reason in hospital.exploratory:
            yield f"Exploratory at {hospital.name}: {reason}."
        yield from map(sentence, hospital.notes)
        yield comparison_table(hospital.finalist, record.metric, f"at {hospital.name}: ")


def subgroup_tables(record: Confirmation) -> Iterator[Table]:
    """Yield a table for each column: the first finalist minus its strongest control, by group."""
    finalist = record.finalists[0]
    for column in dict.fromkeys(group.column for group in record.subgroups):
        groups = [group for group in record.subgroups if group.column == column]
        rows = [_group_row(group, finalist, record.metric) for group in groups]
        title = f"{finalist.arm} minus {finalist.strongest}, by {column} ({_gaps(groups)})"
        optional = ("sensitivity, specificity of the control", "sensitivity, specificity")
        yield Table(rows, title, optional=optional)


def _group_row(group: Subgroup, finalist: FinalistVerdict, metric: str) -> Row:
    """Return the row of a group, with empty cells for what cannot be said of so few patients."""
    class_text = " and the other class" if group.is_of_one_class else ""
    scores = {name: f"{score:.3f}" for name, score in group.scores.items()}
    rates = {
        name: f"{sensitivity:.2f}, {specificity:.2f}"
        for name, (sensitivity, specificity) in group.rates.items()
    }
    difference = ""
    interval = "too few patients of a class"
    if group.difference:
        difference = f"{group.difference.difference:+.4f}"
        interval = f"{group.difference.low:+.4f} to {group.difference.high:+.4f}"
    return {
        group.column: f"{group.value}{class_text}",
        "patients": f"{group.patients:,}",
        metric: scores.get(finalist.arm),
        "of the control": scores.get(finalist.strongest),
        "difference": difference,
        "95 % interval": interval,
        "sensitivity, specificity": rates.get(finalist.arm),
        "sensitivity, specificity of the control": rates.get(finalist.strongest),
    }


def secondary_table(record: Confirmation) -> Table | None:
    """Lay out the secondary outcomes of the first finalist and its strongest control.

    Returns None if there are none.
    """
    finalist = record.finalists[0]
    strongest = [pair for pair in finalist.comparisons if pair.control == finalist.strongest]
    labels = {metric.name: metric.label for metric in SECONDARY}
    rows: list[Row] = [
        {
            "outcome": labels[outcome.metric],
            finalist.arm: f"{outcome.score:.3f}",
            finalist.strongest: f"{outcome.control_score:.3f}",
            "difference": f"{outcome.difference:+.4f}",
            "95 % interval": f"{outcome.low:+.4f} to {outcome.high:+.4f}",
        }
        for comparison in strongest
        for outcome in comparison.secondary
    ]
    return Table(rows) if rows else None


def _gaps(groups: Sequence[Subgroup]) -> str:
    """Return, for each arm, the worst group and its gap from the best one, in words."""
    scored = [group for group in groups if group.scores]
    words = []
    for arm in scored[0].scores if len(scored) > 1 else ():
        scores = {group.value: group.scores[arm] for group in scored}
        worst = min(scores, key=lambda value: scores[value])
        gap = max(scores.values()) - scores[worst]
        words.append(f"{arm}: worst {worst}, gap {gap:.3f}")
    return "; ".join(words) or "no two groups are large enough"


def verdict_sentence(record: Confirmation) -> str:
    """Return the verdict on the first finalist as a sentence."""
    exploratory = "exploratory: " if record.exploratory else ""
    verdict = _TEXTS[record.verdict].format(metric=record.metric)
    finalist = record.finalists[0]
    if finalist.is_small_gain:
        is_given = any(comparison.is_worse for comparison in finalist.comparisons)
        threshold = "what their hospital could send instead" if is_given else f"{record.rope:g}"
        gain = "less than" if is_given else "by less than"
        verdict = f"synthetic images improve {record.metric}, but {gain} {threshold}"
    return sentence(f"{exploratory}{record.scope}{verdict}")


def _notes(record: Confirmation) -> Iterator[str]:
    finalist = record.finalists[0]
    test = record.test
    is_unused = test.kind in UNUSED_KINDS and record.searched
    unused = " that the search had not used" if is_unused else ""
    size = f"{test.images:,} images of {test.patients:,} patients{unused}"
    yield f"{finalist.arm} against its controls: {size}, {record.replicates} replicates."
    if files := finalist.copied_files:
        yield (
            f"Its generator has seen patients who were scored, whatever was declared: "
            f"{counted(len(files), 'image')} copied, {join_names(files, 3)}."
        )
    if record.sites:
        yield (
            f"Each replicate left out one of {len(record.sites)} sites. The intervals are over "
            "sites and, within a site, over its patients. The mix was chosen (val-B) with patients "
            "of all sites."
        )
    for reason in record.exploratory:
        yield f"Exploratory: {reason}."
    if reached := finalist.headroom:
        gain = f"{reached.gain:+.4f} ({reached.low:+.4f} to {reached.high:+.4f}) {record.metric}"
        share = (
            reached.share_in_words and f"; the synthetic images reached {reached.share_in_words}"
        )
        yield f"Headroom: real images of other patients in their place gained {gain}{share}."
    if donor_scores := finalist.donor_scores:
        scores = ", ".join(f"{name} {score:.3f}" for name, score in donor_scores.items())
        yield f"What the other hospital sent, best first: {scores}."
    yield from filter(
        None, (record.missing, record.misfit, finalist.encoder_caveat, finalist.caveat)
    )
    yield from map(sentence, record.notes)
