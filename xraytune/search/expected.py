"""What a search will train, estimated from random trials before it starts."""

from itertools import cycle, islice

from xraytune.data.prepare import SplitData
from xraytune.space.cost import Work
from xraytune.space.settings import Parameters
from xraytune.space.space import Space
from xraytune.study.journal import random_parameters

_MOST_DRAWN = 200


def expected_trials(space: Space) -> list[Parameters]:
    """Return as many random trials as the search will have; the search's sampler may draw others.

    If there are many trials, only some of them are drawn, and then repeated.
    """
    count = space.trial_budget()
    drawn = [*islice(random_parameters(space, space.settings.seed), min(count, _MOST_DRAWN))]
    return [*islice(cycle(drawn), count)]


def search_work(space: Space, prepared: SplitData) -> Work:
    """Return the trainings of a search."""
    return Work(
        settings=space.settings,
        trainings=expected_trials(space),
        train_images=sum(prepared.train_counts),
        epoch_steps=prepared.steps_per_epoch(space.settings),
        held_out_images=len(prepared.side("val_a")) + len(prepared.side("val_b")),
    )
