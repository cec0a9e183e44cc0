"""What a component of a study refuses: rules, declared beside the settings that they are about.

    @refuses("synthetic_weight", "mixing")
    def _weigh_pretraining(weight: float, mixing: str) -> Change:
        "A step of pretraining has only extra images, so their weight has no effect."
        return {"synthetic_weight": 1.0} if mixing == "pretrain" and weight != 1 else {}

A rule gets the values of the settings and parameters that it names, and nothing else. It returns
what to write instead, or nothing if the values go together. Its docstring is the reason, in the
error message as in the reference of spaces. A rule may also name facts of the images (`FACTS`),
and is checked once they are known.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from xraytune.base.records import frozen

Change: TypeAlias = Mapping[str, Any]
"""Values by the names of settings and parameters; the first name is the one to change."""
FACTS = {
    "class_count": "{:,} classes",
    "training_images": "{:,} training images",
    "total_steps": "{:,} steps in all",
}
"""Facts of the images that rules read, and how messages show them."""


@frozen
class Rule:
    """A rule about some settings and parameters.

    Attributes:
        names: Their dotted names, or `FACTS`, in the order of the arguments of `check`.
        why: Why it refuses values, as a sentence.
        check: Returns what to write instead of the values, or nothing.
        is_useless: Whether what it refuses does no harm, but has no effect.
    """

    names: tuple[str, ...]
    why: str
    check: Callable[..., Change]
    is_useless: bool = False


def refuses(*names: str, is_useless: bool = False) -> Callable[[Callable[..., Change]], Rule]:
    """Make a rule of a function of the values of these names.

    A rule that `is_useless` refuses the first of these names where it would have no effect.
    """

    def decorate(check: Callable[..., Change]) -> Rule:
        assert check.__doc__, "its docstring is the reason"
        why = " ".join(check.__doc__.split())
        return Rule(names=names, why=why, check=check, is_useless=is_useless)

    return decorate


@dataclass(frozen=True, slots=True)
class Unless:
    """A parameter has no effect where another one has one of these values.

    It is part of the annotation of the parameter.
    """

    parameter: str
    values: tuple[Any, ...]
