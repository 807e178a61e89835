"""`fedmi discover`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import xarray as xr

from fedmi_jax.cli import signals, tables, terminal
from fedmi_jax.cli.parse import parsed
from fedmi_jax.cli.progress import following
from fedmi_jax.cli.run import in_words, require_free, require_writable, with_objective
from fedmi_jax.config import Discovery, Evaluation
from fedmi_jax.errors import ConfigError
from fedmi_jax.results import store, summary


@dataclass(frozen=True)
class Discover:
    """Search the models of a stored run for other circuits, without training them again."""

    out: Path | None = None
    """Folder for the result (result.nc); none given: DIR-OBJECTIVE, beside the run."""
    discovery: Discovery = Discovery()
    evaluation: Evaluation = Evaluation()


def discover(arguments: list[str]) -> int:
    """`fedmi discover DIR ...`."""
    if not arguments or arguments[0].startswith("-"):
        return _help(arguments)
    from fedmi_jax.federation import again

    folder, words = arguments[0], arguments[1:]
    if not folder:
        raise ConfigError("folder: the name is empty; give the folder of a run, and . for the current one")
    stored = store.load(folder)
    before = again.experiment_of(stored)
    start = Discover(None, with_objective(before.discovery, words), before.evaluation)
    option = parsed(Discover, words, default=start, prog=f"fedmi discover {folder}")
    out = option.out or _beside(Path(folder), option.discovery.objective)
    require_free(out)
    require_writable(out)
    return _search(option, out, stored)


def _beside(run: Path, objective: str) -> Path:
    """The sister result's folder."""
    run = (run.parent if run.name == store.FILE else run).absolute()
    return run.with_name(f"{run.name}-{objective}")


def _search(option: Discover, out: Path, stored: xr.Dataset) -> int:
    from fedmi_jax.federation import again

    console, began = terminal.console(), time.monotonic()
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    experiment = again.changed(stored, option.discovery, option.evaluation)
    say(f"{experiment.name}: {experiment.rounds} rounds of stored models; the search: {in_words(option.discovery)}")
    with signals.stopping("nothing was written; the same command begins anew") as stop:
        with terminal.saying_warnings(), following(experiment) as (advance, on_round):
            result = again.search_again(
                stored, option.discovery, option.evaluation, progress=partial(stop.check, advance), on_round=on_round
            )
        path = store.save(result, out)
    tables.print_summary(summary.summary(result), console)
    say(f"{path}, {time.monotonic() - began:.0f} s")
    return 0


def _help(arguments: list[str]) -> int:
    if not {"-h", "--help"} & set(arguments):
        raise ConfigError(
            "folder: give the folder of a run first, as in `fedmi discover runs/one --discovery.objective decision`"
        )
    print("usage: fedmi discover DIR [--discovery.objective decision] [--out OUT] [options]")
    print("DIR is a run with weights (--execution.save-weights); `fedmi discover DIR --help` lists the options.")
    print("The result is in OUT, by default DIR-decision, or -contrast or -class, by the objective.")
    return 0
