"""`xraytune generator`: train a generator, or generate images with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from xraytune.base.tables import counts_text
from xraytune.cli import console, options
from xraytune.cli.command import Options, calls

if TYPE_CHECKING:
    from xraytune.model.generator_folder import GeneratorSample, TrainedGenerator


def _show_trained(trained: TrainedGenerator) -> None:
    if generator := trained.generator:
        settings = generator.settings
        counts = _counts(generator.class_counts, generator.masks is not None)
        what = f"{settings.image_size} px GAN, trained for {settings.steps:,} steps"
        console.write(f"{trained.path}: {what} on {counts}")
        console.write("its images next to real ones: samples.png")
        if report := generator.report:
            features = f"; features of {report.quality.features}" if report.quality else ""
            console.write(f"quality: {report.quality or report.note}{features}")
            if report.copies:
                console.write(f"its images copy training images: {report.copies}")
    if donor := trained.donor:
        what = "classifier of these images (donor.safetensors), with statistics of their features"
        counts = _counts(donor.class_counts, has_masks=False)
        console.write(f"{what}: AUROC {donor.val_auroc:.3f} on val-A of {counts}")
    console.write("what each file reveals: card.md")


def _propose_search(trained: TrainedGenerator, given: Options) -> None:
    if trained.generator and len(trained.generator.class_counts) > 1:
        of_data = ("data.classes", "data.positive", "data.split.group_regex")
        overrides = [line for line in given.get("overrides") or () if line.startswith(of_data)]
        overrides.append(f"generator.path={trained.path}")
        words = ("search", "--space", "other_hospital_cpu")
        console.propose(*words, given={**given, "overrides": overrides})


@calls("generator_train", _show_trained, propose=_propose_search)
def train(
    space: options.SpaceFile,
    out: options.OutFolder,
    data: options.Data = None,
    overrides: options.Overrides = None,
    weights_dir: options.WeightsDir = None,
    cache: options.Cache = None,
    skip_broken: options.SkipBroken = False,
    without_generator: Annotated[
        bool,
        Option(
            "--without-generator",
            metavar="",
            help="Write only a classifier of the images and statistics of their features.",
        ),
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Train the GAN of a search space file and save it to a folder. Run again to resume.

    If the space has a frozen backbone, the folder also gets a classifier and statistics of
    features: what another hospital should compare the GAN's images with.
    """


def _show_sample(drawn: GeneratorSample) -> None:
    counts = _counts(drawn.counts, drawn.has_masks)
    console.write(f"{drawn.path}: {counts} ({drawn.image_size_px} px), with provenance.json")


@calls("generator_sample", _show_sample)
def sample(
    generator: Annotated[Path, Argument(metavar="FOLDER", help="Folder from `generator train`.")],
    out: options.OutFolder,
    count: Annotated[int, Option("--count", "-n", metavar="N", help="Number of images.")],
    as_json: options.AsJson = False,
) -> None:
    """Generate images with a saved generator, as PNG files in class folders.

    Pairs are in images/ and masks/; findings in data.yaml.

    Classes have their training proportions. The first 100 of 500 images are the same as with -n
    100.
    """


def _counts(counts: dict[str, int], has_masks: bool) -> str:
    if len(counts) > 1:
        return counts_text(counts)
    return f"{sum(counts.values()):,} images with {'masks' if has_masks else 'findings'}"
