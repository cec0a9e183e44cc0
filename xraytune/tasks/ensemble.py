"""Average the probabilities of several networks of one kind.

From: Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using
Deep Ensembles" (arXiv:1612.01474).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from xraytune.tasks.task import Task


class Ensemble(nn.Module):
    """Several networks, or heads, as one network that predicts the means of their probabilities.

    Attributes:
        has_classes: Whether an image has one of several classes; otherwise, each output has a
            probability of its own.
    """

    def __init__(self, members: Sequence[nn.Module], *, has_classes: bool) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.has_classes = has_classes

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the logits of the mean probabilities, float32, shaped as a member's logits."""
        logits = torch.stack([member(inputs).float() for member in self.members])
        if self.has_classes:
            return logits.log_softmax(dim=2).logsumexp(dim=0)
        return logsigmoid(logits).logsumexp(dim=0) - logsigmoid(-logits).logsumexp(dim=0)


def average_networks(task: Task, networks: Sequence[nn.Module]) -> nn.Module:
    """Return one network that averages the networks of a task; a single network is not changed."""
    if len(networks) == 1:
        return networks[0]
    return Ensemble(networks, has_classes=task.has_classes)
