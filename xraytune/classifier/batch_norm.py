"""Estimate the running statistics of batch norms for the weights as they are.

Training leaves a moving average that trails behind the weights. In a short training it trails far, and by how much depends
on the arm: what arms are compared by would be the lag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from xraytune.compute import autocast
from xraytune.records import Compute

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@torch.no_grad()
def estimate_batch_norms(network: nn.Module, batches: Callable[[], Iterable[Tensor]], *, compute: Compute) -> None:
    """Replace the running statistics of the batch norms in train mode by their means over the batches.

    All else is in eval mode meanwhile, so that nothing is dropped and no random number is drawn. Without such a batch norm
    no batch is made. Modes are restored; in train mode the running statistics are not read, so training does not notice.

    Args:
        network: On the device, in train mode.
        batches: Gives batches of normalised images, [B, C, S, S] on the device: of about equal size, at least two images
            each, and each batch a sample of all images, for every layer normalises it by its own statistics.
        compute: Images in `compute.precision`, as in training.

    Source: Ioffe and Szegedy 2015, "Batch Normalization", section 3.1; the cumulative mean is that of
        `torch.optim.swa_utils.update_bn`, which would also reset batch norms that are frozen.
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
            norm.momentum = None  # the mean over all batches
        for images in batches():
            with autocast(compute):
                network(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        network.train()
