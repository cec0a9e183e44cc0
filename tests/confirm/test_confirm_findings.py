"""The whole way of a study of findings, in this process: search, confirm, report, final model, evaluation, predictions."""

from __future__ import annotations

import csv
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.in_process import confirm_in_process, one_core, search_in_process
from xraytune.base.files import read_json
from xraytune.cli.confirm import show_verdict
from xraytune.cli.model import show_evaluation
from xraytune.confirm.run import confirm
from xraytune.data.phantom import FINDINGS, draw_phantoms
from xraytune.data.prepare import read_prepared
from xraytune.model.evaluate import evaluate
from xraytune.model.finding_evaluation import FindingEvaluation
from xraytune.model.predict import predict
from xraytune.model.train import train
from xraytune.present.page import write_report
from xraytune.space.load import load_space
from xraytune.stats.verdict import holm

pytestmark = pytest.mark.slow

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
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lab = tmp_path_factory.mktemp("findings")
    draw_phantoms(lab / "xrays", patients=140, seed=4, image_size_px=32, findings=True)
    draw_phantoms(lab / "more", patients=40, seed=5, image_size_px=32, findings=True)
    (lab / "space.yaml").write_text(SPACE, encoding="utf-8")
    search_in_process(load_space(lab / "space.yaml", data=lab / "xrays/data.yaml"), lab)
    study = lab / "studies" / "small"
    with confirm_in_process(), (lab / "shown.txt").open("w", encoding="utf-8") as shown, redirect_stdout(shown):
        show_verdict(confirm(study))
    with one_core():
        train(study, out=lab / "model")
    return lab


def test_findings_are_compared_one_by_one_beside_the_verdict(lab: Path) -> None:
    folder, shown = lab / "studies/small/confirm", (lab / "shown.txt").read_text(encoding="utf-8")
    record, results = read_json(folder / "verdict.json"), np.load(folder / "trials/0000/test.npy")
    assert (record["metric"], results.shape[1]) == ("macro AUROC", 3)
    rows = [row for row in record["findings"] if row["control"] == record["findings"][0]["control"]]
    names = [row["finding"] for row in rows]
    assert len(names) > 1
    for name in {*FINDINGS} - {*names}:
        assert any(f"not in the mean: {name}" in note for note in record["notes"]), "one with few test images is named"
    first = record["finalists"][0]
    assert np.mean([row["value"] for row in rows]) == pytest.approx(first["score"])
    assert np.mean([row["difference"] for row in rows]) == pytest.approx(first["comparisons"][0]["difference"])
    assert "macro AUROC" in shown
    assert "Macro AUROC is the mean over the findings" in record["methods"]
    write_report(lab / "studies/small", out=lab / "report.html")
    page = (lab / "report.html").read_text(encoding="utf-8")
    assert "p (Holm)" in page


def test_p_values_are_adjusted_by_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))


def test_the_final_model_is_evaluated_and_predicts_by_finding(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = evaluate(lab / "model", data=lab / "xrays/data.yaml", out=lab / "ev", replicates=50)
    assert isinstance(evaluation, FindingEvaluation)
    table = [*csv.DictReader((lab / "ev/predictions.csv").read_text(encoding="utf-8").splitlines())]
    for name, measured in evaluation.findings.items():
        known = [row for row in table if row[f"label_{name}"] != "?"]
        true, scores = ([float(row[f"{kind}_{name}"]) for row in known] for kind in ("label", "probability"))
        assert measured.metrics["auroc"] == pytest.approx(roc_auc_score(true, scores))
        called = np.array(scores) >= measured.threshold
        assert measured.metrics["sensitivity"] == pytest.approx(called[np.array(true) == 1].mean())
    each = [measured.metrics["auroc"] for measured in evaluation.findings.values()]
    assert evaluation.metrics["auroc"] == pytest.approx(np.mean(np.array(each, dtype=float)))
    show_evaluation(evaluation)
    assert "AUROC (mean)" in capsys.readouterr().out

    predicted = predict(lab / "model", lab / "xrays/test", out=lab / "predictions.csv")
    rows = [*csv.DictReader((lab / "predictions.csv").read_text(encoding="utf-8").splitlines())]
    assert [row["predicted_lobar"] for row in rows].count("1") == predicted.counts["lobar"]  # type: ignore[union-attr]
    card = (lab / "model/README.md").read_text(encoding="utf-8")
    assert "A finding is present from a probability" in card
    assert read_prepared(lab / "model/split.json").findings == FINDINGS
