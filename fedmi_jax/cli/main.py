"""The `fedmi` command."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table
from tyro.conf import Positional

import fedmi_jax
from fedmi_jax import files
from fedmi_jax.cli import tables, terminal
from fedmi_jax.cli.compare import Compare, compare
from fedmi_jax.cli.discover import Discover, discover
from fedmi_jax.cli.exchange import Export, Import, export, import_, named
from fedmi_jax.cli.parse import parsed
from fedmi_jax.cli.run import Resume, Run, require_writable, resume, run
from fedmi_jax.cli.study import Study, study
from fedmi_jax.cli.sweep import Sweep, sweep
from fedmi_jax.config import METHODS
from fedmi_jax.errors import ConfigError, FedmiError, FedmiWarning, Interrupted, say, unknown
from fedmi_jax.presets import PRESETS
from fedmi_jax.results import store, summary
from fedmi_jax.studies import STUDIES


@dataclass(frozen=True)
class Show:
    """Print the summary of a run, or of every run in a folder."""

    folder: Positional[Path]
    """Folder that `fedmi run` or `fedmi import` wrote, or one that holds such folders at any depth."""
    json: bool = False
    """As one JSON object: shares and accuracies are fractions."""


@dataclass(frozen=True)
class Claims:
    """Judge the paper's claims on results."""

    folders: Positional[tuple[Path, ...]]
    """Folders of runs or of imported files, or folders that hold such folders at any depth."""
    json: bool = False
    """As one JSON object."""
    out: Path | None = None
    """Also write the table as markdown to this file."""


@dataclass(frozen=True)
class Predictions:
    """Judge the predictions about circuits that decide, on results of both searches."""

    folders: Positional[tuple[Path, ...]]
    """Folders of runs, or folders that hold such folders at any depth."""
    objective: Literal["decision", "contrast"] = "decision"
    """Whose circuits to judge. Results of the paper's search on the same models are used beside them."""
    by_origin: bool = False
    """Where P0 fails for circuits of global models, close only what is about these (docs/evidence.md)."""
    json: bool = False
    """As one JSON object."""
    out: Path | None = None
    """Also write the table as markdown to this file."""


@dataclass(frozen=True)
class Figures:
    """Draw the paper's figures, and more, from results."""

    folder: Positional[Path]
    """Folder of a run, or one that holds such folders at any depth."""
    only: tuple[str, ...] = ()
    """These figures only, as in --only fig07; none given: all that belong to the results."""
    format: tuple[Literal["svg", "png", "pdf"], ...] = ("svg",)
    out: Path | None = None
    """Folder for the figures; by default FOLDER/figures."""
    width: str = "double"
    """"single" (3.3 in), "double" (6.9 in), or inches: what LaTeX says of \\columnwidth. Letters keep their size."""
    client: int | None = None
    """Of --only circuit, as seed, class and round: whose circuit. None: the first that there is."""
    class_: Annotated[int | None, tyro.conf.arg(name="class")] = None
    round: int | Literal["last"] = "last"
    seed: int | None = None


@dataclass(frozen=True)
class Report:
    """Write one HTML file with claims, figures and an explorer of the circuits."""

    folders: Positional[tuple[Path, ...]]
    """Folders of runs or of imported files, or folders that hold such folders at any depth."""
    out: Path = Path("report.html")
    """FILE.html, which is replaced where it is there."""


@dataclass(frozen=True)
class List:
    """List the presets, the federated methods and the studies."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0, 2 after a one-line error, 130 or 143 after Ctrl-C or SIGTERM, 141 when
    nobody reads on."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    terminal.hold_numbers()
    if sys.stdout is None:
        say("standard output is closed; send it to a file, or to /dev/null")
        return 2
    terminal.accept_any_text()
    try:
        with warnings.catch_warnings():
            # a plan has said it; `fedmi discover`, which has none, says it
            warnings.simplefilter("ignore", FedmiWarning)
            return terminal.flushed(_status(arguments))
    except SystemExit as ended:  # after --help
        raise SystemExit(terminal.flushed(int(ended.code or 0))) from None


def _status(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except BrokenPipeError:  # as under `head`
        terminal.discard_output()
        return 141
    except Interrupted as error:
        say(str(error))
        return error.status
    except FedmiError as error:
        say(str(error))
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except OSError as error:
        if not terminal.flushed(0, "\n"):  # else it was the output, and that has been said
            if error.filename is None and _is_somewhere():
                raise
            say(f"{error.filename or 'the current folder'}: {error.strerror or error}")
    return 2


def _is_somewhere() -> bool:
    """Whether the current folder is there: it may have been removed."""
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        _help()
        return 0 if arguments else 2
    if arguments[0] in ("--version", "-V"):
        print(f"fedmi_jax {fedmi_jax.__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise ConfigError(f"command: {unknown(name, COMMANDS)}")
    options, action = COMMANDS[name]
    if name in ("run", "sweep", "discover"):  # their options have the defaults of a preset, or of a run
        return action(rest)
    return action(parsed(options, rest, prog=f"fedmi {name}"))


def _help() -> None:
    table = Table(box=None, show_header=False)
    for name, (kind, _) in COMMANDS.items():
        table.add_row(f"  fedmi {name}", (kind.__doc__ or "").splitlines()[0])
    console = terminal.console()
    console.print("Circuits of sparse networks under federated averaging. Commands (each has --help):")
    console.print(table)


def _show(option: Show) -> int:
    from fedmi_jax.analysis import runs

    found = {named(path, option.folder): summary.summary(store.load(path)) for path in runs.find([option.folder])}
    if option.json:
        only = next(iter(found.values()))
        print(json.dumps(only if len(found) == 1 else {"runs": found}, indent=2))
        return 0
    console = terminal.console()
    for name, short in found.items():
        if len(found) > 1:
            console.print(f"\n[bold]{tables.shown(name)}[/]", highlight=False, soft_wrap=True)
        tables.print_summary(short, console)
    return 0


def _claims(option: Claims) -> int:
    from fedmi_jax.analysis import claims, runs, second
    from fedmi_jax.report import claims_table

    if not option.folders:
        raise ConfigError("folders: give at least one folder of runs, as in `fedmi claims runs`")
    loaded = runs.load(option.folders)
    found = runs.sort_out(loaded, paper_only=True)
    rows = claims.judge(found, second.of(loaded))
    if option.out is not None:  # first: it is lost to nobody who cannot read what is printed
        with files.replacing(option.out) as temporary:
            temporary.write_text(claims_table.markdown(rows, found), "utf-8")
    if option.json:
        print(json.dumps(claims_table.as_values(rows, found), indent=2))
    else:
        terminal.console().print(claims_table.render(rows, found))
    return 0


def _predictions(option: Predictions) -> int:
    from fedmi_jax.analysis import instruments, predictions
    from fedmi_jax.report import predictions_table

    if not option.folders:
        raise ConfigError("folders: give at least one folder of runs, as in `fedmi predictions runs`")
    found = instruments.gather(option.folders)
    rows = predictions.judge(found.results, option.objective, option.by_origin)
    if option.json:
        print(json.dumps(predictions_table.as_values(rows, found, option.objective, option.by_origin), indent=2))
    else:
        terminal.console().print(predictions_table.render(rows, found, option.objective, option.by_origin))
    if option.out is not None:
        with files.replacing(option.out) as temporary:
            table = predictions_table.markdown(rows, found, option.objective, option.by_origin)
            temporary.write_text(table, "utf-8")
    return 0


def _figures(option: Figures) -> int:
    """Status 1 when a figure could not be drawn."""
    from fedmi_jax.analysis import runs
    from fedmi_jax.report import figures

    width, place = _width(option.width), _place(option)
    found = runs.gather([option.folder])
    home = option.folder if option.folder.is_dir() else option.folder.parent
    out = option.out or home / "figures"
    require_writable(out)
    drawn, problems = figures.draw_all(found, out, option.only, option.format, width, place)
    print("\n".join(map(str, drawn)))
    for problem in problems:
        say(problem)
    return 1 if problems else 0


def _width(word: str) -> float:
    """In inches."""
    from fedmi_jax.report import style

    try:
        inches = style.WIDTHS[word] if word in style.WIDTHS else float(word)
    except ValueError:
        inches = 0.0
    if not style.NARROWEST <= inches <= 50:
        raise ConfigError(
            f"width: give single, double or inches, at least {style.NARROWEST:g}, as in 5.5; got {word!r}"
        )
    return inches


def _place(option: Figures) -> dict[str, int | None]:
    """What `--only circuit` shows."""
    from fedmi_jax.report import figures

    round_ = None if option.round == "last" else option.round
    place = {"seed": option.seed, "client": option.client, "class": option.class_, "round": round_}
    if any(label is not None for label in place.values()) and not set(option.only) & set(figures.CHOSEN):
        raise ConfigError("client, class, round, seed: choose what --only circuit shows; give that too")
    return place


def _report(option: Report) -> int:
    from fedmi_jax.report.html import page

    if not option.folders:
        raise ConfigError("folders: give at least one folder of runs, as in `fedmi report runs`")
    if option.out.is_dir():
        raise ConfigError(f"out: {option.out} is a folder; give a file, as in --out {option.out / 'report.html'}")
    require_writable(option.out.parent)
    with files.replacing(option.out) as temporary:
        temporary.write_text(page.report(option.folders, say), "utf-8")
    print(option.out)
    return 0


def _list(option: List) -> int:
    table = terminal.table("preset", "what", "paper's figures", "rounds", box=None, padding=(0, 2, 0, 0))
    for name, one in PRESETS.items():
        table.add_row(name, one.summary, one.figures, str(one.experiments[0].rounds))
    console = terminal.console()
    console.print(table, highlight=False)
    for title, lines in (("method (--aggregation.kind)", METHODS), ("study (fedmi study NAME DIR)", STUDIES)):
        named = Table(box=None, padding=(0, 2, 0, 0))
        named.add_column(title, no_wrap=True)
        named.add_column("what")
        for name, line in lines.items():
            named.add_row(name, line)
        console.print()
        console.print(named, highlight=False)
    return 0


COMMANDS: dict[str, tuple[type, Callable]] = {
    "run": (Run, run),
    "resume": (Resume, resume),
    "sweep": (Sweep, sweep),
    "discover": (Discover, discover),
    "show": (Show, _show),
    "compare": (Compare, compare),
    "figures": (Figures, _figures),
    "claims": (Claims, _claims),
    "predictions": (Predictions, _predictions),
    "report": (Report, _report),
    "study": (Study, study),
    "import": (Import, import_),
    "export": (Export, export),
    "list": (List, _list),
}
"""What may follow `fedmi`: its options, and what it does. `run`, `sweep` and `discover` read their words themselves."""


if __name__ == "__main__":
    sys.exit(main())
