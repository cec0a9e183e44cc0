"""The loop that trains a classifier: an iterator of epochs that can be left after any of them, and taken up again.

Takes a network, a function from a step's number to its batch, and val-A; gives an `EpochRecord` after each epoch. It
knows neither who runs it nor where images come from, nor whether its inputs are images or the features that a frozen
backbone made of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from xraytune.classifier.batch_norm import estimate_batch_norms
from xraytune.classifier.checkpoint import resume, save_best, save_checkpoint
from xraytune.classifier.optimizer import Optimizer, learning_rate
from xraytune.compute import autocast
from xraytune.config.settings import Parameters
from xraytune.errors import Problem, TrialError, XraytuneError
from xraytune.metrics.classification import auroc
from xraytune.records import Compute, EpochRecord, Progress, ignore_progress
from xraytune.seeding import derive_seed

TRAINING_STEPS = "training steps"
"""What `on_progress` of a training counts."""


def train_classifier(
    parameters: Parameters,
    network: nn.Module,
    *,
    batch: Callable[[int], tuple[Tensor, Tensor]],
    norm_batches: Callable[[], Iterable[Tensor]],
    val_batches: Callable[[], Iterable[Tensor]],
    val_labels: NDArray[np.int64],
    positive: int,
    max_epochs: int,
    steps_per_epoch: int,
    seed: int,
    compute: Compute,
    checkpoint_dir: Path,
    on_progress: Progress = ignore_progress,
) -> Iterator[EpochRecord]:
    """Train with cross entropy; after each epoch score val-A, write the checkpoint, and only then yield.

    Running statistics of batch norms are estimated before val-A is scored, so what is scored is what is kept.

    A checkpoint in `checkpoint_dir` is continued: only the epochs after it are yielded, and on the CPU the result is
    the unbroken run's to the bit, given the same network, settings and seed. `best.safetensors` beside it holds the
    network's state with the best val-A AUROC so far; of equally good epochs, the earliest.

    Args:
        parameters: `lr`, `optimizer`, `weight_decay`, `schedule`, `early_stop_epochs` and `batch_norm` are used.
        network: A `Classifier`, or on cached features its head alone; on the device. What requires gradients is
            trained, in place.
        batch: Step, from 0 on -> inputs on the device (normalised images [B, C, S, S] or features [B, D]) and labels
            int64 [B]. The same step gives the same batch.
        norm_batches: What running statistics are estimated on, unless `batch_norm` is `moving`; see
            `estimate_batch_norms`.
        val_batches: Val-A's inputs on the device, in the order of `val_labels`.
        val_labels: int64 [N].
        positive: The class that AUROC is about when there are two.
        max_epochs: Epochs of a whole run.
        steps_per_epoch: Optimiser steps of an epoch.
        seed: Of the dropout.
        compute: Where; images in `compute.precision`, features in float32.
        checkpoint_dir: Made when missing.
        on_progress: Called before the first step of an epoch and after each step; the total is the steps of a whole run.

    Raises:
        TrialError: The loss is not finite.
        ArtifactError: The checkpoint is damaged or of another network.
        DataError: Val-A lacks a class.
        MachineError: The disk is full.
    """
    optimizer = Optimizer(parameters, network)
    total_steps = max_epochs * steps_per_epoch

    def on_step(done: int) -> None:
        on_progress(TRAINING_STEPS, done, total_steps)

    records = resume(checkpoint_dir, network, optimizer)
    while len(records) < max_epochs and not _is_stale(records, parameters.early_stop_epochs):
        started = time.perf_counter()
        epoch = len(records) + 1
        steps = range(len(records) * steps_per_epoch, epoch * steps_per_epoch)
        lr_at = partial(
            learning_rate,
            parameters,
            total_steps=total_steps,
            val_losses=[record.val_loss for record in records],
        )
        epoch_seed = derive_seed(seed, "epoch", epoch)
        train_loss = _train_epoch(network, optimizer, batch, steps, lr_at, epoch_seed, compute, on_step)
        if parameters.batch_norm != "moving":
            estimate_batch_norms(network, norm_batches, compute=compute)
        logits = predict_logits(network, val_batches(), compute=compute)
        val_loss = _cross_entropy(logits, val_labels)
        _refuse_infinite(train_loss + val_loss, epoch, lr_at(steps[-1]))
        val_auroc = auroc(val_labels, softmax(logits), positive=positive)
        best_before = records[-1].best_val_auroc if records else -math.inf
        record = EpochRecord(
            epoch=epoch,
            steps=steps.stop,
            train_loss=train_loss,
            val_loss=val_loss,
            val_auroc=val_auroc,
            best_val_auroc=max(val_auroc, best_before),
            lr=lr_at(steps[-1]),
            seconds=time.perf_counter() - started,
        )
        records.append(record)
        # The best first: a run killed in between repeats the epoch and writes it again.
        if val_auroc > best_before:
            save_best(checkpoint_dir, network)
        save_checkpoint(checkpoint_dir, network, optimizer, records)
        yield record


def predict_logits(network: nn.Module, batches: Iterable[Tensor], *, compute: Compute) -> NDArray[np.float32]:
    """The network's output for all batches, in eval mode; its mode is restored.

    A classifier's backbone alone gives features this way.

    Args:
        network: On the device.
        batches: At least one batch of inputs on the device.
        compute: Images in `compute.precision`, features in float32.

    Returns:
        float32 [N, C].
    """
    was_training = network.training
    network.eval()
    outputs = []
    try:
        # What the iterable makes and keeps is made outside inference mode: it may still be trained on.
        for inputs in batches:
            with torch.inference_mode(), _autocast(inputs, compute):
                outputs.append(network(inputs).float())
    finally:
        network.train(was_training)
    logits: NDArray[np.float32] = torch.cat(outputs).cpu().numpy()
    return logits


def predict_probabilities(
    network: nn.Module,
    batches: Iterable[Tensor],
    *,
    compute: Compute,
    error: type[XraytuneError] = TrialError,
    where: Path | str = "",
) -> NDArray[np.float64]:
    """Return the classes' probabilities for all batches, float64 [N, C]; see `predict_logits`.

    Args:
        network: On the device.
        batches: At least one batch of inputs on the device.
        compute: Images in `compute.precision`, features in float32.
        error: Raised where an output is not finite: a comparison with NaN is false, so metrics would rank such images.
        where: Names the network in that error.

    Raises:
        XraytuneError: An output is NaN or infinite; of the class `error`.
    """
    logits = predict_logits(network, batches, compute=compute)
    if bad := int((~np.isfinite(logits)).any(axis=1).sum()):
        what = f"the network's output is NaN or infinite for {bad} of {len(logits)} images"
        raise error(Problem(what, where, "train the network again; if it recurs, with a smaller lr"))
    return softmax(logits)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities of logits [N, C]; in float64, so that two confident scores do not become one."""
    probabilities: NDArray[np.float64] = torch.from_numpy(logits).double().softmax(dim=1).numpy()
    return probabilities


def _is_stale(records: Sequence[EpochRecord], early_stop_epochs: int | None) -> bool:
    """Whether the last `early_stop_epochs` epochs brought no better val-A AUROC than the ones before."""
    if early_stop_epochs is None or len(records) <= early_stop_epochs:
        return False
    return records[-1].best_val_auroc == records[-1 - early_stop_epochs].best_val_auroc


def _train_epoch(
    network: nn.Module,
    optimizer: Optimizer,
    batch: Callable[[int], tuple[Tensor, Tensor]],
    steps: range,
    lr_at: Callable[[int], float],
    seed: int,
    compute: Compute,
    on_step: Callable[[int], None],
) -> float:
    """One epoch of optimiser steps; gives their mean loss, read from the device once."""
    total = torch.zeros((), dtype=torch.float64, device=compute.device)
    network.train()
    # Dropout draws from torch's global generator. Seeded anew for each epoch, it needs no place in the checkpoint.
    with torch.random.fork_rng(devices=[] if compute.device == "cpu" else [torch.cuda.current_device()]):
        torch.manual_seed(seed)
        on_step(steps.start)
        for step in steps:
            inputs, labels = batch(step)
            optimizer.lr = lr_at(step)
            optimizer.zero_grad()
            with _autocast(inputs, compute):
                logits = network(inputs)
            loss = F.cross_entropy(logits.float(), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach()
            on_step(step + 1)
    return float(total) / len(steps)


def _autocast(inputs: Tensor, compute: Compute) -> AbstractContextManager[None]:
    """Matrix products on images in `compute.precision`; features [B, D] are already what they are, in float32."""
    return autocast(compute) if inputs.ndim == 4 else nullcontext()


def _cross_entropy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    return float(F.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels)))


def _refuse_infinite(loss: float, epoch: int, lr: float) -> None:
    if not math.isfinite(loss):
        raise TrialError(Problem(f"the loss is not finite in epoch {epoch}", f"lr {lr:g}", "search smaller lr"))
