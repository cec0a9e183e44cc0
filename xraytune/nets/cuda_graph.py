"""Training steps that a GPU replays, as one CUDA graph instead of hundreds of operations.

Networks and generators are trained by the same kind of step. On a CPU, a step is simply called.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor

from xraytune.base.errors import is_out_of_memory
from xraytune.base.records import Compute

StepInputs: TypeAlias = Sequence[Tensor]
"""Everything that differs between two steps, such as its random numbers, on the device."""
Step: TypeAlias = Callable[[StepInputs], Tensor]
"""Trains one step and returns its losses on the device, without waiting for the device."""
_WARM_UP_STEPS = 3
"""In this many steps, cuDNN chooses its algorithms and optimizers allocate their state."""
_logger = logging.getLogger(__name__)


def with_cuda_graph(step: Step, compute: Compute) -> Step:
    """Return a step that computes the same; on a GPU, it replays a CUDA graph."""
    return _CapturedStep(step) if compute.device == "cuda" else step


class _CapturedStep:
    """A step that is captured as a CUDA graph at its fourth call, then replayed.

    A result is valid until the next call. For inputs of the same shapes, `step` must run the same
    operations; for other shapes, it is captured anew. A step that cannot be captured, for example
    because a custom backbone waits for the device, is called each time.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._calls = 0
        self._can_capture = True
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._step_inputs: StepInputs = ()
        self._shapes: list[torch.Size] = []
        self._losses = torch.empty(0)

    def __call__(self, step_inputs: StepInputs) -> Tensor:
        """Run the step on these inputs and return its losses."""
        shapes = [tensor.shape for tensor in step_inputs]
        if shapes != self._shapes:
            self._shapes = shapes
            self._calls = 0
        self._calls += 1
        if self._calls <= _WARM_UP_STEPS:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream), _chosen_algorithms():
                losses = self._step(step_inputs)
            torch.cuda.current_stream().wait_stream(self._stream)
            return losses
        if self._calls == _WARM_UP_STEPS + 1:
            self._capture(step_inputs)
        if not self._can_capture:
            return self._step(step_inputs)
        for static, tensor in zip(self._step_inputs, step_inputs, strict=True):
            static.copy_(tensor)
        self._graph.replay()
        return self._losses

    def _capture(self, step_inputs: StepInputs) -> None:
        self._step_inputs = [tensor.clone() for tensor in step_inputs]
        self._graph = torch.cuda.CUDAGraph()
        random = torch.cuda.default_generators[torch.cuda.current_device()]
        random_state = random.clone_state()
        try:
            # Other threads, such as a progress display's, may use the GPU meanwhile.
            thread_local = torch.cuda.graph(
                self._graph, stream=self._stream, capture_error_mode="thread_local"
            )
            with _chosen_algorithms(), thread_local:
                self._losses = self._step(self._step_inputs)
        except RuntimeError as error:
            # Otherwise, torch believes that a capture is under way, and dropout fails.
            random.graphsafe_set_state(random_state)
            if is_out_of_memory(error):
                raise
            self._can_capture = False
            _logger.warning(
                "training is slower, since its steps cannot be replayed as a CUDA graph: %s", error
            )


@contextmanager
def _chosen_algorithms() -> Iterator[None]:
    """Let cuDNN try its algorithms.

    This takes seconds, so it is not done for validation, whose batches have many shapes.
    """
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False
