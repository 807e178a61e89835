"""The named experiments: the paper's (sections 2.1 and 3), and a quick one."""

from __future__ import annotations

from dataclasses import dataclass

from fedmi_jax.config import Data, Discovery, Evaluation, Experiment, Local, Sparsity, Split, replace
from fedmi_jax.errors import ConfigError, unknown


@dataclass(frozen=True)
class Preset:
    """One or several experiments under one name."""

    experiments: tuple[Experiment, ...]
    summary: str
    figures: str
    """Of the paper."""


def _class_map(*clients: tuple[int, ...]) -> Split:
    return Split(kind="class-map", clients=len(clients), class_map=clients)


def _skewed(name: str, *clients: tuple[int, ...], rounds: int = 10, sparsity: float = 0.995) -> Experiment:
    return Experiment(name=name, rounds=rounds, split=_class_map(*clients), sparsity=Sparsity(target=sparsity))


LEVELS = (0.95, 0.97, 0.99, 0.995)
_IID = Experiment(
    name="iid",
    split=Split(kind="iid", clients=5),
    sparsity=Sparsity(target=0.99),
    discovery=Discovery(classes=(0, 1, 2, 7)),
)
_ABLATION = tuple(_skewed(f"sparsity-ablation-{s}", (0, 1), (2, 3), (4, 5), sparsity=s) for s in LEVELS)
_TWO_CLASS = _skewed("two-class", (0, 1), (3, 4), (6, 7))
_QUICK = replace(
    _TWO_CLASS,
    name="quick",
    rounds=3,
    data=Data(images_per_client=1500),
    local=Local(batch_size=64),
    discovery=Discovery(batch_size=64),
    evaluation=Evaluation(images_per_class=250),
)

PRESETS: dict[str, Preset] = {
    "quick": Preset((_QUICK,), "two-class, cut to a minute: 1500 images per client, 3 rounds", "-"),
    "iid": Preset((_IID,), "5 clients, shuffled equal shares, 99 % sparse", "1, 2, 10-13"),
    "one-class": Preset((_skewed("one-class", (0,), (3,), (6,)),), "{0} {3} {6}, 99.5 % sparse", "3-5"),
    "two-class": Preset((_TWO_CLASS,), "{0,1} {3,4} {6,7}, 99.5 % sparse", "4, 14-16"),
    "three-class": Preset(
        (_skewed("three-class", (0, 1, 2), (3, 4, 5), (6, 7, 8), rounds=50),),
        "{0,1,2} {3,4,5} {6,7,8}, 99.5 % sparse, 50 rounds", "6-8, 17",
    ),
    "shared-class": Preset(
        (_skewed("shared-class", (0, 1, 2), (0, 3, 4), (0, 6, 7)),),
        "{0,1,2} {0,3,4} {0,6,7}: every client holds all zeros, 99.5 % sparse", "9, 18",
    ),
    "sparsity-ablation": Preset(_ABLATION, "{0,1} {2,3} {4,5} at 95, 97, 99 and 99.5 % sparse, one run each", "19"),
    **{e.name: Preset((e,), f"sparsity-ablation at {e.sparsity.target:.1%} alone", "19") for e in _ABLATION},
}  # fmt: skip


def preset(name: str) -> Preset:
    """The preset of this name, in letters of either case. Raises ConfigError listing the names."""
    known = name if name in PRESETS else name.lower()
    if known not in PRESETS:
        raise ConfigError(f"preset: {unknown(name, PRESETS)}")
    return PRESETS[known]


def experiment(what: str | Preset | Experiment) -> Experiment:
    """The one experiment that is meant: by the name of a preset, as a preset, or itself.

    Raises ConfigError for a preset of several experiments, and lists their names; likewise for an unknown name.
    """
    if isinstance(what, Experiment):
        return what
    found = preset(what) if isinstance(what, str) else what
    if not isinstance(found, Preset):
        raise ConfigError(f"experiment: give an Experiment, a Preset or a preset's name; got {type(what).__name__}")
    if len(found.experiments) == 1:
        return found.experiments[0]
    names = ", ".join(one.name for one in found.experiments)
    raise ConfigError(f"experiment: this preset holds {len(found.experiments)} experiments; choose one of {names}")
