"""Train the heads of several replicates of an arm at once, as `TrialTraining` trains each of them.

Initial weights, images of each step, loss, optimizer and choice of the epoch are the same, so that
the results are those of the trainings one by one, up to rounding. On a CPU, most of the time of such
a small training is the overhead of its steps, which the replicates share here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraytune.nets.networks import linear_of
from xraytune.trial.training import TrialTraining


def train_heads(trainings: Sequence[TrialTraining]) -> None:
    """Train linear heads on cached features, without augmentation, in place.

    Each head has the weights of its best epoch on val-A in the end.
    """
    first = trainings[0]
    tables, targets, rows = [], [], []
    start = 0
    total_steps = first.max_epochs * first.steps_per_epoch
    for training in trainings:
        features = [training.network.plain_features(each) for each in training.images.image_sets]
        tables.append(torch.from_numpy(np.concatenate(features)))
        targets.append(_probabilities(training.images.targets))
        shown = [training.batches.images_of_step(step)[0] for step in range(total_steps)]
        rows.append(torch.from_numpy(start + np.stack(shown)))
        start += len(tables[-1])
    table, target_table = torch.cat(tables), torch.cat(targets)
    step_rows = torch.stack(rows, dim=1)  # [steps, heads, B]

    real = first.parameters.batch_size
    weights = torch.ones(step_rows.shape[2])
    weights[real:] = first.parameters.synthetic_weight
    weights /= weights.sum()
    linears = [linear_of(training.trained) for training in trainings]
    weight = torch.stack([linear.weight.detach().T for linear in linears]).requires_grad_()
    bias = torch.stack([linear.bias.detach()[None] for linear in linears]).requires_grad_()
    optimizer = torch.optim.Adam([weight, bias], lr=first.parameters.lr, fused=True)

    val_features = torch.stack(
        [
            torch.from_numpy(training.network.plain_features(training.val_a))
            for training in trainings
        ]
    )
    is_positive = [training.val_a.labels == 1 for training in trainings]
    best = np.full(len(trainings), -np.inf)
    best_weight, best_bias = weight.detach().clone(), bias.detach().clone()
    for step in range(total_steps):
        chosen = step_rows[step].flatten()
        inputs = table[chosen].view(*step_rows[step].shape, -1)
        labels = target_table[chosen].view(*step_rows[step].shape, -1)
        logits = torch.baddbmm(bias, inputs, weight)
        losses = -(labels * logits.log_softmax(dim=2)).sum(dim=2)  # [heads, B]
        optimizer.zero_grad()
        (losses * weights).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if (step + 1) % first.steps_per_epoch:
            continue
        with torch.no_grad():
            outputs = torch.baddbmm(bias, val_features, weight)
            margins = (outputs[:, :, 1] - outputs[:, :, 0]).numpy()
            for head, positive in enumerate(is_positive):
                score = _auroc(margins[head], positive)
                if score > best[head]:
                    best[head] = score
                    best_weight[head] = weight[head]
                    best_bias[head] = bias[head]
    with torch.no_grad():
        for head, linear in enumerate(linears):
            linear.weight.copy_(best_weight[head].T)
            linear.bias.copy_(best_bias[head, 0])


def _probabilities(targets: NDArray[Any]) -> Tensor:
    """Return labels, int64 [N], or probabilities, [N, 2], as probabilities."""
    one_hot = np.eye(2)[targets] if targets.ndim == 1 else targets
    return torch.from_numpy(one_hot.astype(np.float32))


def _auroc(margins: NDArray[Any], is_positive: NDArray[Any]) -> float:
    """Return the share of pairs that are in the right order; ties count half."""
    difference = margins[is_positive][:, None] - margins[~is_positive][None]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())
