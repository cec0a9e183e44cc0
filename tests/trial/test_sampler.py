"""The streams: the same real images in every arm, each once in a pass, with no state to lose."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xraytune.trial.training_set import Stream, image_stream


def real_stream(count: int = 37, per_step: int = 8, seed: int = 7, views: int = 8) -> Stream:
    return image_stream(seed, "real", np.arange(count), per_step=per_step, view_count=views)


@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 8))
def test_every_pass_shows_each_image_once(count: int, per_step: int, passes: int) -> None:
    stream = real_stream(count, per_step)
    needed = -(-count * passes // per_step)

    shown = np.concatenate([stream(step)[0] for step in range(needed)])[: count * passes]

    assert (np.sort(shown.reshape(passes, count), axis=1) == np.arange(count)).all()


def test_a_step_depends_on_neither_earlier_draws_nor_another_stream() -> None:
    """A resumed trial draws what an uninterrupted one does; arms share their real images."""
    straight = real_stream()
    resumed = real_stream()
    extra = image_stream(7, "extra", np.arange(20), per_step=4, view_count=8)
    for step in range(40):
        straight(step)
        extra(step)

    for step in (39, 3, *range(30)):
        assert np.array_equal(straight(step), resumed(step))


def test_draws_are_stable_across_versions() -> None:
    """Streams are not stored: later versions must draw the same images."""
    stream = real_stream(count=6, per_step=4)

    assert [stream(step)[0].tolist() for step in range(3)] == [
        [5, 2, 4, 0],
        [1, 3, 0, 2],
        [3, 5, 1, 4],
    ]
    assert [stream(step)[1].tolist() for step in range(3)] == [
        [7, 5, 1, 4],
        [7, 2, 2, 4],
        [6, 6, 1, 5],
    ]
