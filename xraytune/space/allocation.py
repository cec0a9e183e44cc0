"""How many cores and GPUs a trial gets; `search/loop.py` says how many trials fit."""

from xraytune.base.records import frozen
from xraytune.space.settings import Settings

_RAY_UNITS = 10_000
"""Ray counts ten thousandths of a GPU."""


@frozen
class Share:
    """The CPU cores and GPUs of a process, which may be a part of one GPU."""

    cpus: int
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus} CPU cores and {self.gpus:g} GPUs"


@frozen
class Allocation:
    """`resources` of a space, with numbers in place of `auto`.

    `generator` is what an extension holds while it trains; None for what a trial holds.
    """

    trial: Share
    generator: Share | None = None
    concurrent: int | None = None

    @property
    def most(self) -> Share:
        """The most cores and GPUs that a process holds."""
        shares = (self.trial, self.generator or self.trial)
        return Share(
            cpus=max(share.cpus for share in shares), gpus=max(share.gpus for share in shares)
        )


def allocation_of(settings: Settings, *, has_gpu: bool) -> Allocation:
    """Return the resources of a space's trials.

    `has_gpu` says whether the machines that run trials have GPUs; this machine need not be among
    them. A process gets its share from one GPU, and shares are rounded so that they use the GPU
    fully: a share of .3 becomes .3333, of which three fit on a GPU as well.
    """
    resources = settings.resources
    gpus = float(has_gpu) if resources.gpus_per_trial == "auto" else float(resources.gpus_per_trial)
    if gpus:
        per_gpu = min(int(1 / gpus + 1e-6), _RAY_UNITS)
        gpus = _RAY_UNITS // per_gpu / _RAY_UNITS
    trial = Share(cpus=resources.cpus_per_trial, gpus=gpus)
    reserved = resources.generator
    generator = Share(cpus=reserved.cpus or trial.cpus, gpus=float(reserved.gpus or trial.gpus))
    return Allocation(
        trial=trial,
        generator=None if generator == trial else generator,
        concurrent=resources.concurrent,
    )
