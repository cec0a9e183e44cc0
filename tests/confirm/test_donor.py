"""Controls of images from elsewhere: what else their hospital could have sent."""

from pathlib import Path

import pytest

from tests.confirm.labs import search_space
from tests.in_process import confirm_in_process, save_backbone
from xraytune.confirm.run import confirm
from xraytune.data.phantom import draw_phantoms
from xraytune.model.generator_folder import generator_train

pytestmark = pytest.mark.slow

SPACE = """
name: small
data: {path: xrays, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {values: [none, generator]}
  generator: {when: {source: generator}, parameters: {path: {value: hospital_a}}}
  synthetic_weight: {value: 0.5, when: {source: generator}}
  backbone: {value: small_cnn}
  weights: {value: net.safetensors}
  trainable: {value: head}
budget: {trials: 2, max_epochs: 2}
scheduler: {name: none}
quality: {allow_memorised: true}
confirm: {finalists: 1, replicates: 2, controls: {matched: [none], tuned: []}}
points_to_evaluate: [{source: generator}, {source: none}]
"""
TINY_GAN = ["source=gan", "gan.image_size=32", "gan.width=4", "gan.batch_size=4", "gan.steps=2"]


def test_a_generator_has_to_beat_the_classifier_of_its_hospital(tmp_path: Path) -> None:
    """Its classifier alone is the same in each replicate; the answer says what was worth most."""
    root = tmp_path
    draw_phantoms(root / "xrays", patients=60, seed=4, image_size_px=32)
    draw_phantoms(root / "others", patients=150, seed=5, image_size_px=32)
    save_backbone(root / "net.safetensors")
    (root / "donor.yaml").write_text(SPACE, encoding="utf-8")
    generator_train(
        root / "donor.yaml",
        out=root / "hospital_a",
        data=root / "others",
        overrides=TINY_GAN,
        cache=root / "cache",
    )
    study = search_space(root, SPACE)

    with confirm_in_process():
        result = confirm(study)

    (finalist,) = result.finalists
    by_kind = {control.kind: control for control in finalist.comparisons}
    assert [*by_kind] == ["none", "donor", "donor_start"]
    assert by_kind["donor"].control == "classifier of hospital_a"
    assert by_kind["donor"].control_score != by_kind["donor_start"].control_score
    assert len(finalist.gifts) == 3
    answer = result.to_json()["answer"]
    assert f"{next(iter(finalist.gifts))} was worth most" in answer
    networks = [*(study / "confirm" / "trials").glob("*/checkpoint/best.safetensors")]
    assert len({file.read_bytes() for file in networks}) == len(networks) - 1
