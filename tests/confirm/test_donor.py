"""Controls of images from elsewhere: what else their hospital could have sent."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.in_process import confirm_in_process, search_in_process
from xraytune.confirm.record import Confirmation
from xraytune.confirm.run import confirm
from xraytune.data.phantom import draw_phantoms
from xraytune.model.generator_folder import generator_train
from xraytune.nets.backbones import build_backbone
from xraytune.space.load import load_space

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


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search with a generator of other patients."""
    root = tmp_path_factory.mktemp("donor")
    draw_phantoms(root / "xrays", patients=60, seed=4, image_size_px=32)
    draw_phantoms(root / "others", patients=150, seed=5, image_size_px=32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(build_backbone("small_cnn")[0].state_dict(), root / "net.safetensors")
    (root / "space.yaml").write_text(SPACE, encoding="utf-8")
    generator_train(
        root / "space.yaml",
        out=root / "hospital_a",
        data=root / "others",
        overrides=TINY_GAN,
        cache=root / "cache",
    )
    search_in_process(load_space(root / "space.yaml"), root)
    return root


def confirmed(ended: Path, folder: Path, **options: Any) -> Confirmation:
    with confirm_in_process():
        return confirm(folder / "studies/small", cache=ended / "cache", **options)


def test_a_generator_has_to_beat_the_classifier_of_its_hospital(
    ended: Path, tmp_path: Path
) -> None:
    """Its classifier alone is the same in each replicate; the answer says what was worth most."""
    root = shutil.copytree(ended, tmp_path / "lab")

    result = confirmed(ended, root)

    (finalist,) = result.finalists
    by_kind = {control.kind: control for control in finalist.comparisons}
    assert [*by_kind] == ["none", "donor", "donor_start"]
    assert by_kind["donor"].control == "classifier of hospital_a"
    assert by_kind["donor"].control_score != by_kind["donor_start"].control_score
    assert len(finalist.gifts) == 3
    answer = result.to_json()["answer"]
    assert f"{next(iter(finalist.gifts))} was worth most" in answer
    networks = [*(root / "studies/small/confirm/trials").glob("*/checkpoint/best.safetensors")]
    assert len({file.read_bytes() for file in networks}) == len(networks) - 1
