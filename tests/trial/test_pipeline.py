"""Pipelines of diffusers as a source, with tiny ones of random weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trial.conftest import Bench
from xraytune.base.errors import ConfigError, DataError, TrialError, XraytuneError
from xraytune.base.files import write_json
from xraytune.data.phantom import FINDINGS
from xraytune.space.settings import PipelineSettings
from xraytune.study.inputs import read_inputs
from xraytune.synth.pipeline import draw_images, pipeline_content
from xraytune.synth.seen import seen_images
from xraytune.synth.sources import pool_reader

diffusers = pytest.importorskip("diffusers", reason="source: pipeline needs pip install 'xraytune[pipeline]'")
transformers = pytest.importorskip("transformers", reason="source: pipeline needs pip install 'xraytune[pipeline]'")
pytestmark = pytest.mark.slow
WORDS = [*"chest", "t</w>", "<|startoftext|>", "<|endoftext|>", *"lobardifun"]
SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = {**SMALL, "vocab_size": len(WORDS), "max_position_embeddings": 16, "bos_token_id": 6, "eos_token_id": 7}
VAE = {"block_out_channels": [8], "norm_num_groups": 4, "latent_channels": 4, "sample_size": 16}
BLOCKS = {"down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"], "layers_per_block": 1}
UNET = {**BLOCKS, "block_out_channels": [8], "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 4}
DIT = {"num_attention_heads": 2, "attention_head_dim": 4, "in_channels": 4, "num_layers": 1, "patch_size": 8}


def stable_diffusion(folder: Path, **checks: Any) -> PipelineSettings:
    torch.manual_seed(0)
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        text_encoder=transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT, pad_token_id=7)),
        tokenizer=transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16),
        unet=diffusers.UNet2DConditionModel(sample_size=16, **UNET),
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
        **{"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False, **checks},
    )
    pipeline.save_pretrained(folder)
    return PipelineSettings(path=folder, steps=2, guidance=3.0, image_size=64)


def test_images_are_those_of_the_pipeline_itself_each_from_its_own_seed(bench: Bench, tmp_path: Path) -> None:
    prompts = ["chest X-ray", "lobar", "effusion"]
    drawn = draw_images(stable_diffusion(tmp_path), prompts, [4, 5, 6], bench.context).pixels

    own = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path)
    (image,) = own("effusion", 64, 64, 2, guidance_scale=3.0, generator=torch.Generator().manual_seed(6)).images
    assert np.array_equal(drawn[2], np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BILINEAR)))


def test_images_that_a_safety_checker_blacks_out_are_refused(bench: Bench, tmp_path: Path) -> None:
    config = transformers.CLIPConfig(vision_config={**SMALL, "image_size": 16, "patch_size": 8}, text_config=SMALL)
    checker = diffusers.pipelines.stable_diffusion.StableDiffusionSafetyChecker(config)
    torch.nn.init.constant_(checker.concept_embeds_weights, -2)  # refuses every image
    extractor = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16)
    settings = stable_diffusion(tmp_path, safety_checker=checker, feature_extractor=extractor)

    with pytest.raises(TrialError, match="safety checker"):
        draw_images(settings, ["chest X-ray"], [1], bench.context)


def test_a_study_trains_on_blocks_of_the_class_labels_that_it_prompts(bench: Bench, tmp_path: Path) -> None:
    network = diffusers.DiTTransformer2DModel(sample_size=16, out_channels=8, **DIT)
    diffusers.DiTPipeline(network, diffusers.AutoencoderKL(**VAE), diffusers.DDIMScheduler()).save_pretrained(tmp_path)
    settings, progress = bench.settings.model_copy(update={"prompts": {"NORMAL": 3, "PNEUMONIA": 7}}), list[int]()
    context = replace(bench.context, on_progress=lambda _what, done, _total: progress.append(done))
    given = {"source": "pipeline", "pipeline": {"path": tmp_path, "steps": 1, "guidance": 1.0}}

    experiment = replace(bench, settings=settings).experiment(**given)

    block = pool_reader(experiment, context)(1, 0)

    contents = read_inputs({("pipeline.path", str(tmp_path))}, settings, bench.prepared, bench.cache)
    assert block.inputs["pipeline"][::2] == [contents[tmp_path], 7]
    assert np.unique(block.read(), axis=0).shape == (256, 16, 16)
    assert (progress[-1], seen_images(experiment.parameters)) == (256, None)
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("{}")
    assert pipeline_content(tmp_path) != contents[tmp_path]


def test_images_are_drawn_for_the_findings_of_training_images(findings_bench: Bench, tmp_path: Path) -> None:
    pipeline = stable_diffusion(tmp_path).model_dump() | {"steps": 1, "guidance": 0.0, "image_size": 32}
    settings = findings_bench.settings.model_copy(update={"prompts": "X-ray: {findings}"})
    read_inputs({("pipeline.path", str(tmp_path))}, settings, findings_bench.prepared, findings_bench.cache)
    experiment = replace(findings_bench, settings=settings).experiment(source="pipeline", pipeline=pipeline)

    block = pool_reader(experiment, findings_bench.context)(0, 0)

    train = findings_bench.prepared.side("train").targets
    assert sorted(block.targets[: len(train)].tolist()) == sorted(train.tolist())
    for prompt, states in zip(block.inputs["pipeline"][2], block.targets, strict=True):
        present = [name for name, state in zip(FINDINGS, states, strict=True) if state == 1]
        assert prompt == f"X-ray: {', '.join(present) or 'no finding'}"


@pytest.mark.parametrize(
    ("pipeline", "prompts", "error", "what"),
    [
        (None, {}, DataError, r"model_index\.json is missing"),
        (["mine", "Mine"], {}, DataError, "no pipeline of diffusers itself"),
        ("DDPMPipeline", {}, ConfigError, "does not draw images from the prompt of NORMAL"),
        ("StableDiffusionImg2ImgPipeline", {}, ConfigError, "does not draw images from the prompt"),
        ("DiTPipeline", {"NORMAL": 0}, ConfigError, "of PNEUMONIA alone: 'chest X-ray, PNEUMONIA'"),
        ("StableDiffusionPipeline", {"NORMAI": "x"}, ConfigError, "no class NORMAI\n.*'NORMAL'"),
        ("StableDiffusionPipeline", {}, DataError, r"weights\.bin: the weights are not in safetensors"),
    ],
)
def test_what_a_pipeline_lacks_is_said_before_a_search(
    bench: Bench, tmp_path: Path, pipeline: Any, prompts: Any, error: type[XraytuneError], what: str
) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "weights.bin").touch()
    if pipeline:
        write_json(tmp_path / "model_index.json", {"_class_name": pipeline})
    settings = bench.settings.model_copy(update={"prompts": prompts})

    with pytest.raises(error, match=what):
        read_inputs({("pipeline.path", str(tmp_path))}, settings, bench.prepared, bench.cache)
