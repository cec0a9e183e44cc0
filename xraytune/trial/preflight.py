"""What a command does before it trains: read its space, check it, and prepare the images.

    space = open_space(...)               the file, its extensions
    require_inputs(...)                   the data folder, weights
    prepared, index = prepare_space(...)  classes, index, split and pixels, mixes

Problems are found in this order, the slow work last.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from xraytune.base.errors import ConfigError, DataError, XraytuneError, collect, raise_together
from xraytune.base.files import StrPath, require_writable
from xraytune.base.records import Note, Progress, ignore_note, ignore_progress
from xraytune.data.changes import images_without_test, require_same_data
from xraytune.data.checks import check_content
from xraytune.data.file_names import SETS
from xraytune.data.folders import require_folder
from xraytune.data.images import ImageIndex
from xraytune.data.index import find_class_names, read_index
from xraytune.data.pixels import open_pixels
from xraytune.data.prepare import SplitData, prepare_index
from xraytune.data.sides import side_sizes
from xraytune.data.sites import sites_to_leave_out
from xraytune.nets.backbones import accepts, build_backbone, find_weights
from xraytune.space.backbones import BACKBONES
from xraytune.space.encoders import is_model
from xraytune.space.load import load_space
from xraytune.space.parameters import Parameters
from xraytune.space.paths import PATHS, is_path
from xraytune.space.rules import check_images, space_warnings
from xraytune.space.settings import Settings
from xraytune.space.shipped import describe_space
from xraytune.space.space import Space, require_extensions
from xraytune.stats.classification import FEWEST_LABELS
from xraytune.synth.donor import donor_tensors, feature_parameters
from xraytune.synth.generator_inputs import with_features
from xraytune.synth.sources.gan import OF_NETWORK, require_same_network
from xraytune.synth.sources.registry import mixes_of, seen_by
from xraytune.trial.saved_model import open_bundle
from xraytune.trial.soft_labels import donor_mixes, require_labeller


def open_space(
    file: StrPath,
    overrides: Sequence[str] = (),
    *,
    data: StrPath | None = None,
    weights_dir: StrPath | None = None,
    note: Note = ignore_note,
) -> Space:
    """Return the space of a file, after checking that the packages it needs are installed.

    `note` is called with a description of the file.

    Raises:
        ConfigError: The file is invalid.
        MachineError: An extension or a package is missing.
    """
    note(describe_space(file))
    space = load_space(file, overrides, data=data, weights_dir=weights_dir)
    require_extensions(space)
    return space


def prepare_space(
    space: Space,
    cache: Path,
    *,
    recorded: SplitData | None = None,
    is_complete: bool = True,
    seen_sha256: frozenset[str] = frozenset(),
    skip_broken: bool = False,
    note: Note = ignore_note,
    on_progress: Progress = ignore_progress,
    on_index: Callable[[], None] = lambda: None,
) -> tuple[SplitData, ImageIndex]:
    """Check that every trial of a space can run, and prepare its images.

    A command that trains a single point passes `space.at(point)`. If a study has `recorded` its
    images, they are compared with this record before they are split; see `require_same_data`. A
    study may have left out broken images, so images that it did not record may be broken.
    Patients with images in `seen_sha256` are put on no validation side, and neither are patients
    whose images the space's own sources and encoders have seen. `note` is called with each warning,
    and `on_index` before the images are decoded, when their files and labels are known to be valid.

    Raises:
        ConfigError: The images do not suit the settings (space/contract.py).
        DataError: The images cannot be used (`skip_broken` leaves out broken ones), there are too
            few sites to leave one out, a donor's statistics are for another network, or a donor's
            classifier is for other classes.
        MachineError: There is too little disk space, or the weights of `gan.features` are missing.
        StudyError: The images differ from the images that the study recorded.
    """
    settings = space.settings
    require_writable(cache)
    for warning in space_warnings(space):
        note(warning)
    pairs = settings.task == "segmentation"
    check_images(space, class_count=len(find_class_names(settings.data, pairs=pairs)))
    _require_batches(space)
    for trial in space.extreme_parameters("source", "gan.features"):
        if trial.gan:
            with_features(trial.gan, settings.weights_dir)
    index = read_index(
        settings.data,
        pairs=pairs,
        name_sets=recorded.name_sets if recorded else SETS,
        on_progress=on_progress,
    )
    left_out: set[str] = set()
    if recorded is not None:
        require_same_data(recorded, index, settings.data.path, is_complete=is_complete)
        known = {image.file for image in images_without_test(recorded)}
        further = [image for image in index.images if image.file not in known]
        left_out = {file for image in further for file in (image.file, *image.masks)}
    if settings.confirm.leave_out == "site":
        sites_to_leave_out(index.images, index.class_names, settings.data.path)
    on_index()
    prepared, warnings = prepare_index(
        index,
        settings.data,
        cache,
        sizes_px=space.sizes_px(),
        seen_sha256=seen_sha256 | seen_by(mixes_of(space)),
        skip_broken=skip_broken,
        left_out=left_out,
        on_progress=on_progress,
    )
    if recorded is None:
        all_images = (*prepared.images, *prepared.unused)
        stored = open_pixels(cache / prepared.pixels)
        checks = check_content(
            all_images,
            [stored[image.row] for image in all_images],
            prepared.class_names,
            group_regex=settings.data.split.group_regex,
            on_progress=on_progress,
        )
        warnings += checks.notes
    for warning in warnings:
        note(warning)
    if prepared.findings:
        _require_scored_findings(prepared)
    _require_inputs_of_mixes(space, prepared)
    steps = settings.budget.max_epochs * prepared.steps_per_epoch(settings)
    check_images(space, training_images=sum(prepared.train_counts), total_steps=steps)
    return prepared, index


def _require_scored_findings(prepared: SplitData) -> None:
    """Check that a finding can be scored on each validation side; raise DataError."""
    for side in side_sizes(prepared)[1:]:
        if few := side.lacking():
            raise DataError(
                f"no finding has {FEWEST_LABELS} positive and {FEWEST_LABELS} negative images "
                f"on {side.name} ({few})",
                "data.split",
                "use larger validation sides, or more images",
            )


def _require_inputs_of_mixes(space: Space, prepared: SplitData) -> None:
    """Check that generators, classifiers and statistics from elsewhere fit the study."""
    settings = space.settings
    generator_parameters = (f"gan.{name}" for name in (*OF_NETWORK, "features"))
    for trial in space.extreme_parameters("source", "gan.start_from", *generator_parameters):
        if trial.gan:
            require_same_network(trial.gan)
    for trial in donor_mixes(space):
        if trial.labels == "donor":
            require_labeller(trial, settings, prepared.outputs)
    for trial in space.extreme_parameters("source", "statistics.path", *feature_parameters(space)):
        if trial.statistics:
            donor_tensors(trial.statistics.path, prepared.class_names, trial, settings)


def _require_batches(space: Space) -> None:
    """Check that no batch norm is trained on a single value; raise ConfigError."""
    of_network = ("backbone", "input_size", "trainable", "batch_size")
    of_mix = ("source", "synthetic_ratio", "mixing")
    for parameters in space.extreme_parameters(*of_network, *of_mix):
        is_alone = parameters.source == "none" or parameters.mixing == "pretrain"
        if parameters.trainable == "head" or parameters.batch_size > 1 or not is_alone:
            continue
        size_px = parameters.size_px(space.settings.data)
        if not accepts(parameters.backbone, size_px, trains_on_one=True):
            raise ConfigError(
                f"batch_size: 1, backbone: {parameters.backbone}, images of {size_px} px: a batch "
                "norm would train on a single value",
                fix="write batch_size: 2",
            )


def require_inputs(
    settings: Settings,
    networks: Iterable[Parameters],
    paths: Iterable[tuple[str, str]] = (),
) -> None:
    """Check that the inputs of trials are there, without reading an image.

    Nothing is downloaded if anything is missing.

    Args:
        settings: Settings of the study.
        networks: Trials with the possible backbones, weights and sizes.
        paths: Parameters that are paths, and their values.

    Raises: All problems together, as an error of the first one's class.
        DataError: There is no data folder, or nothing at a path.
        MachineError: Weights are missing, damaged, or made for another network.
        ConfigError: A backbone does not accept the images.
    """
    errors: list[XraytuneError] = []
    with collect(errors):
        require_folder(settings.data.path)
    for name, path in paths:
        if name in PATHS and not Path(path).exists():
            what = f"{name}: there is nothing at this path"
            errors.append(DataError(what, Path(path), "check it"))
    for parameters in networks:
        with collect(errors):
            require_network(settings, parameters, may_download=not errors)
    raise_together(errors)


def require_network(
    settings: Settings, parameters: Parameters, *, may_download: bool = True
) -> Path | None:
    """Return the file of a trial's weights, and check that its backbone accepts the images.

    If a file has no known hash, or the network is an extension, the network is built once as a
    test.

    Raises the errors of `find_weights`, ConfigError if the backbone does not accept the images, and
    ArtifactError if a model of `xraytune train` is damaged.
    """
    backbone = parameters.backbone
    weights = parameters.weights
    if is_model(weights):
        open_bundle(Path(weights))
    file = find_weights(backbone, weights, settings.weights_dir, may_download=may_download)
    if weights == "hub" or is_path("weights", weights) or BACKBONES.has(backbone):
        build_backbone(backbone, weights=file, settings=parameters.settings_of(backbone))
    size_px = parameters.size_px(settings.data)
    final_px = settings.final.image_size if settings.final else None
    for side_px in {size_px, final_px or size_px}:
        if not accepts(backbone, side_px):
            raise ConfigError(
                f"backbone: {backbone} does not take images of {side_px} px",
                "input_size" if parameters.input_size else "data.image_size",
                "use the size it was trained with, often 224, or choose another backbone",
            )
    return file
