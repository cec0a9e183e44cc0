"""A whole study of findings in this process: search, confirm, report, model, predictions."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.confirm.labs import search_space, show_confirmed
from tests.in_process import one_core
from tests.model.conftest import read_rows
from tests.pair_files import draw_xrays
from xraytune.base.files import read_json
from xraytune.data.findings import numbers_of
from xraytune.data.index import read_index
from xraytune.data.phantom import FINDINGS, paint_phantoms
from xraytune.model.evaluate import evaluate
from xraytune.model.predict import predict
from xraytune.model.train import train
from xraytune.study.folder import StudyFolder

SPACE = """\
name: small
task: findings
data: {path: xrays, image_size: 32, split: {val_a: 0.3, val_b: 0.3}}
parameters:
  source: {values: [none, folder]}
  folder: {when: {source: folder}, parameters: {path: {value: more/data.yaml}}}
  synthetic_ratio: {value: 0.5, when: {source: folder}}
  backbone: {value: small_cnn}
  weights: {value: none}
  batch_size: {value: 8}
budget: {trials: 2, max_epochs: 1, steps_per_epoch: 2}
scheduler: {name: none}
confirm: {finalists: 1, replicates: 2, controls: {matched: [none, duplicate], tuned: []}}
points_to_evaluate: [{source: folder}, {source: none}]
"""


@pytest.fixture(scope="module")
def lab(module_path: Path) -> Path:
    draw_xrays(module_path, patients=140, seed=4, findings=True)
    paint_phantoms(module_path / "more", patients=40, seed=5, image_size_px=32, findings=True)
    study = search_space(module_path, SPACE, data=module_path / "xrays/data.yaml")
    paint_phantoms(
        module_path / "hospital_b", patients=140, seed=6, image_size_px=32, findings=True
    )
    shown = show_confirmed(study, test=module_path / "hospital_b/data.yaml")
    (module_path / "shown.txt").write_text(shown)
    with one_core():
        train(study, out=module_path / "model")
    return module_path


def test_arms_are_compared_by_the_mean_over_the_findings_with_enough_images(lab: Path) -> None:
    folder = lab / "studies/small/confirm"
    shown = (lab / "shown.txt").read_text()
    record = read_json(folder / "verdict.json")
    results = np.load(folder / "test.npy")[0]
    (finalist,) = record["finalists"]

    labels = numbers_of(
        [
            image.findings
            for image in read_index(StudyFolder(folder.parent).space().settings.data).test
        ]
    )
    aurocs = {}
    for number, name in enumerate(FINDINGS):
        known = labels[:, number] >= 0
        true = labels[known, number] == 1
        if min(true.sum(), (~true).sum()) >= 10:
            aurocs[name] = roc_auc_score(true, results[known, number])
    assert (record["metric"], results.shape) == ("macro AUROC", labels.shape)
    assert finalist["replicate_scores"][0] == pytest.approx(np.mean([*aurocs.values()]))
    assert 1 < len(aurocs) < len(FINDINGS)
    (note,) = [note for note in record["notes"] if "not in the mean" in note]
    assert all((name in note) == (name not in aurocs) for name in FINDINGS)
    (there,) = record["hospitals"]
    (scores,) = folder.glob("test-*.npy")
    assert there["name"] == "hospital_b"
    assert there["test"]["images"] == np.load(scores).shape[1]
    assert "At hospital_b: " in shown
    assert "macro AUROC" in shown
    assert "Macro AUROC is the mean over the findings" in record["methods"]


def test_the_final_model_is_evaluated_and_predicts_by_finding(lab: Path) -> None:
    evaluation = evaluate(
        lab / "model", data=lab / "xrays/data.yaml", out=lab / "ev", resample_count=50
    )
    table = read_rows(lab / "ev/predictions.csv")
    for name, measured in evaluation.groups["findings"].items():
        known = [row for row in table if row[f"label_{name}"] != "?"]
        true, scores = (
            [float(row[f"{kind}_{name}"]) for row in known] for kind in ("label", "probability")
        )
        assert measured.metrics["auroc"] == pytest.approx(roc_auc_score(true, scores))
        called = np.array(scores) >= evaluation.facts["thresholds"][name]
        assert measured.metrics["sensitivity"] == pytest.approx(called[np.array(true) == 1].mean())
    each = [measured.metrics["auroc"] for measured in evaluation.groups["findings"].values()]
    assert evaluation.metrics["auroc"] == pytest.approx(np.mean(np.array(each, dtype=float)))
    predicted = predict(lab / "model", lab / "xrays/test", out=lab / "predictions.csv")
    rows = read_rows(lab / "predictions.csv")
    assert [row["predicted_lobar"] for row in rows].count("1") == predicted.counts["lobar"]
