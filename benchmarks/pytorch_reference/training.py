"""What one client does in a round: sparse training, step by step.

Axes: T steps, B images of a batch, O filters of a convolution.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.pytorch_reference.model import Images, Params, forward
from fedmi_jax.config import Local, Sparsity, replace
from fedmi_jax.data.batches import Plan


def train(start: Params, images: Images, plan: Plan, local: Local, sparse: Sparsity) -> tuple[Params, Tensor]:
    """The model after the plan's steps from `start`, and the loss of each step (T,).

    plan: one client's, indices (T, B); only its first `steps` rows, and of a row its first images, not the padding,
    are used. Covers layer-by-layer pruning and plain cross-entropy, as in all of the paper's experiments.
    """
    if sparse.scope != "layer" or local.fedrs < 1 or local.fedprox:
        raise ValueError("the PyTorch reference prunes layer by layer and knows neither FedRS nor FedProx")
    params = {name: leaf.clone().requires_grad_() for name, leaf in start.items()}
    linear = sparse if sparse.linear is None else replace(sparse, target=sparse.linear)
    weights = [(leaf, linear if name == "fc.weight" else sparse) for name, leaf in params.items() if leaf.dim() > 1]
    # fused: one pass over all parameters, on CPU and GPU
    optimiser = torch.optim.Adam(params.values(), lr=local.learning_rate, fused=True)
    batches, steps, losses = rows(plan, images), int(plan.steps), []
    for t in range(steps):
        loss = F.cross_entropy(forward(params, images[batches[t]]), images.labels[batches[t]])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
        for weight, own in weights:
            if own.target:
                prune(weight, keep_count(sparsity_at(t, steps, own), weight.numel()), own.floor)
    trained = {name: leaf.detach() for name, leaf in params.items()}
    return trained, torch.stack(losses) if losses else torch.zeros(0)


def unstacked(plans: Plan) -> list[Plan]:
    """A stack of plans (K, T, B), one by one."""
    parts = zip(plans.indices, plans.counts, np.asarray(plans.steps), strict=True)
    return [Plan(index, counts, np.int32(steps)) for index, counts, steps in parts]


def rows(plan: Plan, images: Images) -> list[Tensor]:
    """Each step's image indices, on the device, without padding: one transfer for the whole plan."""
    index = torch.from_numpy(plan.indices).to(images.labels.device, torch.int64)
    return [row[:size] for row, size in zip(index, plan.counts.tolist(), strict=True)]


def sparsity_at(t: int, steps: int, sparse: Sparsity) -> float:
    """After local step t = 0 .. steps - 1: a ramp over the first half, then the target."""
    rise = steps // 2
    return sparse.target * t / rise if sparse.ramp and t < rise else sparse.target


def keep_count(amount: float, size: int) -> int:
    """Weights of a tensor that stay at this sparsity."""
    return max(1, int((1 - amount) * size))


@torch.no_grad()
def prune(weight: Tensor, keep: int, floor: int) -> None:
    """Zero, in place, what is smaller than the keep-th largest magnitude; a filter keeps its own `floor` largest.

    Both rules are one threshold per filter, the lower of the two: where the filter keeps enough anyway, its floor-th
    largest weight is not below the common threshold.
    """
    size = weight.abs()
    if keep >= size.numel():
        return
    # unsorted: a selection, where sorted=True would sort the whole tensor early in the ramp
    threshold = size.flatten().topk(keep, sorted=False).values.min()
    if floor and weight.ndim == 4:
        filters = size.flatten(1)
        own = filters.topk(min(floor, filters.shape[1]), sorted=False).values.amin(1)
        threshold = torch.minimum(threshold, own).view(-1, 1, 1, 1)
    weight.mul_(size >= threshold)


@torch.no_grad()
def average(models: list[Params]) -> Params:
    """The unweighted mean of every parameter."""
    return {name: torch.stack([model[name] for model in models]).mean(0) for name in models[0]}
