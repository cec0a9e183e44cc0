"""Optuna's samplers, seeded by the trial's number and, where they draw one parameter at a time, by its name.

So a restart shifts no draw: a trial that was killed between two parameters gets the same remaining ones.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from xraytune.config.settings import Parameters, SamplerSettings
from xraytune.config.space import Point, Space
from xraytune.seeding import derive_seed


class NumberedSampler(BaseSampler):
    """The sampler of one trial; the points of `grid` are enqueued, so nothing is left to sample.

    Args:
        settings: The study's sampler.
        number: The trial's number.
    """

    def __init__(self, settings: SamplerSettings, number: int) -> None:
        self._settings, self._number = settings, number
        self._joint = self._sampler("all")

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are drawn together."""
        return self._joint.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw the parameters that are drawn together."""
        return self._joint.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """Draw one parameter."""
        return self._sampler(param_name).sample_independent(study, trial, param_name, param_distribution)

    def _sampler(self, purpose: str) -> BaseSampler:
        seed = derive_seed(self._settings.seed, "sampler", self._number, purpose) % 2**32
        if self._settings.name != "tpe":
            return RandomSampler(seed=seed)
        with quiet_optuna():
            return TPESampler(
                n_startup_trials=self._settings.startup_trials,
                multivariate=True,
                group=True,
                constant_liar=True,
                seed=seed,
            )


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Suppress Optuna's warnings about experimental features and its log lines for each trial."""
    logging.getLogger("optuna").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def random_parameters(space: Space, seed: int, *, points: Sequence[Point] = ()) -> Iterator[Parameters]:
    """Yield these points, then independent random draws forever; the same seed yields the same draws."""
    with quiet_optuna():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        for point in points:
            study.enqueue_trial(point)
        while True:
            yield space.suggest(study.ask())
