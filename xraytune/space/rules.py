"""What must hold at every point of a space, so that it can run."""

from collections.abc import Iterator
from typing import TypeAlias

from xraytune.base.errors import ConfigError, Problem, join_names
from xraytune.space.backbones import ENCODERS, has_weights
from xraytune.space.document import Document
from xraytune.space.fields import PARAMETERS
from xraytune.space.messages import nearest
from xraytune.space.settings import BLOCKS, OBJECTIVES, SOURCES, extra_images
from xraytune.space.space import Space

_Refusal: TypeAlias = tuple[tuple[str, ...], str, str]
"""The names of settings and parameters, what is wrong with them, and how to fix it."""


def check_space(space: Space, document: Document) -> None:
    """Check that every point of a space can run; problems are collected in the document.

    A problem is reported at the first of its names that the user has written.
    """
    first = {(names, fix): what for names, what, fix in [*_refusals(space)][::-1]}
    for (names, fix), what in first.items():
        paths = [
            ("parameters", name) if name in PARAMETERS else tuple(name.split(".")) for name in names
        ]
        place = document.locate(next(filter(document.has, paths), paths[0]))
        document.problems.append(Problem(what, place, fix))


def _refusals(space: Space) -> Iterator[_Refusal]:
    task = space.settings.task
    metric = space.settings.objective.metric
    if metric not in OBJECTIVES[task]:
        what = f"objective.metric: {metric} does not apply to {task}"
        yield ("objective.metric", "task"), what, f"write {' or '.join(OBJECTIVES[task])}"
    data = space.settings.data
    names: tuple[str, ...] = ("data.findings", "data.table", "task")
    if task == "findings" and (data.findings is None or data.table is None):
        fix = "describe the table, and write data.findings: auto or a list of its columns or labels"
        yield names, "task: findings needs data.table and data.findings", fix
    if task != "findings" and data.findings is not None:
        yield names, f"data.findings has no use for task: {task}", "use task: findings"

    names = ("source", "trainable", "folder.path", "generator.path", "statistics.path")
    for trial in space.corners(*names):
        source = trial.source
        if source in BLOCKS and getattr(trial, source) is None:
            fields = BLOCKS[source].model_fields.items()
            needed = [f"{source}.{name}" for name, field in fields if field.is_required()]
            yield names, f"source: {source} needs {join_names(needed)}", f"give {needed[0]}"
        if task != "classification" and (SOURCES.has(source) or source == "statistics"):
            what = f"source: {source} does not apply to task: {task}"
            yield ("source", "task"), what, "use gan, generator, folder, duplicate or none"
        if source == "statistics" and trial.trainable != "head":
            what = f"source: statistics has no use for trainable: {trial.trainable}"
            yield names, what, "use trainable: head"

    apart = ", or keep the values apart with when:"
    names = ("weights", "backbone", "trainable")
    for trial in space.corners(*names):
        backbone = trial.backbone
        if not has_weights(trial.weights, backbone):
            known = [name for name in ("imagenet", "hub") if has_weights(name, backbone)]
            fix = f"use weights: {' or '.join([*known, 'none'])}, or the path of a file{apart}"
            yield names, f"weights: {backbone} has no weights called {trial.weights}", fix
        if trial.trainable != "all" and trial.weights == "none":
            what = f"trainable: {trial.trainable} with weights: none leaves random layers untrained"
            yield ("trainable", "weights"), what, f"use trainable: all{apart}"
        if task == "segmentation" and backbone not in ENCODERS:
            what = f"backbone: {backbone} cannot be the encoder of a U-Net"
            yield ("backbone", "task"), what, nearest(backbone, ENCODERS)

    for trial in space.corners("source", "gan.image_size"):
        if trial.gan and trial.gan.image_size > data.image_size:
            size_px = trial.gan.image_size
            what = f"gan.image_size: {size_px} is more than data.image_size, {data.image_size}"
            fix = f"set data.image_size: {size_px} or more, or a smaller gan.image_size"
            yield ("gan.image_size", "data.image_size"), what, fix
    names = ("synthetic_ratio", "batch_size", "mixing", "source")
    for trial in space.corners(*names):
        if trial.source != "none" and trial.extra_per_step == 0:
            mix = f"synthetic_ratio: {trial.synthetic_ratio:g} of batch_size: {trial.batch_size}"
            what = f"{mix} rounds to zero extra images"
            yield names, what, f"raise one of them{apart}"


def check_images(space: Space, *, class_count: int = 2, training_images: int = 0) -> None:
    """Check that every point of a space suits its images; ConfigError lists what does not."""
    problems: dict[str, Problem] = {}
    metric = space.settings.objective.metric
    needs = f"requires two classes, but the images have {class_count}"
    if class_count != 2 and metric == "val_sensitivity":
        problems[metric] = Problem(f"{metric} {needs}", "objective.metric", "write val_auprc")
    for trial in space.corners("loss"):
        if class_count != 2 and trial.loss == "bce":
            problems["loss"] = Problem(f"loss: bce {needs}", "loss", "use loss: cross_entropy")
    for trial in space.corners("synthetic_ratio", "source"):
        ratio = trial.synthetic_ratio
        if training_images and trial.source != "none" and not extra_images(ratio, training_images):
            what = f"{ratio:g} of {training_images} training images rounds to zero extra images"
            fix = f"use {1 / training_images:.2g} or more"
            problems.setdefault(fix, Problem(what, "synthetic_ratio", fix))
    if problems:
        raise ConfigError(*problems.values())


def space_warnings(space: Space) -> Iterator[str]:
    """Yield a warning about each parameter whose small values are hardly ever drawn."""
    for spec in space.specs:
        low = spec.values[0]
        high = spec.values[-1]
        if spec.distribution == "uniform" and 0 < 1000 * low <= high:
            fix = "if small values matter, too, write distribution: log_uniform_values"
            yield (
                f"{spec.name}: {spec} is drawn uniformly: nine of ten values are above "
                f"{high / 10:g}; {fix}"
            )
