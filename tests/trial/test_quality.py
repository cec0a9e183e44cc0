"""Quality of a trial's synthetic images: better ones have better figures."""

import shutil

import pytest
from PIL import Image, ImageFilter

from tests.trial.conftest import Bench
from xraytune.data.phantom import paint_phantoms
from xraytune.space.settings import Experiment
from xraytune.space.source_settings import FolderSettings
from xraytune.synth.generator_quality import Quality
from xraytune.trial.quality import measure_quality


@pytest.fixture(scope="module", autouse=True)
def _pools(clinic: Bench) -> None:
    """New X-rays, sharp, blurred and small, beside those of the study."""
    root = clinic.cache.parent
    paint_phantoms(root / "others", patients=160, seed=4, image_size_px=32)
    for file in sorted((root / "others/train").rglob("*.jpeg")):
        image = Image.open(file).convert("L")
        pools = {
            "sharp": image,
            "blurred": image.filter(ImageFilter.GaussianBlur(3)),
            "small": image.resize((16, 16), Image.Resampling.BILINEAR),
        }
        for folder, pixels in pools.items():
            to = root / folder / file.parent.name / f"new_{file.stem}.png"
            to.parent.mkdir(parents=True, exist_ok=True)
            pixels.save(to)


def with_folder(clinic: Bench, name: str, **parameters: object) -> Experiment:
    folder = FolderSettings(path=clinic.cache.parent / name)
    given = {"weights": str(clinic.cache.parent / "net.safetensors"), **parameters}
    return clinic.experiment(source="folder", folder=folder, synthetic_ratio=0.5, **given)


def measured(clinic: Bench, name: str) -> Quality:
    found = measure_quality(with_folder(clinic, name), clinic.context)
    assert not isinstance(found, str)
    return found


def test_new_xrays_are_better_than_blurred_ones_and_figures_of_a_pool_are_computed_once(
    clinic: Bench,
) -> None:
    sharp, blurred = (measured(clinic, name) for name in ("sharp", "blurred"))
    made = {path: path.stat().st_mtime_ns for path in clinic.cache.glob("quality*/*/[!m]*")}

    assert sharp.kid < 0.1 * blurred.kid
    assert all(sharp.classes[name].coverage > one.coverage for name, one in blurred.classes.items())
    assert all(one.images >= 50 for one in sharp.classes.values())
    assert measured(clinic, "sharp") == sharp
    assert {path: path.stat().st_mtime_ns for path in clinic.cache.glob("quality*/*/[!m]*")} == made


def test_real_images_are_compared_at_the_resolution_of_small_files(
    clinic: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So their own figure is another one than beside large files."""
    monkeypatch.setattr("xraytune.trial.quality._FEWEST_PX", 16)

    small, large = (measured(clinic, name) for name in ("small", "sharp"))

    assert (small.resolution_px, large.resolution_px) == (16, 32)
    assert small.real_train != large.real_train


def test_a_small_pool_is_not_measured(clinic: Bench) -> None:
    few = clinic.cache.parent / "few"
    for name in clinic.prepared.class_names:
        (few / name).mkdir(parents=True)
        for file in sorted((clinic.cache.parent / "sharp" / name).iterdir())[:30]:
            shutil.copy(file, few / name)

    found = measure_quality(with_folder(clinic, "few"), clinic.context)

    assert found == "not measured: 30 images of NORMAL in the pool, fewer than 50"
