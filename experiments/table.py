"""A table of every experiment's last round: `python -m experiments.table FOLDER [--authors FOLDER]`.

FOLDER holds results at any depth, as `experiments.paper` writes them; `--authors` those imported from the files of the
paper's authors. Prints markdown: means over seeds, ours over the authors'. Two empty sets count as 1 in IoU; the
share of such pairs stands beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from experiments import pieces
from fedmi_jax.analysis import runs
from fedmi_jax.results import summary

COLUMNS = (
    "experiment", "seeds", "rounds", "accuracy on held classes, local / averaged", "distinctness, local",
    "distinctness, global", "local-to-global IoU", "inter-client IoU, global", "stability, global",
    "cross-evaluation, all rounds / last", "its false positives, last", "degenerate, local / global",
)  # fmt: skip


def layers(values: dict[str, Any], empty: dict[str, Any]) -> str:
    """Per layer; beside it the share of pairs that were both empty and count as 1, where there are any."""
    if all(v is None for v in values.values()):
        return "-"
    said = " / ".join("-" if v is None else f"{v:.2f}" for v in values.values())
    shares = " / ".join(f"{100 * (share or 0):.0f}" for share in empty.values())
    return f"{said} ({shares} % empty)" if any(empty.values()) else said


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def row(name: str, short: dict[str, Any]) -> list[str]:
    cross, degenerate, empty = short["cross_evaluation"], short["degenerate_share"], short["empty_pairs"]
    return [
        name,
        str(len(short["seeds"])),
        str(short["rounds"]),
        f"{percent(short.get('local_held_accuracy'))} / {percent(short.get('global_held_accuracy'))}",
        layers(short["specialist_distinctness"]["local"], empty["specialist_distinctness"]["local"]),
        layers(short["specialist_distinctness"]["global"], empty["specialist_distinctness"]["global"]),
        layers(short["local_global_iou"], empty["local_global_iou"]),
        layers(short["inter_client_iou"]["global"], empty["inter_client_iou"]["global"]),
        layers(short["stability_iou"]["global"], empty["stability_iou"]["global"]),
        f"{percent(cross['mean'])} / {percent(cross['last_round'])}",
        percent(short.get("cross_evaluation_false_positive_rate", {}).get("local")),
        f"{percent(degenerate['local'])} / {percent(degenerate['global'])}",
    ]


def table(ours: runs.Runs, theirs: runs.Runs) -> str:
    rows = []
    for name, ds in sorted(ours.items(), key=lambda pair: runs.place(pair[0])):
        rows.append(row(name, summary.summary(ds)))
        if name in theirs:
            rows.append(row("*authors*", summary.summary(theirs[name])))
    return pieces.markdown(COLUMNS, rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="experiments.table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--authors", type=Path)
    options = parser.parse_args()
    pieces.ending(
        lambda: print(table(runs.gather([options.folder]), runs.gather([options.authors]) if options.authors else {}))
    )


if __name__ == "__main__":
    main()
