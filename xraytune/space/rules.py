"""Complete the parameters that a document declares to those of a `Space`, and check that every point of it can run.

Parameters that are not declared get their defaults, those without an effect at some sources get a
condition on `source`, and those that can never be active are dropped. So different points are
different trials.

`RULES` is what must hold at every point. The rules that read facts of the images are checked once
these are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil

from xraytune.base.errors import ConfigError, Problem, join_names
from xraytune.space.backbones import ENCODER_STRIDE_PX, ENCODERS
from xraytune.space.document import Problems
from xraytune.space.domains import Choices, Range
from xraytune.space.fields import parameter_fields
from xraytune.space.grammar import is_overridden, join_conditions, path_of, when_nodes
from xraytune.space.messages import group_regex_problem, nearest
from xraytune.space.settings import (
    SOURCES,
    Parameters,
    Settings,
    extra_images,
    has_effect_in,
    has_effect_with,
    pretraining_steps,
)
from xraytune.space.space import Condition, ParameterSpec, Space, corner_points, family_of
from xraytune.space.strict_model import Refusals, Rule, reads

FACTS = ("class_count", "training_images", "total_steps")
"""What rules read of the images: the number of classes, of real training images, and of the steps of a full run."""


@reads("source", "task")
def _extensions_only_classify(source: str, task: str) -> Refusals:
    if task != "classification" and (SOURCES.has(source) or source == "statistics"):
        yield (
            f"source: {source} does not apply to task: {task}",
            "use gan, generator, folder, duplicate or none",
        )


@reads("source", "trainable")
def _features_train_a_head(source: str, trainable: str) -> Refusals:
    if source == "statistics" and trainable != "head":
        what = f"source: statistics draws features, which trainable: {trainable} has no use for"
        yield what, "use trainable: head"


@reads("balance", "source", "task")
def _findings_keep_their_proportions(balance: str, source: str, task: str) -> Refusals:
    if (balance, source, task) == ("equal", "folder", "findings"):
        what = "balance: equal does not apply to a folder of images with findings"
        yield what, "write balance: natural, or leave images out of the folder's table"


@reads("backbone", "task")
def _segmenter_has_encoder(backbone: str, task: str) -> Refusals:
    if task == "segmentation" and backbone not in ENCODERS:
        fix = nearest(backbone, ENCODERS, f"use one of: {', '.join(ENCODERS)}")
        yield f"backbone: {backbone} cannot be the encoder of a U-Net", fix


@reads("data.image_size", "task")
def _segmenter_halves_the_image(size_px: int, task: str) -> Refusals:
    if task == "segmentation" and size_px % ENCODER_STRIDE_PX != 0:
        what = f"data.image_size: {size_px} is not a multiple of {ENCODER_STRIDE_PX}, which a U-Net needs"
        yield what, f"write {ceil(size_px / ENCODER_STRIDE_PX) * ENCODER_STRIDE_PX}"


@reads("gan.image_size", "data.image_size")
def _generated_images_are_not_reduced(generated_px: int | None, size_px: int) -> Refusals:
    if generated_px is not None and generated_px > size_px:
        what = f"gan.image_size: {generated_px} is more than data.image_size, {size_px}"
        yield what, f"set data.image_size: {generated_px} or more, or a smaller gan.image_size"


@reads("data.findings", "task")
def _findings_are_used(findings: object, task: str) -> Refusals:
    if task != "findings" and findings is not None:
        yield f"data.findings has no use for task: {task}", "use task: findings"


@reads("data.split.group_regex")
def _regex_finds_patients(group_regex: str | None) -> Refusals:
    what, fix = group_regex_problem(group_regex) if group_regex is not None else ("", "")
    if what:
        yield f"data.split.group_regex: {what}", fix


@reads("loss", "class_count")
def _single_neuron_has_two_classes(loss: str, class_count: int) -> Refusals:
    if loss == "bce" and class_count != 2:
        yield (
            f"loss: bce requires two classes, but the images have {class_count}",
            "use loss: cross_entropy",
        )


@reads("objective.metric", "class_count")
def _sensitivity_has_two_classes(metric: str, class_count: int) -> Refusals:
    if metric == "val_sensitivity" and class_count != 2:
        what = f"objective.metric: val_sensitivity requires two classes, but the images have {class_count}"
        yield what, "write val_auprc"


@reads("synthetic_ratio", "source", "training_images")
def _ratio_adds_an_image(ratio: float, source: str, images: int) -> Refusals:
    if source != "none" and extra_images(ratio, images) == 0:
        what = f"{ratio:g} of {images} training images rounds to zero extra images"
        yield what, f"use {1 / images:.2g} or more"


@reads("mixing", "synthetic_ratio", "source", "total_steps")
def _pretraining_leaves_steps(mixing: str, ratio: float, source: str, steps: int) -> Refusals:
    if source == "none" or mixing != "pretrain":
        return
    extra = pretraining_steps(ratio, steps)
    if not 0 < extra < steps:
        what = (
            f"pretrain at synthetic_ratio: {ratio:g} divides {steps} steps into {extra} with extra images and "
            f"{steps - extra} with real ones"
        )
        yield what, "use a synthetic_ratio closer to 1, or more steps"


RULES: tuple[Rule, ...] = (
    *Parameters.rules,
    _extensions_only_classify,
    _features_train_a_head,
    _findings_keep_their_proportions,
    _segmenter_has_encoder,
    _segmenter_halves_the_image,
    _generated_images_are_not_reduced,
    _findings_are_used,
    _regex_finds_patients,
    _single_neuron_has_two_classes,
    _sensitivity_has_two_classes,
    _ratio_adds_an_image,
    _pretraining_leaves_steps,
)


def space_warnings(space: Space) -> Iterator[str]:
    """Yield a warning about each parameter whose small values are hardly ever drawn."""
    for spec in space.specs:
        domain = spec.domain
        if not isinstance(domain, Range) or domain.is_log or domain.is_integer:
            continue
        if 0 < 1000 * domain.low <= domain.high and has_effect_in(space.settings.task, spec.name):
            fix = "if small values matter, too, write distribution: log_uniform_values"
            yield f"{spec.name}: {domain} is drawn uniformly: nine of ten values are above {domain.high / 10:g}; {fix}"


def complete_specs(
    declared: Mapping[str, ParameterSpec], problems: Problems
) -> tuple[ParameterSpec, ...]:
    """Return all parameters of the space, parents first; RejectedError if conditions form a cycle."""
    specs = {
        name: declared.get(name) or ParameterSpec(name=name, domain=Choices((field.default,)))
        for name, field in parameter_fields().items()
        if name in declared or not field.is_required()
    }
    specs = {name: _where_it_has_an_effect(spec, specs["source"]) for name, spec in specs.items()}
    ordered = _parents_first(specs, problems)
    active = [
        spec
        for spec in ordered
        if not spec.when or any(spec.name in p for p in corner_points(ordered, [spec.name]))
    ]
    for name in declared.keys() - {spec.name for spec in active}:
        when = declared[name].when
        if when and not is_overridden(
            problems.root, family_of([condition.parameter for condition in when], specs)
        ):
            what = f"when: {' and '.join(map(str, when))} is never true in this space"
            fix = f"change the condition, or the values of {' and '.join(condition.parameter for condition in when)}"
            problems.add(when_nodes(problems.root, name)[0], what, fix)
    return tuple(active)


def _where_it_has_an_effect(spec: ParameterSpec, source: ParameterSpec) -> ParameterSpec:
    assert isinstance(source.domain, Choices), "sources have no order"
    name = spec.name.partition(".")[0]
    possible = (*source.domain.values, *(["none"] if source.when else []))
    accepted = tuple(value for value in possible if has_effect_with(value, name))
    if accepted == possible:
        return spec
    return replace(
        spec, when=join_conditions(*spec.when, Condition(parameter="source", one_of=accepted))
    )


def _parents_first(
    specs: Mapping[str, ParameterSpec], problems: Problems
) -> tuple[ParameterSpec, ...]:
    ordered: dict[str, ParameterSpec] = {}

    def place(name: str, *children: str) -> None:
        if name in children:
            cycle = [name, *children[: children.index(name) + 1]]
            when = next(node for member in cycle for node in when_nodes(problems.root, member))
            what = f"{name}: its condition depends on itself ({' <- '.join(cycle)})"
            problems.reject(when, what, "remove one of these conditions")
        if name in specs and name not in ordered:
            for condition in specs[name].when:
                place(condition.parameter, name, *children)
            ordered[name] = specs[name]

    for name in specs:
        place(name)
    return tuple(ordered.values())


def check_space(
    specs: Sequence[ParameterSpec], settings: Settings | None, problems: Problems
) -> None:
    """Check that every point of a space can run; of rules that read settings, only if these are valid."""
    root = problems.root
    if settings and settings.sampler.name == "grid":
        for spec in specs:
            if spec.domain.points() is None:
                what = f"{spec.name}: sampler: grid cannot list all numbers from {spec.domain}"
                problems.add(
                    root.nearest(path_of(root, spec.name)),
                    what,
                    "give values:, or choose another sampler",
                )
    for rule in RULES:
        searched = [name for name in rule.reads if name in parameter_fields()]
        refusals = _refusals(rule, specs, settings, {})
        advice = (
            ", or keep the values apart with when:"
            if None in refusals and len(searched) > 1
            else ""
        )
        paths = [
            path_of(root, name) if name in searched else name.split(".") for name in rule.reads
        ]
        written = [node for path in paths if (node := root.get(*path))]
        for fix, what in {fix: what for what, fix in filter(None, reversed(refusals))}.items():
            problems.add((written or [root.nearest(paths[0])])[0], what, f"{fix}{advice}")
    if settings:
        _check_effects(specs, settings, problems)


def check_images(space: Space, **facts: int) -> None:
    """Check the rules that read some of the `FACTS` of the images; ConfigError lists those that a point breaks."""
    problems: dict[str, Problem] = {}
    for rule in RULES:
        if not facts.keys().isdisjoint(rule.reads):
            for what, fix in filter(None, _refusals(rule, space.specs, space.settings, facts)):
                problems.setdefault(fix, Problem(what, rule.reads[0], fix))
    if problems:
        raise ConfigError(*problems.values())


def _refusals(
    rule: Rule, specs: Sequence[ParameterSpec], settings: Settings | None, facts: Mapping[str, int]
) -> list[tuple[str, str] | None]:
    """Return the rule's answer at each corner point of the parameters that it reads; [] if it reads what is not known."""
    searched = [name for name in rule.reads if name in parameter_fields()]
    others = [name for name in rule.reads if name not in searched]
    known = {name: facts.get(name, settings and settings.at(name)) for name in others}
    # Those of parameters that are not active; None in blocks that are not used.
    defaults = {
        name: None if "." in name else field.default for name, field in parameter_fields().items()
    }
    if (settings is None and others) or any(
        name in FACTS and known[name] is None for name in others
    ):
        return []
    return [
        rule.refusal({**defaults, **point, **known}) for point in corner_points(specs, searched)
    ]


def _check_effects(specs: Sequence[ParameterSpec], settings: Settings, problems: Problems) -> None:
    """Refuse values of parameters without an effect in the study, except their defaults."""
    fields = parameter_fields()
    unused = [spec for spec in specs if not has_effect_in(settings.task, spec.name)]
    if changed := [
        spec.name for spec in unused if spec.domain != Choices((fields[spec.name].default,))
    ]:
        what = f"task: {settings.task} has no use for {join_names(changed)}"
        problems.add(problems.root.nearest(path_of(problems.root, changed[0])), what, "remove them")
