"""A training step as a CUDA graph: recorded once, then replayed as a whole.

A DCGAN's step is about a thousand short kernels, and starting each from Python takes several times as long as running
it (`benchmarks/training.py`).

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xraytune.gan.step import StepDraws

Step = Callable[[StepDraws], Tensor]
_EAGER_STEPS = 3
"""Run one by one first: cuDNN chooses its algorithms then, and what a first step sets up is no part of the recording."""


def replayed(step: Step) -> Step:
    """`step`, recorded at its fourth call; a result lasts until the next call.

    Args:
        step: Does the same operations on tensors of the same shapes each time, whatever the draws.
    """
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    calls = 0
    recorded: tuple[StepDraws, Tensor]

    def run(draws: StepDraws) -> Tensor:
        nonlocal calls, recorded
        calls += 1
        if calls <= _EAGER_STEPS:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                result = step(draws)
            torch.cuda.current_stream().wait_stream(stream)
            return result
        if calls == _EAGER_STEPS + 1:
            kept = StepDraws(*(draw.clone() for draw in draws))
            # Other threads may use the GPU meanwhile: a tracker's, a progress display's.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                result = step(kept)
            recorded = kept, result
        kept, result = recorded
        for place, draw in zip(kept, draws, strict=True):
            place.copy_(draw)
        graph.replay()
        return result

    return run
