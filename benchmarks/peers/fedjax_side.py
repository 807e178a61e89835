"""FedJAX's round: its federated averaging on a Haiku model, as its examples do it.

Images normalised once and kept in memory; Adam at the clients, the server's step a plain mean (SGD with rate 1).
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import fedjax
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from fedjax.algorithms import fed_avg
from work import LAYERS, Work


def network(batch: dict[str, Any]) -> Any:
    x = batch["x"]
    for layer, channels in zip(LAYERS, (32, 64, 128), strict=False):
        x = hk.max_pool(jax.nn.relu(hk.Conv2D(channels, 3, name=layer)(x)), 2, 2, "VALID")
    return hk.Linear(10, name="fc")(x.reshape(x.shape[0], -1))


def loss(batch: dict[str, Any], logits: Any) -> Any:
    """Cross-entropy of every image, (B,)."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["y"][:, None], 1)[:, 0]


def play(work: Work, rounds: Callable[[Callable[[], dict[str, Any]]], None]) -> None:
    settings = work.settings
    fedjax.set_for_each_client_backend(settings["fedjax_backend"])
    test = {"x": jnp.asarray(work.normalised(work.test_images)), "y": jnp.asarray(work.test_labels)}
    model = fedjax.create_model_from_haiku(hk.transform(network), test, loss, {})
    algorithm = fed_avg.federated_averaging(
        fedjax.model_grad(model),
        fedjax.optimizers.adam(settings["learning_rate"]),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=settings["batch_size"], num_epochs=settings["epochs"]),
    )
    params = {k: {"w": work.params[f"{k}_kernel"], "b": work.params[f"{k}_bias"]} for k in LAYERS}
    keys = jax.random.split(jax.random.PRNGKey(0), len(work.labels))
    data = [{"x": work.normalised(x), "y": y} for x, y in zip(work.images, work.labels, strict=True)]
    clients = [(k, fedjax.ClientDataset(own), keys[k]) for k, own in enumerate(data)]
    state = {"server": algorithm.init(jax.tree_util.tree_map(jnp.asarray, params))}
    predict = jax.jit(model.apply_for_eval)

    def one_round() -> dict[str, Any]:
        began = time.perf_counter()
        state["server"], _ = algorithm.apply(state["server"], clients)
        jax.block_until_ready(state["server"].params)
        seconds = time.perf_counter() - began
        right = np.asarray(predict(state["server"].params, test)).argmax(-1) == work.test_labels
        device = f"{jax.devices()[0].device_kind}, {jax.local_device_count()} XLA devices, {settings['fedjax_backend']}"
        return {"seconds": seconds, "accuracy": float(right.mean()), "device": device}

    rounds(one_round)
