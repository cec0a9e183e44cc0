"""The sampler of a study, from its settings: one object for each trial.

A trial's sampler is seeded by the trial's number and knows nothing but the journal, so a restart
shifts no decision. tests/study/test_journal.py compares them for each sampler.
"""

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from optuna import samplers
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from xraytune.base.errors import ConfigError
from xraytune.base.seeding import derive_seed
from xraytune.space.settings import SamplerSettings

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "TPESampler": {"multivariate": True, "group": True, "constant_liar": True},
    "GPSampler": {"warn_independent_sampling": False},
    "NSGAIISampler": {},
    "QMCSampler": {"warn_independent_sampling": False, "warn_asynchronous_seeding": False},
}
"""The arguments of each class; options override them."""


class NumberedSampler(BaseSampler):
    """The sampler of one trial.

    A parameter that is suggested on its own has a seed of its own name, so that it does not depend
    on the order of parameters. The points of `grid` are enqueued, so nothing is left to sample.
    """

    def __init__(self, settings: SamplerSettings, number: int) -> None:
        self._settings = settings
        self._number = number
        self._sampler = _build_sampler(settings, number)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the parameters that are suggested together."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Suggest them."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Suggest one of the others."""
        sampler = _build_sampler(self._settings, self._number, param_name)
        return sampler.sample_independent(study, trial, param_name, param_distribution)


def require_sampler(settings: SamplerSettings) -> None:
    """Raise ConfigError if the sampler does not take its options."""
    try:
        _build_sampler(settings, 0)
    except (TypeError, ValueError) as error:
        fix = "the documentation of optuna.samplers lists the options"
        raise ConfigError(f"{settings.name}: {error}", "sampler.options", fix) from error


def _build_sampler(settings: SamplerSettings, number: int, purpose: str = "all") -> BaseSampler:
    name = settings.name if settings.name in _DEFAULTS else "TPESampler"
    arguments = {**_DEFAULTS[name], **settings.options}
    arguments["seed"] = derive_seed(settings.seed, "sampler", number, purpose) % 2**32
    if name == "QMCSampler" and purpose == "all":
        arguments["seed"] = settings.seed  # one sequence, whose points the journal counts
    if name in ("TPESampler", "GPSampler"):
        # Before its first result, TPE samples as RandomSampler does.
        is_random = settings.name in ("random", "grid")
        arguments["n_startup_trials"] = sys.maxsize if is_random else settings.startup_trials
    build: Callable[..., BaseSampler] = getattr(samplers, name)
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        return build(**arguments)
