"""python -m tests.fuzz [--mutations N] [--json]: damaged copies of every kind of file that the project reads.

Each copy must be read as if nothing were wrong, or be refused with a one-line FedmiError: no other exception, no
crash, no hang of more than 5 s, no more than 2 GiB of memory, no file written. Of a file with a checksum no changed
copy may be read. "resealed": damaged, and given a new checksum, so that what is behind it is met too. Status 1
otherwise.
"""

from __future__ import annotations

import argparse
import faulthandler
import gzip
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

TESTS = Path(__file__).parent
ROOT = TESTS.parent
HANG, MEMORY = 5, 2 << 30
REFERENCE = TESTS / "data" / "reference" / "1_class_per_client.json.gz"


@dataclass(frozen=True)
class Kind:
    """A kind of file: how one is made in a folder, how it is read, and whether any change must be noticed."""

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    sealed: bool = False
    reseal: bool = False
    zipped: bool = False
    """Its content is damaged, then packed again."""
    promised: bool = True
    """False: shown only. A made-up checksum lets damage through to HDF5, which is beyond this project."""


# --- the files ---


def a_result(folder: Path) -> Path:
    from fedmi_jax.results import authors, store

    found = authors.import_authors(REFERENCE).isel(round=slice(2))
    return store.save(found.load(), folder)


def read_result(path: Path) -> object:
    from fedmi_jax.cli import tables
    from fedmi_jax.results import store, summary

    short = summary.summary(store.load(path))
    tables.print_summary(short, Console(file=io.StringIO()))
    return short


def a_checkpoint(folder: Path) -> Path:
    import numpy as np

    from fedmi_jax.keeping import stored

    draw = np.random.default_rng(0)
    arrays = {"['weights']['conv1_kernel']": draw.random((1, 3, 3, 1, 32)), "mask": draw.random((2, 3, 64)) < 0.5}
    path = folder / "state-00001.npz"
    stored.write_arrays(path, arrays, "this run")
    return path


def read_checkpoint(path: Path) -> object:
    from fedmi_jax.keeping.stored import Stored

    found = Stored(path)
    found.require("this run")
    return {name: found[name].sum() for name in found}


def a_manifest(folder: Path) -> Path:
    from fedmi_jax import config
    from fedmi_jax.keeping import manifest

    manifest.write(folder, manifest.Manifest(config.Experiment(), config.Checkpoint(), "0" * 64, {"jax": "0"}))
    return folder / "run.json"


def read_manifest(path: Path) -> object:
    from fedmi_jax.keeping import manifest

    return manifest.read(path.parent)


def a_config(folder: Path) -> Path:
    from fedmi_jax import config
    from fedmi_jax.presets import preset

    (folder / "config.json").write_text(config.to_json(preset("two-class").experiments[0]))
    return folder / "config.json"


def read_config(path: Path) -> object:
    from fedmi_jax import config

    return config.from_json(path.read_bytes())


def authors_json(folder: Path) -> Path:
    whole = json.loads(gzip.decompress(REFERENCE.read_bytes()))
    path = folder / "theirs.json"
    path.write_text(json.dumps({key: whole[key] for key in list(whole)[:1]}))
    return path


def authors_gzip(folder: Path) -> Path:
    plain = authors_json(folder)
    path = folder / "theirs.json.gz"
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return path


def read_authors(path: Path) -> object:
    from fedmi_jax.results import authors

    return authors.import_authors(path)


def a_dataset(folder: Path) -> Path:
    import numpy as np

    from fedmi_jax.data import cache

    for name in cache.ARRAYS:
        np.save(folder / f"{name}.npy", np.zeros((20, 4, 4, 1), np.uint8))
    (folder / "facts.json").write_text("{}")
    return folder / "train_images.npy"


def read_dataset(path: Path) -> object:
    """None where it is damaged: it is decoded again then."""
    import numpy as np

    from fedmi_jax.data import cache

    found = cache.read(path.parent, lambda facts: True)
    return found and [np.asarray(array).sum() for array in found[0].values()]


def embedded_mnist(folder: Path) -> Path:
    from importlib.resources import files

    path = folder / "mnist.npz"
    path.write_bytes((files("fedmi_jax.data") / "mnist.npz").read_bytes())
    return path


def read_mnist(path: Path) -> object:
    from fedmi_jax.data import mnist

    return mnist.read(path)


def a_golden(folder: Path) -> Path:
    path = folder / "golden.npz"
    path.write_bytes((TESTS / "data" / "golden_iid.npz").read_bytes())
    return path


def read_golden(path: Path) -> object:
    from benchmarks import golden_file

    return golden_file.read(path)


KINDS = {
    "result": Kind(a_result, read_result, sealed=True),
    "result, resealed": Kind(a_result, read_result, reseal=True, promised=False),
    "checkpoint": Kind(a_checkpoint, read_checkpoint, sealed=True),
    "checkpoint, resealed": Kind(a_checkpoint, read_checkpoint, reseal=True),
    "run.json": Kind(a_manifest, read_manifest),
    "config JSON": Kind(a_config, read_config),
    "authors' JSON": Kind(authors_json, read_authors),
    "authors' JSON, gzip": Kind(authors_gzip, read_authors),
    "authors' JSON, in the gzip": Kind(authors_gzip, read_authors, zipped=True),
    "dataset": Kind(a_dataset, read_dataset),
    "embedded MNIST": Kind(embedded_mnist, read_mnist, sealed=True),
    "golden": Kind(a_golden, read_golden),
}


# --- damage ---


def damaged(content: bytes, draw: random.Random) -> bytes:
    """One to four changes: bits, bytes, cuts, repeats, insertions, zeros."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at, length = draw.randrange(len(changed) + 1), draw.choice([1, 1, 2, 8, 64, 1024])
        kind = draw.randrange(6)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[at : at + length] = draw.randbytes(min(length, 16))
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length] * draw.randint(1, 3)
        elif kind == 4:
            changed[at : at + length] = bytes(len(changed[at : at + length]))
        elif draw.random() < 0.3:
            del changed[at:]
        else:
            changed[at:at] = draw.choice(
                [b"[" * 5000, b"9" * 400, b"-1", b"null", b"1e999", b'"../../x"', b"[/x]", b"\\n\\u001b[31m", b"\xff"]
            )
    return bytes(changed)


def spoil(kind: Kind, path: Path, content: bytes, draw: random.Random) -> bool:
    """Write a damaged copy; whether it differs."""
    from fedmi_jax import files

    if kind.zipped:
        spoilt = gzip.compress(damaged(gzip.decompress(content), draw), 1)
    else:
        spoilt = damaged(content[: -files.SEAL_BYTES] if kind.reseal else content, draw)
    path.write_bytes(spoilt)
    if kind.reseal:
        files.seal(path)
    return spoilt != content


# --- one process per kind, restarted where it ended last ---


def work(name: str, first: int, last: int) -> None:
    """Read damaged copies; a line for each: ok, refused, or what is wrong."""
    from fedmi_jax.errors import FedmiError

    kind, scratch = KINDS[name], Path.cwd()  # with a folder around the file's, for what climbs out of it
    inner = scratch / "in"
    inner.mkdir(exist_ok=True)
    path = kind.make(inner)
    content, there = path.read_bytes(), sorted(scratch.rglob("*"))
    kind.read(path)
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + MEMORY,) * 2)
    for number in range(first, last):
        print(number, flush=True)
        differs = spoil(kind, path, content, random.Random(f"{name}{number}"))
        faulthandler.dump_traceback_later(HANG, exit=True)
        try:
            kind.read(path)
            said = "WRONG read as if whole" if kind.sealed and differs else "read"
        except FedmiError as error:
            said = "WRONG several lines" if "\n" in str(error) else "refused"
        except Exception as error:
            said = f"WRONG {type(error).__name__}: {' '.join(str(error).split())[:150]}"
        faulthandler.cancel_dump_traceback_later()
        if sorted(scratch.rglob("*")) != there:
            said = "WRONG a file was written"
        print(said, flush=True)


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def judge(name: str, mutations: int) -> Counter[str]:
    """How the copies of a kind were taken; a process that ends counts as one crash or hang, and the next goes on."""
    found, first = Counter(), 0
    while first < mutations:
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz", "--work", name, str(first), str(mutations)]
            own = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
            done = subprocess.run(command, cwd=scratch, env=os.environ | own, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        found.update(line for line in lines if not line.isdigit())
        numbers = [int(line) for line in lines if line.isdigit()]
        if not numbers:
            raise SystemExit(f"{name}: {done.stderr[-1000:]}")
        if done.returncode:
            found[f"WRONG process ended with {done.returncode} (copy {numbers[-1]}) {done.stderr[:60]!r}"] += 1
        first = numbers[-1] + 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=2000, help="of each kind")
    parser.add_argument("--kind", choices=KINDS, nargs="*", default=list(KINDS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work[0], int(options.work[1]), int(options.work[2]))
        return 0
    found = {}
    for name in options.kind:
        began = time.monotonic()
        found[name] = dict(judge(name, options.mutations)) | {"seconds": round(time.monotonic() - began)}
        if not options.json:
            print(f"{name}: {found[name]}", flush=True)
    if options.json:
        print(json.dumps(found, indent=2))
    judged = [said for name, counts in found.items() if KINDS[name].promised for said in counts]
    return 1 if any(said.startswith("WRONG") for said in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
