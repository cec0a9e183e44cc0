"""The batches of a training: what each step shows, brought to the device.

    images of a step -> their rows, views and pairs, on the device -> inputs and targets

Inputs come about in one of two ways. If the backbone is frozen, `FeatureLoader` looks up features,
which were computed once for each view of an image. Otherwise, `PixelLoader` looks up pixels, and
scales, augments and normalises them on the device.

With mixup and cutmix, images of a step are blended in pairs, and their labels with them. The pairs
and the share are random numbers of the step, sampled before it, so that a resumed training and a
captured step blend the same. Any two images of a step may be a pair, also a real and an extra one.
Each image keeps the larger share of itself, so that `synthetic_weight` weighs what its name says.

From: Zhang et al. 2018, "mixup" (arXiv:1710.09412); Yun et al. 2019, "CutMix"
(arXiv:1905.04899). Keeping the larger share follows Berthelot et al. 2019, "MixMatch"
(arXiv:1905.02249), equation 9.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from xraytune.base.arrays import AnyArray, Int64Array
from xraytune.base.seeding import numpy_generator
from xraytune.nets.cuda_graph import StepInputs
from xraytune.nets.inputs import augment, augment_masks, normalise, to_unit
from xraytune.space.extensions import AUGMENTATIONS
from xraytune.space.parameters import Parameters
from xraytune.trial.augmentation import augmented
from xraytune.trial.network import TrialNetwork
from xraytune.trial.training_set import ShownImages, TrainingSet, image_stream

ReadRows: TypeAlias = Callable[[Int64Array], AnyArray]
"""Reads some rows of an array, such as pixels or cached features, by their indices."""
_MAX_NORM_IMAGES = 256
"""Running statistics of batch norms are estimated on about this many images, in whole steps."""
_STEPS_AT_ONCE = 64
_TRANSFER_BYTES = 2**25
"""At most this many steps, and about this many bytes, are copied to the device at once."""
_ROWS_AT_ONCE = 1024
_NOT_SHOWN = -1
_UNKNOWN = -1
"""The state of an unknown finding."""


class Batches:
    """The batches of a training of `total_steps` steps.

    Attributes:
        pretraining_steps: The first steps, which show only extra images; 0 unless `mixing:
            pretrain`.
    """

    def __init__(self, images: TrainingSet, network: TrialNetwork, total_steps: int) -> None:
        self.parameters = network.experiment.parameters
        self._has_own_views = AUGMENTATIONS.has(self.parameters.augmentation)
        if self._has_own_views:
            images = augmented(images, network.experiment, network.input_format.image_size_px)
        self._images = images
        self._network = network
        self._seed = network.experiment.settings.seed
        self._is_blended = self.parameters.mixup > 0 or self.parameters.cutmix > 0
        self.pretraining_steps = self.parameters.pretraining_steps(total_steps)
        views = self.parameters.views if self.parameters.augmentation != "none" else 1
        stream = partial(image_stream, self._seed, view_count=views)
        self._real_stream = stream("real", images.real, per_step=self.parameters.batch_size)
        self._extra_stream = stream("extra", images.extra, per_step=self.parameters.extra_per_step)
        self._loader: FeatureLoader | PixelLoader
        if network.has_cached_features:
            shown_in_steps = zip(*map(self.images_of_step, range(total_steps)), strict=True)
            self._loader = FeatureLoader(images, network, *map(np.concatenate, shown_in_steps))
        else:
            self._loader = PixelLoader(images, network)

    def images_of_step(self, step: int) -> ShownImages:
        """Return the images of a step, numbered in the training set: real ones, then extra ones.

        The k-th step with real images shows the same ones in every trial.
        """
        parts = []
        is_pretraining = step < self.pretraining_steps
        if not is_pretraining:
            parts.append(self._real_stream(step - self.pretraining_steps))
        if is_pretraining or self.parameters.mixing == "additive":
            parts.append(self._extra_stream(step))
        indices, views = map(np.concatenate, zip(*parts, strict=True))
        return (indices + views, np.zeros_like(views)) if self._has_own_views else (indices, views)

    def step_inputs(self, steps: range) -> Iterator[StepInputs]:
        """Yield what `load` needs for each step, on the device.

        These are the targets of its images and what the loader needs to look the images up; with
        mixup or cutmix, its pairs are also included. The rows of several steps are brought to the
        device at once.
        """
        device = self._network.compute.device
        images_per_step = self.parameters.batch_size + self.parameters.extra_per_step
        steps_in_transfer = _TRANSFER_BYTES // (images_per_step * self._loader.row_bytes)
        at_once = min(_STEPS_AT_ONCE, 1 + steps_in_transfer)
        first_real = max(0, self.pretraining_steps - steps.start)
        for of_shape in (steps[:first_real], steps[first_real:]):
            for start in range(0, len(of_shape), at_once):
                group = of_shape[start : start + at_once]
                indices, views = map(np.stack, zip(*map(self.images_of_step, group), strict=True))
                columns = [self._images.targets[indices], *self._loader.prepare(indices, views)]
                if self._is_blended:
                    columns += sample_pairs(group, indices.shape[1], self.parameters, self._seed)
                on_device = [
                    pin_memory(column, device).to(device, non_blocking=True) for column in columns
                ]
                yield from zip(*on_device, strict=True)

    def load(self, step_inputs: StepInputs, *, blends: bool = True) -> tuple[Tensor, Tensor]:
        """Return the inputs and targets of a step, on the device, from `step_inputs`.

        Targets are labels, int64 [B], findings or probabilities, [B, C], or masks, [B, 1, S, S].
        """
        if not self._is_blended:
            return self._loader.load(*step_inputs)
        *loader_inputs, partner, share, box = step_inputs
        inputs, targets = self._loader.load(*loader_inputs)
        if not blends:
            return inputs, targets
        class_count = self._network.output_count
        return blend(inputs, targets, (partner, share, box), class_count=class_count)

    def norm_batches(self) -> Iterator[Tensor]:
        """Yield the inputs of the first steps with real images, to estimate batch norms on."""
        first_real = self.pretraining_steps
        count = min(len(self._images.real), _MAX_NORM_IMAGES)
        steps = range(first_real, first_real + math.ceil(count / self.parameters.batch_size))
        for step_inputs in self.step_inputs(steps):
            yield self.load(step_inputs, blends=False)[0]


class FeatureLoader:
    """Looks up cached features, float32 [B, D], of images in the views that any step shows."""

    def __init__(
        self, images: TrainingSet, network: TrialNetwork, indices: Int64Array, views: Int64Array
    ) -> None:
        """`indices` and `views`, [n], are the images that the steps show, and their views."""
        tables = [network.views(image_set) for image_set in images.image_sets]
        is_shown = np.zeros((len(images.targets), tables[0].shape[1]), dtype=bool)
        is_shown[indices, views] = True
        self._row_of_view = np.full(is_shown.shape, _NOT_SHOWN)
        arrays: list[tuple[int, ReadRows]] = []
        first_image = 0
        first_row = 0
        for image_set, table in zip(images.image_sets, tables, strict=True):
            set_rows = slice(first_image, first_image + len(table))
            first_image = set_rows.stop
            shown, shown_views = np.nonzero(is_shown[set_rows])
            if not len(shown):
                continue
            features, rows = network.features(image_set, shown, table[shown, shown_views])
            arrays.append((len(rows), partial(_read_rows, features, rows)))
            self._row_of_view[set_rows][shown, shown_views] = first_row + np.arange(len(rows))
            first_row += len(rows)
        self._rows = DeviceRows(arrays, network.compute.device)
        self.row_bytes = self._rows.row_bytes

    def prepare(self, indices: Int64Array, views: Int64Array) -> list[AnyArray]:
        """Return what `load` needs for steps of one shape, [steps, B]."""
        rows = self._row_of_view[indices, views]
        assert _NOT_SHOWN not in rows, "another image than those of the steps"
        return [self._rows.prepare(rows)]

    def load(self, targets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of each image in its view, and the labels or findings."""
        return self._rows.look_up(rows), targets


def _read_rows(features: AnyArray, rows: Int64Array, indices: Int64Array) -> AnyArray:
    return np.asarray(features[rows[indices]])


class PixelLoader:
    """Scales, augments and normalises images, and masks if there are any, on the device.

    Real images and others may have different sizes, so they are looked up apart.
    """

    def __init__(self, images: TrainingSet, network: TrialNetwork) -> None:
        self._network = network
        self._real_count = len(images.image_sets[0].rows)
        self._is_augmented = network.experiment.parameters.is_augmented
        self._views = np.concatenate([network.views(image_set) for image_set in images.image_sets])
        arrays = [(len(image_set.rows), image_set.read_channels) for image_set in images.image_sets]
        device = network.compute.device
        self._groups = [DeviceRows(group, device) for group in (arrays[:1], arrays[1:]) if group]
        self.row_bytes = max(group.row_bytes for group in self._groups)

    def prepare(self, indices: Int64Array, views: Int64Array) -> list[AnyArray]:
        """Return what `load` needs for steps of one shape, [steps, B]."""
        real_count = int((indices[0] < self._real_count).sum())
        parts = [indices[:, :real_count], indices[:, real_count:] - self._real_count]
        rows = [group.prepare(part) for group, part in zip(self._groups, parts, strict=False)]
        return [self._views[indices, views], *rows]

    def load(self, targets: Tensor, views: Tensor, *rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return each image in its view, float32 [B, C, S, S], and its targets.

        Targets are labels, findings or, in the same view, masks, [B, 1, S, S].
        """
        network = self._network
        pairs = zip(self._groups, rows, strict=True)
        parts = [group.look_up(part) for group, part in pairs if len(part)]
        images = torch.cat([to_unit(part[:, 0], network.input_format) for part in parts])
        with_masks = parts[0].shape[1] > 1
        if with_masks:
            targets = torch.cat([network.scale_masks(part[:, 1]) for part in parts])
        if self._is_augmented:  # otherwise, every view is the image itself
            images = augment(images, views)
            if with_masks:
                targets = augment_masks(targets, views)
        return normalise(images, network.input_format), targets


class DeviceRows:
    """The rows of several arrays, all of one shape, numbered from the first array to the last.

    All rows are copied to a GPU once if they take no more than a quarter of its free memory.
    Otherwise the rows of several steps are copied from pinned memory, while the device still
    computes the steps before.

    Attributes:
        row_bytes: The number of bytes that a step copies to the device for each of its rows.
    """

    def __init__(self, arrays: Sequence[tuple[int, ReadRows]], device: str) -> None:
        """`arrays` has each array's number of rows, and a function that reads some of them."""
        self._arrays = arrays
        self._ends = np.cumsum([count for count, _ in arrays])
        self._first_row = arrays[0][1](np.zeros(1, dtype=np.int64))
        self._all: Tensor | None = None
        self.row_bytes = self._first_row.nbytes
        total = int(self._ends[-1])
        if total * self.row_bytes <= _room_bytes(device):
            parts = np.array_split(np.arange(total), -(-total // _ROWS_AT_ONCE))
            self._all = torch.cat(
                [pin_memory(self._read(part), device).to(device) for part in parts]
            )
            self.row_bytes = self._ends.itemsize

    def prepare(self, row_indices: Int64Array) -> AnyArray:
        """Return what `look_up` needs for rows [steps, B]: their indices or their content."""
        return self._read(row_indices) if self._all is None else row_indices

    def look_up(self, prepared: Tensor) -> Tensor:
        """Return the rows of a step, [B, ...]."""
        return prepared if self._all is None else self._all.index_select(0, prepared)

    def _read(self, row_indices: Int64Array) -> AnyArray:
        shape = (*row_indices.shape, *self._first_row.shape[1:])
        rows = np.empty(shape, dtype=self._first_row.dtype)
        array_of = np.searchsorted(self._ends, row_indices, side="right")
        for index, (count, read_array) in enumerate(self._arrays):
            mask = array_of == index
            rows[mask] = read_array(row_indices[mask] - self._ends[index] + count)
        return rows


def pin_memory(array: AnyArray, device: str) -> Tensor:
    """Return an array as a tensor that can be copied to the device without waiting for it."""
    tensor = torch.from_numpy(array)
    return tensor if device == "cpu" else tensor.pin_memory()


def _room_bytes(device: str) -> float:
    """Return how much of a device's memory may hold rows.

    A CPU holds no rows, since it reads the memory-mapped arrays at each step.
    """
    if device == "cpu":
        return 0
    free, total = torch.cuda.mem_get_info()
    return min(free, torch.cuda.get_per_process_memory_fraction() * total) / 4


def sample_pairs(
    steps: Iterable[int], images_per_step: int, parameters: Parameters, seed: int
) -> list[AnyArray]:
    """Return what `blend` needs for steps of one shape.

    The first array has the partner of each image, int64 [steps, B]. The second has the share that
    an image keeps of itself, float32 [steps, 1]. The third has the top, left, bottom and right of
    the rectangle that comes from the partner, as shares of a side, float32 [steps, 4]. The
    rectangle is empty for mixup.
    """
    partners, shares, boxes = [], [], []
    alphas = {"mixup": parameters.mixup, "cutmix": parameters.cutmix}
    kinds = [name for name, alpha in alphas.items() if alpha]
    for step in steps:
        generator = numpy_generator(seed, "blending", step)
        kind = kinds[generator.integers(len(kinds))]
        share = generator.beta(alphas[kind], alphas[kind])
        share = max(share, 1 - share)
        partners.append(generator.permutation(images_per_step))
        half = np.sqrt(1 - share) / 2 if kind == "cutmix" else 0.0
        centre = generator.random(2)
        box = np.clip([*(centre - half), *(centre + half)], 0, 1)
        boxes.append(box)
        shares.append([share])
    return [
        np.stack(partners),
        np.array(shares, dtype=np.float32),
        np.array(boxes, dtype=np.float32),
    ]


def blend(
    inputs: Tensor, targets: Tensor, blending: tuple[Tensor, ...], *, class_count: int
) -> tuple[Tensor, Tensor]:
    """Return blended inputs, [B, ...], and their targets as probabilities.

    Targets are labels, int64 [B], findings or probabilities, [B, C], or masks, [B, 1, S, S]. A
    finding that is unknown for either image of a pair is unknown.
    """
    partner, share, box = blending
    if targets.ndim == 1:
        targets = one_hot(targets, class_count)
    targets = targets.to(torch.float32)
    partner_targets = targets[partner]
    is_unknown = (targets == _UNKNOWN) | (partner_targets == _UNKNOWN)
    shares = share
    if inputs.ndim == 4:
        top, left, bottom, right = box.unbind(dim=-1)
        is_cut = bottom > top
        side = inputs.shape[-1]
        centres = (torch.arange(side, device=inputs.device) + 0.5) / side
        rows = (centres >= top) & (centres < bottom)
        columns = (centres >= left) & (centres < right)
        is_others = (rows[:, None] & columns[None, :]).to(inputs.dtype)
        # With cutmix, the labels have the same shares as the pixels.
        share = torch.where(is_cut, 1 - is_others.mean(), share)
        shares = torch.where(is_cut, 1 - is_others, share.expand_as(is_others))
    blended = torch.lerp(inputs[partner], inputs, shares)
    has_masks = targets.ndim == 4
    targets = torch.lerp(partner_targets, targets, shares if has_masks else share)
    return blended, targets.masked_fill(is_unknown, _UNKNOWN)
