"""Finding circuits that decide: the second instrument (docs/decisions.md), with Bernoulli gates and mean maps.

Axes: P probe images, S of them to search on, N images, T steps, B images of a batch, M samples of all gates, Y classes,
O_l channels of convolution l, C = sum of O_l.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.pytorch_reference.circuits import logits
from benchmarks.pytorch_reference.model import Images, Params
from benchmarks.pytorch_reference.training import rows
from fedmi_jax.config import Discovery
from fedmi_jax.data.batches import Plan
from fedmi_jax.network.layers import conv_layers

Means = Mapping[str, Tensor]
"""{"conv1": (O_1, h_1, w_1), ...}: every channel's mean output, after ReLU and pool."""
LOWEST, HIGHEST = -4.0, 6.0
LEAST_SPREAD = 0.02
GRID = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181)
PASSES = 3


class Task(NamedTuple):
    """Which circuit is looked for, and with which draws."""

    label: int
    others: np.ndarray
    """bool (Y,)."""
    plan: Plan
    """(T, B), places among the probe images."""
    draws: np.ndarray
    """uint8 (T, M / 2, C)."""
    chosen: np.ndarray
    """(N,): places of the images on which the size is chosen."""


class Question(NamedTuple):
    """What is asked of N images."""

    label: int
    temperature: Tensor
    weights: Tensor
    """(N,)."""
    answers: Tensor
    """(N,), probabilities."""
    spread: Tensor
    """(), nats."""


class Found(NamedTuple):
    """A circuit, and how it was found."""

    score: Tensor
    """(C,), as the search ended."""
    value: Tensor
    """(C,): what opening the channel saved, mean over the last third of the search."""
    mask: Tensor
    """bool (C,)."""
    order: list[int]
    """Live channels, the best first."""
    sizes: list[int]
    curve: list[float]
    untrimmed: int
    explained: float
    spread: float
    temperature: float


def decide(params: Params, images: Images, searched: int, task: Task, settings: Discovery, batch: int) -> Found:
    """One circuit on a frozen model. images: the probe, of which the first `searched` are searched on."""
    means, whole = survey(params, images, searched, batch)
    known = images.labels.cpu()
    asked = ask(whole[:searched], known[:searched], task)
    score, value = search(params, images, means, asked, task, settings)
    chosen = torch.from_numpy(task.chosen).to(whole.device, torch.int64)
    judged = ask(whole[chosen], known[task.chosen], task, asked.temperature)
    order = ranking(params, score, value)

    def explains(channels: list[int]) -> float:
        return explained(params, images, chosen, means, channels, judged, batch)

    sizes = [min(k, len(order)) for k in GRID if k < len(score)] + [len(order)]
    curve = [explains(order[:k]) for k in sizes]
    kept, untrimmed = choose(order, sizes, curve, explains, settings.target)
    mask = torch.zeros(len(score), dtype=torch.bool)
    mask[kept] = True
    return Found(
        score, value, mask, order, sizes, curve, untrimmed, explains(kept), asked.spread.item(),
        asked.temperature.item(),
    )  # fmt: skip


def forward(params: Params, x: Tensor, gates: Mapping[str, Tensor], means: Means) -> Tensor:
    """Logits (N, Y) of x (N, I, H, W); where a gate (N or 1, O) is 0 the channel's output is its mean."""
    for layer in conv_layers(params):
        x = F.conv2d(x, params[f"{layer}.weight"], params[f"{layer}.bias"], padding=1)
        x = F.relu(F.max_pool2d(x, 2), inplace=True)
        x = torch.lerp(means[layer], x, gates[layer][:, :, None, None])
    return F.linear(x.flatten(1), params["fc.weight"], params["fc.bias"])


@torch.no_grad()
def survey(params: Params, images: Images, searched: int, batch: int) -> tuple[Means, Tensor]:
    """The channels' mean outputs over the first images, and the whole model's logits on all, (P, Y)."""
    sums: dict[str, Tensor] = {}
    for start in range(0, searched, batch):
        x = images[slice(start, min(start + batch, searched))]
        for layer in conv_layers(params):
            x = F.conv2d(x, params[f"{layer}.weight"], params[f"{layer}.bias"], padding=1)
            x = F.relu(F.max_pool2d(x, 2))
            sums[layer] = sums.get(layer, 0) + x.sum(0)
    whole = logits(params, images, slice(0, len(images.labels)), batch)
    return {layer: total / searched for layer, total in sums.items()}, whole


def margin(logits: Tensor, label: int, temperature: Tensor) -> Tensor:
    """Log-odds (N,) of the class against all others."""
    scaled = logits / temperature
    others = torch.arange(logits.shape[-1], device=logits.device) != label
    return scaled[:, label] - scaled[:, others].logsumexp(-1)


def ask(whole: Tensor, labels: Tensor, task: Task, temperature: Tensor | None = None) -> Question:
    """What the model's own logits (N, Y) answer, half of the weight on images of the class."""
    weights = balanced(labels, task).to(whole)
    if temperature is None:
        rest = whole.clone()
        rest[:, task.label] = -torch.inf
        lead = whole[:, task.label] - rest.amax(-1)
        mean = weights @ lead
        temperature = ((weights @ (lead - mean) ** 2).sqrt() / 2).clamp(min=1)
    answers = torch.sigmoid(margin(whole, task.label, temperature))
    spread = entropy(weights @ answers) - weights @ entropy(answers)
    return Question(task.label, temperature, weights, answers, spread)


def balanced(labels: Tensor, task: Task) -> Tensor:
    """Weights (N,): half on the class, half on the others, each of these alike."""
    weights = torch.zeros(len(labels), dtype=torch.float64)
    negative = [c for c in np.flatnonzero(task.others).tolist() if (labels == c).any()]
    for c, share in [(task.label, 0.5), *((c, 0.5 / len(negative)) for c in negative)]:
        weights[labels == c] = share / int((labels == c).sum())
    return weights


def entropy(p: Tensor) -> Tensor:
    """Of a binary answer, in nats."""
    return -(torch.xlogy(p, p) + torch.special.xlog1py(1 - p, -p))


def distance(logits: Tensor, label: int, temperature: Tensor, answers: Tensor, weights: Tensor) -> Tensor:
    """Mean cross-entropy (), of binary answers."""
    apart = F.binary_cross_entropy_with_logits(margin(logits, label, temperature), answers, reduction="none")
    return weights @ apart


def search(
    params: Params, images: Images, means: Means, asked: Question, task: Task, settings: Discovery
) -> tuple[Tensor, Tensor]:
    """Scores (C,) and values (C,). Gates are leaves: their gradient, times sigmoid's derivative, is the scores'."""
    layers, steps = conv_layers(params), settings.steps
    widths = [len(params[f"{layer}.bias"]) for layer in layers]
    score = asked.weights.new_full((sum(widths),), settings.initial_score)
    optimiser = torch.optim.Adam([score.requires_grad_()], lr=settings.learning_rate, fused=True)
    half = int(steps * 0.5)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda t: 1 - max(0, t - half) / (steps - half))
    draws = torch.from_numpy(task.draws).to(score.device)
    draws = (torch.cat([draws, 255 - draws], 1).to(score.dtype) + 0.5) / 256  # (T, M, C)
    value, counted = torch.zeros_like(score), 0
    for t, index in enumerate(rows(task.plan, images)):
        smooth = torch.sigmoid(score.detach())
        gates = (smooth > draws[t]).to(score.dtype).requires_grad_()  # (M, C)
        every = gates.repeat_interleave(len(index) // len(gates), 0)
        by_layer = dict(zip(layers, every.split(widths, -1), strict=True))
        found = forward(params, images[index], by_layer, means)
        weights = found.new_full((len(index),), 1 / len(index))
        apart = distance(found, task.label, asked.temperature, asked.answers[index], weights)
        (apart / asked.spread.clamp(min=LEAST_SPREAD)).backward()
        of_gates, slope = gates.grad.sum(0), smooth * (1 - smooth)  # type: ignore[union-attr]
        score.grad = (of_gates + settings.l0 * min(1, t / steps / 0.4)) * slope
        if t / steps >= 2 / 3:
            value, counted = value - of_gates, counted + 1
        optimiser.step()
        rate.step()
        with torch.no_grad():
            score.clamp_(LOWEST, HIGHEST)
    return score.detach(), value / max(counted, 1)


def ranking(params: Params, score: Tensor, value: Tensor) -> list[int]:
    """The channels with a path of weights from the image to the linear layer, the best first; ties by value."""
    alive = torch.cat(list(live(params).values())).tolist()
    s, v = score.tolist(), value.tolist()
    return sorted((i for i in range(len(s)) if alive[i]), key=lambda i: (-s[i], -v[i]))


def live(params: Params) -> dict[str, Tensor]:
    """bool (O_l,) a layer."""
    layers, found = conv_layers(params), {}
    before = torch.ones(params[f"{layers[0]}.weight"].shape[1], dtype=torch.bool)
    for layer in layers:
        wired = (params[f"{layer}.weight"] != 0).flatten(2).any(-1).cpu()  # (out, in)
        before = found[layer] = (wired & before).any(1)
    after = (params["fc.weight"] != 0).view(len(params["fc.bias"]), len(before), -1).any(-1).any(0).cpu()
    for layer in reversed(layers):
        found[layer] = found[layer] & after
        after = ((params[f"{layer}.weight"] != 0).flatten(2).any(-1).cpu() & after[:, None]).any(0)
    return found


def choose(
    order: list[int], sizes: list[int], curve: list[float], explains: Callable[[list[int]], float], target: float
) -> tuple[list[int], int]:  # fmt: skip
    """The smallest size from which on the target is reached, without the channels that can go; and this size."""
    enough = [k for i, k in enumerate(sizes) if min(curve[i:]) >= target]
    if not enough:
        return order, len(order)
    kept = order[: enough[0]]
    for _ in range(PASSES):
        before = len(kept)
        for channel in order[: enough[0]][::-1]:
            rest = [i for i in kept if i != channel]
            if channel in kept and explains(rest) >= target:
                kept = rest
        if len(kept) == before:
            break
    return kept, enough[0]


@torch.inference_mode()
def explained(
    params: Params, images: Images, chosen: Tensor, means: Means, channels: list[int], asked: Question, batch: int
) -> float:
    """Share of the decision that these channels alone explain on the chosen images (N,)."""
    layers = conv_layers(params)
    widths = [len(params[f"{layer}.bias"]) for layer in layers]
    gate = asked.weights.new_zeros(sum(widths))
    gate[channels] = 1
    gates = dict(zip(layers, gate[None].split(widths, -1), strict=True))
    found = torch.cat([forward(params, images[index], gates, means) for index in chosen.split(batch)])
    apart = distance(found, asked.label, asked.temperature, asked.answers, asked.weights)
    return float(1 - (apart - asked.weights @ entropy(asked.answers)) / asked.spread)
