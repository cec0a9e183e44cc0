"""Train a generator and save it to a folder; generate any number of images from it.

The commands are `generator train` and `generator sample`.

    FOLDER/generator.json                           settings, class counts, versions, hashes of
                                                    the training images
    FOLDER/generator.safetensors                    the network
    FOLDER/donor.json, donor.safetensors            a classifier of its training images, and
                                                    statistics of their features
    FOLDER/card.md                                  the size of each file, and what it reveals
    FOLDER/samples.png                              its images next to real ones

The generator is trained in the shared cache, as in a search, so a search and these commands reuse
each other's generators. The first n images are the same however many are made, and a search would
train on the same images, except with findings, whose order differs. In segmentation, each image has
a mask.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from xraytune.base.arrays import UInt8Array
from xraytune.base.errors import ConfigError, MachineError, Problem
from xraytune.base.files import (
    StrPath,
    copy_file,
    csv_table,
    explain_disk_errors,
    new_folder,
    require_new,
    require_writable,
    sha256_of,
    write_json,
    write_text,
)
from xraytune.base.records import (
    Json,
    Note,
    Progress,
    frozen,
    ignore_note,
    ignore_progress,
    to_json,
)
from xraytune.data.findings import numbers_of
from xraytune.data.folders import PROVENANCE_FILE, require_folder
from xraytune.data.prepare import RunContext, prepare
from xraytune.nets.backbones import find_weights
from xraytune.nets.compute import compute_alone, compute_here, compute_like, configure_torch
from xraytune.space.document import write_yaml
from xraytune.space.domains import Value
from xraytune.space.fields import parameters_from
from xraytune.space.load import SEARCH_ONLY, load_space, refuse_unused
from xraytune.space.settings import Experiment, Settings
from xraytune.space.shipped import describe_space
from xraytune.space.source_settings import GanSettings
from xraytune.space.space import Space
from xraytune.space.task_settings import TaskName
from xraytune.synth.donor import Donor
from xraytune.synth.generator_inputs import NETWORK_FILE, lineage_to_train, with_features
from xraytune.synth.generator_quality import PoolReport
from xraytune.synth.mix import apportion
from xraytune.synth.saved_generator import (
    GENERATOR_FILE,
    SavedGenerator,
    generate_block,
    read_generator,
)
from xraytune.synth.sources.gan import Gan, trained_generator, typical_masks, usable_generator_hash
from xraytune.synth.sources.registry import seen_by_sources
from xraytune.synth.sources.source import BLOCK, choose_findings
from xraytune.trial.donate import find_donor_experiment, write_card, write_donor
from xraytune.trial.quality import report_pool
from xraytune.trial.samples import save_generator_grid

_SAMPLES = "samples.png"
_NETWORK_PARAMETERS = {"backbone", "weights", "input_channels", "input_size"}


@frozen
class TrainedGenerator:
    """The folder that `generator_train` wrote, with the records of its GAN and of its classifier.

    The folder has at least one of the two records.

    Attributes:
        path: The folder.
        generator: The GAN: its settings, its training images and its quality; None if it was left
            out.
        donor: The classifier of the images; None without a frozen, pretrained backbone.
    """

    path: Path
    generator: SavedGenerator | None
    donor: Donor | None


@frozen
class GeneratorSample:
    """The folder that `generator_sample` wrote.

    Attributes:
        path: The folder.
        counts: Number of images of each class.
        image_size_px: Side of the square images.
        task: The task that the images are for.
    """

    path: Path
    counts: dict[str, int]
    image_size_px: int
    task: TaskName


def generator_train(
    space: StrPath,
    *,
    out: StrPath,
    data: StrPath | None = None,
    overrides: Sequence[str] = (),
    weights_dir: StrPath | None = None,
    cache: StrPath | None = None,
    skip_broken: bool = False,
    without_generator: bool = False,
    note: Note = ignore_note,
    on_progress: Progress = ignore_progress,
) -> TrainedGenerator:
    """Train the generator of a space file; its settings must be fixed.

    After an interruption, the same call resumes.

    If the space names a frozen, pretrained backbone, the folder also gets a head trained on the
    images with this backbone, and statistics of the images' features.

    Args:
        space: The YAML file; its `source` must include `gan`.
        out: The folder to create.
        data: A data folder instead of the file's.
        overrides: `key=value` lines that replace the file's; `gan.steps=5000` fixes a searched
            setting.
        weights_dir: Folder of official weight files.
        cache: The artifact cache, shared with searches; by default `cache`.
        skip_broken: Leave broken images out, with a note on each.
        without_generator: Write only the head and the statistics.
        note: Called with warnings.
        on_progress: Called with the progress of the preparation and the training.

    Raises:
        ConfigError: The file is invalid, has no generator or several, or searches a setting of the
            generator; or `out` exists.
        DataError: The images cannot be used, or the generator to start from makes other images.
        MachineError: A GPU, the weights of a backbone, or a package that the generator needs is
            missing.
        TrialError: The generator's loss is not finite, or too few of its masks are plausible.
    """
    out = Path(out)
    require_new(out)
    note(describe_space(space))
    loaded = load_space(
        space, (*overrides, "points_to_evaluate=[]"), data=data, weights_dir=weights_dir
    )
    unused = (*SEARCH_ONLY, "budget", "final", "objective", "points_to_evaluate", "tracking")
    refuse_unused(overrides, "generator train", unused)
    experiment = None if without_generator else fixed_generator(loaded)
    donor_experiment = find_donor_experiment(loaded)
    settings = loaded.settings
    if without_generator and donor_experiment is None:
        raise ConfigError(
            "no frozen, pretrained backbone of a classifier in this space",
            settings.name,
            "add --set trainable=head, or train a generator",
        )
    compute = compute_here(settings)
    cache = Path(cache or "cache").resolve()
    gan = None
    if experiment:
        gan = with_features(Gan(experiment.parameters).settings, settings.weights_dir)
    require_folder(settings.data.path)
    if problem := _lacking_weights(settings, donor_experiment, experiment):
        note(problem)
        donor_experiment = None
    require_writable(cache)
    sizes_px = [each.settings.data.image_size for each in (experiment, donor_experiment) if each]
    prepared, warnings = prepare(
        settings,
        cache,
        sizes_px=[*dict.fromkeys(sizes_px)],
        seen_sha256=seen_by_sources([experiment.parameters]) if experiment else (),
        skip_broken=skip_broken,
        on_progress=on_progress,
    )
    for warning in warnings:
        note(warning)
    size_px = prepared.image_size_px
    if gan is None or lineage_to_train(gan, None, size_px, prepared, compute, cache):
        compute = compute_alone(settings)  # else a search has trained it
    configure_torch(compute)
    context = RunContext(prepared=prepared, cache=cache, compute=compute, on_progress=on_progress)
    generator = donor = None
    with new_folder(out) as folder:
        if experiment and gan:
            generator = _write_generator(folder, experiment, gan, context)
        if donor_experiment:
            sized = prepared.sizes[donor_experiment.settings.data.image_size]
            donor = write_donor(folder, donor_experiment, replace(context, prepared=sized))
        write_card(folder)
    return TrainedGenerator(path=out, generator=generator, donor=donor)


def _lacking_weights(
    settings: Settings, donor_experiment: Experiment | None, experiment: Experiment | None
) -> str:
    """Return why the weights of a donor's backbone are not here; "" if they are, or none is needed.

    Raises MachineError instead if there is no generator, or `settings.weights_dir` lacks weights.
    """
    networks = [donor_experiment.parameters] if donor_experiment else []
    if experiment and settings.weights_dir:
        networks.append(experiment.parameters)
    try:
        for network in networks:
            find_weights(network.backbone, network.weights, settings.weights_dir)
    except MachineError as error:
        if experiment is None or settings.weights_dir:
            raise
        return error.problems[0].what
    return ""


def _write_generator(
    folder: Path, experiment: Experiment, gan: GanSettings, context: RunContext
) -> SavedGenerator:
    """Train a generator, and write it to a folder, with its quality and samples."""
    if gan.start_from:
        usable_generator_hash(gan.start_from, context.prepared, is_start=True)
    artifact = trained_generator(gan, context)
    report = report_pool(experiment, context)
    generator = fill_generator_folder(folder, artifact, experiment, context, report=report)
    save_generator_grid(experiment, context, folder).rename(folder / _SAMPLES)
    return generator


def fixed_generator(space: Space) -> Experiment:
    """Return an experiment with the GAN of a space.

    Parameters that do not affect the GAN's images may be searched.

    Raises:
        ConfigError: There is no GAN, or parameters that affect its images are searched; the error
            lists all of them.
    """
    settings = space.settings
    specs = [
        spec
        for spec in space.specs
        if spec.name in _NETWORK_PARAMETERS or spec.name.startswith("gan.")
    ]
    values: dict[str, Value] = {spec.name: spec.values[0] for spec in specs}
    still_open = [spec for spec in specs if spec.is_open]
    problems = []
    for spec in still_open:
        if spec.name not in _NETWORK_PARAMETERS:
            what = f"{spec.name} is {spec}, but one generator needs a fixed value"
            fix = f"add --set {spec.name}={values[spec.name]}"
            problems.append(Problem(what, settings.name, fix))
    if values.keys() <= _NETWORK_PARAMETERS:
        problems = [Problem("no GAN in this space", settings.name, "add --set source=gan")]
    if problems:
        raise ConfigError(*problems)
    if still_open:  # then there is no network to measure the quality with
        values["weights"] = "none"
    return Experiment(settings=settings, parameters=parameters_from({**values, "source": "gan"}))


def fill_generator_folder(
    folder: Path,
    artifact: Path,
    experiment: Experiment,
    context: RunContext,
    *,
    report: PoolReport | None = None,
) -> SavedGenerator:
    """Fill an empty folder with a generator for `generator_sample`, and return its record."""
    settings = Gan(experiment.parameters).settings
    prepared = context.prepared
    copy_file(artifact / NETWORK_FILE, folder / NETWORK_FILE)
    train = [image for image in prepared.images if image.side == "train"]
    train_contents = {image.sha256 for image in train}
    record = SavedGenerator(
        settings=settings.model_copy(
            update=dict.fromkeys({"start_from", "features"} & settings.model_fields_set)
        ),
        class_counts=dict(zip(prepared.class_names, prepared.train_counts, strict=True)),
        findings=prepared.findings,
        findings_counts=dict(Counter(image.findings for image in train if image.findings)),
        train_fingerprint=prepared.train_fingerprint,
        train_images=sorted(train_contents | seen_by_sources([experiment.parameters])),
        generators={NETWORK_FILE: sha256_of(folder / NETWORK_FILE)},
        compute=context.compute,
        packages={name: version(name) for name in ("xraytune", "torch", "numpy")},
        masks=typical_masks(settings, prepared, context.cache),
        report=report,
    )
    write_json(folder / GENERATOR_FILE, to_json(record))
    return record


def generator_sample(
    generator: StrPath, *, count: int, out: StrPath, on_progress: Progress = ignore_progress
) -> GeneratorSample:
    """Generate images as grey PNG files in class folders.

    The origin of the images is written to `provenance.json`.

    The classes have the same shares as in the training images. Images with masks are in `images/`,
    and their masks, with the same names, in `masks/`. Images with findings are also in `images/`,
    with the data file `data.yaml` and its table; their findings are those of training images.

    Args:
        generator: A folder written by `generator_train`.
        count: Number of images; 100 are the first 100 of 500.
        out: The folder to create; usable as `source: folder`.
        on_progress: Called with the number of images so far.

    Raises:
        ArtifactError: `generator` is no generator's folder, or one of its files is damaged.
        ConfigError: `count` is below 1, or `out` exists.
        TrialError: Too few masks are plausible.
    """
    generator = Path(generator)
    out = Path(out)
    require_new(out)
    if count < 1:
        raise ConfigError(f"cannot draw {count} images", fix="give 1 or more")
    record = read_generator(generator)
    compute = compute_like(record.compute, threads=record.compute.threads)
    configure_torch(compute)
    seed = record.settings.seed
    classes = apportion([*record.class_counts.values()], count)
    combinations = [*Counter(record.findings_counts).elements()]
    counts = {}
    rows = []
    with explain_disk_errors(out), new_folder(out) as folder:
        for label, name in enumerate(record.class_counts):
            numbers = (np.flatnonzero(classes == label) + 1).tolist()
            counts[name] = len(numbers)
            kinds = (name,) if record.task == "classification" else ("images", "masks")
            for block, start in enumerate(range(0, len(numbers), BLOCK)):
                findings = None
                if record.findings:
                    findings = choose_findings(numbers_of(combinations), block, seed)
                images = generate_block(
                    generator / NETWORK_FILE,
                    label,
                    block,
                    seed=seed,
                    compute=compute,
                    typical=record.masks,
                    findings=findings,
                )
                for index, number in enumerate(numbers[start : start + BLOCK]):
                    file = f"gan_{number:06d}.png"
                    _write_image(folder, kinds, file, images[index])
                    states = () if findings is None else findings[index].tolist()
                    cells = ("" if state < 0 else f"{state}" for state in states)
                    rows.append([f"images/{file}", *cells])
                    on_progress("generating images", len(rows), count)
        if record.findings:
            write_text(folder / "labels.csv", csv_table(["file", *record.findings], rows))
            table: Json = {"file": "labels.csv", "image": "file"}
            data: Json = {"path": ".", "table": table, "findings": [*record.findings]}
            write_text(folder / "data.yaml", write_yaml({"data": data}))
        provenance = {**to_json(replace(record, compute=compute)), "count": count, "counts": counts}
        write_json(folder / PROVENANCE_FILE, provenance)
    return GeneratorSample(
        path=out,
        counts=counts,
        image_size_px=record.settings.image_size,
        task=record.task,
    )


def _write_image(folder: Path, kinds: Sequence[str], file: str, channels: UInt8Array) -> None:
    """Write an image, and its mask if it has one, to the folders of their `kinds`."""
    for kind, pixels in zip(kinds, channels, strict=False):
        (folder / kind).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / kind / file)
