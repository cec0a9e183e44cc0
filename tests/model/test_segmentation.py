"""Segmenters after the search: bundle, model card, predicted masks, evaluation."""

import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.model.conftest import Lab, read_rows
from tests.pair_files import HEIGHT_PX, WIDTH_PX, write_pairs
from xraytune.base.errors import DataError
from xraytune.base.files import read_json
from xraytune.data.decoding import GreyImage, Resize, decode_files
from xraytune.model.evaluate import evaluate
from xraytune.model.predict import predict
from xraytune.model.train import Trained, train
from xraytune.tasks.evaluation import Evaluation
from xraytune.tasks.mask_reports import whole_mask

SPACE = """\
name: discs
task: segmentation
data: {path: pairs, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  backbone: {value: mobilenet_v2}
  weights: {value: none}
  lr: {value: 3e-3}
  batch_size: {value: 8}
budget: {trials: 1, max_epochs: 1, steps_per_epoch: 8}
"""


def sample_pairs(folder: Path, numbers: range) -> Path:
    """Draw a pair of the patient of each number."""
    return write_pairs(folder, [f"p{number:02}" for number in numbers])


@pytest.fixture(scope="session")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `pairs/`, `space.yaml` and a segmenter, which none may change."""
    folder = tmp_path_factory.mktemp("discs")
    sample_pairs(folder / "pairs/train", range(24))
    sample_pairs(folder / "pairs/test", range(24, 30))
    (folder / "space.yaml").write_text(SPACE)
    train_in(folder, "model")
    return folder


def train_in(folder: Path, name: str, *overrides: str) -> Trained:
    return train(
        folder / "space.yaml", out=folder / name, overrides=overrides, cache=folder / "cache"
    )


def evaluated(model: Path, data: Path, **arguments: Any) -> Evaluation:
    return evaluate(model, data=data, resample_count=50, **arguments)


def opened(file: Path) -> Image.Image:
    with Image.open(file) as image:
        image.load()
    return image


def read_mask(file: Path) -> NDArray[np.bool_]:
    levels = np.asarray(opened(file).convert("L"))
    assert {*np.unique(levels).tolist()} <= {0, 255}
    mask: NDArray[np.bool_] = levels == 255
    return mask


@pytest.mark.parametrize("size", [(32, 32), (50, 90)])
@pytest.mark.parametrize("resize", get_args(Resize))
def test_a_mask_returns_to_where_its_object_is_in_the_image(
    tmp_path: Path, size: tuple[int, int], resize: Resize
) -> None:
    """Squash and crop are undone, to the edge of the object within a pixel of the square image."""
    width, height = size
    y, x = np.ogrid[:height, :width]
    true = (abs(x - width * 0.4) < width * 0.25) & (
        abs(y - height * 0.5) < min(width, height) * 0.3
    )
    Image.fromarray(true.astype(np.uint8) * 255).save(tmp_path / "image.png")

    (decoded,) = decode_files(tmp_path, ["image.png"], 32, resize)
    assert isinstance(decoded, GreyImage)
    square = decoded.pixels / 255
    found = whole_mask(square.astype(np.float32), width, height, resize=resize, threshold=0.5)

    assert found.shape == (height, width)
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.93
    if size == (32, 32):
        assert (found == true).all()


def test_masks_have_the_size_of_their_images(discs: Path, tmp_path: Path) -> None:
    images = shutil.copytree(discs / "pairs/test/images", tmp_path / "images/ward")
    opened(images / "p24.png").resize((300, 200)).save(tmp_path / "images/large.tif")
    opened(images / "p24.png").save(images / "p24.jpeg")

    predicted = predict(discs / "model", tmp_path / "images", out=tmp_path / "out")

    rows = {row["file"]: row for row in read_rows(tmp_path / "out/predictions.csv")}
    assert len(rows) == len({row["mask"] for row in rows.values()}) == predicted.images == 8
    assert rows["ward/p24.jpeg"]["mask"] == "masks/ward/p24.jpeg.png", "p24.png is there, too"
    assert rows["ward/p25.png"]["mask"] == "masks/ward/p25.png"
    for file, row in rows.items():
        mask = read_mask(tmp_path / "out" / row["mask"])
        image = opened(tmp_path / "images" / file)
        assert mask.shape == (image.height, image.width)
        assert float(row["area"]) == pytest.approx(mask.mean())
        overlay = opened(tmp_path / "out" / row["mask"].replace("masks/", "overlays/", 1))
        assert (overlay.size, overlay.mode) == (image.size, "RGB")


def test_the_metrics_are_those_of_the_predicted_masks(discs: Path, tmp_path: Path) -> None:
    pairs = sample_pairs(tmp_path / "pairs", range(40, 47))
    predict(discs / "model", pairs / "images", out=tmp_path / "masks")

    found = evaluated(discs / "model", pairs, out=tmp_path / "out")

    masks = {file.name: read_mask(file) for file in (tmp_path / "masks/masks").iterdir()}
    true = {name: read_mask(pairs / "masks" / name) for name in masks}
    dices = {
        f"images/{name}": 2 * (own & true[name]).sum() / (own.sum() + true[name].sum())
        for name, own in masks.items()
    }
    assert found.metrics["dice"] == pytest.approx(np.mean([*dices.values()]))
    assert found.images == found.patients == 7
    card = (discs / "model/README.md").read_text()
    assert "| mean Dice at 32 x 32 px | 0." in card
    low, high = found.intervals["dice"]
    assert low < np.mean([*dices.values()]) < high
    worst = [*found.groups["worst"]]
    assert worst == sorted(dices, key=lambda file: (dices[file], file))[:5]
    assert read_json(tmp_path / "out/metrics.json") == found.to_json()
    assert found.to_dataframe().loc["dice", "value"] == found.metrics["dice"]
    rows = read_rows(tmp_path / "out/per_image.csv")
    assert {row["file"]: float(row["dice"]) for row in rows} == pytest.approx(dices)
    sizes = {opened(tmp_path / "out/worst" / file).size for file in worst}
    assert sizes == {(2 * WIDTH_PX, HEIGHT_PX)}


def test_a_mask_that_cannot_be_used_is_named_or_left_out(discs: Path, tmp_path: Path) -> None:
    pairs = sample_pairs(tmp_path / "pairs", range(40, 42))
    Image.new("L", (WIDTH_PX, HEIGHT_PX)).save(pairs / "masks/p41.png")
    with pytest.raises(DataError, match="empty"):
        evaluated(discs / "model", pairs)

    found = evaluated(discs / "model", pairs, out=tmp_path / "out", skip_broken=True)

    assert found.images == len([*(tmp_path / "out/worst").rglob("*.png")]) == 1
    assert [image.file for image in found.broken] == ["masks/p41.png"]


def test_data_of_the_other_task_are_refused(discs: Path, lab: Lab, tmp_path: Path) -> None:
    segmenter = discs / "model"
    pairs = discs / "pairs/test"

    with pytest.raises(DataError, match="segmentation needs images"):
        evaluate(segmenter, data=lab.xrays / "train")
    with pytest.raises(DataError, match="for segmentation"):
        evaluate(lab.model, data=pairs)
    with pytest.raises(DataError, match="folder of pairs"):
        predict(lab.model, pairs, out=tmp_path / "out")
