"""A rough estimate of how long a search and its confirmation take.

The speeds were measured on single cores of a server, and on an H100; another machine may be several
times as fast or slow.
"""

from collections.abc import Sequence
from statistics import fmean

from xraytune.base.records import frozen
from xraytune.space.parameters import Parameters, extra_image_count
from xraytune.space.settings import Settings
from xraytune.space.source_settings import GanSettings


@frozen
class Speeds:
    """Seconds that work takes on one CPU core, or on one GPU.

    Attributes:
        trial: A trial without its epochs.
        training: A training step of all layers of a ResNet-50, per image of 128 px.
        gan: A step of a GAN of width 64, per image of 64 px.
    """

    trial: float
    training: float
    gan: float


_CORE = Speeds(trial=0.5, training=0.08, gan=0.006)
_GPU = Speeds(trial=2.0, training=0.0004, gan=0.00004)
_RAY_SECONDS = 15.0
"""The time that Ray takes to start the first trial."""
_NETWORKS = {"small_cnn": 0.05, "mobilenet_v2": 0.3, "resnet18": 0.3}
"""The cost of a backbone, as a multiple of a ResNet-50's."""
_FORWARD = 1 / 3
"""The cost of an image that is not trained on."""
_TRAINED_SHARE = {"head": 0.0, "last_stage": 0.5, "all": 1.0}
"""The cost of training these layers; the features of a frozen backbone are computed only once."""
_SHARE_AFTER_ASHA = 1 / 3
_LONG_HOURS = 2.0


@frozen
class Machine:
    """The GPUs that trials compute on or, without any, the CPU cores."""

    cores: int
    gpus: int = 0

    @property
    def units(self) -> int:
        """The number of GPUs or, without any, of cores."""
        return self.gpus or self.cores

    @property
    def speeds(self) -> Speeds:
        """The speeds of one GPU or core."""
        return _GPU if self.gpus else _CORE

    def __str__(self) -> str:
        kind = "GPU" if self.gpus else "CPU core"
        return f"{self.units} {kind}s" if self.units > 1 else f"one {kind}"


@frozen
class Work:
    """The trainings of a search or of a confirmation.

    Attributes:
        trainings: The parameters of each training, in one replicate.
        train_images: Number of real images on the train side.
        epoch_steps: Number of steps of an epoch, each with a batch of real images.
        held_out_images: Number of images of the validation sides.
        scored_images: Number of images that each trained network scores in the end.
        replicates: How often everything is trained, each time with other images and generators.
    """

    settings: Settings
    trainings: Sequence[Parameters]
    train_images: int
    epoch_steps: int
    held_out_images: int
    scored_images: int = 0
    replicates: int = 1

    def seconds(self, machine: Machine) -> float:
        """Return roughly how long the work takes.

        All cores or GPUs share the work, but a single GAN trains on one of them.
        """
        gans = self._gan_seconds(machine.speeds)
        shared = self._training_seconds(machine.speeds) + self.replicates * sum(gans)
        return _RAY_SECONDS + max(shared / machine.units, *gans, 0.0)

    def _training_seconds(self, speeds: Speeds) -> float:
        settings = self.settings
        epochs: float = settings.budget.max_epochs
        if settings.scheduler.name == "asha" and not self.scored_images:
            epochs *= _SHARE_AFTER_ASHA
        seconds = self.replicates * len(self.trainings) * speeds.trial
        # A frozen backbone sees an image once; images are counted by backbone and origin.
        frozen_images: dict[tuple[object, ...], float] = {}
        for parameters in self.trainings:
            size_px = parameters.size_px(settings.data)
            image_seconds = speeds.training * (size_px / 128) ** 2
            per_image = image_seconds * _NETWORKS.get(parameters.backbone, 1.0)
            trained = _TRAINED_SHARE[parameters.trainable]
            if trained:
                real = self.epoch_steps * parameters.batch_size
                trained_images = trained * real * (1 + parameters.synthetic_ratio)
                in_epoch = trained_images + _FORWARD * self.held_out_images
                network = epochs * in_epoch + _FORWARD * self.scored_images
                seconds += self.replicates * per_image * network
                continue
            views = parameters.views if parameters.augmentation != "none" else 1
            real = self.held_out_images + self.scored_images
            real += self.replicates * views * self.train_images
            pool = 0
            if parameters.has_synthetic_images:
                pool = parameters.pool_size or extra_image_count(
                    parameters.synthetic_ratio, self.train_images
                )
            kinds = {("real",): real, (parameters.source, parameters.donor): self.replicates * pool}
            for kind, count in kinds.items():
                key = (parameters.backbone, size_px, *kind)
                frozen_images[key] = max(per_image * count, frozen_images.get(key, 0.0))
        return seconds + _FORWARD * sum(frozen_images.values())

    def _gan_seconds(self, speeds: Speeds) -> list[float]:
        """Return the time of each GAN; a longer run continues a shorter one."""
        longest: dict[GanSettings, int] = {}
        for gan in (parameters.gan for parameters in self.trainings):
            if gan:
                longest[gan.lineage] = max(gan.steps, longest.get(gan.lineage, 0))
        return [
            steps * gan.batch_size * (gan.image_size / 64) ** 2 * gan.width / 64 * speeds.gan
            for gan, steps in longest.items()
        ]

    @property
    def generators(self) -> int:
        """The number of GANs that are trained."""
        return self.replicates * len({trial.gan for trial in self.trainings if trial.gan})


def usual_seconds(ended: Sequence[float]) -> float:
    """Return how long a trial to come will take, from the times of trials that have ended.

    It is the mean of the later half, since the first ones also train generators and compute
    features that others share.
    """
    return fmean(ended[len(ended) // 2 :])


def describe_time(seconds: float) -> str:
    """Return an estimate in words, such as `40 minutes`."""
    for unit, length in (("day", 86400), ("hour", 3600)):
        if seconds > 2 * length:
            return f"{seconds / length:.0f} {unit}s"
    minutes = max(1, round(seconds / 60))
    return "a minute" if minutes == 1 else f"{minutes} minutes"


def smaller_search(seconds: float, machine: Machine) -> str:
    """Return how to get a shorter search if one takes hours on CPU cores; "" if it does not."""
    if machine.gpus or seconds < 3600 * _LONG_HOURS:
        return ""
    return "; without --space, `search` writes a smaller space for this machine"
