"""`data.view`: what networks see, the gate on masks, and how separable the classes are without lungs."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from numpy.typing import NDArray
from PIL import Image

from tests.export.conftest import change_record, seal
from tests.in_process import InProcess, command, one_core
from xraytune.config.load import load_space
from xraytune.config.settings import DataSettings, Settings, ViewName
from xraytune.confirm.scoring import find_test, load_test_images
from xraytune.data.index import read_index
from xraytune.data.phantom import draw_phantoms
from xraytune.errors import ArtifactError, ConfigError, DataError, StudyError
from xraytune.export.best import export
from xraytune.export.train import train
from xraytune.files import read_json
from xraytune.pipeline.extra_folder import store_folder
from xraytune.pipeline.prepare import Prepared, prepare, training_pixels
from xraytune.pipeline.shortcuts import measure_shortcut
from xraytune.pipeline.view import View, are_plausible
from xraytune.report.page import write_report
from xraytune.search import run as search_run
from xraytune.search.run import search

pytestmark = pytest.mark.slow

SEGMENTER = """\
version: 1
name: lungs
task: segmentation
data: {path: pairs, image_size: 32, split: {val_a: 0.2, val_b: 0.2}}
parameters: {backbone: {value: resnet18}, weights: {value: none}, lr: {value: 3e-3}, batch_size: {value: 8}}
budget: {trials: 1, max_epochs: 1, steps_per_epoch: 20}
"""
STUDY = """\
version: 1
name: seen
data: {path: xrays, image_size: 32, segmenter: segmenter, split: {val_a: 0.25, val_b: 0.25}}
parameters: {source: {value: none}, backbone: {value: small_cnn}, weights: {value: none}, batch_size: {value: 8}}
budget: {trials: 1, max_epochs: 1, steps_per_epoch: 2}
scheduler: {name: none}
"""


@dataclass(frozen=True, slots=True)
class Lab:
    """`segmenter/` and `xrays/`, which tests may not change, and a cache."""

    root: Path

    @property
    def segmenter(self) -> Path:
        return self.root / "segmenter"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def settings(
        self, view: ViewName = "full", *, xrays: Path | None = None, segmenter: Path | None = None
    ) -> Settings:
        data = {"path": f"{xrays or self.root / 'xrays'}", "image_size": 32, "split": {"val_a": 0.25, "val_b": 0.25}}
        view_of = {"view": view, "segmenter": f"{segmenter or self.segmenter}"}
        return Settings.model_validate_json(json.dumps({"name": "seen", "data": data | view_of}))

    def prepared(self, settings: Settings) -> tuple[Prepared, NDArray[np.uint8]]:
        prepared, _ = prepare(settings, self.cache)
        return prepared, training_pixels(prepared, self.cache)

    def xrays(self, out: Path) -> Path:
        return Path(shutil.copytree(self.root / "xrays", out))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    root = tmp_path_factory.mktemp("view")
    draw_phantoms(root / "pairs", patients=24, seed=1, image_size_px=32, pairs=True)
    draw_phantoms(root / "xrays", patients=60, seed=3, image_size_px=32)
    shutil.rmtree(root / "xrays" / "masks")
    (root / "lungs.yaml").write_text(SEGMENTER, encoding="utf-8")
    with one_core():
        train(root / "lungs.yaml", out=root / "segmenter", cache=root / "cache")
    return Lab(root)


def view_of(prepared: Prepared) -> View:
    assert prepared.view is not None
    return prepared.view


def change_pixels(folder: Path, pattern: str, change: NDArray[np.bool_], grey: int) -> None:
    """Make pixels, bool [32, 32], of the images that match grey."""
    files = sorted(folder.glob(pattern))
    assert files
    for file in files:
        pixels = np.array(Image.open(file))
        pixels[change] = grey
        Image.fromarray(pixels).save(file, quality=95)


def test_lungs_alone_and_everything_but_one_box_are_shown(lab: Lab) -> None:
    whole, full = lab.prepared(lab.settings())
    seen, lungs = lab.prepared(lab.settings("lungs"))
    _, erased = lab.prepared(lab.settings("lungs_erased"))

    is_shown = lungs > 0
    top, bottom, left, right = view_of(seen).box
    inside = np.zeros((32, 32), bool)
    inside[top:bottom, left:right] = True
    assert (lungs[is_shown] == full[is_shown]).all()
    assert 0.1 < is_shown.mean() < 0.7
    assert len({shown.tobytes() for shown in is_shown}) == len(full), "each image has its own mask"
    assert not erased[:, inside].any()
    assert (erased[:, ~inside] == full[:, ~inside]).all()
    assert inside.mean() > is_shown.mean()
    assert whole.view is None


def test_images_from_elsewhere_lose_the_same_box_and_need_the_same_segmenter(lab: Lab, tmp_path: Path) -> None:
    settings = lab.settings("lungs_erased")
    prepared, _ = lab.prepared(settings)
    moved = lab.xrays(tmp_path / "xrays") / "train"
    for file in moved.rglob("*.jpeg"):
        Image.fromarray(np.roll(np.array(Image.open(file)), 6, axis=1)).save(file, quality=95)

    test = load_test_images(find_test(settings, prepared, None), prepared, settings.data, lab.cache)
    _, store = store_folder(moved, prepared, settings.data, cache=lab.cache)

    top, bottom, left, right = view_of(prepared).box
    for pixels in (test.pixels, np.load(store / "pixels.npy")):
        assert not pixels[:, top:bottom, left:right].any()
        assert pixels[:, :, left - 1].any()
        assert pixels[:, :, right].any()

    other = tmp_path / "segmenter"
    shutil.copytree(lab.segmenter, other)
    change_network(other)
    changed = lab.settings("lungs_erased", segmenter=other)
    with pytest.raises(StudyError, match=r"the segmenter of data\.view has changed"):
        load_test_images(find_test(settings, prepared, None), prepared, changed.data, lab.cache)
    again, _ = lab.prepared(changed)
    assert again.fingerprint != prepared.fingerprint
    assert again.train_fingerprint != prepared.train_fingerprint


def change_network(segmenter: Path) -> None:
    file = segmenter / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name] = tensors[name] * 1.001
    safetensors.torch.save_file(tensors, file)
    seal(file)


def test_each_view_is_another_study_and_whole_images_are_as_without_a_segmenter(lab: Lab) -> None:
    prints = {
        lab.prepared(lab.settings(view))[0].fingerprint for view in ("full", "lungs", "lungs_erased")
    }  # also the key of generators and features

    without = lab.settings().model_copy(update={"data": DataSettings(path=lab.root / "xrays", image_size=32)})

    assert len(prints) == 3
    assert without.data.segmenter is None
    assert lab.prepared(lab.settings())[0].pixels == prepare(without, lab.cache)[0].pixels


def test_masks_that_cannot_be_lungs_are_implausible() -> None:
    masks = np.zeros((5, 32, 32), bool)
    masks[0, 4:28, 4:13] = masks[0, 4:28, 19:28] = True
    masks[1, 4:28, 4:13] = True  # one lung
    masks[2, 8:10, 4:28] = True  # 5 % of the image
    masks[3] = True

    assert are_plausible(masks).tolist() == [True, False, False, False, False]


def test_the_mean_mask_replaces_implausible_ones_which_are_counted(lab: Lab, tmp_path: Path) -> None:
    xrays = lab.xrays(tmp_path / "xrays")
    blank = sorted((xrays / "train" / "NORMAL").glob("*"))[:3]
    for number, file in enumerate(blank):
        Image.fromarray(np.full((32, 32), 3 + number, np.uint8)).save(file, quality=95)

    settings = lab.settings("lungs", xrays=xrays)
    prepared, notes = prepare(settings, lab.cache)
    pixels = training_pixels(prepared, lab.cache)

    row_of = {image.file: image.row for image in prepared.images}
    shown = [pixels[row_of[file.relative_to(xrays).as_posix()]] > 0 for file in blank]
    assert view_of(prepared).implausible == 3
    assert "3 implausible masks were replaced by the mean of the others" in notes[-1]
    assert (shown[0] == shown[1]).all()
    assert (shown[0] == shown[2]).all()
    assert 0.1 < shown[0].mean() < 0.7


def test_a_segmenter_without_lungs_stops_before_anything_is_kept(lab: Lab, tmp_path: Path) -> None:
    blind = Path(shutil.copytree(lab.segmenter, tmp_path / "blind"))
    change_record(blind, threshold=2.0)
    before = sorted((lab.cache / "pixels-2").iterdir())
    settings = lab.settings("lungs_erased", segmenter=blind)

    with pytest.raises(DataError, match=r"finds no plausible lungs in (\d+) of \1 images") as error:
        prepare(settings, lab.cache)

    assert str(settings.data.path) in str(error.value)
    assert "train a segmenter on images like these, or set data.view=full" in str(error.value)
    assert sorted((lab.cache / "pixels-2").iterdir()) == before


def test_a_view_needs_a_segmenter(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(STUDY.replace("segmenter: segmenter", "view: lungs"), encoding="utf-8")

    with pytest.raises(ConfigError, match=r"data\.view: lungs needs a model that finds the lungs"):
        load_space(tmp_path / "space.yaml")
    with pytest.raises(ArtifactError, match="not a model bundle"):
        prepare(lab.settings("lungs", segmenter=tmp_path), lab.cache)


def test_a_class_marked_outside_the_lungs_is_told_apart_without_them(lab: Lab, tmp_path: Path) -> None:
    mark = np.zeros((32, 32), bool)
    mark[:, :2] = True
    marked = lab.xrays(tmp_path / "xrays")
    change_pixels(marked, "train/NORMAL/*", mark, 0)
    change_pixels(marked, "train/PNEUMONIA/*", mark, 255)

    plain, found = (
        measure_shortcut(read_index(settings.data), settings.data, lab.cache)
        for settings in (lab.settings(), lab.settings(xrays=marked))
    )

    erased = found.views[-1]
    assert [one.name for one in found.views] == [
        "whole images",
        "lungs only",
        "outlines of the lungs only",
        "lungs erased",
    ]
    assert erased.auroc > 0.95
    assert erased.auroc > found.views[1].auroc
    assert erased.low > 0.6
    assert "the benchmark itself is in question" in str(found)
    assert "no clear sign" in str(plain)
    assert plain.views[-1].low < 0.6


def test_an_inspection_with_a_segmenter_shows_each_view(lab: Lab) -> None:
    arguments = ("data", "inspect", lab.root / "xrays", "--segmenter")

    shown = command(*arguments, lab.segmenter)
    answer = command(*arguments, lab.segmenter, "--json")
    refused = command("data", "inspect", lab.root / "pairs", "--segmenter", lab.segmenter)

    found = json.loads(answer.stdout)["lungs"]
    assert [view["name"] for view in found["views"]][-1] == "lungs erased"
    assert f"{found['views'][-1]['auroc']:.3f} ({found['views'][-1]['low']:.3f} to " in shown.stdout
    assert refused.exit_code == 2
    assert "no classes to separate" in refused.stderr


def test_a_search_reports_what_is_left_without_lungs_and_a_model_needs_whole_images(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_run, "Runner", InProcess)
    space = lab.root / "seen.yaml"
    space.write_text(STUDY, encoding="utf-8")
    erased = ["data.view=lungs_erased", "name=erased"]
    with one_core():
        search(space, studies=tmp_path, cache=lab.cache)
        search(space, studies=tmp_path, cache=lab.cache, overrides=erased)

    recorded = read_json(tmp_path / "seen" / "shortcuts.json")["views"][-1]
    page = write_report(tmp_path / "seen").read_text("utf-8")
    assert "lungs erased" in page
    assert f"{recorded['auroc']:.3f} ({recorded['low']:.3f} to {recorded['high']:.3f})" in page
    assert not (tmp_path / "erased" / "shortcuts.json").exists()
    assert "With data.view: lungs_erased, rows " in write_report(tmp_path / "erased").read_text("utf-8")

    best = export(tmp_path / "erased", out=tmp_path / "best.yaml").path
    with pytest.raises(
        ConfigError, match=r"data\.view: lungs_erased is for studying where a classifier looks; a model needs whole"
    ):
        train(best, out=tmp_path / "model", cache=lab.cache)

    with one_core():
        train(best, out=tmp_path / "model", cache=lab.cache, overrides=["data.view=full"])
    with pytest.raises(ConfigError, match="this model is a classifier of NORMAL and PNEUMONIA; it cannot find lungs"):
        prepare(lab.settings("lungs", segmenter=tmp_path / "model"), lab.cache)
