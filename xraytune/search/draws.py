"""Settings drawn at random from a whole space, apart from any search."""

from __future__ import annotations

from collections.abc import Iterator

import optuna

from xraytune.config.settings import Parameters
from xraytune.config.space import Space
from xraytune.search.sampler import quiet_optuna


def random_parameters(space: Space, seed: int) -> Iterator[Parameters]:
    """Independent draws without end, as Optuna's random sampler gives them; the same seed gives the same ones."""
    with quiet_optuna():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        while True:
            yield space.suggest(study.ask())
