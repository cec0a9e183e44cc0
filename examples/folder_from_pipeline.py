"""Fill a folder for `source: folder` with images of a diffusers pipeline, such as RoentGen-v2 or another Stable Diffusion.

    python examples/folder_from_pipeline.py PIPELINE generated -n 500 NORMAL="normal chest X-ray" PNEUMONIA="lobar pneumonia"

PIPELINE is a local folder with weights in safetensors. Each image has its own seed, so that the
first 100 of 500 are the same as with -n 100. Requires `pip install diffusers transformers`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import DiffusionPipeline


def folder_from_pipeline(
    pipeline_folder: Path,
    out: Path,
    prompts: Mapping[str, str],
    *,
    count: int,
    seen: Path | None = None,
    image_size_px: int | None = None,
    steps: int | None = None,
) -> None:
    """Write `count` grey images of each class to `out/CLASS/`, and `out/provenance.json`.

    `prompts` has the prompt of each class. `seen` is a text file with the SHA-256 of each image
    that the pipeline was trained on, one per line; without it, xraytune cannot exclude that their
    patients are scored. Size and number of steps are the pipeline's own by default.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    pipeline = DiffusionPipeline.from_pretrained(
        pipeline_folder, dtype=dtype, use_safetensors=True
    ).to(device)
    chosen = {"height": image_size_px, "width": image_size_px, "num_inference_steps": steps}
    options = {name: value for name, value in chosen.items() if value is not None}

    out.mkdir(parents=True)
    provenance: dict[str, object] = {"pipeline": pipeline_folder.name, "prompts": dict(prompts)}
    if seen is not None:
        provenance["train_images"] = seen.read_text(encoding="utf-8").split()
    (out / "provenance.json").write_text(json.dumps(provenance, indent=2), encoding="utf-8")

    for class_name, prompt in prompts.items():
        (out / class_name).mkdir()
        for number in range(count):
            generator = torch.Generator().manual_seed(number)
            image = pipeline(prompt, generator=generator, **options).images[0].convert("L")
            darkest, brightest = image.getextrema()
            if darkest == brightest:
                raise SystemExit(
                    f"an image of {prompt!r} has a single grey value: check the pipeline in diffusers alone"
                )
            image.save(out / class_name / f"{number:06d}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Fill a folder for `source: folder` with images of a diffusers pipeline."
    )
    parser.add_argument("pipeline", type=Path, help="folder of the pipeline")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("prompts", nargs="+", metavar="CLASS=PROMPT")
    parser.add_argument("-n", "--count", type=int, required=True, help="images of each class")
    parser.add_argument(
        "--seen", type=Path, help="SHA-256 of the pipeline's training images, one per line"
    )
    parser.add_argument("--image-size", type=int, help="side in pixels; a multiple of 8")
    parser.add_argument("--steps", type=int, help="denoising steps")
    given = parser.parse_args()
    folder_from_pipeline(
        given.pipeline,
        given.out,
        dict(text.split("=", 1) for text in given.prompts),
        count=given.count,
        seen=given.seen,
        image_size_px=given.image_size,
        steps=given.steps,
    )
