"""A space with images of two sizes, from the search to the verdict and the report."""

from pathlib import Path

import pytest

from tests.confirm.labs import Lab, search_space
from tests.in_process import confirm_in_process
from tests.pair_files import draw_xrays
from xraytune.confirm.record import FinalistVerdict
from xraytune.model.export import export
from xraytune.model.train import train
from xraytune.present.page import write_report
from xraytune.study.folder import StudyFolder

SPACE = """\
name: NAME
data: {path: xrays, image_size: 64, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  input_size: {values: SIZES}
  source: {values: [none, gan]}
  gan: {when: {source: gan},
         parameters: {image_size: {value: 32}, width: {value: 4}, steps: {value: 2}}}
  synthetic_ratio: {value: 1.0, when: {source: gan}}
  backbone: {value: small_cnn}
  weights: {value: none}
  batch_size: {value: 8}
budget: {trials: 4, max_epochs: 1, steps_per_epoch: 2}
sampler: {name: grid}
scheduler: {name: none}
quality: {allow_memorised: true}
confirm: {finalists: 2, replicates: 2, controls: {matched: [none, duplicate], tuned: [real_only]}}
"""


@pytest.mark.parametrize(("patients", "test"), [("null", "folder"), ("12", "unused")])
def test_each_arm_is_scored_on_images_of_its_size(tmp_path: Path, patients: str, test: str) -> None:
    """As in a study of its size alone, whose finalist has the same scores to the bit."""
    draw_xrays(tmp_path, patients=120, seed=4, image_size_px=80)
    chosen = [f"data.train_patients={patients}", f"confirm.test={test}"]
    scores = {}
    for name, sizes in (("both", "[32, 48]"), ("small", "[32]"), ("large", "[48]")):
        space = SPACE.replace("NAME", name).replace("SIZES", sizes)
        overrides = chosen if name == "both" else [*chosen, f"data.image_size={sizes[1:3]}"]
        study = search_space(tmp_path, space, overrides=overrides)
        with confirm_in_process():
            result = Lab(tmp_path, name).confirm()
        scores[name] = {
            size_of(study, finalist): (
                finalist.replicate_scores,
                [each.control_score for each in finalist.comparisons[:2]],
            )
            for finalist in result.finalists
        }

    assert scores["both"] == {**scores["small"], **scores["large"]}
    both = tmp_path / "studies/both"
    write_report(both)
    if test == "unused":  # a final training on all patients leaves none
        return
    exported = export(both, out=tmp_path / "best.yaml")
    trained = train(exported.path, out=tmp_path / "model", overrides=["budget.max_epochs=1"])
    best = StudyFolder(both).experiment(exported.trial)
    assert trained.record.input_format.image_size_px == best.parameters.input_size


def size_of(study: Path, finalist: FinalistVerdict) -> int | None:
    number = int(finalist.trial.removeprefix("#"))
    return StudyFolder(study).experiment(number).parameters.input_size
