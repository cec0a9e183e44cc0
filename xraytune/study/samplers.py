"""The sampler of a study, from its settings: one object for each trial.

A trial's sampler is seeded by the trial's number and knows nothing but the journal, so a restart
shifts no decision. tests/study/test_journal.py compares them for each sampler.
"""

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna import samplers
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from xraytune.base.errors import ConfigError
from xraytune.base.seeding import derive_seed
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.search_settings import SAMPLERS, SamplerSettings

optuna.logging.set_verbosity(optuna.logging.WARNING)  # no line for each trial
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "TPESampler": {"multivariate": True, "group": True, "constant_liar": True},
    "GPSampler": {"warn_independent_sampling": False},
    "NSGAIISampler": {},
    "QMCSampler": {"warn_independent_sampling": False, "warn_asynchronous_seeding": False},
}
"""The arguments of each class; options override them."""
_TRIED = 12
"""Trials in which a sampler of another package has to suggest the same values twice."""


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
    """Raise ConfigError if the sampler does not take its options, or cannot resume a search."""
    try:
        once, again = (_try(settings) for _ in range(2))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{settings.name}: {error}",
            "sampler.options",
            "its documentation lists the options; each sampler has to take a seed",
        ) from error
    if once != again:
        raise ConfigError(
            f"{settings.name}: with equal seeds and trials, it suggests other values, so that a "
            "resumed search would go another way",
            "sampler.name",
            "choose a sampler that takes all from its seed",
        )


def _try(settings: SamplerSettings) -> list[dict[str, Any]]:
    """Return what a sampler suggests in a few trials, if it comes from another package."""
    study = optuna.create_study(direction="maximize", sampler=NumberedSampler(settings, 0))
    for number in range(_TRIED if SAMPLERS.has(settings.name) else 0):
        study.sampler = NumberedSampler(settings, number)
        trial = study.ask()
        value = trial.suggest_float("lr", 0.001, 1, log=True)
        source = trial.suggest_categorical("source", ["none", "gan"])
        study.tell(trial, value if source == "gan" else 0.5)
    return [trial.params for trial in study.trials]


def _build_sampler(settings: SamplerSettings, number: int, purpose: str = "all") -> BaseSampler:
    seed = derive_seed(settings.seed, "sampler", number, purpose) % 2**32
    if SAMPLERS.has(settings.name):
        build: Callable[..., BaseSampler] = EXTENSIONS.load(settings.name)
        return build(**settings.options, seed=seed)
    name = settings.name if settings.name in _DEFAULTS else "TPESampler"
    arguments = {**_DEFAULTS[name], **settings.options, "seed": seed}
    if name == "QMCSampler" and purpose == "all":
        arguments["seed"] = settings.seed  # one sequence, whose points the journal counts
    if name in ("TPESampler", "GPSampler"):
        # Before its first result, TPE samples as RandomSampler does.
        is_random = settings.name in ("random", "grid")
        arguments["n_startup_trials"] = sys.maxsize if is_random else settings.startup_trials
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        sampler: BaseSampler = getattr(samplers, name)(**arguments)
        return sampler
