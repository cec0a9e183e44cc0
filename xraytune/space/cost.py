"""A rough estimate of how long a search takes without a GPU, to warn of it before it starts.

The constants were measured on single cores of a server; another machine may be several times as
fast or slow.
"""

from statistics import fmean

from xraytune.space.settings import GanSettings
from xraytune.space.space import Space

_BACKBONE_SECONDS = 0.08
"""One core, for a training step of all layers of a ResNet-50, per image of 128 px."""
_GAN_SECONDS = 0.016
"""One core, for a step of a GAN of width 64, per image of 64 px."""
_TRAINED_SHARE = {"head": 0.0, "last_stage": 0.5, "all": 1.0}
"""The cost of training these layers. The features of a frozen backbone are computed once."""
_SHARE_AFTER_ASHA = 1 / 3
_LONG_HOURS = 2.0
_CPU_SPACES = {
    "classification": "gan_ratio_cpu",
    "findings": "findings_ratio_cpu",
    "segmentation": "gan_segmentation_cpu",
}


def describe_slow_search(space: Space, *, images_per_epoch: int, cores: int) -> str | None:
    """Return what a user should know before a search on CPU cores that takes hours.

    None if it does not.

    Args:
        space: The space to search.
        images_per_epoch: Real images that a trial trains on in an epoch.
        cores: CPU cores that all trials share.
    """
    settings = space.settings
    images = float(images_per_epoch * settings.budget.max_epochs * space.trial_budget())
    if settings.scheduler.name == "asha":
        images *= _SHARE_AFTER_ASHA
    of_network = ("backbone", "weights", "input_size", "trainable")
    networks = {
        (trial.backbone, trial.size_px(settings.data), trial.trainable, trial.synthetic_ratio)
        for trial in space.corners(*of_network, "source", "synthetic_ratio")
    }
    shares = []
    for backbone, size_px, trainable, ratio in networks:
        share = 0.05 if backbone == "small_cnn" else _TRAINED_SHARE[trainable]
        shares.append(share * (1 + ratio) * (size_px / 128) ** 2)
    seconds = images * _BACKBONE_SECONDS * fmean(shares)

    # A longer run of a GAN continues a shorter one with the same settings.
    longest: dict[GanSettings, int] = {}
    names = ("gan.image_size", "gan.width", "gan.batch_size", "gan.steps")
    for trial in space.corners("source", *names):
        if trial.gan:
            start = trial.gan.model_copy(update={"steps": 0})
            longest[start] = max(trial.gan.steps, longest.get(start, 0))
    for gan, steps in longest.items():
        pixels = gan.batch_size * (gan.image_size / 64) ** 2
        seconds += steps * pixels * _GAN_SECONDS * gan.width / 64

    hours = seconds / cores / 3600
    if hours < _LONG_HOURS:
        return None
    time = f"{hours / 24:.0f} days" if hours > 48 else f"{hours:.0f} hours"
    return (
        f"without a GPU, this search takes roughly {time} on {cores} CPU cores; "
        f"--space {_CPU_SPACES[settings.task]} asks a smaller question in minutes"
    )
