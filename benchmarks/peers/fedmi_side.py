"""fedmi_jax's round: every client in one compiled program, then the mean."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from work import Work

from fedmi_jax import from_arrays
from fedmi_jax.aggregation import NO_STATE, fedavg
from fedmi_jax.config import Data, Execution, Experiment, Local, Sparsity, Split
from fedmi_jax.devices import lift
from fedmi_jax.devices.session import session
from fedmi_jax.federation import programs, simulation
from fedmi_jax.federation.cases import Circuits
from fedmi_jax.federation.setup import Facts, Setup, place


def prepared(work: Work) -> Setup:
    """The work as an experiment, its clients as dealt."""
    clients, samples = work.labels.shape
    flat = work.images.reshape(-1, *work.images.shape[2:]), work.labels.ravel(), work.test_images, work.test_labels
    dataset = from_arrays(
        *flat, class_names=[str(c) for c in range(10)], mean=work.mean.tolist(), std=work.std.tolist()
    )
    names = ("batch_size", "epochs", "learning_rate")
    experiment = Experiment(
        data=Data(images_per_client=samples),
        split=Split(clients=clients),
        local=Local(**{name: work.settings[name] for name in names}),
        sparsity=Sparsity(target=0),
    )
    shares = list(np.arange(clients * samples).reshape(clients, samples))
    counts = np.stack([np.bincount(own, minlength=10) for own in work.labels])[None]
    return place(Facts(experiment, dataset, [shares], counts, Circuits(*np.nonzero(counts)), fedavg()))


def play(work: Work, rounds: Callable[[Callable[[], dict[str, Any]]], None]) -> None:
    with session(Execution()):
        setup = prepared(work)
        start = {name: value[None] for name, value in work.params.items()}
        state = {"globals": lift.replicate(start, setup.layout), "round": 0}
        rounds(lambda: one_round(setup, state))


def one_round(setup: Setup, state: dict[str, Any]) -> dict[str, Any]:
    """Train, average, judge; the global model of `state` becomes the new one."""
    state["round"] += 1
    began = time.perf_counter()
    now = setup.facts.round(state["round"])
    trained, _ = simulation.train(setup, state["globals"], now)
    state["globals"], _ = simulation.aggregate(setup, NO_STATE, state["globals"], trained, now)
    jax.block_until_ready(state["globals"])
    seconds = time.perf_counter() - began
    accuracy, _ = programs.judge_models(state["globals"], setup.test, layout=setup.layout)
    device = f"{jax.devices()[0].device_kind}, {jax.local_device_count()} XLA devices"
    return {"seconds": seconds, "accuracy": float(accuracy[0]), "device": device}
