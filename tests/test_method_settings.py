"""Federated methods by name: the registry, their settings, and what is refused before a run."""

import typing
from pathlib import Path

import pytest
import tiny
from method_table import METHODS, TOY

from fedmi_jax import aggregation, config
from fedmi_jax.aggregation import chosen
from fedmi_jax.cli import main
from fedmi_jax.config import Aggregation, Experiment, FedProx, FedRS, Local
from fedmi_jax.errors import ConfigError
from fedmi_jax.federation.setup import prepare
from fedmi_jax.methods import LgFedAvg


def test_registry_settings_and_list_name_the_same_methods(capsys):
    (kind,) = (f for f in config.Aggregation.__dataclass_fields__.values() if f.name == "kind")
    assert typing.get_args(typing.get_type_hints(Aggregation)[kind.name]) == tuple(aggregation.METHODS)
    assert list(config.METHODS) == list(aggregation.METHODS)
    assert main.main(["list"]) == 0
    printed, documented = capsys.readouterr().out, (Path(__file__).parent.parent / "docs/methods.md").read_text("utf-8")
    for name, line in config.METHODS.items():
        one = chosen(Aggregation(kind=name), Local())
        assert (one.name, one.summary) == (name, line)
        assert one.source
        assert name in printed
        assert f"| `{name}` | " in documented


def test_equal_settings_give_the_very_same_method():
    """Else every run would compile its programs anew."""
    for settings, local in ((Aggregation(), Local(fedrs=0.5)), (Aggregation(kind="fedprox"), Local())):
        assert chosen(settings, local) is chosen(Aggregation(kind=settings.kind), Local(fedrs=local.fedrs))
    assert chosen(Aggregation(), Local(), TOY) is TOY


@pytest.mark.parametrize(
    ("aggregation_", "local", "message"),
    [
        ({"fedprox": FedProx(mu=0.5)}, {}, r'aggregation\.fedprox: only for aggregation\.kind "fedprox"; .* "fedavg"'),
        ({"kind": "fedprox", "fedrs": FedRS(alpha=0.5)}, {}, r'aggregation\.fedrs: only for .* "fedrs"; .* "fedprox"'),
        ({"kind": "fedprox"}, {"fedprox": 0.1}, r'local\.fedprox: aggregation\.kind "fedprox" does this already'),
        ({"kind": "fedrs"}, {"fedrs": 0.4}, r'local\.fedrs: aggregation\.kind "fedrs" does this already'),
    ],
)
def test_settings_without_effect_and_the_same_method_twice_are_refused(aggregation_, local, message):
    with pytest.raises(ConfigError, match=f"^{message}[^\n]*$"):
        Experiment(aggregation=Aggregation(**aggregation_), local=Local(**local))


def test_settings_of_methods_are_kept_in_json_and_older_files_are_read():
    asked = Aggregation(kind="fedrs", fedrs=FedRS(alpha=0.3))
    experiment = Experiment(aggregation=asked, local=Local(fedprox=0.1))
    assert config.from_json(config.to_json(experiment)) == experiment
    older = {"aggregation": {"kind": "fedavg", "weighting": "samples"}, "local": {"fedprox": 0.1, "fedrs": 0.4}}
    read = config.from_dict(older)
    assert read.aggregation == Aggregation(weighting="samples")
    assert (read.local.fedprox, read.local.fedrs) == (0.1, 0.4)


NOT_THE_LAST = config.Split("class-map", 2, ((0, 1), (1, 2)))
"""Nobody holds class 3."""
REFUSED = [
    (
        {"kind": "fedlc"}, {"split": config.Split("class-map", 2, ((0,), (1, 2)))},
        r"aggregation\.kind: with fedlc a client of one class learns nothing, and of 2 clients here 1 has one class; ",
    ),
    ({"kind": "trimmed-mean"}, {}, r"aggregation\.kind: trimmed-mean needs 3 clients a round or more, not 2; give "),
    (
        {"kind": "trimmed-mean"}, {"split": config.Split(clients=4)},
        r"aggregation\.trimmed_mean\.beta: 0\.2 of 4 clients is none[^\n]* give at least 0\.25, ",
    ),
    ({"kind": "median", "weighting": "samples"}, {}, r'aggregation\.weighting: aggregation\.kind "median" weighs'),
    (
        {"kind": "owner-channels"},
        {"split": config.Split(clients=7), "model": config.Model((8, 6))},
        r"model\.channels: owner-channels needs a channel for each of the 7 clients; 6 are fewer$",
    ),
    (
        {"kind": "lg-fedavg", "lg_fedavg": LgFedAvg(shared_layers=5)}, {},
        r"aggregation\.lg_fedavg\.shared_layers: the network has 4 layers",
    ),
    (
        {"kind": "circuit-mean"}, {"split": NOT_THE_LAST, "discovery": config.Discovery(classes=(3,))},
        r"discovery\.classes: circuit-mean needs circuits, and no client that takes part with seed 3 holds any of 3; ",
    ),
    (
        {"kind": "orthogonality"}, {"split": NOT_THE_LAST, "discovery": config.Discovery(classes=(3,))},
        r"discovery\.classes: orthogonality needs circuits",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "changes", "message"), REFUSED)
def test_what_a_method_cannot_do_is_refused_before_the_run(squares, settings, changes, message):
    with pytest.raises(ConfigError, match=f"^{message}[^\n]*$"):
        prepare(tiny.experiment(aggregation=Aggregation(**settings), **changes), squares)


NEEDS_CIRCUITS = [name for name in config.METHODS if METHODS[name].needs_circuits]


@pytest.mark.parametrize("kind", NEEDS_CIRCUITS)
def test_one_client_with_a_searched_class_is_enough_for_a_method_of_circuits(squares, kind):
    """The second client holds class 2, which the first does not, and nobody class 3."""
    for classes in ((2,), (2, 3), None):
        searched = config.Discovery(classes=classes)
        prepare(tiny.experiment(aggregation=Aggregation(kind=kind), split=NOT_THE_LAST, discovery=searched), squares)
    prepare(tiny.experiment(split=NOT_THE_LAST, discovery=config.Discovery(classes=(3,))), squares)  # FedAvg needs none


def test_a_holder_that_never_takes_part_gives_a_method_no_circuits(squares):
    """Client 1 alone holds class 2. In one round of one client it takes part with seed 0, and with seed 1 it does not;
    in five rounds it does with either."""
    changes = {"aggregation": Aggregation(kind="circuit-mean"), "discovery": config.Discovery(classes=(2,))}
    one = tiny.experiment(seeds=(0, 1), participation=0.5, rounds=1, split=NOT_THE_LAST, **changes)
    facts = prepare(config.replace(one, rounds=5), squares)
    assert facts.round(1).clients.tolist() == [[1], [0]]
    prepare(config.replace(one, seeds=(0,)), squares)
    with pytest.raises(ConfigError, match=r"^discovery\.classes: circuit-mean [^\n]* with seed 1 holds any of 2; "):
        prepare(one, squares)
