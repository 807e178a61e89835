"""The README's table of presets, from results on disk: `python -m experiments.table FOLDER [--authors FOLDER]`.

FOLDER holds one folder per run (`fedmi run PRESET --out FOLDER/PRESET`) and may hold seconds.json, the seconds a round
took; `--authors` one per imported file of the paper's authors, under the preset's name. Prints markdown: every preset's
last round, ours over the authors'.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fedmi_jax import results

ORDER = (
    "iid", "one-class", "two-class", "three-class", "shared-class", "sparsity-ablation-0.95",
    "sparsity-ablation-0.97", "sparsity-ablation-0.99", "sparsity-ablation-0.995",
)  # fmt: skip
COLUMNS = (
    "preset", "rounds", "seconds a round", "global accuracy", "distinctness, local", "distinctness, global",
    "local-to-global IoU", "inter-client IoU, global", "stability, global", "cross-evaluation, all rounds / last",
    "its false positives, last", "degenerate, local / global",
)  # fmt: skip


def layers(values: dict[str, Any]) -> str:
    if all(v is None for v in values.values()):
        return "-"
    return " / ".join("-" if v is None else f"{v:.2f}" for v in values.values())


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def row(name: str, short: dict[str, Any], seconds: float | None) -> list[str]:
    cross, degenerate = short["cross_evaluation"], short["degenerate_share"]
    return [
        name,
        str(short["rounds"]),
        "-" if seconds is None else f"{seconds:.0f}",
        percent(short["global_accuracy"]),
        layers(short["specialist_distinctness"]["local"]),
        layers(short["specialist_distinctness"]["global"]),
        layers(short["local_global_iou"]),
        layers(short["inter_client_iou"]["global"]),
        layers(short["stability_iou"]["global"]),
        f"{percent(cross['mean'])} / {percent(cross['last_round'])}",
        percent(short.get("cross_evaluation_false_positive_rate", {}).get("local")),
        f"{percent(degenerate['local'])} / {percent(degenerate['global'])}",
    ]


def table(folder: Path, authors: Path | None) -> str:
    rows = [list(COLUMNS), ["---"] * len(COLUMNS)]
    timings = folder / "seconds.json"
    seconds = json.loads(timings.read_text()) if timings.exists() else {}
    for name in ORDER:
        for where, label in ((folder, name), (authors, "*authors*")):
            if where is not None and (where / name / results.FILE).exists():
                rows.append(row(label, results.summary(results.load(where / name)), seconds.get(label)))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="experiments.table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--authors", type=Path)
    options = parser.parse_args()
    print(table(options.folder, options.authors))


if __name__ == "__main__":
    main()
