"""The training loop and predictions of a network, whatever its task.

Training is an iterator of epochs that can be left after any epoch and resumed. A network's inputs
are either images or the cached features of a frozen backbone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xraytune.base.errors import Problem, TrialError
from xraytune.base.records import Compute, EpochRecord, Progress, ignore_progress
from xraytune.base.seeding import derive_seed
from xraytune.nets.captured import Draws, Step, replayed
from xraytune.nets.checkpoint import resume, save_best, save_checkpoint
from xraytune.nets.compute import autocast
from xraytune.nets.optimizer import Optimizer, learning_rate, optimizer_of
from xraytune.space.settings import Parameters

TRAINING_STEPS = "training the network (steps)"
"""The name of what `on_progress` counts during training."""

Batches: TypeAlias = Callable[[], Iterable[Tensor]]
_CHECKPOINT_SECONDS = 5.0
"""Between two checkpoints; a training that was stopped repeats at most so much, and its last epoch."""
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTraining:
    """A network with all that its training depends on.

    Attributes:
        network: The whole network, or only its head for cached features; on the device. Trained in
        place.
        draws: A range of steps, counted from 0 -> what `load` needs for each of them; functions of
        the step only.
        load: Draws of a step -> inputs (normalised images [B, C, S, S] or features [B, D]) and the
            targets of `loss`, all on the device.
        loss: Differentiable, of outputs in float32 and the targets.
        norm_batches: For `estimate_batch_norms`, unless `batch_norm` is `moving`.
        max_epochs: Epochs of a full run.
        seed: Seed of the dropout.
        compute: Images use `compute.precision`, features float32.
        on_progress: Called before the first step of an epoch and after each step, with the steps of
        all epochs as total.
    """

    parameters: Parameters
    network: nn.Module
    draws: Callable[[range], Iterable[Draws]]
    load: Callable[..., tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]
    norm_batches: Batches
    max_epochs: int
    steps_per_epoch: int
    seed: int
    compute: Compute
    checkpoint_dir: Path
    on_progress: Progress = ignore_progress

    @property
    def pretraining_epochs(self) -> int:
        """The number of whole epochs without real images."""
        return (
            self.parameters.pretraining_steps(self.max_epochs * self.steps_per_epoch)
            // self.steps_per_epoch
        )


def train_network(
    training: NetworkTraining, validate: Callable[[nn.Module], tuple[float, float]]
) -> Iterator[EpochRecord]:
    """Train; after each epoch get its loss and score on val-A from `validate`, then yield its record.

    The checkpoint is written between two epochs, every few seconds and after the last. Yields only
    the epochs after it, if there is one. On the CPU, a resumed run is bit-identical to an
    uninterrupted one. `best.safetensors` holds the weights of the epoch with the best val-A score,
    the earliest of equals. With `mixing: pretrain`, early stopping and plateaus count only epochs
    with real images.

    Raises:
        TrialError: The loss is not finite.
        ArtifactError: The checkpoint is damaged or from another network.
    """
    parameters = training.parameters
    network = training.network
    folder = training.checkpoint_dir
    optimizer = optimizer_of(parameters, network)
    records = resume(folder, network, optimizer)
    update = replayed(partial(train_step, training, optimizer), training.compute)
    best: dict[str, Tensor] = {}
    saved_at = time.monotonic()
    is_over = _is_over(training, records)
    while not is_over:
        started = time.perf_counter()
        epoch = len(records) + 1
        val_losses = [record.val_loss for record in records[training.pretraining_epochs :]]
        train_loss, lr = _train_epoch(training, optimizer, update, epoch, val_losses=val_losses)
        val_loss, val_score = validate(network)
        if not math.isfinite(train_loss + val_loss):
            what = f"the loss is not finite in epoch {epoch}"
            raise TrialError(Problem(what, f"lr {lr:g}", "search smaller values of lr"))
        best_before = records[-1].best_val_score if records else -math.inf
        record = EpochRecord(
            epoch=epoch,
            steps=epoch * training.steps_per_epoch,
            train_loss=train_loss,
            val_loss=val_loss,
            val_score=val_score,
            best_val_score=max(val_score, best_before),
            lr=lr,
            seconds=time.perf_counter() - started,
        )
        records.append(record)
        if val_score > best_before:
            best = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        is_over = _is_over(training, records)
        if is_over or time.monotonic() - saved_at > _CHECKPOINT_SECONDS:
            _save(folder, network, optimizer, records, best)
            best = {}
            saved_at = time.monotonic()
        yield record


def _save(
    folder: Path,
    network: nn.Module,
    optimizer: Optimizer,
    records: Sequence[EpochRecord],
    best: Mapping[str, Tensor],
) -> None:
    if (
        best
    ):  # first: if the run is killed in between, the epochs since the last checkpoint are repeated
        save_best(folder, best)
    save_checkpoint(folder, network, optimizer, records)


def _train_epoch(
    training: NetworkTraining,
    optimizer: Optimizer,
    update: Step,
    epoch: int,
    *,
    val_losses: Sequence[float],
) -> tuple[float, float]:
    """Train an epoch, and estimate batch norms; return the mean loss of its steps, and the last learning rate."""
    parameters = training.parameters
    network = training.network
    compute = training.compute
    total_steps = training.max_epochs * training.steps_per_epoch
    steps = range((epoch - 1) * training.steps_per_epoch, epoch * training.steps_per_epoch)
    total_loss = torch.zeros(
        (), dtype=torch.float64, device=compute.device
    )  # read from the device once
    network.train()
    # Dropout uses torch's global generator; seeded for each epoch, it needs no place in the
    # checkpoint.
    with torch.random.fork_rng(
        devices=[] if compute.device == "cpu" else [torch.cuda.current_device()]
    ):
        seed = derive_seed(training.seed, "epoch", epoch)
        torch.default_generator.manual_seed(
            seed
        )  # `torch.manual_seed` takes longer than a step where there is no GPU
        if compute.device == "cuda":
            torch.cuda.manual_seed(seed)
        training.on_progress(TRAINING_STEPS, steps.start, total_steps)
        for step, draws in zip(steps, training.draws(steps), strict=True):
            lr = learning_rate(parameters, step, total_steps=total_steps, val_losses=val_losses)
            optimizer.set_lr(lr)
            total_loss += update(draws)
            training.on_progress(TRAINING_STEPS, step + 1, total_steps)
    mean_loss = float(total_loss) / len(steps)
    if parameters.batch_norm != "moving":
        estimate_batch_norms(network, training.norm_batches, compute=compute)
    return mean_loss, lr


def train_step(training: NetworkTraining, optimizer: Optimizer, draws: Draws) -> Tensor:
    """Train one step and return its loss."""
    inputs, targets = training.load(*draws)
    optimizer.zero_grad()
    with _autocast(inputs, training.compute), _fast_backward(training.network, training.compute):
        outputs = training.network(inputs)
    loss = training.loss(outputs.float(), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


@torch.no_grad()
def estimate_batch_norms(network: nn.Module, batches: Batches, *, compute: Compute) -> None:
    """Replace the running statistics of batch norms in train mode by their means over the batches.

    Moving averages lag behind the weights in a short training, and the lag differs between arms.
    Each batch [B, C, S, S] must be a sample of all images, since layers normalise it by its own
    statistics; B is at least 2, and similar for all batches. `batches` is not called without a
    batch norm in train mode.

    Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), section 3.1; `torch.optim.swa_utils.update_bn`
        would reset frozen batch norms, too.
    """
    norms = [
        module
        for module in network.modules()
        if isinstance(module, _BATCH_NORMS) and module.training and module.track_running_stats
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    network.eval()
    try:
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
        for number, images in enumerate(batches(), start=1):
            for norm in norms:
                norm.momentum = (
                    1 / number
                )  # the cumulative mean; with None, each norm would wait for the device
            with autocast(compute):
                network(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        network.train()


def predict_logits(
    network: nn.Module, batches: Iterable[Tensor], *, compute: Compute
) -> NDArray[np.float32]:
    """Return the outputs of a network in eval mode, float32 [N, ...], for at least one batch on the device."""
    logits: NDArray[np.float32] = (
        torch.cat([*outputs_of(network, batches, compute=compute)]).cpu().numpy()
    )
    return logits


def outputs_of(
    network: nn.Module, batches: Iterable[Tensor], *, compute: Compute
) -> Iterator[Tensor]:
    """Yield the outputs of a network in eval mode for each batch, float32 [B, ...], on the device."""
    was_training = network.training
    network.eval()
    try:
        for inputs in (
            batches
        ):  # outside inference mode, since the iterable may keep tensors that are trained on later
            with torch.inference_mode(), _autocast(inputs, compute):
                outputs = network(inputs).float()
            yield outputs
    finally:
        network.train(was_training)


def _is_over(training: NetworkTraining, records: Sequence[EpochRecord]) -> bool:
    """Return whether the last epoch was trained, or the best val-A score is `early_stop_epochs` old."""
    patience = training.parameters.early_stop_epochs
    first = training.pretraining_epochs
    scores = [record.val_score for record in records[first:]]
    if (
        patience is not None
        and len(scores) > patience
        and max(scores[-patience:]) <= max(scores[:-patience])
    ):
        return True
    return len(records) == training.max_epochs


def _autocast(inputs: Tensor, compute: Compute) -> AbstractContextManager[None]:
    """Return autocast for images; features [B, D] stay in float32."""
    return autocast(compute) if inputs.ndim == 4 else nullcontext()


@contextmanager
def _fast_backward(network: nn.Module, compute: Compute) -> Iterator[None]:
    """Compute strided depthwise convolutions in float32 on a CPU: in bfloat16, their backward pass is nine times as slow."""
    slow = []
    if compute.device == "cpu" and compute.precision == "bfloat16":
        slow = [
            layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and _is_slow(layer)
        ]
    for layer in slow:
        layer.forward = partial(_in_float32, layer.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in slow:
            del layer.forward


def _is_slow(layer: nn.Conv2d) -> bool:
    return layer.groups > 1 and layer.stride[0] > 1 and layer.weight.requires_grad


def _in_float32(forward: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    with torch.autocast(inputs.device.type, enabled=False):
        return forward(inputs.float())
