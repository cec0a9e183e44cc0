"""What must hold at every point of a space, so that it can run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeAlias

from xraytune.base.errors import ConfigError, Problem
from xraytune.space.backbones import ENCODERS, has_weights
from xraytune.space.document import Document
from xraytune.space.domains import Range
from xraytune.space.fields import parameter_fields
from xraytune.space.messages import nearest
from xraytune.space.settings import OBJECTIVES, SOURCES, TaskName, extra_images, extra_per_step
from xraytune.space.space import Space, corner_points

Refusal: TypeAlias = tuple[str, str] | None
"""What is wrong, and how to fix it; None if the rule holds."""
_Check: TypeAlias = Callable[..., Refusal]
_FACTS = {"class_count", "training_images"}
"""What rules read of the images: the number of classes, and of real training images."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """A check of settings and parameters.

    Attributes:
        reads: Their dotted names; a problem is reported at the first one that the user has written.
        check: Gets their values, in this order; None for parameters of a block that is not used.
    """

    reads: tuple[str, ...]
    check: _Check

    def refusals(self, space: Space, facts: dict[str, int]) -> list[Refusal]:
        """Return the answer at each corner point of the parameters that it reads."""
        searched = [name for name in self.reads if name in parameter_fields()]
        values = {
            name: None if "." in name else parameter_fields()[name].default for name in searched
        }
        for name in {*self.reads} - {*searched}:
            values[name] = facts[name] if name in facts else attrgetter(name)(space.settings)
        return [
            self.check(*({**values, **point}[name] for name in self.reads))
            for point in corner_points(space.specs, searched)
        ]


_RULES: list[_Rule] = []


def _reads(*names: str) -> Callable[[_Check], _Check]:
    """Make a function the check of a rule that reads these settings and parameters."""

    def add(check: _Check) -> _Check:
        _RULES.append(_Rule(names, check))
        return check

    return add


@_reads("source", "folder.path", "generator.path", "statistics.path")
def _source_has_its_folder(source: str, *paths: str | None) -> Refusal:
    missing = dict(zip(("folder", "generator", "statistics"), paths, strict=True))
    if missing.get(source, "") is None:
        return f"source: {source} needs a folder", f"give {source}.path"
    return None


@_reads("source", "task")
def _task_takes_source(source: str, task: str) -> Refusal:
    if task != "classification" and (SOURCES.has(source) or source == "statistics"):
        what = f"source: {source} does not apply to task: {task}"
        return what, "use gan, generator, folder, duplicate or none"
    return None


@_reads("source", "trainable")
def _features_train_a_head(source: str, trainable: str) -> Refusal:
    if source == "statistics" and trainable != "head":
        return f"source: statistics has no use for trainable: {trainable}", "use trainable: head"
    return None


@_reads("weights", "backbone")
def _backbone_has_weights(weights: str, backbone: str) -> Refusal:
    if has_weights(weights, backbone):
        return None
    names = [name for name in ("imagenet", "hub") if has_weights(name, backbone)]
    fix = f"use weights: {' or '.join([*names, 'none'])}, or the path of a file"
    return f"weights: {backbone} has no weights called {weights}", fix


@_reads("trainable", "weights")
def _random_layers_are_trained(trainable: str, weights: str) -> Refusal:
    if trainable != "all" and weights == "none":
        what = f"trainable: {trainable} with weights: none leaves random layers untrained"
        return what, "use trainable: all"
    return None


@_reads("backbone", "task")
def _segmenter_has_encoder(backbone: str, task: str) -> Refusal:
    if task == "segmentation" and backbone not in ENCODERS:
        fix = nearest(backbone, ENCODERS)
        return f"backbone: {backbone} cannot be the encoder of a U-Net", fix
    return None


@_reads("gan.image_size", "data.image_size")
def _generated_images_are_not_reduced(generated_px: int | None, size_px: int) -> Refusal:
    if generated_px is not None and generated_px > size_px:
        what = f"gan.image_size: {generated_px} is more than data.image_size, {size_px}"
        return what, f"set data.image_size: {generated_px} or more, or a smaller gan.image_size"
    return None


@_reads("objective.metric", "task")
def _task_has_metric(metric: str, task: TaskName) -> Refusal:
    if metric not in OBJECTIVES[task]:
        what = f"objective.metric: {metric} does not apply to {task}"
        return what, f"write {' or '.join(OBJECTIVES[task])}"
    return None


@_reads("data.findings", "data.table", "task")
def _findings_are_those_of_a_table(findings: object, table: object, task: str) -> Refusal:
    if task == "findings" and (findings is None or table is None):
        fix = "describe the table, and write data.findings: auto or a list of its columns or labels"
        return "task: findings needs data.table and data.findings", fix
    if task != "findings" and findings is not None:
        return f"data.findings has no use for task: {task}", "use task: findings"
    return None


@_reads("synthetic_ratio", "batch_size", "mixing", "source")
def _batches_have_extra_images(ratio: float, size: int, mixing: str, source: str) -> Refusal:
    if source != "none" and extra_per_step(ratio, size, mixing) == 0:
        what = f"synthetic_ratio: {ratio:g} of batch_size: {size} rounds to zero extra images"
        return what, "raise one of them"
    return None


@_reads("synthetic_ratio", "source", "training_images")
def _ratio_adds_an_image(ratio: float, source: str, images: int) -> Refusal:
    if source != "none" and extra_images(ratio, images) == 0:
        what = f"{ratio:g} of {images} training images rounds to zero extra images"
        return what, f"use {1 / images:.2g} or more"
    return None


@_reads("loss", "objective.metric", "class_count")
def _two_classes_suit(loss: str, metric: str, class_count: int) -> Refusal:
    if class_count != 2 and (loss == "bce" or metric == "val_sensitivity"):
        setting = "loss: bce" if loss == "bce" else "objective.metric: val_sensitivity"
        what = f"{setting} requires two classes, but the images have {class_count}"
        return what, "use loss: cross_entropy" if loss == "bce" else "write val_auprc"
    return None


def check_space(space: Space, document: Document) -> None:
    """Check that every point of a space can run; problems are collected in the document."""
    for rule in _RULES:
        if not _FACTS.isdisjoint(rule.reads):
            continue
        paths = [
            ("parameters", name) if name in parameter_fields() else tuple(name.split("."))
            for name in rule.reads
        ]
        written = [path for path in paths if path in document.places]
        refusals = rule.refusals(space, {})
        advice = ", or keep the values apart with when:" if None in refusals else ""
        for fix, what in {fix: what for what, fix in filter(None, reversed(refusals))}.items():
            with document.collect():
                raise document.error((written or paths)[0], what, f"{fix}{advice}")


def check_images(space: Space, **facts: int) -> None:
    """Check the rules that read these facts of the images; ConfigError lists those that a point breaks."""
    problems: dict[str, Problem] = {}
    for rule in _RULES:
        if not facts.keys().isdisjoint(rule.reads):
            for what, fix in filter(None, rule.refusals(space, facts)):
                problems.setdefault(fix, Problem(what, rule.reads[0], fix))
    if problems:
        raise ConfigError(*problems.values())


def space_warnings(space: Space) -> Iterator[str]:
    """Yield a warning about each parameter whose small values are hardly ever drawn."""
    for spec in space.specs:
        domain = spec.domain
        if not isinstance(domain, Range) or domain.is_log or domain.is_integer:
            continue
        if 0 < 1000 * domain.low <= domain.high:
            fix = "if small values matter, too, write distribution: log_uniform_values"
            yield f"{spec.name}: {domain} is drawn uniformly: nine of ten values are above {domain.high / 10:g}; {fix}"
