"""A search of the second instrument, recorded from the PyTorch reference, against the package and against PyTorch."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import golden_decision as golden

FILE = Path(__file__).parent / "data" / "golden_decision.npz"
INSIDE = dict.fromkeys(golden.LIMITS, True)


def replayed(backend, capsys):
    status = golden.main([str(FILE), "--backend", backend, "--json"])
    report = json.loads(capsys.readouterr().out)
    return report["within_limits"], (status, report["passed"])


def test_the_package_finds_what_was_recorded(capsys):
    assert replayed("jax", capsys) == (INSIDE, (0, True))


def test_pytorch_finds_what_was_recorded(capsys):
    pytest.importorskip("torch", reason="PyTorch comes with the extra [reference]")
    assert replayed("torch", capsys) == (INSIDE, (0, True))


def test_what_was_recorded_is_worth_replaying():
    """Both circuits are smaller than what was tried first, and that is smaller than all live channels; one channel is
    dead; the loss has a temperature."""
    file = golden.read(FILE)
    live, size = (file["rank"] > 0).sum(1), file["mask"].sum(1)
    assert (live == 17).all()
    assert (size < file["untrimmed"]).all()
    assert (file["untrimmed"] < live).all()
    assert (file["temperature"] > 1).all()
    assert (file["spread"] > 0.2).all()
    assert (np.unique(file["scores"], axis=1).shape[1]) == file["scores"].shape[1]


def test_what_was_given_is_what_a_search_draws_today():
    file, made = golden.read(FILE), golden.made()
    assert file.keys() == made.keys() | set(golden.FOUND)
    for name, values in made.items():
        np.testing.assert_array_equal(file[name], values, err_msg=name)


@pytest.mark.parametrize(
    ("name", "change", "figure"),
    [
        ("scores", lambda v: v * (1 + 1e-6), "scores"), ("mask", lambda v: v ^ (np.arange(18) == 3), "masks_differing"),
        ("rank", lambda v: np.roll(v, 1, 1), "ranks_differing"), ("sizes", lambda v: v + 1, "sizes_differing"),
        ("untrimmed", lambda v: v + 1, "sizes_differing"), ("curve", lambda v: v + 1e-9, "curve"),
        ("explained", lambda v: v + 1e-9, "explained"), ("spread", lambda v: v + 1e-9, "spread"),
        ("temperature", lambda v: v + 1e-9, "temperature"),
    ],
)  # fmt: skip
def test_every_figure_is_compared(name, change, figure):
    file = golden.read(FILE)
    verdicts = golden.verdicts(golden.replay(file, file | {name: change(file[name])}))
    assert [key for key, within in verdicts.items() if not within] == [figure]


def test_unreadable_files(tmp_path, capsys):
    whole = FILE.read_bytes()
    (tmp_path / "damaged.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(tmp_path / "other.npz", pixels=1)
    for name, message in (("damaged", "not a readable golden file"), ("other", "not a golden file of a decision")):
        assert golden.main([str(tmp_path / f"{name}.npz")]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith(f"{tmp_path / f'{name}.npz'}: {message}")
        assert (printed.out, printed.err.count("\n")) == ("", 1)
