"""A pipeline of Hugging Face's diffusers in a folder, such as a fine-tuned Stable Diffusion: its inputs, and its images.

Only weights in safetensors are loaded, and no code in the folder is run. Each image has its own random generator.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from xraytune.base.artifacts import fingerprint
from xraytune.base.errors import ConfigError, DataError, MachineError, Problem, TrialError
from xraytune.base.files import read_json, sha256_of
from xraytune.data.prepare import RunContext
from xraytune.space.messages import nearest
from xraytune.space.settings import PipelineSettings, Settings
from xraytune.space.space import package_problems
from xraytune.synth.pool import Images

_INPUTS = {str: "prompt", int: "class_labels"}
_INDEX = "model_index.json"
_FORMAT = "give the folder of a diffusers pipeline, as from `hf download NAME --local-dir FOLDER`"
_GREY = f'check them in diffusers alone; to use no safety checker, write "safety_checker": [null, null] in {_INDEX}'


def pipeline_content(folder: Path) -> str:
    """Return a fingerprint of the files that a pipeline may be loaded from."""
    files = (folder / _INDEX, *(file for file in folder.glob("[!.]*/**/*") if file.is_file()))
    return fingerprint("pipeline", {file.relative_to(folder).as_posix(): sha256_of(file) for file in files})


def usable_pipeline(folder: Path, settings: Settings, shown: Sequence[str]) -> str:
    """Return the content of a pipeline that can draw `shown`, classes or findings, from their prompts; loads no weights.

    Raises:
        ConfigError: There are prompts of other classes, or a prompt is not of the kind that the pipeline takes.
        DataError: There is no pipeline of diffusers, or its weights are not in safetensors.
        MachineError: Packages are missing.
    """
    if problems := package_problems("pipeline"):
        raise MachineError(*problems)
    import diffusers

    named = settings.prompts if isinstance(settings.prompts, dict) else {}
    if others := [name for name in named if name not in shown]:
        raise ConfigError(Problem(f"no class {others[0]}", "prompts", nearest(others[0], shown)))
    try:
        name = str(read_json(folder / _INDEX)["_class_name"])
        inputs = inspect.signature(getattr(diffusers, name).__call__).parameters
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        what = f"{_INDEX} is missing or damaged, or names no pipeline of diffusers itself"
        raise DataError(Problem(what, folder, _FORMAT)) from error
    for text in shown:
        if _INPUTS[type(prompt := settings.prompt_of(text))] not in inputs or "image" in inputs:
            what = f"{name} does not draw images from the prompt of {text} alone: {prompt!r}"
            fix = "prompts are texts for a pipeline such as StableDiffusionPipeline, numbers of class labels for DiTPipeline"
            raise ConfigError(Problem(what, "prompts", fix))
    if pickled := [file for file in folder.glob("*/*.bin") if not any(file.parent.glob("*.safetensors"))]:
        fix = "load the pipeline with diffusers, and write it again with `save_pretrained`"
        raise DataError(Problem("the weights are not in safetensors", pickled[0], fix))
    return pipeline_content(folder)


def draw_images(
    settings: PipelineSettings, prompts: Sequence[str | int], seeds: Sequence[int], context: RunContext
) -> Images:
    """Draw a grey image of each prompt, or each class label, from its seed, on a GPU in half precision.

    Like files in a folder, larger images are reduced to the study's size.

    Raises:
        TrialError: The pipeline cannot be loaded, or it fails, or images have a single grey value.
    """
    import diffusers

    device, images = context.compute.device, list[Image.Image]()
    dtype, at_once = (torch.float16, 16) if device == "cuda" else (torch.float32, 1)
    sizes = dict.fromkeys(("height", "width"), settings.image_size)
    chosen = {"guidance_scale": settings.guidance, "num_inference_steps": settings.steps, **sizes}
    given = {name: value for name, value in chosen.items() if value is not None}
    loading = {"use_safetensors": True, "local_files_only": True, "low_cpu_mem_usage": False}
    diffusers.utils.logging.disable_progress_bar()
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(settings.path, dtype=dtype, **loading)
        pipeline.to(device).set_progress_bar_config(disable=True)
        while part := seeds[len(images) : len(images) + at_once]:
            asked = prompts[len(images) : len(images) + at_once]
            generators = [torch.Generator().manual_seed(seed) for seed in part]
            with torch.random.fork_rng(devices=[0] if device == "cuda" else []):
                torch.manual_seed(part[0])  # for a scheduler that is not given the generators
                drawn = pipeline(**{_INPUTS[type(asked[0])]: asked}, **given, generator=generators).images
            images += (image.convert("L") for image in drawn)
            if any(len({*image.getextrema()}) == 1 for image in images[-len(part) :]):
                what = f"images of {asked[0]!r} have a single grey value, as after a safety checker or an overflow"
                raise TrialError(Problem(what, settings.path, _GREY))
            context.on_progress("drawing images with the pipeline", len(images), len(seeds))
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise TrialError(Problem(f"the pipeline fails: {error}", settings.path, "try it in diffusers alone")) from error
    sizes_px = (min(context.prepared.image_size_px, *images[0].size),) * 2
    pixels = [np.asarray(image.resize(sizes_px, Image.Resampling.BILINEAR)) for image in images]
    return Images(np.stack(pixels), masks=None)
