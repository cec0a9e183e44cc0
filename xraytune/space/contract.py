"""Rules about what the components of a study refuse, declared beside the settings they are about.

    @refuses("synthetic_weight", "mixing", instead=1.0)
    def _weigh_pretraining(weight: float, mixing: str) -> bool:
        "A step of pretraining has only extra images, so their weight has no effect."
        return mixing == "pretrain" and weight != 1

A rule gets the values of the settings and parameters that it names, and nothing else. It returns
whether it refuses them, and `instead` is what to write for the first name; a rule whose advice
depends on the values returns what to write, or nothing. Its docstring is the reason that the error
message and the reference of spaces show. A rule may also name facts of the images (`FACTS`); it is
then checked once these facts are known.
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
        names: The dotted names of settings and parameters, or of `FACTS`, in the order of the
            arguments of `check`.
        why: The reason why the rule refuses values, as a sentence.
        check: Returns whether the rule refuses the values or, if it depends on them, what to write
            instead.
        instead: What to write for the first name, instead of values that `check` only refuses.
        is_useless: Whether refused values do no harm, but have no effect.
    """

    names: tuple[str, ...]
    why: str
    check: Callable[..., Change | bool]
    instead: object = None
    is_useless: bool = False

    def change(self, *values: Any) -> Change:
        """Return what to write instead of some values, or nothing if they go together."""
        refused = self.check(*values)
        return {self.names[0]: self.instead} if refused is True else refused or {}


DECLARED: list[Rule] = []
"""The rules that `refuses` has made so far."""


def refuses(
    *names: str, instead: object = None, is_useless: bool = False
) -> Callable[[Callable[..., Change | bool]], Rule]:
    """Declare a rule: a function whose arguments are the values of these names.

    A rule that `is_useless` refuses the first of these names where it would have no effect.
    """

    def decorate(check: Callable[..., Change | bool]) -> Rule:
        assert check.__doc__, "its docstring is the reason"
        why = " ".join(check.__doc__.split())
        rule = Rule(names=names, why=why, check=check, instead=instead, is_useless=is_useless)
        DECLARED.append(rule)
        return rule

    return decorate


@dataclass(frozen=True, slots=True)
class Unless:
    """A parameter has no effect where another one has one of these values, or any but these.

    An `Unless` is part of the annotation of the parameter.
    """

    parameter: str
    values: tuple[Any, ...]

    is_inverse: bool = False

    def permits(self, value: Any) -> bool:
        """Return whether the parameter has an effect at a value of the other one."""
        return (value in self.values) == self.is_inverse
