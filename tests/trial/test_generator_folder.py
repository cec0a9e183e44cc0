"""A GAN kept as a folder, and the images drawn from it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xraytune.base.errors import ArtifactError, ConfigError, DataError, MachineError
from xraytune.base.files import read_json, sha256_of
from xraytune.data.phantom import draw_phantoms
from xraytune.data.prepare import RunContext, prepare
from xraytune.model.generator_folder import generator_sample, generator_train
from xraytune.nets.compute import allocation_of
from xraytune.space.load import load_space
from xraytune.synth.extra_folder import store_folder
from xraytune.synth.sources import pool_block

pytestmark = pytest.mark.slow

SPACE = """
name: small
data: {path: xrays, image_size: 32, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  source: {values: [none, gan]}
  gan:
    when: {source: gan}
    parameters: {image_size: {value: 32}, width: {value: 4}, batch_size: {value: 4}, steps: {values: [2, 3]}}
  backbone: {value: small_cnn}
  weights: {value: none}
resources: {gpus_per_trial: 0}
points_to_evaluate: [{source: gan, gan.steps: 3}]  # `generator train` ignores them
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A trained GAN, with its space and cache."""

    space: Path
    cache: Path
    gan: Path


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    folder = tmp_path_factory.mktemp("gan")
    draw_phantoms(folder / "xrays", patients=20, seed=3, image_size_px=32)
    space = folder / "space.yaml"
    space.write_text(SPACE, encoding="utf-8")
    gan = folder / "gan"
    generator_train(space, out=gan, overrides=["gan.steps=2"], cache=folder / "cache")
    return Kept(space=space, cache=folder / "cache", gan=gan)


def test_an_open_setting_of_the_gan_is_named_with_the_option_that_fixes_it(kept: Kept, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gan\.steps is 2 or 3(.|\n)*--set gan\.steps=2"):
        generator_train(kept.space, out=tmp_path / "gan", cache=kept.cache)

    assert not (tmp_path / "gan").exists()


def test_gan_folder_contains_record_generator_and_grids(kept: Kept) -> None:
    record = read_json(kept.gan / "generator.json")

    assert record["settings"]["steps"] == 2
    assert list(record["class_counts"]) == ["NORMAL", "PNEUMONIA"]
    assert (kept.gan / "generator.safetensors").is_file()
    assert {grid.name for grid in (kept.gan / "grids").iterdir()} == {"real.png", "step_000002.png", "progress.gif"}


def test_drawn_images_are_those_that_a_search_trains_on(kept: Kept, tmp_path: Path) -> None:
    space = load_space(kept.space, ["gan.steps=2", "source=gan", "points_to_evaluate=[]"])
    prepared, _ = prepare(space.settings, kept.cache)
    gan = space.experiment().parameters.gan
    assert gan is not None

    generator_sample(kept.gan, count=5, out=tmp_path / "images", class_name="PNEUMONIA")

    compute = allocation_of(space.settings, has_gpu=False).compute()
    pool = pool_block(gan, RunContext(prepared=prepared, cache=kept.cache, compute=compute), 1, 0).read()
    files = sorted((tmp_path / "images" / "PNEUMONIA").iterdir())
    assert [np.asarray(Image.open(file)).tolist() for file in files] == np.asarray(pool[np.arange(5)]).tolist()


def test_smaller_sample_is_prefix_of_larger(kept: Kept, tmp_path: Path) -> None:
    generator_sample(kept.gan, count=7, out=tmp_path / "few")
    generator_sample(kept.gan, count=20, out=tmp_path / "many")

    few = {file.relative_to(tmp_path / "few"): file.read_bytes() for file in (tmp_path / "few").glob("*/*.png")}
    assert len(few) == 7
    assert all((tmp_path / "many" / file).read_bytes() == content for file, content in few.items())


def test_drawn_images_are_extra_images_for_studies_of_the_gans_split_alone(kept: Kept, tmp_path: Path) -> None:
    generator_sample(kept.gan, count=20, out=tmp_path / "images")
    settings = [load_space(kept.space, [f"data.split.seed={seed}"]).settings for seed in (0, 1)]
    same, other = (prepare(one, kept.cache)[0] for one in settings)

    used, _ = store_folder(tmp_path / "images", same, settings[0].data, cache=kept.cache)

    assert len(used) == 20
    with pytest.raises(DataError, match="the generator of these images was trained on"):
        store_folder(tmp_path / "images", other, settings[1].data, cache=kept.cache)


def test_one_network_for_each_class_is_kept_and_drawn_from_by_name(kept: Kept, tmp_path: Path) -> None:
    generator_train(
        kept.space, out=tmp_path / "gan", overrides=["gan.steps=2", "gan.conditional=false"], cache=kept.cache
    )
    generator_sample(tmp_path / "gan", count=4, out=tmp_path / "images")

    assert (tmp_path / "gan" / "generator_NORMAL.safetensors").is_file()
    assert (tmp_path / "gan" / "grids" / "PNEUMONIA" / "real.png").is_file()
    assert len(list((tmp_path / "images").glob("*/*.png"))) == 4


def test_weights_for_the_quality_of_its_images_come_from_the_given_folder(kept: Kept, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"elsewhere: there is no such weights folder"):
        generator_train(
            kept.space,
            out=tmp_path / "gan",
            overrides=["gan.steps=2", "quality.backbone=mobilenet_v2"],
            weights_dir=tmp_path / "elsewhere",
            cache=kept.cache,
        )
    assert not (tmp_path / "gan").exists()


def test_a_damaged_generator_is_named(kept: Kept, tmp_path: Path) -> None:
    gan = tmp_path / "gan"
    gan.mkdir()
    (gan / "generator.json").write_bytes((kept.gan / "generator.json").read_bytes())
    (gan / "generator.safetensors").write_bytes((kept.gan / "generator.safetensors").read_bytes()[:-1])

    with pytest.raises(ArtifactError, match=r"generator\.safetensors: the file is missing or damaged"):
        generator_sample(gan, count=1, out=tmp_path / "images")


@pytest.mark.slow
def test_a_diffusion_model_is_trained_and_sampled_as_a_gan_is(kept: Kept, tmp_path: Path) -> None:
    """In the artifact of a search with it; and one generator has to be chosen if a space has both."""
    settings = {"steps": 2, "width": 8, "batch_size": 8, "patch_size": 2, "sampling_steps": 2}
    overrides = [f"diffusion.{name}={value}" for name, value in {"image_size": 32, **settings}.items()]
    with pytest.raises(
        ConfigError, match=r"two generators, gan and diffusion\n.*add --set source=gan or --set source=diffusion"
    ):
        generator_train(
            kept.space,
            out=tmp_path / "any",
            overrides=["source={values: [none, gan, diffusion]}", *overrides],
            cache=kept.cache,
        )

    trained = generator_train(
        kept.space, out=tmp_path / "model", overrides=["source=diffusion", *overrides], cache=kept.cache
    )
    drawn = generator_sample(trained.path, count=6, out=tmp_path / "images")

    assert (trained.settings.block, sum(drawn.counts.values())) == ("diffusion", 6)
    assert {path.name[:10] for path in drawn.path.glob("*/*.png")} == {"diffusion_"}
    (artifact,) = (path for path in (kept.cache / "diffusion-1").iterdir() if path.is_dir())
    assert sha256_of(artifact / "generator.safetensors") == sha256_of(trained.path / "generator.safetensors")
