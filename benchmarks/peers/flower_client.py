"""Flower's client: PyTorch as somebody who knows it well would write it, in whichever process Ray runs it.

Images normalised once per process and kept on the device, batches gathered by index, channels-last convolutions,
fused Adam.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import work
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn

app = ClientApp()
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def network() -> Any:
    layers: list[nn.Module] = []
    for before, after in ((1, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1152, 10)).to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]


def to_torch(params: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The network's state from this package's layout: the linear layer's rows, channel fastest, become columns with
    channel slowest."""
    state = {}
    for layer, place in zip(work.LAYERS, (0, 3, 6, 10), strict=True):
        kernel, bias = params[f"{layer}_kernel"], params[f"{layer}_bias"]
        if kernel.ndim == 4:
            weight = kernel.transpose(3, 2, 0, 1)
        else:
            channels = len(params["conv3_bias"])
            weight = kernel.reshape(-1, channels, len(bias)).transpose(2, 1, 0).reshape(len(bias), -1)
        state[f"{place}.weight"], state[f"{place}.bias"] = (
            torch.tensor(np.ascontiguousarray(weight)),
            torch.tensor(bias),
        )
    return state


def images(todo: work.Work, pixels: np.ndarray) -> Tensor:
    """(N, I, H, W) in channels-last order."""
    return torch.tensor(todo.normalised(pixels), device=DEVICE).permute(0, 3, 1, 2)


@lru_cache
def clients(path: str) -> tuple[dict[str, Any], list[tuple[Tensor, Tensor]]]:
    """Settings, and every client's images and labels, read once per process."""
    todo = work.read(Path(path))
    torch.set_num_threads(todo.settings["flower_cpus"])
    labels = torch.tensor(todo.labels, dtype=torch.int64, device=DEVICE)
    return todo.settings, [(images(todo, own), y) for own, y in zip(todo.images, labels, strict=True)]


@app.train()
def train(message: Message, context: Context) -> Message:
    """The client's own epochs, from the model it is sent."""
    settings, everyone = clients(message.content["config"]["work"])
    x, y = everyone[int(context.node_config["partition-id"])]
    model = network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimiser = torch.optim.Adam(model.parameters(), lr=settings["learning_rate"], fused=True)
    for _ in range(settings["epochs"]):
        for batch in torch.randperm(len(y), device=DEVICE).split(settings["batch_size"]):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
    content = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": len(y)})}
    return Message(content=RecordDict(content), reply_to=message)
