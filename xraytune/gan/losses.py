"""What the two networks minimise, from logits: high means "real".

`bce` and `non_saturating` are two names of one function: the binary cross entropy of PyTorch's DCGAN tutorial, in
which the generator's fakes are labelled real, is the non-saturating loss of Goodfellow et al. 2014 (section 3). Both
are known to people, so both may be written; searching over the two compares nothing.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor
from torch.nn import functional

LossName: TypeAlias = Literal["bce", "non_saturating", "hinge"]


def discriminator_loss(name: LossName, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The discriminator's loss, a scalar; logits are float32 [B].

    Sources: Goodfellow et al. 2014, equation 1, with log sigmoid written as softplus; hinge: Lim & Ye 2017, and
    Miyato et al. 2018, equation 16.
    """
    if name == "hinge":
        return functional.relu(1 - real_logits).mean() + functional.relu(1 + fake_logits).mean()
    return functional.softplus(-real_logits).mean() + functional.softplus(fake_logits).mean()


def generator_loss(name: LossName, fake_logits: Tensor) -> Tensor:
    """The generator's loss, a scalar; logits are float32 [B].

    Sources: Goodfellow et al. 2014, section 3 (non-saturating); hinge: Miyato et al. 2018, equation 17.
    """
    if name == "hinge":
        return -fake_logits.mean()
    return functional.softplus(-fake_logits).mean()
