"""Configuration: what is accepted, what is refused and in which words, and the presets."""

import dataclasses
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmi_jax import config as c
from fedmi_jax.errors import ConfigError
from fedmi_jax.presets import PRESETS, preset

quick = settings(max_examples=60, deadline=None)
fraction, positive = st.floats(0, 1), st.floats(1e-12, 1e12)
count, label = st.integers(1, 10**6), st.integers(0, 1000)
maps = st.lists(st.lists(label, min_size=1, max_size=4, unique=True).map(tuple), min_size=1, max_size=4).map(tuple)
splits = st.one_of(
    maps.map(lambda m: c.Split(kind="class-map", clients=len(m), class_map=m)),
    st.builds(
        c.Split, kind=st.sampled_from(["iid", "dirichlet", "classes-per-client", "shards"]), clients=count,
        alpha=positive, min_samples=count, classes_per_client=count, shards_per_client=count,
    ),
)  # fmt: skip
experiments = st.builds(
    c.Experiment,
    name=st.text(),
    seeds=st.lists(st.integers(0, 2**40), min_size=1, max_size=3, unique=True).map(tuple),
    rounds=count,
    data=st.builds(c.Data, name=st.text(), data_dir=st.none() | st.text(), images_per_client=st.none() | count),
    split=splits,
    local=st.builds(
        c.Local, epochs=count, batch_size=count, learning_rate=positive, fedprox=st.just(0.0) | positive, fedrs=fraction
    ),
    sparsity=st.builds(
        c.Sparsity, target=st.floats(0, 1, exclude_max=True), ramp=st.booleans(),
        scope=st.sampled_from(["layer", "global"]), floor=st.integers(0, 20),
    ),
    model=st.builds(c.Model, channels=st.lists(count, min_size=1, max_size=6).map(tuple)),
    aggregation=st.builds(c.Aggregation, weighting=st.sampled_from(["uniform", "samples"])),
    discovery=st.builds(
        c.Discovery, classes=st.none() | st.lists(label, unique=True, max_size=4).map(tuple), steps=count,
        initial_score=st.floats(-1e6, 1e6), ablation=st.sampled_from(["zero", "mean"]),
    ),
    evaluation=st.builds(c.Evaluation, images_per_class=st.none() | count, batch_size=count),
    execution=st.builds(
        c.Execution, client_chunk=st.just("auto") | count, devices=st.none() | count,
        shard=st.sampled_from(["auto", "clients", "batch"]), micro_batch=st.integers(0, 512),
        precision=st.sampled_from(["float32", "float64"]), matmul=st.sampled_from(["float32", "tf32"]),
        save_weights=st.booleans(),
    ),
)  # fmt: skip


@quick
@given(experiments)
def test_json_round_trip(experiment):
    assert c.from_json(c.to_json(experiment)) == experiment
    plain = json.loads(json.dumps(c.to_dict(experiment)))
    assert c.from_dict(plain) == experiment
    assert hash(c.from_dict(plain)) == hash(experiment)  # settings are static arguments of compiled programs


def test_without_a_model_it_is_the_papers():
    """As in experiments that were written before width and depth could be chosen."""
    values = c.to_dict(c.Experiment())
    del values["model"]
    assert c.from_dict(values) == c.Experiment(model=c.Model(channels=(32, 64, 128)))


CLASS_MAP = {"kind": "class-map", "clients": 2}
INVALID = [
    ("sparsity.target", {"sparsity": {"target": 1.0}}),
    ("sparsity.target", {"sparsity": {"target": -0.1}}),
    ("sparsity.target", {"sparsity": {"target": float("nan")}}),
    ("sparsity.floor", {"sparsity": {"floor": -1}}),
    ("sparsity.scope", {"sparsity": {"scope": "filter"}}),
    ("sparsity.linear", {"sparsity": {"linear": 1.0}}),
    ("sparsity.linear", {"sparsity": {"linear": 0.5, "scope": "global"}}),
    ("rounds", {"rounds": 0}),
    ("rounds", {"rounds": "many"}),
    ("seeds", {"seeds": []}),
    ("seeds", {"seeds": [1, 1]}),
    ("seeds.0", {"seeds": [-1]}),
    ("seeds.1", {"seeds": [0, 2**63]}),
    ("seeds.0", {"seeds": [10**38]}),
    ("rounds", {"rounds": 2**31}),
    ("local.epochs", {"local": {"epochs": 10**38}}),
    ("model.channels.0", {"model": {"channels": [2**20 + 1]}}),
    ("split.class_map.1.0", {"split": {**CLASS_MAP, "class_map": [[0], [2**31]]}}),
    ("split.clients", {"split": {"clients": 0}}),
    ("split.kind", {"split": {"kind": "random"}}),
    ("split.alpha", {"split": {"alpha": 0}}),
    ("split.alpha", {"split": {"alpha": float("inf")}}),
    ("split.min_samples", {"split": {"min_samples": 0}}),
    ("split.classes_per_client", {"split": {"classes_per_client": 0}}),
    ("split.shards_per_client", {"split": {"shards_per_client": 0}}),
    ("split.class_map", {"split": {**CLASS_MAP, "class_map": [[0]]}}),
    ("split.class_map", {"split": {**CLASS_MAP, "class_map": [[0], []]}}),
    ("split.class_map", {"split": {**CLASS_MAP, "class_map": [[0], [1, 1]]}}),
    ("split.class_map.1.0", {"split": {**CLASS_MAP, "class_map": [[0], [-1]]}}),
    ("split.class_map", {"split": {"class_map": [[0], [1]]}}),
    ("data.images_per_client", {"data": {"images_per_client": 0}}),
    ("model.channels", {"model": {"channels": []}}),
    ("model.channels.1", {"model": {"channels": [8, 0]}}),
    ("local.epochs", {"local": {"epochs": 0}}),
    ("local.batch_size", {"local": {"batch_size": 0}}),
    ("local.learning_rate", {"local": {"learning_rate": 0}}),
    ("local.fedprox", {"local": {"fedprox": -1}}),
    ("local.fedrs", {"local": {"fedrs": 1.5}}),
    ("aggregation.kind", {"aggregation": {"kind": "krum"}}),
    ("aggregation.fedprox.mu", {"aggregation": {"kind": "fedprox", "fedprox": {"mu": -1}}}),
    ("aggregation.fedrs.alpha", {"aggregation": {"kind": "fedrs", "fedrs": {"alpha": 2}}}),
    ("aggregation.weighting", {"aggregation": {"weighting": "loss"}}),
    ("discovery.steps", {"discovery": {"steps": 0}}),
    ("discovery.l0", {"discovery": {"l0": -0.1}}),
    ("discovery.classes", {"discovery": {"classes": [1, 1]}}),
    ("discovery.ablation", {"discovery": {"ablation": "none"}}),
    ("discovery.objective", {"discovery": {"objective": "clas"}}),
    ("discovery.target", {"discovery": {"objective": "decision", "target": 1}}),
    ("discovery.target", {"discovery": {"objective": "decision", "target": 0}}),
    ("discovery.masks", {"discovery": {"objective": "decision", "masks": 3}}),
    ("discovery.batch_size", {"discovery": {"objective": "contrast", "batch_size": 40}}),
    ("discovery.probe", {"discovery": {"objective": "decision", "probe": [60, 5]}}),
    ("discovery.probe", {"discovery": {"gates": "bernoulli", "probe": [60, 5]}}),
    ("discovery.ablation", {"discovery": {"objective": "decision", "ablation": "mean"}}),
    ("discovery.ablation", {"discovery": {"gates": "bernoulli", "ablation": "mean"}}),
    ("evaluation.readout_images", {"evaluation": {"readout_images": 701}}),
    ("evaluation.batch_size", {"evaluation": {"batch_size": -1}}),
    ("evaluation.images_per_class", {"evaluation": {"images_per_class": 0}}),
    ("execution.client_chunk", {"execution": {"client_chunk": 0}}),
    ("execution.devices", {"execution": {"devices": 0}}),
    ("execution.shard", {"execution": {"shard": "rounds"}}),
    ("participation", {"participation": 0}),
    ("participation", {"participation": 1.5}),
    ("participation", {"participation": 0.05, "split": {"clients": 3}}),
    ("execution.micro_batch", {"execution": {"micro_batch": -1}}),
    ("execution.precision", {"execution": {"precision": "float16"}}),
    ("sparsity.tagret", {"sparsity": {"tagret": 0.9}}),
    ("colour", {"colour": "red"}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "values"), INVALID, ids=[f"{f}={json.dumps(v)}" for f, v in INVALID])
def test_an_invalid_field_is_named(field, values):
    with pytest.raises(ConfigError) as caught:
        c.from_dict(values)
    assert str(caught.value).startswith(f"{field}: ")
    assert "\n" not in str(caught.value)
    if "NaN" not in json.dumps(values) and "Infinity" not in json.dumps(values):
        with pytest.raises(ConfigError, match=f"^{field}: "):
            c.from_json(json.dumps(values))


def matching(**settings):
    return {"aggregation": {"kind": "matching", "matching": settings}}


PRUNED_HEAD = {"kind": "fedbabu", "fedbabu": {"pruned": True}}
UNUSED = [
    ("split.alpha", {"split": {"alpha": 0.1}}),
    ("split.min_samples", {"split": {"kind": "shards", "min_samples": 3}}),
    ("split.classes_per_client", {"split": {"kind": "dirichlet", "classes_per_client": 3}}),
    ("split.shards_per_client", {"split": {**CLASS_MAP, "class_map": [[0], [1]], "shards_per_client": 3}}),
    ("data.data_dir", {"data": {"data_dir": "x"}}),
    ("sparsity.ramp", {"sparsity": {"target": 0, "ramp": False}}),
    ("sparsity.scope", {"sparsity": {"target": 0, "scope": "global"}}),
    ("sparsity.floor", {"sparsity": {"target": 0, "floor": 0}}),
    ("sparsity.linear", {"sparsity": {"target": 0, "linear": 0}}),
    ("aggregation.fedbabu.pruned", {"sparsity": {"linear": 0}, "aggregation": PRUNED_HEAD}),
    ("aggregation.fedbabu.pruned", {"sparsity": {"target": 0}, "aggregation": PRUNED_HEAD}),
    ("aggregation.matching.biases", matching(of="activations", biases=False)),
    ("aggregation.matching.images_per_class", matching(images_per_class=50)),
    ("aggregation.matching.images", matching(biases=False, images="nobody")),
]
USED = [
    {"split": {"kind": "dirichlet", "alpha": 0.1, "min_samples": 3}},
    {"split": {"kind": "classes-per-client", "classes_per_client": 3}},
    {"split": {"kind": "shards", "shards_per_client": 3}},
    {"data": {"name": "cifar10", "data_dir": "x"}},
    {"sparsity": {"ramp": False, "scope": "global", "floor": 0}},
    {"sparsity": {"target": 0}},
    {"sparsity": {"target": 0, "linear": 0.9, "ramp": False}},
    {"sparsity": {"target": 0, "linear": 0.9}, "aggregation": PRUNED_HEAD},
    matching(biases=False),
    matching(of="activations", images_per_class=50, images="nobody"),
]


@pytest.mark.parametrize(("field", "values"), UNUSED, ids=[field for field, _ in UNUSED])
def test_a_value_that_nothing_reads_is_refused_when_made_and_read_when_stored(field, values):
    experiment = c.from_dict(values)
    with pytest.raises(ConfigError, match=rf"^{re.escape(field)}: does nothing with [^\n]*$"):
        c.refuse_unused(experiment)


def test_values_that_are_read_are_not_refused():
    for experiment in [c.from_dict(values) for values in USED] + [e for p in PRESETS.values() for e in p.experiments]:
        c.refuse_unused(experiment)


def test_a_field_that_there_is_not():
    with pytest.raises(ConfigError, match=r"^sparsity\.tagret: unexpected field; there are .*; did you mean target\?$"):
        c.Sparsity(tagret=0.9)
    with pytest.raises(ConfigError, match=r"^local\.zzz: unexpected field; there are epochs, [a-z_, ]*fedrs$"):
        c.from_dict({"local": {"zzz": 1}})


def test_differences_name_every_field_that_differs():
    one = c.Experiment()
    two = c.replace(one, rounds=3, local=c.Local(epochs=1))
    assert c.differences(one, two) == ["rounds (10, now 3)", "local.epochs (5, now 1)"]


def test_python_names_the_field_too():
    with pytest.raises(ConfigError, match=r"^sparsity\.target: .*; got 2"):
        c.Sparsity(target=2)
    with pytest.raises(ConfigError, match=r"^sparsity\.target: .*; got 1\.0"):
        dataclasses.replace(c.Sparsity(), target=1.0)
    with pytest.raises(ConfigError, match=r"^rounds: "):
        c.Experiment(rounds=0)
    with pytest.raises(ConfigError, match=r"^local\.epoch"):
        c.Local(epoch=1)


def test_text_that_is_no_json():
    with pytest.raises(ConfigError, match="json") as caught:
        c.from_json("{")
    assert "\n" not in str(caught.value)


def test_settings_are_frozen():
    for settings_ in (c.Experiment(), c.Sparsity(), c.Local()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            settings_.__setattr__(dataclasses.fields(settings_)[0].name, "x")


# --- presets: the experiments of arXiv 2512.23043 and of the authors' code ---

CLASS_MAPS = {
    "one-class": ((0,), (3,), (6,)),
    "two-class": ((0, 1), (3, 4), (6, 7)),
    "three-class": ((0, 1, 2), (3, 4, 5), (6, 7, 8)),
    "shared-class": ((0, 1, 2), (0, 3, 4), (0, 6, 7)),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_the_authors_but_for_what_they_vary(name):
    for experiment in preset(name).experiments:
        assert c.from_json(c.to_json(experiment)) == experiment
        assert experiment.data.name == "mnist"
        assert experiment.aggregation == c.Aggregation()
        assert experiment.seeds == (0,)
        assert (experiment.local.epochs, experiment.local.learning_rate) == (5, 1e-3)
        assert (experiment.discovery.steps, experiment.discovery.l0) == (200, 0.01)
        if name != "quick":
            assert experiment.local == c.Local()
            assert experiment.local.batch_size == experiment.discovery.batch_size == 256
            assert experiment.evaluation == c.Evaluation()
            assert experiment.data.images_per_client is None
            assert experiment.rounds == (50 if name == "three-class" else 10)


def test_iid():
    (iid,) = preset("iid").experiments
    assert iid.split == c.Split(kind="iid", clients=5)
    assert iid.sparsity == c.Sparsity(target=0.99)
    assert iid.discovery.classes == (0, 1, 2, 7)


@pytest.mark.parametrize(("name", "class_map"), CLASS_MAPS.items())
def test_skewed(name, class_map):
    (experiment,) = preset(name).experiments
    assert experiment.split == c.Split(kind="class-map", clients=3, class_map=class_map)
    assert experiment.sparsity == c.Sparsity(target=0.995)
    assert experiment.discovery.classes is None  # each client's own


def test_sparsity_ablation():
    experiments = preset("sparsity-ablation").experiments
    assert [e.sparsity.target for e in experiments] == [0.95, 0.97, 0.99, 0.995]
    assert {e.split.class_map for e in experiments} == {((0, 1), (2, 3), (4, 5))}
    assert len({e.name for e in experiments}) == 4
    for experiment in experiments:
        assert preset(experiment.name).experiments == (experiment,)


def test_unknown_preset():
    with pytest.raises(ConfigError, match=r"^preset: unknown name 'idd'; there are quick, iid, "):
        preset("idd")


VALUES_NO_FIELD_TAKES = ({"a": 1}, [[None]], "no such value", float("nan"), -1.5, None)
SCALARS = {
    f"{section}.{name}".strip("."): (section, name)
    for section, values in {**{k: v for k, v in c.to_dict(c.Experiment()).items() if isinstance(v, dict)},
                            "": {k: v for k, v in c.to_dict(c.Experiment()).items() if not isinstance(v, dict)}}.items()
    for name in values
    if name not in ("name", "data_dir", "file", "own")  # any text will do
}  # fmt: skip


@quick
@given(experiments, st.sampled_from(sorted(SCALARS)), st.sampled_from(VALUES_NO_FIELD_TAKES))
def test_any_single_invalid_field_of_any_experiment_is_named(experiment, path, value):
    section, name = SCALARS[path]
    values = c.to_dict(experiment)
    (values[section] if section else values)[name] = value
    takes_none = c.to_dict(c.Experiment()).get(section, {}).get(name, 0) is None
    if (value is None and takes_none) or (name == "initial_score" and value == -1.5):
        c.from_dict(values)
    else:
        with pytest.raises(ConfigError, match=rf"^{re.escape(path)}[^\n]*$"):
            c.from_dict(values)


# --- two instruments, each with its own defaults ---

DECISION = {"gates": "bernoulli", "ablation": "mean-map", "batch_size": 128, "l0": 0.005}


def values_of(discovery, *names):
    return {name: getattr(discovery, name) for name in names or DECISION}


@pytest.mark.parametrize("objective", ["decision", "contrast"])
def test_fields_that_are_not_given_are_the_objectives(objective):
    assert values_of(c.Discovery(objective=objective)) == DECISION
    assert values_of(c.Discovery(objective=objective, l0=0.1, ablation="zero"), "l0", "ablation", "batch_size") == {
        "l0": 0.1, "ablation": "zero", "batch_size": 128,
    }  # fmt: skip
    stepped = c.Discovery(objective=objective, gates="step")
    assert (stepped.gates, stepped.l0, stepped.ablation) == ("step", c.Discovery().l0, "mean-map")
    drawn = c.Discovery(gates="bernoulli")
    assert (drawn.l0, drawn.ablation, drawn.batch_size) == (0.005, "zero", 256)
    values = c.to_dict(c.Experiment())
    values["discovery"] = {"objective": objective}
    assert c.from_dict(values).discovery == c.Discovery(objective=objective)


def test_another_objective_keeps_what_was_chosen_and_no_default_of_the_old_one():
    old = c.Discovery(classes=(0, 2), steps=7, batch_size=64, repeat="last")
    new = c.replace(old, objective="decision")
    assert new == c.Discovery(objective="decision", classes=(0, 2), steps=7, batch_size=64, repeat="last")
    assert c.replace(new, objective="class") == old
    assert c.replace(new, objective="decision", gates="step").gates == "step"
    stepped = c.replace(new, gates="step")
    assert (stepped.gates, stepped.objective, stepped.l0) == ("step", "decision", c.Discovery().l0)
    assert (
        c.replace(stepped, objective="decision", steps=8).gates == "step"
    )  # the same objective: nothing comes with it
    assert c.replace(stepped, objective="contrast").gates == "bernoulli"
    assert c.replace(old, steps=8) == dataclasses.replace(old, steps=8)


@pytest.mark.parametrize("chosen", [{"ablation": "mean"}, {"batch_size": 40}, {"batch_size": 7}, {"probe": (60, 5)}])
def test_what_does_not_go_with_the_new_objective_gives_way(chosen):
    new = c.replace(c.Discovery(classes=(1,), **chosen), objective="decision")
    assert new == c.Discovery(objective="decision", classes=(1,))
    with pytest.raises(ConfigError, match=rf"^discovery\.{next(iter(chosen))}: "):
        c.replace(c.Discovery(), objective="decision", **chosen)


def test_what_nothing_of_the_search_reads_is_refused():
    for field, values in [
        ("negatives", {"negatives": "own"}),
        ("target", {"target": 0.8}),
        ("masks", {"masks": 4}),
        ("masks", {"objective": "decision", "gates": "step", "masks": 4}),
        ("probe", {"probe": (50, 20)}),
    ]:
        with pytest.raises(ConfigError, match=rf"^discovery\.{field}: does nothing with "):
            c.refuse_unused(c.Experiment(discovery=c.Discovery(**values)))
    for values in ({"objective": "decision", "negatives": "own", "target": 0.8, "masks": 4, "probe": (90, 20)}, {
        "gates": "bernoulli", "masks": 4}, {"ablation": "mean-map", "probe": (50, 20)}):  # fmt: skip
        c.refuse_unused(c.Experiment(discovery=c.Discovery(**values)))
