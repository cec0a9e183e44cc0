"""The AUROC that is expected before anything is trained."""

from dataclasses import replace
from pathlib import Path

from tests.in_process import one_thread, save_backbone
from xraytune.data.phantom import paint_phantoms
from xraytune.data.prepare import prepare
from xraytune.space.load import load_space
from xraytune.trial.baseline import expected_auroc

SPACE = """
name: small
data: {path: xrays, image_size: 32, train_patients: 20, split: {val_a: 0.3, val_b: 0.3}}
parameters: {source: {value: none}, backbone: {value: small_cnn}, weights: {value: none}}
"""


def test_the_expected_auroc_is_that_of_frozen_features_of_validation_patients(
    tmp_path: Path,
) -> None:
    """Easy phantoms have a higher one, patients outside the validation do not matter."""
    save_backbone(tmp_path / "network.safetensors")
    (tmp_path / "space.yaml").write_text(SPACE)
    weights = f"weights={tmp_path / 'network.safetensors'}"
    aurocs = {}
    for difficulty in (0.0, 0.95):
        xrays = tmp_path / f"xrays{difficulty}"
        paint_phantoms(xrays, patients=120, seed=3, image_size_px=32, difficulty=difficulty)
        space = load_space(tmp_path / "space.yaml", [weights], data=xrays)
        prepared, _ = prepare(space.settings, tmp_path / "cache")
        with one_thread():
            auroc = expected_auroc(space, prepared, tmp_path / "cache")
            untouched = replace(prepared, unused=())
            assert expected_auroc(space, untouched, tmp_path / "cache") == auroc
        aurocs[difficulty] = auroc

    assert aurocs[0.0] is not None
    assert aurocs[0.95] is not None
    assert 0.51 <= aurocs[0.95] < aurocs[0.0] - 0.1
    unknown = load_space(tmp_path / "space.yaml", data=xrays)
    assert expected_auroc(unknown, prepared, tmp_path / "cache") is None
