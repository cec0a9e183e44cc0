"""The training loop alone, on batches and a validation of a test's own."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from tests.in_process import CPU
from xraytune.base.records import Compute, Progress, ignore_progress
from xraytune.space.settings import Parameters
from xraytune.trial.training import TrialTraining


class TinyTraining(TrialTraining):
    """A training of a network on what some functions give."""

    def __init__(
        self,
        parameters: Parameters,
        network: nn.Module,
        *,
        draws: Callable[[range], Iterable[tuple[Tensor, ...]]],
        load: Callable[..., tuple[Tensor, Tensor]],
        norm_batches: Callable[[], Iterable[Tensor]],
        validate: Callable[[nn.Module], tuple[float, float]],
        loss: Callable[[Tensor, Tensor], Tensor],
        max_epochs: int,
        steps_per_epoch: int,
        compute: Compute = CPU,
        on_progress: Progress = ignore_progress,
    ) -> None:
        functions: dict[str, Any] = {
            "draws": draws,
            "load": load,
            "norm_batches": norm_batches,
            "validate": lambda: validate(network),
        }
        vars(self).update(functions)
        self.parameters = parameters
        self.trained = network
        self.loss = loss
        self.is_trained = True
        self.max_epochs = max_epochs
        self.steps_per_epoch = steps_per_epoch
        self.seed = 5
        self.compute = compute
        self.on_progress = on_progress
