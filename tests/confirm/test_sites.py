"""One site left out: who is trained on and scored, what is refused, and a verdict over sites."""

import re
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]
from sklearn.metrics import brier_score_loss, roc_auc_score

from tests.confirm.labs import Lab, changed, search_space, show_confirmed
from tests.confirm.verdicts import CONTROL, FINALIST
from tests.in_process import CPU, confirm_in_process
from tests.pair_files import draw_xrays
from xraytune.base.errors import ConfigError, DataError, StudyError
from xraytune.base.files import read_json
from xraytune.confirm.arms import Arm, Plan
from xraytune.confirm.compare import ArmScores, judge_finalists
from xraytune.confirm.outcomes import compare_sites
from xraytune.confirm.record import read_verdict
from xraytune.data.images import ImageFile
from xraytune.data.phantom import paint_phantoms
from xraytune.data.prepare import RunContext, prepare
from xraytune.model.export import export
from xraytune.present.forest import plot_subgroups
from xraytune.search.callbacks import Callbacks
from xraytune.search.run import search
from xraytune.space.load import load_space
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Experiment
from xraytune.space.source_settings import FolderSettings
from xraytune.trial.preflight import prepare_space
from xraytune.trial.training import TrialTraining
from xraytune.trial.training_set import build_training_set

SITES = ("hospital_a", "hospital_b", "hospital_c")
TRAINED_ON = 20
SPACE = f"""\
name: small
data: {{path: xrays, image_size: 32, train_patients: {TRAINED_ON},
       split: {{val_a: 0.2, val_b: 0.2}}}}
parameters:
  source: {{values: [none, gan]}}
  gan: {{when: {{source: gan}},
         parameters: {{image_size: {{value: 32}}, width: {{value: 4}}, steps: {{value: 2}}}}}}
  synthetic_ratio: {{value: 0.5, when: {{source: gan}}}}
  backbone: {{value: small_cnn}}
  weights: {{value: none}}
  batch_size: {{value: 8}}
budget: {{trials: 2, max_epochs: 1, steps_per_epoch: 2}}
scheduler: {{name: none}}
quality: {{allow_memorised: true}}
confirm: {{finalists: 1, leave_out: site, controls: {{matched: [none], tuned: []}}}}
points_to_evaluate: [{{source: gan}}, {{source: none}}]
"""


@pytest.fixture(scope="module")
def ended(module_path: Path) -> Lab:
    """A study of three hospitals that has ended."""
    draw_xrays(module_path, patients=240, seed=5, sites=3)
    search_space(module_path, SPACE)
    return Lab(module_path)


def test_a_replicate_sees_no_image_of_the_site_that_it_is_scored_on(ended: Lab) -> None:
    divided = ended.choose(replicates=3).prepared
    settings = ended.settings
    site_of = {image.row: image.site for image in divided.images}

    assert divided.left_out_sites == SITES
    trained_on = []
    for draw, site in enumerate(SITES):
        prepared = divided.of_draw(draw)
        parameters = Parameters(
            source="duplicate", synthetic_ratio=0.5, backbone="small_cnn", weights="none"
        )
        experiment = Experiment(
            settings=settings, parameters=parameters, draw=draw, has_real_extra=True
        )
        context = RunContext(prepared=prepared, cache=ended.cache, compute=CPU)
        training_set = build_training_set(experiment, context)
        training = TrialTraining(experiment, context, training_set)

        rows = [*np.concatenate([source.rows for source in training_set.image_sets])]
        rows += [*training.val_a.rows, *training.val_b.rows]
        assert {site_of[row] for row in rows} == {*SITES} - {site}
        trained_on.append({*prepared.side("train").patients})
        assert len(trained_on[-1]) == TRAINED_ON
    searched = {image.patient for image in ended.searched.images}
    tested = {*divided.side("test").patients}
    assert {image.site for image in divided.side("test")} == {*SITES}
    parts = [searched, tested, *trained_on]
    assert len(set.union(*parts)) == sum(map(len, parts)), "no patient is on two sides"


def test_a_verdict_over_sites_names_them_and_how_the_mix_was_chosen(ended: Lab) -> None:
    shown = show_confirmed(ended.study)
    verdict = read_json(ended.folder / "verdict.json")
    plan = ended.plan

    test = ended.confirmed.side("test")
    labels = np.array([image.label for image in test])
    results = np.load(ended.folder / "test.npy")[..., 1]
    (finalist,) = plan.finalists
    (control,) = plan.controls(finalist)

    def at_sites(arm: Arm, score: Callable[..., float]) -> list[float]:
        """The score of each replicate at the site that it left out."""
        found = []
        for site, run in zip(SITES, plan.run_numbers(arm), strict=True):
            rows = np.array([image.site == site for image in test])
            found.append(score(labels[rows], results[run][rows]))
        return found

    pair = [at_sites(arm, roc_auc_score) for arm in (finalist, control)]
    differences = [own - other for own, other in zip(*pair, strict=True)]
    expected = stats.ttest_1samp(differences, 0.0)
    interval = expected.confidence_interval()
    (comparison,) = verdict["finalists"][0]["comparisons"]
    assert comparison["difference"] == pytest.approx(np.mean(differences))
    assert comparison["degrees_of_freedom"] == pytest.approx(2)
    assert (comparison["low"], comparison["high"]) == pytest.approx(
        (max(interval.low, -1), min(interval.high, 1)), abs=1e-9
    )
    assert comparison["p_value"] == pytest.approx(expected.pvalue)
    brier = at_sites(finalist, brier_score_loss)
    secondary = {each["metric"]: each for each in comparison["secondary"]}
    assert secondary["brier"]["score"] == pytest.approx(np.mean(brier)), "within each site, too"
    groups = verdict["subgroups"]
    assert [group["value"] for group in groups] == [*SITES]
    shown_differences = [group["difference"]["difference"] for group in groups]
    assert shown_differences == pytest.approx(differences)
    assert verdict["sites"] == [*SITES]
    assert verdict["replicates"] == 3
    assert verdict["exploratory"] == []
    assert "The intervals are over 3 sites (Student's t, 2 degrees of freedom)" in verdict["answer"]
    assert "the mix was chosen (val-B) with patients of all sites" in verdict["answer"]
    assert "Student's t intervals over sites (2 degrees" in verdict["methods"]
    assert "Each replicate left out one of 3 sites" in " ".join(shown.split())
    for site, difference in zip(SITES, differences, strict=True):
        assert re.search(rf"{site}.*{re.escape(f'{difference:+.4f}')}", shown)
    confirmed = read_verdict(ended.folder)
    assert confirmed
    chart = plot_subgroups(confirmed)
    named = [" ".join(trace.y[0].replace("<br>", " ").split()) for trace in chart.data[::-1]]
    sizes = [f"site: {group['value']} ({group['patients']})" for group in groups]
    assert named == ["mean of 3 sites", *sizes]
    best = confirmed.finalists[0].arm
    assert f"right of 0, {best} is better" in chart.layout.xaxis.title.text
    assert [trace.x[0] for trace in chart.data[::-1]][1:] == pytest.approx(differences)
    assert show_confirmed(ended.study) == shown, "the same command again trains nothing"


def test_a_further_hospital_is_scored_by_all_replicates(ended: Lab, tmp_path: Path) -> None:
    paint_phantoms(tmp_path / "elsewhere", patients=60, seed=6, image_size_px=32)
    for image in (tmp_path / "elsewhere").rglob("*.jpeg"):
        image.rename(image.with_name(f"d-{image.name}"))  # phantoms count patients from 1, too

    with confirm_in_process():
        confirmed = ended.confirm(tmp_path / "elsewhere/train")

    images_there = len([*(tmp_path / "elsewhere/train").rglob("*.jpeg")])
    (hospital,) = confirmed.hospitals
    assert confirmed.sites == SITES
    assert hospital.test.images == images_there
    assert len(hospital.finalist.replicate_scores) == len(SITES)
    assert hospital.finalist.comparisons[0].variance_components["patient"] > 0
    assert confirmed.exploratory == ()
    assert hospital.exploratory[0].startswith("there are only 3 replicates")


def test_options_that_a_verdict_over_sites_does_not_have_are_refused(ended: Lab) -> None:
    with confirm_in_process():
        with pytest.raises(StudyError, match="each of 3 sites"):
            ended.confirm(replicates=4)
        with pytest.raises(StudyError, match="compared by site"):
            ended.confirm(by=["sex"])
        with pytest.raises(DataError, match="used for training or validation"):
            ended.confirm(ended.xrays)


def test_too_few_patients_and_images_of_unknown_origin_are_refused_before_any_training(
    ended: Lab, tmp_path: Path
) -> None:
    prepared = ended.searched
    settings = ended.settings
    images = (*prepared.images, *prepared.unused)
    few = {image.patient for image in images if image.site == "hospital_b" and image.label}
    few = {*sorted(few)[3:]} - {image.patient for image in prepared.images}
    seen = [image.sha256 for image in images if image.patient in few]
    (tmp_path / "seen.txt").write_text("\n".join(seen))
    (tmp_path / "extra/NORMAL").mkdir(parents=True)
    source = ended.xrays / prepared.side("train")[0].file
    shutil.copy(source, tmp_path / "extra/NORMAL/another.jpeg")
    folder = FolderSettings(path=tmp_path / "extra", seen=tmp_path / "seen.txt")
    known = [Parameters(source="folder", folder=folder)]
    undeclared = FolderSettings(path=tmp_path / "extra")
    unknown = [Parameters(source="folder", folder=undeclared)]

    with pytest.raises(DataError, match=r"site hospital_.: too few test patients"):
        ended.choose(mixes=known, replicates=3)
    with pytest.raises(DataError, match=r"leakage(.|\n)*fix: declare them"):
        ended.choose(mixes=unknown, replicates=3)
    many = changed(settings, train_patients=60)
    searched, _ = prepare(many, tmp_path / "cache")
    with pytest.raises(DataError, match="3 draws of 60") as refusal:
        ended.choose(many, searched, replicates=3)
    assert "--replicates" not in str(refusal.value)


def test_a_finding_that_validation_cannot_score_without_a_site_is_refused_before_any_training(
    ended: Lab,
) -> None:
    """There are a few patients with the finding at each site, which would suffice for a class."""
    prepared = ended.searched
    few = set[str]()
    for site in SITES:
        of_site = [image.file for image in prepared.side("val_a") if image.site == site]
        few |= {*of_site[:4]}

    def with_finding(image: ImageFile, number: int) -> ImageFile:
        has_finding = image.file in few if image.side == "val_a" else number % 2 == 0
        return replace(image, findings=str(int(has_finding)))

    images = [with_finding(image, number) for number, image in enumerate(prepared.images)]
    unused = [with_finding(image, number) for number, image in enumerate(prepared.unused)]
    rare = replace(prepared, findings=("Edema",), images=tuple(images), unused=tuple(unused))

    with pytest.raises(DataError, match=r"without site hospital_a, val-A .* Edema \d with and"):
        ended.choose(prepared=rare, index=rare.index(ended.xrays), replicates=3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("no sites", "images have no site"),
        ("two sites", "2 sites (hospital_a, hospital_b)"),
        ("a class", "site hospital_b has no images of NORMAL"),
    ],
)
def test_a_search_does_not_start_without_the_sites_that_its_verdict_needs(
    ended: Lab, tmp_path: Path, change: str, words: str
) -> None:
    xrays = shutil.copytree(ended.xrays, tmp_path / "xrays")
    if change == "no sites":
        for site in SITES:
            shutil.copytree(xrays / site, xrays, dirs_exist_ok=True)
            shutil.rmtree(xrays / site)
        (xrays / "patients.csv").unlink()
    elif change == "two sites":
        shutil.rmtree(xrays / "hospital_c")
    else:
        shutil.rmtree(xrays / "hospital_b/NORMAL")
    (tmp_path / "space.yaml").write_text(SPACE.replace("split: {", "split: {site: folder, ", 1))
    if change == "no sites":
        (tmp_path / "space.yaml").write_text(SPACE)
    space = load_space(tmp_path / "space.yaml")

    with pytest.raises(DataError, match=re.escape(words)):
        prepare_space(space, tmp_path / "cache")


@pytest.mark.parametrize(
    ("train_patients", "seen_count"), [(32, 0), (TRAINED_ON, 100)], ids=["large draws", "seen"]
)
def test_a_search_says_before_it_starts_that_its_sites_have_too_few_patients_to_score(
    ended: Lab, tmp_path: Path, train_patients: int, seen_count: int
) -> None:
    """Patients that a generator has seen are neither drawn nor scored."""
    images = (*ended.searched.images, *ended.searched.unused)
    seen_patients = sorted({image.patient for image in images})[:seen_count]
    seen = [image.sha256 for image in images if image.patient in seen_patients]
    (tmp_path / "seen.txt").write_text("\n".join([*seen, "0" * 64]))
    paint_phantoms(tmp_path / "extra", patients=40, seed=6, image_size_px=32)
    values = "path: {value: extra/train}, seen: {value: seen.txt}"
    folder = f"  folder: {{when: {{source: folder}}, parameters: {{{values}}}}}\n"
    space = SPACE.replace("  gan: ", f"{folder}  gan: ")
    space = space.replace("[none, gan]", "[none, gan, folder]")
    space = space.replace("0.5, when: {source: gan}", "0.5, when: {source: [gan, folder]}")
    (tmp_path / "space.yaml").write_text(space)

    def note(text: str) -> None:
        if text.startswith("`confirm` cannot score unused patients"):
            raise KeyboardInterrupt(text)

    with (
        confirm_in_process(),
        pytest.raises(KeyboardInterrupt, match=f"3 draws of {train_patients} patients"),
    ):
        search(
            tmp_path / "space.yaml",
            data=ended.xrays,
            overrides=[f"data.train_patients={train_patients}"],
            studies=tmp_path / "studies",
            callbacks=Callbacks(note=note),
        )


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("confirm.test=folder", "write confirm.test: unused"),
        ("data.train_patients=null", "write data.train_patients: 100"),
        ("confirm.replicates=4", "write confirm.replicates: 5"),
    ],
)
def test_settings_that_exclude_a_verdict_over_sites_are_refused_without_images(
    tmp_path: Path, override: str, words: str
) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)

    with pytest.raises(ConfigError, match=words):
        load_space(tmp_path / "space.yaml", [override])


@pytest.mark.parametrize("override", ["confirm.leave_out=site", "confirm.leave_out=none"])
def test_the_final_model_is_trained_on_all_patients_of_all_sites(
    ended: Lab, tmp_path: Path, override: str
) -> None:
    """Which leaves none unused, as `confirm` needs them."""
    (tmp_path / "space.yaml").write_text(SPACE)
    load_space(tmp_path / "space.yaml", [override, "confirm.test=unused", "final.lr=0.001"])

    export(ended.study, out=tmp_path / "best.yaml")

    assert load_space(tmp_path / "best.yaml").settings.data.train_patients is None


def scores_of_sites(gains: list[float], seed: int, patients: int = 200) -> ArmScores:
    """A confirmation of sites whose finalist moves the scores of ill patients by these gains."""
    generator = np.random.default_rng(seed)
    names = tuple(f"site{number}" for number in range(len(gains)))
    labels = np.tile([0, 1], len(gains) * patients // 2)
    sites = np.repeat(names, patients)
    logits = labels + generator.normal(size=len(labels))
    results = []
    for gain in gains:
        for moved in (gain * labels, 0 * labels):
            chance = 1 / (1 + np.exp(-logits - moved))
            results.append(np.stack([1 - chance, chance], axis=1))
    plan = Plan(test="unused", replicates=len(gains), sites=names, arms=(FINALIST, CONTROL))
    return ArmScores(
        plan=plan,
        results=np.stack(results),
        labels=labels,
        patients=tuple(map(str, range(len(labels)))),
        positive=1,
        sites=tuple(sites.tolist()),
    )


def test_a_gain_at_each_site_helps_and_a_gain_at_one_of_four_does_not() -> None:
    """However clear it is there."""
    everywhere = scores_of_sites([1.0, 1.1, 0.9, 1.0], seed=0)
    somewhere = scores_of_sites([3.0, 0.0, 0.0, 0.0], seed=0)

    (helps,) = judge_finalists(everywhere, rope=0.01)
    (undecided,) = judge_finalists(somewhere, rope=0.01)

    assert helps.verdict == "helps"
    assert undecided.verdict == "undecided"
    by_site = {group.value: group.difference for group in compare_sites(somewhere, undecided)}
    shown = {site: each.low > 0 for site, each in by_site.items() if each}
    assert shown == {"site0": True, "site1": False, "site2": False, "site3": False}


def test_equal_arms_are_equivalent_at_all_sites() -> None:
    (verdict,) = judge_finalists(scores_of_sites([0.0] * 3, seed=1), rope=0.01)

    (comparison,) = verdict.comparisons
    assert comparison.verdict == ("equivalent",)
    assert comparison.difference == 0
    assert verdict.verdict == "no_better"


def test_the_interval_over_sites_covers_the_mean_difference_of_all_sites() -> None:
    """Sites differ; 95 % of intervals over four of them contain the mean over very many."""
    generator = np.random.default_rng(0)
    population = scores_of_sites([*generator.normal(0.5, 0.4, 400)], seed=2, patients=100)
    truth = population.measure(FINALIST, CONTROL).scores
    mean = float((truth[0] - truth[1]).mean())
    covered = defaultdict[bool, int](int)
    for seed in range(200):
        gains = [*np.random.default_rng(seed).normal(0.5, 0.4, 4)]
        (verdict,) = judge_finalists(scores_of_sites(gains, seed, patients=100), rope=0.01)
        (comparison,) = verdict.comparisons
        covered[comparison.low <= mean <= comparison.high] += 1
    assert covered[True] >= 180
