"""What a command does before it trains: read its space, check it, and prepare the images.

    space = open_space(...)               the file, its extensions
    prepared, index = prepare_space(...)  classes, weights, index, split and pixels, mixes

Problems are found in this order, the slow work last.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from xraytune.base.errors import ConfigError, DataError
from xraytune.base.files import require_writable
from xraytune.base.records import Progress
from xraytune.data.changes import require_same_data
from xraytune.data.images import ImageIndex
from xraytune.data.index import find_class_names, read_index
from xraytune.data.prepare import Prepared, prepare_index
from xraytune.data.sides import side_sizes
from xraytune.nets.backbones import accepts, build_backbone, find_weights
from xraytune.space.backbones import BACKBONES
from xraytune.space.load import load_space
from xraytune.space.rules import check_images, space_warnings
from xraytune.space.shipped import describe_space
from xraytune.space.space import Space, require_extensions
from xraytune.stats.classification import FEWEST_LABELS
from xraytune.synth.sources.which import mixes_of, seen_by
from xraytune.tasks import task_of


def open_space(
    file: Path,
    overrides: Sequence[str] = (),
    *,
    data: Path | None = None,
    weights_dir: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Space:
    """Return the space of a file, if its packages are installed; `note` gets which file that is.

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
    recorded: Prepared | None = None,
    is_complete: bool = True,
    skip_broken: bool,
    note: Callable[[str], None],
    on_progress: Progress,
) -> tuple[Prepared, ImageIndex]:
    """Check that every trial of a space can run, and prepare its images; `note` gets warnings.

    A command that trains a single point passes `space.at(point)`. What a study has `recorded` of
    its images is compared with them before they are split; see `require_same_data`.

    Raises:
        ConfigError: The images do not suit the settings (space/contract.py).
        DataError: The images cannot be used; `skip_broken` leaves out broken ones.
        MachineError: Weights or disk space are missing.
        StudyError: The images are not those that the study recorded.
    """
    settings = space.settings
    require_writable(cache)
    for warning in space_warnings(space):
        note(warning)
    check_images(space, class_count=len(find_class_names(settings.data)))
    require_networks(space)
    pairs = task_of(settings).has_masks
    index = read_index(settings.data, pairs=pairs, on_progress=on_progress)
    if recorded is not None:
        require_same_data(recorded, index, settings.data.path, is_complete=is_complete)
    prepared, warnings = prepare_index(
        index,
        settings.data,
        cache,
        seen=seen_by(mixes_of(space)),
        skip_broken=skip_broken,
        on_progress=on_progress,
    )
    for warning in warnings:
        note(warning)
    if prepared.findings:
        for side in side_sizes(prepared)[1:]:
            if few := side.lacking(FEWEST_LABELS):
                what = (
                    f"no finding has {FEWEST_LABELS} positive and {FEWEST_LABELS} negative images "
                    f"on {side.name} ({few})"
                )
                fix = "use larger validation sides, or more images"
                raise DataError(what, "data.split", fix)
    steps = settings.budget.max_epochs * prepared.steps_per_epoch(settings)
    check_images(space, training_images=sum(prepared.train_counts), total_steps=steps)
    return prepared, index


def require_networks(space: Space) -> None:
    """Find the weights of every backbone in the space, and check that it accepts the images.

    Raises MachineError for weights, ConfigError for images. The network of an extension, or with a
    custom weights file, whose hash is unknown, is built once to see that it fits.
    """
    settings = space.settings
    size_px = settings.data.image_size
    final_px = settings.final.image_size if settings.final else None
    sizes_px = {size_px, final_px or size_px}
    for backbone, weights in space.networks():
        file = find_weights(backbone, weights, settings.weights_dir)
        if file == Path(weights) or BACKBONES.has(backbone):
            build_backbone(backbone, weights=file)
        for side_px in sizes_px:
            if not accepts(backbone, side_px):
                what = f"backbone: {backbone} does not take images of {side_px} px"
                fix = "use the size it was trained with, often 224, or choose another backbone"
                raise ConfigError(what, "data.image_size", fix)
