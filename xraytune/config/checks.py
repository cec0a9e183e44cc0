"""Checks how a space's parameters go together, and brings them into one order, parents first.

Takes what a document declares, gives all specs of a `Space`: undeclared parameters with their defaults, those that
only one source uses with that condition, and none that can never count. So any point of the space can run, and
different points are different trials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from graphlib import CycleError, TopologicalSorter

from pydantic import ValidationError

from xraytune.config.backbone_names import WEIGHT_SETS, size_refusal
from xraytune.config.document import Document, Problems
from xraytune.config.domains import Choices, Value
from xraytune.config.fields import RULES_READ, USED_ONLY_BY, parameter_fields, parameters_from
from xraytune.config.grammar import ROOT, Declaration, join_conditions
from xraytune.config.messages import explain, group_regex_refusal, nearest
from xraytune.config.settings import Settings
from xraytune.config.space import Condition, ParameterSpec, Point, corner_points, family_of

_EXPLAINED_COMBINATIONS = 20


def complete_specs(
    declared: Mapping[str, Declaration], unsaid: Mapping[str, Value], document: Document, problems: Problems
) -> tuple[ParameterSpec, ...]:
    """All specs of the space, parents first; none when conditions go round in a circle.

    Args:
        declared: What the document declares.
        unsaid: Values of parameters that it does not declare, instead of their defaults.
        document: For the places of problems.
        problems: Collects them.
    """
    written = {name: declaration.spec for name, declaration in declared.items() if declaration.spec}
    specs = {
        name: written.get(name) or ParameterSpec(name=name, domain=Choices((unsaid.get(name, field.default),)))
        for name, field in parameter_fields().items()
        if name in written or not field.is_required
    }
    specs = {name: _used_by_its_sources(spec, specs["source"]) for name, spec in specs.items()}
    ordered = _parents_first(specs, declared, problems)
    counting = tuple(spec for spec in ordered if _can_count(spec, ordered))
    if ordered:
        for name in written.keys() - {spec.name for spec in counting}:
            _refuse_impossible(specs[name], specs, declared, document, problems)
    return counting


def _used_by_its_sources(spec: ParameterSpec, source: ParameterSpec) -> ParameterSpec:
    """The spec with the condition that the source uses it, unless every source of the space does."""
    using = USED_ONLY_BY.get(spec.name.partition(".")[0])
    if using is None or not isinstance(source.domain, Choices):
        return spec
    accepted = tuple(value for value in source.domain.values if using(value))
    if accepted == source.domain.values and not source.when:
        return spec
    return replace(spec, when=join_conditions(*spec.when, Condition(parameter="source", one_of=accepted)))


def _parents_first(
    specs: Mapping[str, ParameterSpec], declared: Mapping[str, Declaration], problems: Problems
) -> tuple[ParameterSpec, ...]:
    parents = {name: [condition.parameter for condition in spec.when] for name, spec in specs.items()}
    try:
        TopologicalSorter(parents).prepare()
    except CycleError as error:
        circle = error.args[1]
        first = next(name for name in circle if name in declared)
        what = f"{first}: its condition depends on itself ({' <- '.join(circle)})"
        problems.add(declared[first].when_path, what, "remove one of these conditions")
        return ()
    ordered: dict[str, ParameterSpec] = {}

    def place(name: str) -> None:
        if name in specs and name not in ordered:
            for parent in parents[name]:
                place(parent)
            ordered[name] = specs[name]

    for name in specs:
        place(name)
    return tuple(ordered.values())


def _can_count(spec: ParameterSpec, ordered: Sequence[ParameterSpec]) -> bool:
    return not spec.when or any(spec.name in point for point in corner_points(ordered, [spec.name]))


def _refuse_impossible(
    spec: ParameterSpec,
    specs: Mapping[str, ParameterSpec],
    declared: Mapping[str, Declaration],
    document: Document,
    problems: Problems,
) -> None:
    """Refuse a condition that a person wrote and that never holds, unless a command-line option made it so."""
    declaration = declared[spec.name]
    written = declaration.spec.when if declaration.spec else ()
    family = family_of([condition.parameter for condition in written], specs)
    known = [declared[name] for name in family if name in declared]
    if any(one.spec is None or document.place(one.path).is_on_command_line for one in known):
        return
    if written:
        parents = [condition.parameter for condition in written]
        domains = [f"{name} is {specs[name].domain if name in specs else 'not given'}" for name in parents]
        what = f"when: {' and '.join(map(str, written))}: this never holds, for {' and '.join(domains)} in this space"
        problems.add(declaration.when_path, what, f"change the condition, or the values of {' and '.join(parents)}")


def refuse_equality_on_ranges(
    specs: Iterable[ParameterSpec], declared: Mapping[str, Declaration], problems: Problems
) -> None:
    """Refuse `when: {lr: 1e-3}` where lr is drawn from a continuous range: it would hold by chance, that is never."""
    domains = {spec.name: spec.domain for spec in specs}
    for spec in specs:
        for condition in spec.when:
            domain = domains[condition.parameter]
            if condition.one_of is not None and domain.points() is None:
                what = f"when: {condition}: this never holds, {condition.parameter} is any number from {domain}"
                problems.add(declared[spec.name].when_path, what, f"write {{{condition.parameter}: {{gt: ...}}}}")


def check_rules(specs: Sequence[ParameterSpec], declared: Mapping[str, Declaration], problems: Problems) -> None:
    """Try each combination that the rules of `Parameters` read; a range is tried at its ends."""
    for group in RULES_READ:
        passing: list[Point] = []
        failing: dict[str, list[tuple[str, Point]]] = {}
        for point in corner_points(specs, group):
            try:
                parameters_from(point)
                passing.append(point)
            except ValidationError as error:
                what, fix = explain("parameters", error.errors()[0])
                failing.setdefault(fix, []).append((what, point))
        for fix, failures in failing.items():
            blamed = [(what, point, _blame(point, passing)) for what, point in failures[:_EXPLAINED_COMBINATIONS]]
            what, point, names = max(blamed, key=lambda one: len(one[2]))
            unsaid = [f"{name} is {point[name]}" for name in names if f"{name}:" not in what]
            where = f" where {' and '.join(unsaid)}" if unsaid else ""
            name = what.partition(":")[0]
            path = declared[name].path if name in declared else ROOT
            problems.add(path, what + where, f"{fix}, or keep the values apart with when:" if names else fix)


def check_against_settings(
    specs: Sequence[ParameterSpec], settings: Settings, declared: Mapping[str, Declaration], problems: Problems
) -> None:
    """Refuse what does not go with the images (sizes, three classes) and names that nobody knows (weights, patients)."""
    if settings.data.split.group_regex is not None and (
        refusal := group_regex_refusal(settings.data.split.group_regex)
    ):
        what, fix = refusal
        problems.add(("data", "split", "group_regex"), f"data.split.group_regex: {what}", fix)
    refusals: dict[str, Callable[[str], tuple[str, str] | None]] = {
        "backbone": partial(size_refusal, image_size_px=settings.data.image_size),
        "weights": _unpublished_refusal,
        "loss": partial(_three_class_refusal, classes=settings.data.classes),
        "gan.image_size": partial(_enlarging_refusal, image_size_px=settings.data.image_size),
    }
    for name, refusal_of in refusals.items():
        for value in dict.fromkeys(point[name] for point in corner_points(specs, [name]) if name in point):
            if refusal := refusal_of(str(value)):
                problems.add(declared[name].path if name in declared else ROOT, *refusal)


def _three_class_refusal(loss: str, classes: str) -> tuple[str, str] | None:
    """Why a loss is not for these classes, and the fix; None: it is."""
    if loss != "bce" or classes != "three":
        return None
    return "loss: bce is for two classes, and data.classes is three", "use loss: cross_entropy"


def _unpublished_refusal(weights: str) -> tuple[str, str] | None:
    """Why there can be no such set of weights, and the fix; None: there may be."""
    if not weights.startswith("IMAGENET1K_") or weights in WEIGHT_SETS:
        return None
    return f"weights: torchvision has no set '{weights}'", nearest(weights, WEIGHT_SETS)


def _enlarging_refusal(gan_size_px: str, image_size_px: int) -> tuple[str, str] | None:
    """Why a GAN cannot be of this size, and the fix; None: it can."""
    if int(gan_size_px) <= image_size_px:
        return None
    what = (
        f"gan.image_size: {gan_size_px} is more than data.image_size, {image_size_px}: it would learn enlarged images"
    )
    return what, f"set data.image_size: {gan_size_px} or more, or a smaller gan.image_size"


def _blame(failed: Point, passing: Sequence[Point]) -> list[str]:
    """The parameters of a point that cannot run of which another value, alone, would do."""
    blamed = set()
    for point in passing:
        different = [name for name in failed.keys() & point.keys() if failed[name] != point[name]]
        if len(different) == 1:
            blamed.add(different[0])
    return [name for name in failed if name in blamed]


def check_grid(specs: Iterable[ParameterSpec], declared: Mapping[str, Declaration], problems: Problems) -> None:
    """Refuse continuous ranges where the sampler lists all points."""
    for spec in specs:
        if spec.domain.points() is None:
            what = f"{spec.name}: sampler: grid cannot list all numbers from {spec.domain}"
            problems.add(declared[spec.name].path, what, "give step: or values:, or choose another sampler")
