"""Simulated searches, whose times follow from the work of their trials."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

import pytest

from xraytune.search.asha import Rungs
from xraytune.search.forecast import Shared, Simulation, Work


def simulated(
    *works: Work,
    slots: int = 2,
    generator_slots: int = 1,
    fixed: int = 0,
    processes: int = 99,
    rungs: Rungs | None = None,
    values: Sequence[float] | None = None,
    trained: dict[Hashable, set[int]] | None = None,
) -> Simulation:
    """Nine epochs, and later trials have better values."""
    never = Rungs(grace=9, reduction=3, max_epochs=9)
    return Simulation(
        works=works,
        slots=slots,
        generator_slots=generator_slots,
        fixed=fixed,
        processes=processes,
        rungs=rungs or never,
        last_epoch=9,
        values=values or range(len(works)),
        trained=defaultdict(set, trained or {}),
    ).run()


def of_gan(steps: int) -> Work:
    return Work(
        lineage="gan", steps=steps, step=1.0, before_steps=5.0, generator_bytes=10.0, shared={}, own=1.0, epoch=0.0
    )


def test_trials_share_the_slots() -> None:
    works = [Work(shared={}, own=1.0, epoch=1.0)] * 5

    assert simulated(*works, slots=1).wall == pytest.approx(50)
    assert simulated(*works, slots=2).wall == pytest.approx(30)


def test_a_longer_run_of_a_generator_waits_for_the_shorter_one_and_continues_it() -> None:
    found = simulated(of_gan(100), of_gan(300))

    assert found.wall == pytest.approx(1 + 5 + 100 + 1 + 5 + 200 + 1)
    assert (found.generators, sum(found.sizes.values())) == (2, 20.0)


def test_others_run_while_a_generator_is_trained() -> None:
    short = Work(shared={}, own=10.0, epoch=0.0)

    assert simulated(of_gan(100), of_gan(100), short, short).wall == pytest.approx(1 + 5 + 100 + 1)


def test_a_generator_waits_for_the_slots_that_it_occupies_and_starts_first() -> None:
    """Trial 0 runs for 10 s, then the GAN of trial 1 on both slots, then the rest of trial 1 beside trial 2."""
    own = Work(shared={}, own=10.0, epoch=0.0)
    works = own, of_gan(100), own

    assert simulated(*works, generator_slots=2).wall == pytest.approx(10 + 1 + 5 + 100 + 10)
    assert simulated(*works, generator_slots=2, fixed=2).wall == pytest.approx(1 + 5 + 100 + 1 + 10)


def test_processes_that_have_run_a_trial_start_the_next_one_at_once() -> None:
    works = [Work(shared={}, own=1.0, epoch=1.0)] * 5

    assert simulated(*works, slots=1, processes=1).wall == pytest.approx(1 + 5 * 9)


def test_generators_in_the_cache_take_no_time() -> None:
    found = simulated(of_gan(100), trained={"gan": {100}})

    assert (found.wall, found.generators) == (1.0, 0)


def test_shared_work_is_done_once_and_the_rest_is_saved() -> None:
    work = Work(shared={"features": Shared(50.0, 7.0)}, own=1.0, epoch=0.0)

    found = simulated(work, work, slots=1)

    assert (found.wall, found.alone, sum(found.sizes.values())) == (52.0, 102.0, 7.0)


def test_asha_prunes_trials_that_are_worse_than_earlier_ones() -> None:
    works = [Work(shared={}, own=0.0, epoch=1.0)] * 4
    rungs = Rungs(grace=1, reduction=3, max_epochs=9)

    found = simulated(*reversed(works), slots=1, rungs=rungs)
    worsening = simulated(*works, slots=1, rungs=Rungs(grace=1, reduction=3, max_epochs=9), values=[4, 3, 2, 1])

    assert found.epochs == {0: 9, 1: 9, 2: 9, 3: 9}
    assert worsening.epochs == {0: 9, 1: 1, 2: 1, 3: 1}
    assert (worsening.wall, worsening.pruned) == (12.0, 24.0)
