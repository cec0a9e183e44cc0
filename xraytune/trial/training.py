"""The training of a trial's network, from the mix of images to the epochs.

    training set -> images of a step -> batch on the device -> step -> epoch -> val-A -> checkpoint

A batch comes about in one of two ways. If the backbone is frozen, `FeatureLoader` looks up
features, which were computed once for each view of an image, and the head alone is trained.
Otherwise, `PixelLoader` looks up pixels, and scales, augments and normalises them on the device.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from xraytune.base.arrays import Float32Array, Int64Array
from xraytune.base.errors import TrialError
from xraytune.base.records import EpochRecord
from xraytune.base.tensors import save_state
from xraytune.data.prepare import ImageSet, RunContext, side_images
from xraytune.nets.captured import Draws, Step, replayed
from xraytune.nets.checkpoint import BEST_FILE, load_best, resume, save_checkpoint
from xraytune.nets.compute import fast_backward, seeded
from xraytune.nets.infer import autocast_images, estimate_batch_norms
from xraytune.nets.inputs import augment, augment_masks, normalise, to_unit
from xraytune.nets.optimizer import build_optimizer, learning_rate, set_lr
from xraytune.space.settings import Experiment
from xraytune.stats.classification import require_finite_outputs
from xraytune.tasks.task import Results, Validated
from xraytune.trial.blending import BLENDED, blend, draw_pairs
from xraytune.trial.device_rows import DeviceRows, pinned
from xraytune.trial.network import Network
from xraytune.trial.training_set import (
    Shown,
    TrainingSet,
    build_training_set,
    image_stream,
)

TRAINING_STEPS = "training the network (steps)"
"""The name of what `on_progress` counts during training."""
_CHECKPOINT_SECONDS = 5.0
"""Between two checkpoints; a stopped training repeats at most so much, and its last epoch."""
_MAX_NORM_IMAGES = 256
"""Running statistics of batch norms are estimated on at most this many real images."""
_STEPS_AT_ONCE = 64
_TRANSFER_BYTES = 2**25
"""The most steps and bytes that are copied to the device at once."""
_NOT_SHOWN = -1


class TrialTraining:
    """The training of a trial's network; computes what the cache lacks of its images and features.

    Attributes:
        trained: The module that is trained, in place: the whole network, or a head; on the device.
        loss: Of outputs in float32 and the targets of a batch.
        is_trained: Whether it takes any step; a donor's head is scored as it is.
        load: Returns the inputs and targets of a step for its `draws`.
    """

    trained: nn.Module
    load: Callable[..., tuple[Tensor, Tensor]]

    def __init__(
        self, experiment: Experiment, context: RunContext, images: TrainingSet | None = None
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

        self.images = images or build_training_set(experiment, context)
        views = self.parameters.views if self.parameters.augmentation != "none" else 1
        stream = partial(image_stream, self.seed, view_count=views)
        self._real_stream = stream("real", self.images.real, per_step=self.parameters.batch_size)
        self._extra_stream = stream(
            "extra", self.images.extra, per_step=self.parameters.extra_per_step
        )
        self.val_a = side_images("val_a", prepared, context.cache)
        self.val_b = side_images("val_b", prepared, context.cache)
        self._prepared = prepared

        self.network = Network(experiment, context)
        self.task = self.network.task
        real_targets = self.images.targets[self.images.real]
        self.loss = self.task.loss_of(self.parameters, real_targets, self.compute.device)
        self._loader: FeatureLoader | PixelLoader
        self._val_a_features: list[Tensor] = []
        if self.network.has_cached_features:
            steps = range(self.max_epochs * self.steps_per_epoch)
            shown = map(np.concatenate, zip(*map(self.images_of_step, steps), strict=True))
            self._loader = FeatureLoader(self.images, self.network, *shown)
            self._val_a_features = [*self.network.batches(self.val_a)]
        else:
            self._loader = PixelLoader(self.images, self.network)
        self.load = self._loader.load
        self.trained = self.network.untrained(self.val_a)

    # From the mix to a batch

    @property
    def pretraining_steps(self) -> int:
        """The first steps, which show only extra images; 0 unless `mixing: pretrain`."""
        return self.parameters.pretraining_steps(self.max_epochs * self.steps_per_epoch)

    def images_of_step(self, step: int) -> Shown:
        """Return the images of a step, numbered in the training set: real ones, then extra ones.

        The k-th step with real images shows the same ones in every trial.
        """
        shown = []
        is_pretraining = step < self.pretraining_steps
        if not is_pretraining:
            shown.append(self._real_stream(step - self.pretraining_steps))
        if is_pretraining or self.parameters.mixing == "additive":
            shown.append(self._extra_stream(step))
        numbers, views = map(np.concatenate, zip(*shown, strict=True))
        return numbers, views

    def draws(self, steps: range) -> Iterator[Draws]:
        """Yield what `load` needs for each step, on the device.

        These are where its images are, their targets, and their views; with mixup or cutmix, also
        its pairs. The rows of several steps are brought to the device at once.
        """
        device = self.compute.device
        images_per_step = self.parameters.batch_size + self.parameters.extra_per_step
        most = _TRANSFER_BYTES // (images_per_step * self._loader.row_bytes)
        at_once = min(_STEPS_AT_ONCE, 1 + most)
        first_real = max(0, self.pretraining_steps - steps.start)
        for of_shape in (steps[:first_real], steps[first_real:]):
            for start in range(0, len(of_shape), at_once):
                few = of_shape[start : start + at_once]
                numbers, views = map(np.stack, zip(*map(self.images_of_step, few), strict=True))
                columns = [self.images.targets[numbers], *self._loader.prepare(numbers, views)]
                if self._is_blended:
                    columns += draw_pairs(few, numbers.shape[1], self.parameters, self.seed)
                on_device = [
                    pinned(column, device).to(device, non_blocking=True) for column in columns
                ]
                yield from zip(*on_device, strict=True)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a step, on the device.

        Targets are labels, int64 [B], findings or probabilities, [B, C], or masks, [B, 1, S, S].
        """
        return self._load_blended(next(self.draws(range(step, step + 1))))

    @property
    def _is_blended(self) -> bool:
        return self.parameters.mixup > 0 or self.parameters.cutmix > 0

    def _load_blended(self, draws: Draws) -> tuple[Tensor, Tensor]:
        if not self._is_blended:
            return self.load(*draws)
        inputs, targets = self.load(*draws[:-BLENDED])
        class_count = len(self._prepared.outputs)
        return blend(inputs, targets, tuple(draws[-BLENDED:]), class_count=class_count)

    def norm_batches(self) -> Iterator[Tensor]:
        """Yield inputs to estimate batch norms on: those of the first steps with real images."""
        first = self.pretraining_steps
        count = min(len(self.images.real), _MAX_NORM_IMAGES)  # each real image once
        steps = range(first, first + math.ceil(count / self.parameters.batch_size))
        for draws in self.draws(steps):
            unblended = draws[:-BLENDED] if self._is_blended else draws
            yield self.load(*unblended)[0]

    # From a batch to an epoch

    def step(self, optimizer: Optimizer, draws: Draws) -> Tensor:
        """Train one step and return its loss, on the device."""
        inputs, targets = self._load_blended(draws)
        optimizer.zero_grad()
        with autocast_images(inputs, self.compute), fast_backward(self.trained, self.compute):
            outputs = self.trained(inputs)
        loss = self.loss(outputs.float(), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    def epochs(self, checkpoint_dir: Path) -> Iterator[EpochRecord]:
        """Train; yield the record of each epoch after its network was scored on val-A.

        Can be left after any epoch and resumed: the checkpoint is written between two epochs, every
        few seconds and after the last. Yields only the epochs after it, if there is one. On the
        CPU, a resumed run is bit-identical to an uninterrupted one. In the end, `best.safetensors`
        holds the weights of the epoch with the best val-A score, the earliest of equals.

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
        update = replayed(partial(self.step, optimizer), self.compute)
        saved_at = time.monotonic()
        while not self._is_over(records):
            started = time.perf_counter()
            epoch = len(records) + 1
            train_loss = 0.0
            lr = self.parameters.lr
            if self.is_trained:
                train_loss, lr = self._train_epoch(optimizer, update, records)
            val_loss, val_score = self.validate()
            if not math.isfinite(train_loss + val_loss):
                raise self._diverged("loss", epoch)

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
            # A batch norm can hide it from the loss.
            if not all(tensor.isfinite().all() for tensor in state.values()):
                raise self._diverged("network", epoch)
            if val_score > best_before:
                best = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}
            if self._is_over(records) or time.monotonic() - saved_at > _CHECKPOINT_SECONDS:
                save_checkpoint(checkpoint_dir, self.trained, optimizer, records, best)
                saved_at = time.monotonic()
            yield record
        save_state(best, checkpoint_dir / BEST_FILE)

    def _diverged(self, what: str, epoch: int) -> TrialError:
        where = f"lr {self.parameters.lr:g}"
        return TrialError(
            f"the {what} is not finite in epoch {epoch}", where, "search smaller values of lr"
        )

    def _train_epoch(
        self, optimizer: Optimizer, update: Step, records: Sequence[EpochRecord]
    ) -> tuple[float, float]:
        """Train the next epoch; return the mean loss of its steps, and the last learning rate."""
        epoch = len(records) + 1
        last = epoch * self.steps_per_epoch
        steps = range(last - self.steps_per_epoch, last)
        total_steps = self.max_epochs * self.steps_per_epoch
        val_losses = [record.val_loss for record in records[self._first_counted_epoch :]]
        # Read from the device once, at the end.
        total_loss = torch.zeros((), dtype=torch.float64, device=self.compute.device)
        self.trained.train()
        # Dropout uses torch's global generators; seeded for each epoch, they need no place in the
        # checkpoint.
        on_gpu = self.compute.device == "cuda"
        with seeded(self.seed, "epoch", epoch, on_gpu=on_gpu):
            self.on_progress(TRAINING_STEPS, steps.start, total_steps)
            for step, draws in zip(steps, self.draws(steps), strict=True):
                lr = learning_rate(
                    self.parameters, step, total_steps=total_steps, val_losses=val_losses
                )
                set_lr(optimizer, lr)
                total_loss += update(draws)
                self.on_progress(TRAINING_STEPS, step + 1, total_steps)
        mean_loss = float(total_loss) / len(steps)
        estimate_batch_norms(self.trained, self.norm_batches, compute=self.compute)
        return mean_loss, lr

    @property
    def _first_counted_epoch(self) -> int:
        """The epochs without real images, which early stopping and plateaus do not count."""
        return self.pretraining_steps // self.steps_per_epoch

    def _is_over(self, records: Sequence[EpochRecord]) -> bool:
        """Return whether this was the last epoch, or the best score is `early_stop_epochs` old."""
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
        """Return loss and score of the network on val-A.

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

    def validated(self) -> Validated:
        """Return the results of the network on val-A and then val-B."""
        return Validated(
            labels=np.concatenate([self.val_a.targets, self.val_b.targets]),
            results=np.concatenate([self.results(self.val_a), self.results(self.val_b)]),
            patients=self._prepared.side("val_a").patients + self._prepared.side("val_b").patients,
        )

    def whole(self) -> nn.Module:
        """Return the whole network, with the trained part in it."""
        whole = self.network.whole
        if self.network.has_cached_features:
            whole.head = self.trained
        return whole


class FeatureLoader:
    """Looks up cached features, float32 [B, D], of images in the views that any step shows."""

    def __init__(
        self, images: TrainingSet, network: Network, numbers: Int64Array, views: Int64Array
    ) -> None:
        """`numbers` and `views` are those of the images that the steps show, [n]."""
        tables = [network.views(source) for source in images.sources]
        is_shown = np.zeros((len(images.targets), tables[0].shape[1]), dtype=bool)
        is_shown[numbers, views] = True
        self._row_of_view = np.full(is_shown.shape, _NOT_SHOWN)
        arrays = []
        first_image = 0
        first_row = 0
        for source, table in zip(images.sources, tables, strict=True):
            of_source = slice(first_image, first_image + len(table))
            first_image = of_source.stop
            places, which = np.nonzero(is_shown[of_source])
            if not len(places):
                continue
            features, rows = network.features(source, places, table[places, which])
            used, row_of = np.unique(rows, return_inverse=True)
            arrays.append((len(used), partial(_read_rows, features, used)))
            self._row_of_view[of_source][places, which] = first_row + row_of
            first_row += len(used)
        self._rows = DeviceRows(arrays, network.compute.device)
        self.row_bytes = self._rows.row_bytes

    def prepare(self, numbers: Int64Array, views: Int64Array) -> list[NDArray[Any]]:
        """Return what `load` needs for steps of one shape, [steps, B]."""
        rows = self._row_of_view[numbers, views]
        assert _NOT_SHOWN not in rows, "another image than those of the steps"
        return [self._rows.prepare(rows)]

    def load(self, targets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of each image in its view, and the labels or findings."""
        return self._rows.look_up(rows), targets


def _read_rows(features: Float32Array, rows: Int64Array, numbers: Int64Array) -> Float32Array:
    chosen: Float32Array = features[rows[numbers]]
    return chosen


class PixelLoader:
    """Scales, augments and normalises images, and masks if there are any, on the device.

    Real images and others may have different sizes, so that they are looked up apart.
    """

    def __init__(self, images: TrainingSet, network: Network) -> None:
        self._network = network
        self._real_count = len(images.sources[0].rows)
        self._is_augmented = network.experiment.parameters.augmentation != "none"
        self._views = np.concatenate([network.views(source) for source in images.sources])
        arrays = [(len(source.rows), source.planes) for source in images.sources]
        device = network.compute.device
        self._groups = [DeviceRows(group, device) for group in (arrays[:1], arrays[1:]) if group]
        self.row_bytes = max(group.row_bytes for group in self._groups)

    def prepare(self, numbers: Int64Array, views: Int64Array) -> list[NDArray[Any]]:
        """Return what `load` needs for steps of one shape, [steps, B]."""
        real_count = int((numbers[0] < self._real_count).sum())
        parts = [numbers[:, :real_count], numbers[:, real_count:] - self._real_count]
        rows = [group.prepare(part) for group, part in zip(self._groups, parts, strict=False)]
        return [self._views[numbers, views], *rows]

    def load(self, targets: Tensor, views: Tensor, *rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return each image in its view, float32 [B, C, S, S], and its targets.

        Targets are labels, findings or, in the same view, masks, [B, 1, S, S].
        """
        network = self._network
        pairs = zip(self._groups, rows, strict=True)
        planes = [group.look_up(part) for group, part in pairs if len(part)]
        images = torch.cat([to_unit(part[:, 0], network.form) for part in planes])
        if network.task.has_masks:
            targets = torch.cat([network.scaled_masks(part[:, 1]) for part in planes])
        if self._is_augmented:  # otherwise, every view is the image itself
            images = augment(images, views)
            if network.task.has_masks:
                targets = augment_masks(targets, views)
        return normalise(images, network.form), targets
