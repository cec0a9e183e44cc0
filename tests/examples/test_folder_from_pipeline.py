"""`examples/folder_from_pipeline.py` with a tiny Stable Diffusion of random weights."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from examples.folder_from_pipeline import folder_from_pipeline
from xraytune.space.parameters import Parameters
from xraytune.synth.sources.registry import source_of

diffusers = pytest.importorskip("diffusers", reason="pip install diffusers")
transformers = pytest.importorskip("transformers", reason="pip install transformers")
pytestmark = pytest.mark.nightly
WORDS = [*"chest", "t</w>", "<|startoftext|>", "<|endoftext|>", *"lobardifun"]
SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = {
    **SMALL,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 16,
    "bos_token_id": 6,
    "eos_token_id": 7,
}
VAE = {"block_out_channels": [8], "norm_num_groups": 4, "latent_channels": 4, "sample_size": 16}
BLOCKS = {
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"],
    "layers_per_block": 1,
}
UNET = {
    **BLOCKS,
    "block_out_channels": [8],
    "norm_num_groups": 4,
    "cross_attention_dim": 8,
    "attention_head_dim": 4,
}
PROMPTS = {"NORMAL": "chest", "PNEUMONIA": "lobar"}


@pytest.fixture(scope="module")
def pipeline(module_path: Path) -> Path:
    torch.manual_seed(0)
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        text_encoder=transformers.CLIPTextModel(
            transformers.CLIPTextConfig(**TEXT, pad_token_id=7)
        ),
        tokenizer=transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16),
        unet=diffusers.UNet2DConditionModel(sample_size=16, **UNET),
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(module_path)
    return module_path


def test_a_pipeline_fills_a_folder_of_extra_images(pipeline: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen.txt"
    images = [letter * 64 for letter in "ab"]
    seen.write_text("\n".join(images))

    folder_from_pipeline(
        pipeline, tmp_path / "out", PROMPTS, count=2, seen=seen, image_size_px=32, steps=2
    )
    folder_from_pipeline(pipeline, tmp_path / "fewer", PROMPTS, count=1, image_size_px=32, steps=2)

    files = sorted(
        file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.png")
    )
    assert files == [
        "NORMAL/000000.png",
        "NORMAL/000001.png",
        "PNEUMONIA/000000.png",
        "PNEUMONIA/000001.png",
    ]
    with Image.open(tmp_path / "out" / files[0]) as image:
        assert (image.mode, image.size) == ("L", (32, 32))
    first = tmp_path / "fewer" / files[0]
    assert first.read_bytes() == (tmp_path / "out" / files[0]).read_bytes(), (
        "fewer images are the first ones"
    )

    def seen_by(folder: str) -> frozenset[str] | None:
        given = {"source": "folder", "folder": {"path": tmp_path / folder}}
        return source_of(Parameters.model_validate(given)).seen_images_sha256()

    assert seen_by("out") == frozenset(images)
    assert seen_by("fewer") is None, "it is not known which images the pipeline has seen"
