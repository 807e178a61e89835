"""Finding circuits, and measuring what they can do.

Axes: C circuits, T steps, B images of a batch, N test images, Y classes, O_l channels of convolution l.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.pytorch_reference.model import (
    Gates,
    Images,
    Moments,
    Params,
    Place,
    forward,
    images,
    masked,
)
from benchmarks.pytorch_reference.training import rows
from fedmi_jax.config import Discovery
from fedmi_jax.data.batches import Plan
from fedmi_jax.network.layers import conv_layers


class StraightThrough(torch.autograd.Function):
    """1 where score > 0, else 0; backward the derivative of the sigmoid."""

    @staticmethod
    def forward(ctx: Any, score: Tensor) -> Tensor:
        ctx.save_for_backward(score)
        return (score > 0).to(score.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (score,) = ctx.saved_tensors
        smooth = torch.sigmoid(score)
        return grad_outputs[0] * smooth * (1 - smooth)


def discover(params: Params, images: Images, plan: Plan, settings: Discovery) -> dict[str, Tensor]:
    """Final scores {"conv1": (O_1,), ...} of one circuit on a frozen model; those of an empty plan are -inf.

    plan (T, B): images of one class. All layers' scores are one tensor: one Adam update, one gate, one penalty.
    """
    layers = conv_layers(params)
    widths = [len(params[f"{layer}.bias"]) for layer in layers]
    start = settings.initial_score if plan.steps > 0 else -torch.inf
    scores = params["fc.bias"].new_full((sum(widths),), start).requires_grad_()
    optimiser = torch.optim.Adam([scores], lr=settings.learning_rate, fused=True)
    for batch in rows(plan, images) if plan.steps > 0 else ():
        gates: Gates = dict(zip(layers, StraightThrough.apply(scores).split(widths), strict=True))
        task = F.cross_entropy(forward(params, images[batch], gates), images.labels[batch])
        optimiser.zero_grad()
        (task + settings.l0 * torch.sigmoid(scores).sum()).backward()
        optimiser.step()
    return dict(zip(layers, scores.detach().split(widths), strict=True))


@dataclass(frozen=True)
class TestImages:
    """Test images in the order of their classes, so that a class is a slice."""

    images: Images
    slices: list[slice]
    truth: Tensor
    """(N, Y), one-hot."""


def make_test_images(
    pixels: np.ndarray, labels: np.ndarray, moments: Moments, classes: int, where: Place,
    per_class: int | None = None, among: np.ndarray | None = None,
) -> TestImages:  # fmt: skip
    """All of them, or the first `per_class` of each class, or those with indices `among` only."""
    among = np.arange(len(labels)) if among is None else among
    chosen = [among[labels[among] == c][:per_class] for c in range(classes)]
    ends = np.cumsum([len(own) for own in chosen]).tolist()
    order = np.concatenate(chosen)
    stored = images(pixels[order], labels[order], moments, where)
    slices = [slice(end - len(own), end) for end, own in zip(ends, chosen, strict=True)]
    return TestImages(stored, slices, F.one_hot(stored.labels, classes).to(where.dtype))


class Performance(NamedTuple):
    """A masked model judged as a detector of one class, as in `fedmi_jax.circuits.evaluation`."""

    call_rate: Tensor
    """(Y,)."""
    false_positive_rate: Tensor
    """()."""
    target_softmax: Tensor
    """()."""
    failure_softmax: Tensor
    """(Y,); NaN where nothing fails."""


def logits(params: Params, images: Images, which: slice, batch: int) -> Tensor:
    """(n, Y) of these images, in batches."""
    starts = range(which.start, which.stop, batch)
    return torch.cat([forward(params, images[i : min(i + batch, which.stop)]) for i in starts])


@torch.inference_mode()
def performance(params: Params, gates: Gates, target: int, test: TestImages, batch: int) -> Performance:
    """The model with only these channels open, on all test images."""
    everything = slice(0, len(test.truth))
    probabilities = logits(masked(params, gates), test.images, everything, batch).softmax(-1)
    called = probabilities.argmax(-1) == target
    count, hits = test.truth.sum(0), called.to(test.truth.dtype) @ test.truth
    others = torch.arange(len(count), device=count.device) != target
    own = test.slices[target]
    failed = ~called[own]
    return Performance(
        call_rate=hits / count,
        false_positive_rate=(hits * others).sum() / (count * others).sum(),
        target_softmax=probabilities[own, target].mean(),
        failure_softmax=failed.to(hits.dtype) @ probabilities[own] / failed.sum(),
    )


@torch.inference_mode()
def class_accuracy(params: Params, gates: Gates, target: int, test: TestImages, batch: int) -> Tensor:
    """Accuracy () of the masked model on the images of its class alone."""
    found = logits(masked(params, gates), test.images, test.slices[target], batch).argmax(-1)
    return (found == target).to(test.truth.dtype).mean()


@torch.inference_mode()
def model_accuracy(params: Params, test: TestImages, batch: int) -> tuple[Tensor, Tensor]:
    """Accuracy of the whole model on all test images () and per class (Y,)."""
    found = logits(params, test.images, slice(0, len(test.truth)), batch).argmax(-1)
    right = (found == test.images.labels).to(test.truth.dtype)
    return right.mean(), right @ test.truth / test.truth.sum(0)


@torch.inference_mode()
def empty_mask(params: Params, target: int) -> tuple[Tensor, Tensor]:
    """The control with every channel closed: is the answer the class (), and its probability ()."""
    bias = params["fc.bias"]
    return (bias.argmax() == target).to(bias.dtype), bias.softmax(-1)[target]
