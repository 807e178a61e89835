"""The sections of an experiment's settings: the images, who holds them, the network, training, measures, devices.

Two sections stand in files of their own: the search for circuits (`fedmi_jax.searches`) and the federated method
(`fedmi_jax.methods`). Bounds stand in the types. `fedmi_jax.config` has all of them, and the rules that span several.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fedmi_jax.files import user_path
from fedmi_jax.settings import Count, Fraction, Index, NonNegative, Positive, Width, settings


def _set_name(name: str) -> str:
    """Of an image set, as it is spelt: small letters but for what follows a slash, the name of its configuration."""
    base, slash, config = name.partition("/")
    return base.lower() + slash + config


SetName = Annotated[str, AfterValidator(_set_name)]


def _absolute(path: str) -> str:
    """So that it means the same wherever the run is resumed from."""
    if not path:
        raise ValueError("should name a file or a folder")
    return str(user_path(path).absolute())


FilePath = Annotated[str, AfterValidator(_absolute)]


@settings("data")
class Data:
    """Which images, and how many of them."""

    name: SetName = "mnist"
    """"mnist" (embedded), or the name of an image-classification set of tensorflow-datasets; MNIST is mnist."""
    data_dir: str | None = None
    """Folder of prepared tensorflow-datasets; None: their default. Unused by embedded MNIST."""
    file: FilePath | None = None
    """File or folder of images of one's own, in place of those that `name` names (docs/own-data.md); `name`, unless it
    is mnist, is then what the set is called. Kept as an absolute path."""
    images_per_client: Count | None = None
    """Keep at most this many training images of each client, drawn with the seed. None: all."""


SplitKind = Literal["iid", "class-map", "dirichlet", "classes-per-client", "shards", "own"]


@settings("split")
class Split:
    """Who holds which training images."""

    kind: SplitKind = "iid"
    """"iid": shuffled equal shares. "class-map": all images of the listed classes. "dirichlet": per class, shares
    drawn from Dir(alpha). "classes-per-client": k classes each, their images shared out. "shards": sorted by label,
    cut, dealt (McMahan et al. 2017). "own": given from Python, as in fedmi_jax.run(experiment, split=...)."""
    clients: Count = 5
    """Number of clients. On the command line a class map says it itself; else it must agree."""
    class_map: tuple[tuple[Index, ...], ...] = ()
    """For "class-map": each client's classes; a class may be held, in full, by several clients."""
    alpha: Positive = 0.5
    """For "dirichlet": concentration; small is skewed."""
    min_samples: Count = 10
    """For "dirichlet": redraw until every client holds at least this many."""
    classes_per_client: Count = 2
    """For "classes-per-client"."""
    shards_per_client: Count = 2
    """For "shards"."""
    own: str = ""
    """For "own": the name and the SHA-256 of the split, written when it is given."""


@settings("model")
class Model:
    """The network (section 2.1 of the paper): 3x3 convolutions, each with ReLU and a 2x2 max-pool, then a linear layer.

    A circuit consists of channels of these convolutions.
    """

    channels: tuple[Width, ...] = (32, 64, 128)
    """Output channels of each convolution, first to last: as many numbers as there are convolutions. Every pool halves
    the image, so N convolutions need images of at least 2^N x 2^N pixels. Default: the paper's network."""


@settings("local")
class Local:
    """Local training of one client in one round."""

    epochs: Count = 5
    batch_size: Count = 256
    learning_rate: Positive = 1e-3
    """Of Adam (b1 0.9, b2 0.999, eps 1e-8), fresh every round."""
    fedprox: NonNegative = 0.0
    """FedProx's term in the loss of any method (Li et al. 2020): weight mu of mu/2 |w - w_start|^2. 0: off."""
    fedrs: Fraction = 1.0
    """FedRS's logits in the loss of any method (Li & Zhan 2021): times alpha + (1 - alpha) * count_c / max count.
    1: off; 0.4 is in the authors' code, where it is off, too."""


@settings("sparsity")
class Sparsity:
    """Magnitude pruning after every optimiser step."""

    target: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Share of weights set to zero. 0: dense training, nothing is pruned."""
    ramp: bool = True
    """Rise from 0 to the target over the first half of the client's own local steps, every round."""
    scope: Literal["layer", "global"] = "layer"
    """"layer": each weight tensor on its own (authors' code). "global": one budget for all weights (paper, eq. 1)."""
    floor: Index = 4
    """A convolution filter left with fewer weights keeps its own `floor` largest instead. 0: off."""
    linear: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the linear layer's weights set to zero, in place of `target`. 0: it is not pruned. None: `target`."""


@settings("evaluation")
class Evaluation:
    """Measures on the test set."""

    images_per_class: Count | None = None
    """Use only the first this many test images of each class. None: all."""
    batch_size: Index = 0
    """Images per forward pass; bounds memory, changes no result. 0: chosen for the device."""
    null_samples: Index = 0
    """Control: random masks per circuit, with as many channels in each layer, that are measured like it. 0: none."""
    decisions: bool = False
    """Also of circuits of discovery.objective "class": how far they decide between their class and others. Those of the
    other objectives are always measured so."""
    readout_images: Index = 0
    """Control: accuracy of every model with its read-out refitted on this many of the probe images of each class.
    0: none."""


@settings("execution")
class Execution:
    """How the work is laid out. Changes speed and memory; single-precision results agree except where rounding moves a
    weight across a pruning threshold."""

    client_chunk: Literal["auto"] | Count = "auto"
    """Clients, or circuits, side by side on one device; 1: one after the other in one compiled loop. "auto": 1 on a
    CPU, whose caches like it better; elsewhere as many as the memory that the device reports free can hold."""
    devices: Count | None = None
    """How many of JAX's devices to use; on a CPU these are its cores. None: all."""
    shard: Literal["auto", "clients", "batch"] = "auto"
    """What the devices share out in training: whole clients, or the images of every batch. "auto": the batch where few
    clients meet the cores of one CPU, clients elsewhere."""
    micro_batch: Index = 0
    """Images per gradient accumulation step; 0: chosen for the device."""
    precision: Literal["float32", "float64"] = "float32"
    matmul: Literal["float32", "tf32"] = "float32"
    """How a GPU multiplies float32 in the network's products. "tf32": with factors rounded to 10 bits, which its tensor
    cores do several times faster. The average and the pruning thresholds are in full precision either way; a CPU has no
    such products."""
    save_weights: bool = False
    """Keep every model's weights of every round in the result."""


@settings("checkpoint")
class Checkpoint:
    """What a run in a folder keeps to go on from. No part of an experiment: it changes no number."""

    every: Count = 1
    """Rounds from one checkpoint to the next; what comes after the last one is lost with the process."""
    keep: Count = 2
    """Checkpoints kept: should the last one be damaged, the one before it is whole."""
    after_the_end: bool = False
    """Keep the last ones when the run is finished, so that `fedmi resume DIR --rounds N` can add rounds."""
