"""The training of a trial's network: steps, epochs, checkpoints, and its scores.

training set -> batch of a step -> step -> epoch -> val-A -> checkpoint
"""

import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from xraytune.base.errors import TrialError
from xraytune.base.records import EpochRecord
from xraytune.base.tensors import save_state
from xraytune.data.image_set import ImageSet
from xraytune.data.prepare import RunContext, side_image_set
from xraytune.nets.checkpoint import BEST_FILE, load_best, resume, save_checkpoint
from xraytune.nets.compute import fast_backward, seeded
from xraytune.nets.cuda_graph import Step, StepInputs, with_cuda_graph
from xraytune.nets.infer import autocast_images, estimate_batch_norms
from xraytune.nets.optimizer import build_optimizer, learning_rate, set_lr
from xraytune.space.settings import Experiment
from xraytune.stats.classification import require_finite_outputs
from xraytune.tasks.evaluation import Validated
from xraytune.tasks.task import Results
from xraytune.trial.batches import Batches
from xraytune.trial.network import TrialNetwork
from xraytune.trial.training_set import TrainingSet, build_training_set

TRAINING_STEPS = "training the network (steps)"
"""The name of what `on_progress` counts during training."""
_CHECKPOINT_SECONDS = 5.0
"""The least time between two checkpoints.

A stopped training repeats at most this time and one epoch.
"""


class TrialTraining:
    """The training of a trial's network.

    Images and features that the cache lacks are computed.

    Attributes:
        images: The images that the network is trained on.
        trained: The module that is trained in place, on the device: the whole network, or its head.
        loss: Maps outputs in float32 and the targets of a batch to a loss.
        is_trained: Whether the network is trained at all; a donor's classifier is scored as it is.
        validation: The epochs to train if nobody is left to validate on, with the losses and scores
            of other networks.
    """

    trained: nn.Module

    def __init__(
        self,
        experiment: Experiment,
        context: RunContext,
        images: TrainingSet | None = None,
        *,
        validation: Sequence[EpochRecord] = (),
    ) -> None:
        settings = experiment.settings
        prepared = context.prepared
        self.parameters = experiment.parameters
        self.compute = context.compute
        self.on_progress = context.on_progress
        self.seed = settings.seed
        self.is_trained = experiment.control != "donor"
        self.max_epochs = settings.budget.max_epochs if self.is_trained else 1
        self.steps_per_epoch = prepared.steps_per_epoch(settings)
        self.validation = validation
        self._prepared = prepared

        self.images = images or build_training_set(experiment, context)
        self.val_a = side_image_set("val_a", prepared, context.cache)
        self.val_b = side_image_set("val_b", prepared, context.cache)
        self.network = TrialNetwork(experiment, context)
        self.task = self.network.task
        real_targets = self.images.targets[self.images.real]
        self.loss = self.task.loss_of(self.parameters, real_targets, self.compute.device)
        self.batches = Batches(self.images, self.network, self.max_epochs * self.steps_per_epoch)
        self._val_a_features: list[Tensor] = []
        if self.network.has_cached_features and not validation:
            self._val_a_features = [*self.network.batches(self.val_a)]
        self.trained = self.network.untrained(
            self.images.image_sets[0] if validation else self.val_a
        )

    def step(self, optimizer: Optimizer, step_inputs: StepInputs) -> Tensor:
        """Train one step and return its loss, on the device."""
        inputs, targets = self.batches.load(step_inputs)
        optimizer.zero_grad()
        with autocast_images(inputs, self.compute), fast_backward(self.trained, self.compute):
            outputs = self.trained(inputs)
        loss = self.loss(outputs.float(), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    def epochs(self, checkpoint_dir: Path) -> Iterator[EpochRecord]:
        """Train the network, and yield each epoch's record after scoring the network on val-A.

        Training can be stopped after any epoch and resumed: a checkpoint is written between two
        epochs, every few seconds, and after the last epoch. If there is a checkpoint, only the
        epochs after it are yielded. On the CPU, a resumed run is bit-identical to an uninterrupted
        one. In the end, `best.safetensors` holds the weights of the epoch with the best val-A
        score, or of the earliest one if several are equally good; with `validation`, the last one.

        Raises:
            TrialError: The loss or the network is not finite.
            ArtifactError: The checkpoint is damaged or from another network.
        """
        optimizer = build_optimizer(
            self.parameters.optimizer,
            self.trained,
            lr=self.parameters.lr,
            weight_decay=self.parameters.weight_decay,
        )
        records, best = resume(checkpoint_dir, self.trained, optimizer)
        update = with_cuda_graph(partial(self.step, optimizer), self.compute)
        saved_at = time.monotonic()
        while not self._is_over(records):
            started = time.perf_counter()
            epoch = len(records) + 1
            train_loss = 0.0
            lr = self.parameters.lr
            if self.is_trained:
                train_loss, lr = self._train_epoch(optimizer, update, records)
            if self.validation:
                val_loss = self.validation[len(records)].val_loss
                val_score = self.validation[len(records)].val_score
            else:
                val_loss, val_score = self.validate()
            if not math.isfinite(train_loss + val_loss):
                raise self._divergence_error("loss", epoch)

            best_before = records[-1].best_val_score if records else -math.inf
            record = EpochRecord(
                epoch=epoch,
                steps=epoch * self.steps_per_epoch if self.is_trained else 0,
                train_loss=train_loss,
                val_loss=val_loss,
                val_score=val_score,
                best_val_score=max(val_score, best_before),
                lr=lr,
                seconds=time.perf_counter() - started,
            )
            records.append(record)
            state = self.trained.state_dict()
            # A batch norm can hide weights that are not finite from the loss.
            if not all(tensor.isfinite().all() for tensor in state.values()):
                raise self._divergence_error("network", epoch)
            if val_score > best_before or self.validation:
                best = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}
            if self._is_over(records) or time.monotonic() - saved_at > _CHECKPOINT_SECONDS:
                save_checkpoint(checkpoint_dir, self.trained, optimizer, records, best)
                saved_at = time.monotonic()
            yield record
        save_state(best, checkpoint_dir / BEST_FILE)

    def _divergence_error(self, what: str, epoch: int) -> TrialError:
        where = f"lr {self.parameters.lr:g}"
        return TrialError(
            f"the {what} is not finite in epoch {epoch}", where, "search smaller values of lr"
        )

    def _train_epoch(
        self, optimizer: Optimizer, update: Step, records: Sequence[EpochRecord]
    ) -> tuple[float, float]:
        """Train the next epoch; return the mean loss of its steps and the last learning rate."""
        epoch = len(records) + 1
        last = epoch * self.steps_per_epoch
        steps = range(last - self.steps_per_epoch, last)
        total_steps = self.max_epochs * self.steps_per_epoch
        val_losses = [record.val_loss for record in records[self._first_counted_epoch :]]
        # The sum is read from the device once, at the end.
        total_loss = torch.zeros((), dtype=torch.float64, device=self.compute.device)
        self.trained.train()
        # Dropout uses torch's global generators. They are seeded for each epoch, so the checkpoint
        # need not hold their state.
        on_gpu = self.compute.device == "cuda"
        with seeded(self.seed, "epoch", epoch, on_gpu=on_gpu):
            self.on_progress(TRAINING_STEPS, steps.start, total_steps)
            for step, step_inputs in zip(steps, self.batches.step_inputs(steps), strict=True):
                lr = learning_rate(
                    self.parameters, step, total_steps=total_steps, val_losses=val_losses
                )
                set_lr(optimizer, lr)
                total_loss += update(step_inputs)
                self.on_progress(TRAINING_STEPS, step + 1, total_steps)
        mean_loss = float(total_loss) / len(steps)
        estimate_batch_norms(self.trained, self.batches.norm_batches, compute=self.compute)
        return mean_loss, lr

    @property
    def _first_counted_epoch(self) -> int:
        """The first epoch with real images, from which early stopping and plateaus count."""
        return self.batches.pretraining_steps // self.steps_per_epoch

    def _is_over(self, records: Sequence[EpochRecord]) -> bool:
        """Return whether training is over.

        It is over after the last epoch, or `early_stop_epochs` epochs after the best score.
        """
        if self.validation:
            return len(records) == len(self.validation)
        patience = self.parameters.early_stop_epochs
        scores = [record.val_score for record in records[self._first_counted_epoch :]]
        is_stale = False
        if patience is not None and scores:
            epochs_since_best = len(scores) - 1 - scores.index(max(scores))
            is_stale = epochs_since_best >= patience
        return is_stale or len(records) == self.max_epochs

    def train_at_once(self) -> list[EpochRecord]:
        """Train without a checkpoint to resume from, and keep the weights of the best epoch."""
        with TemporaryDirectory() as folder:
            records = [*self.epochs(Path(folder))]
            load_best(Path(folder), self.trained)
        return records

    # From the network to its scores

    def validate(self) -> tuple[float, float]:
        """Return the loss and the score of the network on val-A.

        The score is NaN if the loss is not finite.
        """
        batches = self._val_a_features or self.network.batches(self.val_a)
        loss, results, _ = self.task.predict(self.trained, batches, self.val_a, self.compute)
        if not math.isfinite(loss):
            return loss, math.nan
        positive = self._prepared.positive
        return loss, self.task.score(self.val_a.targets, results, positive=positive)

    def results(self, images: ImageSet) -> Results:
        """Return the results of the network on some images, [N, C]."""
        batches = self.network.batches(images)
        _, results, outputs = self.task.predict(self.trained, batches, images, self.compute)
        require_finite_outputs(outputs, TrialError, "")
        return results

    def validation_results(self) -> Validated:
        """Return the results of the network on val-A and then val-B."""
        return Validated(
            labels=np.concatenate([self.val_a.targets, self.val_b.targets]),
            results=np.concatenate([self.results(self.val_a), self.results(self.val_b)]),
            patients=self._prepared.side("val_a").patients + self._prepared.side("val_b").patients,
        )

    def whole_network(self) -> nn.Module:
        """Return the whole network, with the trained part in it."""
        whole = self.network.whole
        if self.network.has_cached_features:
            whole.head = self.trained
        return whole
