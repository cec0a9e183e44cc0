"""Predictions of trainings that xraytune did not run get the verdict that `confirm` gives."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.confirm.test_secondary import binary, classes, findings, images_of, masks
from tests.confirm.verdicts import CONTROL, FINALIST
from tests.in_process import command, shown
from xraytune.base.errors import ConfigError, DataError, XraytuneError
from xraytune.base.files import read_json, write_json
from xraytune.confirm.compare import ArmScores, judge_finalists
from xraytune.confirm.drawn import Drawn, DrawnImage, write_drawn
from xraytune.confirm.outcomes import write_predictions
from xraytune.data.phantom import paint_phantoms
from xraytune.draws import draws
from xraytune.judge import judge
from xraytune.present.verdict import subgroup_tables

ROPE = 0.01


def table(patients: int = 120, replicates: int = 4, seed: int = 0) -> pd.DataFrame:
    """Predictions of an arm that is better than the arm without extra images."""
    random = np.random.default_rng(seed)
    labels = np.arange(patients) % 2
    rows = []
    for replicate in range(1, replicates + 1):
        for arm, gain in (("gan", 2.0), ("none", 0.0), ("twice", 0.0)):
            logits = (1 + gain) * labels + random.normal(size=patients)
            for image, logit in enumerate(logits):
                chance = 1 / (1 + np.exp(-logit))
                label = ("NORMAL", "PNEUMONIA")[labels[image]]
                row = (arm, replicate, f"{image:03}.png", f"p{image}", label, 1 - chance, chance)
                rows.append(row)
    columns = ["arm", "replicate", "file", "patient", "label", "p_NORMAL", "p_PNEUMONIA"]
    return pd.DataFrame(rows, columns=columns)


def judged(rows: pd.DataFrame | Path, tmp_path: Path, **options: Any) -> Any:
    arms = {"finalist": "gan", "none": "none", "duplicate": "twice"}
    return judge(rows, out=tmp_path / "judged", **{**arms, **options})


@pytest.mark.parametrize("make", [binary, classes, findings, masks])
def test_predictions_of_a_confirmation_get_its_words_and_intervals(
    tmp_path: Path, make: Callable[[], ArmScores]
) -> None:
    test = make()
    count = test.results.shape[2]
    outputs = [f"class{number}" for number in range(count)] if count > 1 else ["dice"]
    names = outputs if make is findings else []
    write_predictions(tmp_path, test, images_of(test), outputs, names)
    (expected,) = judge_finalists(test, rope=ROPE)

    confirmation = judge(
        tmp_path / "predictions.csv",
        finalist=FINALIST.name,
        none=CONTROL.name,
        positive=f"class{test.positive}" if make is binary else "",
        rope=ROPE,
        out=tmp_path / "judged",
    )

    (finalist,) = confirmation.finalists
    assert (finalist.verdict, finalist.because_of) == (expected.verdict, expected.because_of)
    for comparison, other in zip(finalist.comparisons, expected.comparisons, strict=True):
        assert comparison.verdict == other.verdict
        for name in ("difference", "low", "high", "low_90", "high_90", "p_value"):
            assert getattr(comparison, name) == pytest.approx(getattr(other, name), abs=1e-9)


def test_a_better_arm_helps_and_what_nobody_checked_is_said(tmp_path: Path) -> None:
    confirmation = judged(table(), tmp_path)

    assert confirmation.verdict == "helps"
    content = read_json(tmp_path / "judged/verdict.json")
    assert "not run by xraytune" in content["answer"]
    assert "not run by xraytune" in content["methods"]
    assert "equal steps" in content["methods"]
    page = (tmp_path / "judged/report.html").read_text()
    assert "For a reviewer to check" in page


def other_label(rows: pd.DataFrame) -> pd.DataFrame:
    rows.loc[5, "label"] = "NORMAL" if rows.loc[5, "label"] == "PNEUMONIA" else "PNEUMONIA"
    return rows


def value(column: str, content: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(rows: pd.DataFrame) -> pd.DataFrame:
        rows[column] = rows[column].astype(object)
        rows.loc[7, column] = content
        return rows

    return change


def same_results(arm: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The second replicate of the finalist has the results of the first one of an arm."""

    def change(rows: pd.DataFrame) -> pd.DataFrame:
        scores = ["p_NORMAL", "p_PNEUMONIA"]
        first = (rows["arm"] == arm) & (rows["replicate"] == 1)
        second = (rows["arm"] == "gan") & (rows["replicate"] == 2)
        rows.loc[second, scores] = rows.loc[first, scores].to_numpy()
        return rows

    return change


def as_findings(rows: pd.DataFrame) -> pd.DataFrame:
    names = {"p_NORMAL": "p_mass", "p_PNEUMONIA": "p_edema", "label": "label_edema"}
    rows = rows.rename(columns=names)
    rows["label_edema"] = (rows["label_edema"] == "PNEUMONIA").astype(int)
    return rows.assign(label_mass=1 - rows["label_edema"])


HOSTILE: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "a missing arm": (lambda rows: rows[rows["arm"] != "twice"], "no arm twice"),
    "a missing image": (lambda rows: rows.drop(index=3), "lacks"),
    "a missing run": (
        lambda rows: rows[(rows["arm"] != "none") | (rows["replicate"] != 2)],
        "none, replicate 2",
    ),
    "a doubled row": (lambda rows: pd.concat([rows, rows.iloc[[4]]]), "twice"),
    "another label": (other_label, "label"),
    "not a number": (value("p_NORMAL", float("nan")), "from 0 to 1"),
    "a percentage": (value("p_NORMAL", 40.0), "from 0 to 1"),
    "no probabilities of classes": (value("p_NORMAL", 0.999), "sum to 1"),
    "a seed that was not used": (same_results("gan"), "to the last digit"),
    "a finalist with the results of an earlier control": (
        same_results("none"),
        "to the last digit",
    ),
    "no patients": (lambda rows: rows.drop(columns="patient"), "patient"),
    "no labels": (lambda rows: rows.drop(columns="label"), "label"),
    "no files": (lambda rows: rows.drop(columns=["file", "patient"]), "file"),
    "a replicate without number": (value("replicate", None), "row 8: replicate is empty"),
    "a replicate with a name": (value("replicate", "rep1"), "row 8: replicate is rep1"),
    "an empty arm": (value("arm", None), "row 8: arm is empty"),
    "masks or classes": (lambda rows: rows.assign(dice=0.5), "dice"),
    "half of the findings": (
        lambda rows: as_findings(rows).drop(columns="label_mass"),
        "label_mass",
    ),
    "a finding that is neither there nor not": (
        lambda rows: as_findings(rows).assign(label_mass=2),
        "label_mass that is not",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_table_that_cannot_be_judged_is_refused(tmp_path: Path, name: str) -> None:
    change, word = HOSTILE[name]
    rows = change(table())
    rows.to_csv(tmp_path / "predictions.csv", index=False)

    for predictions in (rows, tmp_path / "predictions.csv"):
        with pytest.raises(XraytuneError, match=word):
            judged(predictions, tmp_path)

    assert not (tmp_path / "judged").exists()


def test_without_draws_a_replicate_may_lack_its_own_patients(tmp_path: Path) -> None:
    rows = table(replicates=4)
    own = rows["patient"].str[1:].astype(int) % 4 == rows["replicate"] - 1
    everyone = judged(rows, tmp_path / "everyone").finalists[0].comparisons[0]

    confirmation = judged(rows[~own], tmp_path)

    (comparison, _) = confirmation.finalists[0].comparisons
    assert comparison.difference == pytest.approx(everyone.difference, abs=0.05)
    assert comparison.standard_error != everyone.standard_error
    assert any("trained on" in item for item in confirmation.declared)


def test_each_replicate_may_leave_a_site_out(tmp_path: Path) -> None:
    rows = table(replicates=3)
    rows["site"] = "site" + (rows["patient"].str[1:].astype(int) % 3).astype(str)
    sites = (rows["replicate"] - 1).astype(str)
    at_home = rows[rows["site"].str[-1] == sites]

    confirmation = judged(rows, tmp_path / "all", leave_out_site=True)
    own = judged(at_home, tmp_path / "own", leave_out_site=True)

    assert confirmation.sites == ("site0", "site1", "site2")
    assert own.finalists == confirmation.finalists
    away = rows["patient"].eq("p1") & rows["replicate"].eq(2)
    with pytest.raises(DataError, match=r"replicate 2, lacks 001\.png"):
        judged(rows[~away], tmp_path / "away", leave_out_site=True)
    two = rows.assign(site=rows["site"].replace("site2", "site1"))
    with pytest.raises(DataError, match=r"2 sites .*, but 3 replicates"):
        judged(two, tmp_path / "two", leave_out_site=True)
    methods = read_json(tmp_path / "own/judged/verdict.json")["methods"]
    assert "Student's t intervals over sites (2 degrees of freedom" in methods
    assert "Obuchowski" not in methods


def test_each_replicate_may_leave_a_site_out_of_a_study_of_findings(tmp_path: Path) -> None:
    rows = table(replicates=3)
    site = "site" + (rows["patient"].str[1:].astype(int) // 2 % 3).astype(str)
    of_classes = judged(rows.assign(site=site), tmp_path / "classes", leave_out_site=True)
    findings = as_findings(rows).drop(columns=["p_mass", "label_mass"]).assign(site=site)

    confirmation = judged(findings, tmp_path / "findings", leave_out_site=True)

    assert confirmation.sites == ("site0", "site1", "site2")
    assert confirmation.finalists[0].score == pytest.approx(of_classes.finalists[0].score)


def test_the_kth_site_is_the_one_that_confirm_leaves_out(tmp_path: Path) -> None:
    """`confirm` sorts sites as text, so `02` follows `01`, and `10` follows `1`."""
    rows = table(patients=240, replicates=12)
    site = rows["patient"].str[1:].astype(int) // 2 % 12
    file = tmp_path / "predictions.csv"
    columns = ["file", "patient", "label", "site"]

    rows.assign(site=(site + 1).map("{:02}".format)).to_csv(file, index=False)
    padded = judged(file, tmp_path / "padded", leave_out_site=True)
    numbered = rows.assign(site=site + 1)
    numbered.to_csv(file, index=False)
    with pytest.raises(DataError, match="1, 10, 11"):
        judged(file, tmp_path / "numbered", leave_out_site=True)
    run = numbered["arm"] + ", replicate " + numbered["replicate"].astype(str)
    wide = numbered.assign(run=run).pivot(index=columns, columns="run", values="p_PNEUMONIA")
    wide.reset_index().to_csv(file, index=False)
    confirmed = judged(file, tmp_path / "confirmed", leave_out_site=True)

    assert padded.sites == tuple(f"{number:02}" for number in range(1, 13))
    assert confirmed.sites[:3] == ("1", "10", "11")


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for options, word in (
        ({"none": "", "duplicate": ""}, "nothing to compare"),
        ({"none": "", "duplicate": "", "synthetic_only": "twice"}, "nothing to compare"),
        ({"duplicate": "none"}, "twice"),
        ({"by": ["sex"]}, "no table"),
        ({"table": "groups.csv"}, "no column of it is asked for"),
        ({"by": ["sex"], "leave_out_site": True}, "over sites"),
        ({"positive": "FOO"}, "no class"),
    ):
        with pytest.raises(ConfigError, match=word):
            judged(table(), tmp_path, **options)


def test_findings_have_no_positive_class(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only one of two classes"):
        judged(as_findings(table()), tmp_path, positive="mass")


def test_a_finding_of_a_single_patient_is_named_and_left_out(tmp_path: Path) -> None:
    rows = as_findings(table())
    has_hernia = rows["file"] < "012.png"
    rows = rows.assign(label_hernia=has_hernia.astype(int), p_hernia=0.5)
    rows.loc[has_hernia, "patient"] = "one"

    found = judged(rows, tmp_path)

    assert "a single patient, are not in the mean: hernia" in found.notes[0]


def test_fewer_than_four_replicates_are_exploratory(tmp_path: Path) -> None:
    assert judged(table(replicates=3), tmp_path).exploratory


def test_a_call_that_fails_is_no_look_at_the_test_images(tmp_path: Path) -> None:
    """One replicate is too few; the table with all of them is then the first to be judged."""
    rows = table()
    folder = drawn_folder(tmp_path, rows)
    plain = rows.drop(columns=["label", "patient"])

    with pytest.raises(DataError, match="1 replicate is too few"):
        judged(plain[plain["replicate"] == 1], tmp_path / "one", draws=folder)

    assert judged(plain, tmp_path / "all", draws=folder).exploratory == ()


def test_the_positive_class_need_not_be_given(tmp_path: Path) -> None:
    """It follows from the draws, or from the names of the classes."""
    rows = table()
    named = judged(rows, tmp_path / "named")
    one_column = rows.drop(columns="p_NORMAL").rename(columns={"p_PNEUMONIA": "p_positive"})
    folder = drawn_folder(tmp_path, rows)

    by_name = judged(one_column, tmp_path / "by_name")
    by_draws = judged(
        one_column.drop(columns=["label", "patient"]), tmp_path / "by_draws", draws=folder
    )

    assert by_name.finalists == by_draws.finalists == named.finalists
    for other in ("NORMAL", "FOO"):
        with pytest.raises(ConfigError, match="positive class of the draws is PNEUMONIA"):
            judged(rows, tmp_path / other, draws=folder, positive=other)
    same = judged(rows, tmp_path / "same", draws=folder, positive="PNEUMONIA")
    assert same.finalists == named.finalists


def test_a_class_may_be_named_positive(tmp_path: Path) -> None:
    """As in COVIDx. Then `p_positive` is its column, whichever class is the positive one."""
    rows = table().replace({"label": {"NORMAL": "negative", "PNEUMONIA": "positive"}})
    rows = rows.rename(columns={"p_NORMAL": "p_negative", "p_PNEUMONIA": "p_positive"})
    both = judged(rows, tmp_path / "both")

    one = judged(rows.drop(columns="p_negative"), tmp_path / "one")
    other = judged(rows, tmp_path / "other", positive="negative")

    assert both.test.positive == "positive"
    assert one.finalists == both.finalists
    assert other.test.positive == "negative"
    differences = [of.finalists[0].comparisons[0].difference for of in (both, other)]
    assert differences[0] == pytest.approx(differences[1])


def test_without_thresholds_there_is_no_balanced_accuracy(tmp_path: Path) -> None:
    (comparison, _) = judged(table(), tmp_path).finalists[0].comparisons

    names = [outcome.metric for outcome in comparison.secondary]
    assert names == ["auprc", "brier", "sensitivity_at_90"]


def test_what_missing_controls_leave_open_is_noted(tmp_path: Path) -> None:
    """An arm with real images of other patients is no tuned control."""
    found = judged(table(), tmp_path, duplicate="", real_images="twice")

    assert [note[:26] for note in found.notes] == [
        "no arm repeats real images",
        "no arm without synthetic i",
    ]


def test_a_table_may_be_joined_of_others(tmp_path: Path) -> None:
    """The labels of an index then repeat; with findings, labels are looked up by them."""
    rows = as_findings(table()).drop(columns=["p_mass", "label_mass"])
    parts = [part.reset_index(drop=True) for _, part in rows.groupby("arm", sort=False)]

    joined = judged(pd.concat(parts), tmp_path / "joined")

    assert joined.finalists == judged(rows, tmp_path / "rows").finalists


def test_unequal_trainings_are_refused(tmp_path: Path) -> None:
    rows = [
        (arm, replicate, 1000 + 10 * (arm == "gan"), 400)
        for arm in ("gan", "none", "twice")
        for replicate in range(1, 5)
    ]
    runs = tmp_path / "runs.csv"
    columns = ["arm", "replicate", "steps", "real_images"]
    pd.DataFrame(rows, columns=columns).to_csv(runs, index=False)

    with pytest.raises(DataError, match="replicate 1"):
        judged(table(), tmp_path, runs=runs)

    equal = pd.DataFrame([(*row[:2], 1000, 400) for row in rows], columns=columns)
    equal.to_csv(runs, index=False)
    declared = judged(table(), tmp_path, runs=runs).declared
    assert any("as declared" in item and "steps" in item for item in declared)


@pytest.mark.parametrize("option", ["donor", "synthetic_only"])
def test_an_arm_without_the_real_images_need_not_have_equal_trainings(
    tmp_path: Path, option: str
) -> None:
    trainings = [("gan", 1000, 400), ("none", 1000, 400), ("twice", 700, 0)]
    rows = [(arm, replicate, *numbers) for arm, *numbers in trainings for replicate in range(1, 5)]
    runs = tmp_path / "runs.csv"
    columns = ["arm", "replicate", "steps", "real_images"]
    pd.DataFrame(rows, columns=columns).to_csv(runs, index=False)

    assert judged(table(), tmp_path, runs=runs, duplicate="", **{option: "twice"}).finalists


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda rows: rows.replace({"replicate": {2: 1}}), "gan, replicate 1, has 2 rows"),
        (lambda rows: rows.assign(steps=None), "row 1: steps is empty"),
        (lambda rows: rows.assign(replicate=None), "row 1: replicate is empty"),
        (lambda rows: rows.drop(columns="real_images"), "column real_images"),
    ],
)
def test_a_table_of_trainings_must_be_complete(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], word: str
) -> None:
    rows = table().drop_duplicates(["arm", "replicate"])[["arm", "replicate"]]
    rows = rows.sort_values(["arm", "replicate"]).assign(steps=1000, real_images=400)
    runs = tmp_path / "runs.csv"
    change(rows).to_csv(runs, index=False)

    with pytest.raises(DataError, match=rf"runs\.csv.*{word}"):
        judged(table(), tmp_path, runs=runs)


def test_subgroups_come_from_a_table(tmp_path: Path) -> None:
    rows = table(patients=240)
    groups = tmp_path / "groups.csv"
    patients = rows["patient"].unique()
    sexes = [("01", "02")[number // 2 % 2] for number in range(len(patients))]
    pd.DataFrame({"patient": patients, "sex": sexes}).to_csv(groups, index=False)

    confirmation = judged(rows, tmp_path, by=["sex"], table=groups)

    counts = {group.value: group.patients for group in confirmation.subgroups}
    assert counts == {"01": 120, "02": 120}
    assert not any("sex" in note for note in confirmation.notes)
    of_some = pd.DataFrame({"patient": patients, "sex": sexes}).head(230)
    of_some.to_csv(groups, index=False)
    notes = judged(rows, tmp_path / "some", by=["sex"], table=groups).notes
    assert "sex is known of 230 of 240 images" in notes


@pytest.mark.parametrize("small", ["01", "02"])
def test_a_group_that_is_too_small_hides_no_other_group(tmp_path: Path, small: str) -> None:
    rows = table()
    groups = tmp_path / "groups.csv"
    patients = rows["patient"].unique()
    large = "02" if small == "01" else "01"
    sexes = [small, small, *[large] * (len(patients) - 2)]
    pd.DataFrame({"patient": patients, "sex": sexes}).to_csv(groups, index=False)

    confirmation = judged(rows, tmp_path, by=["sex"], table=groups)

    [of_sexes] = subgroup_tables(confirmation)
    cells = {row["sex"]: {name: row[name] for name in of_sexes.columns} for row in of_sexes.rows}
    differences = {group.value: group.difference for group in confirmation.subgroups}
    assert differences[small] is None
    assert cells[small]["95 % interval"] == "too few patients of a class"
    assert cells[large]["difference"] == f"{differences[large].difference:+.4f}"
    assert "too few patients of a class" in (tmp_path / "judged/report.html").read_text()


@pytest.mark.parametrize(
    ("patients", "word"),
    [(["p1", "p2", "p1"], "patient p1 has several values of sex"), (["1", "2", "3"], "no patient")],
)
def test_a_table_of_subgroups_that_contradicts_itself_or_fits_nobody_is_refused(
    tmp_path: Path, patients: list[str], word: str
) -> None:
    groups = tmp_path / "groups.csv"
    pd.DataFrame({"patient": patients, "sex": ["F", "F", "M"]}).to_csv(groups, index=False)

    with pytest.raises(DataError, match=rf"groups\.csv.*{word}"):
        judged(table(), tmp_path, by=["sex"], table=groups)


def drawn_folder(
    tmp_path: Path,
    rows: pd.DataFrame,
    kind: Any = "unused",
    outputs: tuple[str, ...] = ("NORMAL", "PNEUMONIA"),
) -> Path:
    """Draws of ten patients each; with `outside`, they are among the scored patients."""
    images = rows.drop_duplicates("file")
    own = [f"t{number}" for number in range(40)]
    if kind == "outside":
        own = images["patient"].tolist()
    drawn = Drawn(
        kind=kind,
        outputs=outputs,
        findings=(),
        positive=1,
        train_patients=10,
        patients=dict(zip(images["file"], images["patient"], strict=True)),
        labels=dict(zip(images["file"], images["label"], strict=True)),
        draws=tuple(tuple(own[10 * number : 10 * number + 10]) for number in range(4)),
        fingerprint="f",
    )
    folder = tmp_path / "draws"
    folder.mkdir(parents=True)
    row = DrawnImage(replicate=1, side="train", file="t.png", patient="t0", label="NORMAL")
    write_drawn(folder, drawn, [row])
    return folder


def test_labels_come_from_the_draws_and_a_second_table_is_exploratory(tmp_path: Path) -> None:
    rows = table()
    folder = drawn_folder(tmp_path, rows)
    plain = rows.drop(columns=["label", "patient"])

    first = judged(plain, tmp_path / "1", draws=folder)
    again = judged(plain, tmp_path / "2", draws=folder)
    other = table(seed=1).drop(columns=["label", "patient"])
    second = judged(other, tmp_path / "3", draws=folder)

    assert first.exploratory == again.exploratory == ()
    assert "judged 1 time before" in second.exploratory[0]


def test_nobody_is_scored_by_a_network_that_was_trained_on_them(tmp_path: Path) -> None:
    rows = table()
    folder = drawn_folder(tmp_path, rows, "outside")
    plain = rows.drop(columns=["label", "patient"])

    with pytest.raises(DataError, match="trained on"):
        judged(plain, tmp_path / "1", draws=folder)

    number = rows["patient"].str[1:].astype(int)
    outside = plain[number // 10 + 1 != rows["replicate"]]
    confirmation = judged(outside, tmp_path / "2", draws=folder)
    assert confirmation.verdict == "helps"
    assert confirmation.test.patients == 120


def test_draws_say_whether_classes_or_masks_are_judged(tmp_path: Path) -> None:
    rows = table()
    folder = drawn_folder(tmp_path, rows)
    expected = judged(rows, tmp_path / "classes", draws=folder)

    with_dice = judged(rows.assign(dice=0.5), tmp_path / "dice", draws=folder)

    assert (with_dice.metric, with_dice.finalists) == ("AUROC", expected.finalists)
    of_masks = drawn_folder(tmp_path / "masks", rows, outputs=("dice",))
    with pytest.raises(DataError, match="column dice"):
        judged(rows, tmp_path / "masks", draws=of_masks)


def test_changed_draws_are_refused(tmp_path: Path) -> None:
    rows = table()
    folder = drawn_folder(tmp_path, rows)
    content = read_json(folder / "sealed.json")
    write_json(folder / "sealed.json", {**content, "train_patients": 11})

    with pytest.raises(XraytuneError, match=r"sealed\.json"):
        judged(rows.drop(columns="label"), tmp_path, draws=folder)


def test_the_page_goes_from_images_to_a_verdict(tmp_path: Path) -> None:
    """As somebody with an own scikit-learn loop."""
    page = Path(__file__).parents[1] / "docs/judge.md"
    program = page.read_text().partition("```python\n")[2].partition("```")[0]
    (tmp_path / "train.py").write_text(program)
    paint_phantoms(tmp_path / "chest_xray", patients=300, seed=3, image_size_px=32)
    shutil.rmtree(tmp_path / "chest_xray/test")
    drawing = "draws --data chest_xray --train-patients 50 --replicates 5 -o draws"
    judging = "judge predictions.csv --draws draws --finalist noisy --none none --duplicate"

    with contextlib.chdir(tmp_path):
        done = command(drawing)
        assert done.exit_code == 0, done.output
        subprocess.run([sys.executable, "train.py", "chest_xray"], check=True)
        done = command(f"{judging} repeated")

    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "draws/draws.csv")
    assert table[table["side"] == "test"]["label"].isna().all()
    content = read_json(tmp_path / "judged/verdict.json")
    assert content["verdict"] in ("helps", "hurts", "no_better", "undecided")
    assert content["test"]["kind"] == "outside"
    assert not content["exploratory"]


def test_with_a_test_folder_and_few_patients_all_replicates_train_on_the_same(
    tmp_path: Path,
) -> None:
    paint_phantoms(tmp_path / "xrays", patients=120, seed=3, image_size_px=32)

    notes = list[str]()
    with contextlib.chdir(tmp_path):
        drawn = draws(tmp_path / "xrays", train_patients=40, replicates=4, note=notes.append)
        told = shown("draws --data xrays --train-patients 40 --replicates 4 -o again")

    assert drawn.kind == "folder"
    assert any("train on the same patients" in note for note in notes), notes
    assert "the same 40 training patients for all replicates" in told
    assert len({*drawn.draws}) == 1
    table = pd.read_csv(tmp_path / "draws/draws.csv")
    trained = table[table["side"] == "train"]
    assert trained.groupby("replicate")["patient"].nunique().tolist() == [40] * 4
    assert {*trained["patient"]}.isdisjoint(table[table["side"] == "test"]["patient"])


def test_a_broken_test_image_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    """Nobody could predict it, and a test folder is used as a whole."""
    paint_phantoms(tmp_path / "xrays", patients=60, seed=3, image_size_px=32)
    (tmp_path / "xrays/test/NORMAL/person999_bacteria_1.jpeg").write_bytes(b"")

    with pytest.raises(DataError, match="broken"):
        draws(tmp_path / "xrays", train_patients=10, skip_broken=True, out=tmp_path / "draws")

    assert not (tmp_path / "draws").exists()


@pytest.mark.parametrize("kind", ["findings", "pairs"])
def test_findings_of_a_data_file_and_pairs_are_drawn_and_judged(tmp_path: Path, kind: str) -> None:
    has_findings = kind == "findings"
    xrays = tmp_path / "xrays"
    patients = 150
    paint_phantoms(
        xrays,
        patients=patients,
        seed=3,
        image_size_px=32,
        findings=has_findings,
        pairs=not has_findings,
    )

    with contextlib.chdir(tmp_path):
        drawn = draws(
            xrays / "data.yaml" if has_findings else xrays, train_patients=20, replicates=4
        )
    expected = ["p_lobar", "p_diffuse", "p_effusion"] if has_findings else ["dice"]
    assert [*drawn.result_columns] == expected
    assert all(column in (tmp_path / "draws/README.md").read_text() for column in expected)
    images = pd.read_csv(tmp_path / "draws/draws.csv")
    labels = [name for name in images if name.startswith("label")]
    assert labels == [f"label_{name}" for name in drawn.findings] or labels == ["label"]
    if has_findings:
        states = images[images["side"] == "train"][labels]
        assert (states.isin([0, 1]) | states.isna()).all(axis=None)
        assert states.notna().any().all()
        assert images[images["side"] == "test"][labels].isna().all(axis=None)
    random = np.random.default_rng(0)
    rows = [
        {"arm": arm, "replicate": replicate, "file": file}
        | dict(zip(expected, random.uniform(size=len(expected)), strict=True))
        for arm in ("gan", "none", "twice")
        for replicate in range(1, 5)
        for file, patient in drawn.patients.items()
        if patient not in drawn.trained_on(replicate)
    ]
    confirmation = judged(pd.DataFrame(rows), tmp_path, draws=tmp_path / "draws")

    assert confirmation.finalists[0].comparisons
    assert confirmation.metric == ("macro AUROC" if has_findings else "Dice")


def test_the_fixes_of_draws_can_be_followed(tmp_path: Path) -> None:
    """For a broken image, and for too few patients."""
    xrays = tmp_path / "xrays"
    paint_phantoms(xrays, patients=60, seed=3, image_size_px=32)
    broken = min(xrays.glob("train/*/*"))
    broken.write_bytes(b"")
    with contextlib.chdir(tmp_path):
        draw = f"draws --data {xrays}/train --replicates 4"
        stopped = command(f"{draw} --train-patients 30")
        draw += " --skip-broken"
        refused = command(f"{draw} --train-patients 30")
        (patients,) = re.findall(r"fix: .*--train-patients (\d+)", refused.output)
        followed = command(f"{draw} --train-patients {patients}")

    assert "--skip-broken" in stopped.output
    assert refused.exit_code == DataError.exit_code
    assert not re.search("--set|confirm STUDY|data.train_patients", refused.output)
    assert followed.exit_code == 0, followed.output
    assert f"left out: {broken.relative_to(xrays / 'train')}" in followed.output


def test_judging_loads_neither_torch_nor_ray_nor_optuna(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "predictions.csv", index=False)
    code = (
        "import sys; from xraytune.cli.main import build_app\n"
        "try: build_app()(['judge', 'predictions.csv', '--finalist', 'gan', '--none', 'none'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'ray', 'optuna') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
    assert "synthetic images" in done.stdout
