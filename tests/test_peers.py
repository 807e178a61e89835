"""The contest with other frameworks (benchmarks/peers), with peers made up here: none is a dependency."""

import json
import os
import sys
import textwrap
import time

import numpy as np
import pytest

from benchmarks.peers import __main__ as peers
from benchmarks.peers import work
from benchmarks.peers.contestant import Contestant

TODO = work.Work(
    settings={"batch_size": 4, "epochs": 1, "learning_rate": 1e-3},
    images=np.zeros((2, 4, 28, 28, 1), np.uint8),
    labels=np.zeros((2, 4), np.int32),
    test_images=np.zeros((3, 28, 28, 1), np.uint8),
    test_labels=np.zeros(3, np.int32),
    mean=np.zeros(1, np.float32),
    std=np.ones(1, np.float32),
    params=peers.first_model(0),
)


@pytest.fixture
def made_up(tmp_path):
    """Makes a contestant that runs this code."""

    def make(name, code, packages=("numpy",), python=sys.executable):
        side = tmp_path / f"{name}_side.py"
        side.write_text(textwrap.dedent(code))
        return Contestant(name, side, packages, f"pip install {name}", python)

    return make


def playing(seconds, accuracy=0.5):
    """Says so after every round, and prints to stdout as libraries do."""
    return f"""
        def play(work, rounds):
            print("a library's banner", flush=True)
            assert work.images.shape == (2, 4, 28, 28, 1)
            rounds(lambda: {{"seconds": {seconds}, "accuracy": {accuracy}, "device": "toy"}})
        """


def contest(tmp_path, *players, timeout=60):
    return peers.compete(list(players), TODO, rounds=3, folder=tmp_path, timeout=timeout)


def test_rounds_are_played_in_turn_and_judged(made_up, tmp_path):
    order = tmp_path / "order"
    code = """
        def play(work, rounds):
            seconds = iter({seconds})
            def one():
                with open({order!r}, "a") as file:
                    file.write({name!r})
                return {{"seconds": next(seconds), "accuracy": 0.5, "device": "toy"}}
            rounds(one)
        """
    ours = made_up(peers.OURS, code.format(seconds=[9, 1, 2, 1], order=str(order), name="A"))
    peer = made_up("peer", code.format(seconds=[9, 3, 4, 4], order=str(order), name="B"))
    scores = contest(tmp_path, ours, peer)
    report = peers.judged(scores)
    assert order.read_text() == "AB" + "ABABAB"
    assert scores["peer"].seconds == [3, 4, 4]
    assert scores["peer"].first == 9
    assert report["ratio"] == {"peer": 3}
    assert report["contestants"]["peer"]["ratio_range"] == [2, 4]
    assert report["contestants"]["peer"]["versions"]["numpy"] == np.__version__
    assert "3.00x" in peers.show(report, TODO)


def test_an_absent_peer_is_said_how_to_get(made_up, tmp_path):
    ours = made_up(peers.OURS, playing(1))
    absent = made_up("absent", "import no_such_package", packages=("no-such-package",))
    scores = contest(tmp_path, ours, absent)
    assert scores["absent"].error == "not installed (no-such-package): pip install absent"
    assert scores[peers.OURS].seconds == [1, 1, 1]
    assert peers.judged(scores)["ratio"] == {}


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise AttributeError('jax.tree_map was removed')", "AttributeError: jax.tree_map was removed"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        (
            """
            def play(work, rounds):
                try:
                    raise ValueError("the cause, which\\n  has notes")
                except ValueError as error:
                    error.add_note("a note")
                    raise RuntimeError("ending simulation") from error
            """,
            "ValueError: the cause, which has notes",
        ),
        (
            """
            import os, sys
            def play(work, rounds):
                print("before", "Fatal: out of luck", "", sep="\\n", file=sys.stderr, flush=True)
                os._exit(3)
            """,
            "Fatal: out of luck (exit status 3)",
        ),
        ("import os; os.kill(os.getpid(), 9)", "it ended without a word (exit status -9)"),
    ],
)
def test_a_peer_that_fails_is_reported_with_its_version_and_error(made_up, tmp_path, code, error):
    scores = contest(tmp_path, made_up(peers.OURS, playing(1)), made_up("peer", code))
    assert scores["peer"].error == error
    assert scores["peer"].versions["numpy"] == np.__version__
    assert scores[peers.OURS].seconds == [1, 1, 1]
    shown = peers.show(peers.judged(scores), TODO)
    assert f"numpy {np.__version__}" in shown
    assert error in shown


def test_a_peer_that_fails_in_a_later_round_is_left_out(made_up, tmp_path):
    code = """
        def play(work, rounds):
            seconds = iter([1, 1])
            rounds(lambda: {"seconds": next(seconds), "accuracy": 0.5, "device": "toy"})
        """
    scores = contest(tmp_path, made_up(peers.OURS, playing(1)), made_up("peer", code))
    assert scores["peer"].error == "StopIteration"
    assert peers.judged(scores)["ratio"] == {}


def test_an_interpreter_that_is_none(made_up, tmp_path):
    peer = made_up("peer", playing(1), python="/no/such/python")
    scores = contest(tmp_path, made_up(peers.OURS, playing(1)), peer)
    assert scores["peer"].error == (
        "/no/such/python: not an interpreter that can be started: No such file or directory"
    )


def test_a_peer_that_hangs_is_given_up_and_ended(made_up, tmp_path, monkeypatch):
    monkeypatch.setattr(peers.Running.stop, "__defaults__", (0.1,))
    code = f"""
        import os, time
        def play(work, rounds):
            open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
            time.sleep(600)
        """
    began = time.monotonic()
    scores = contest(tmp_path, made_up("peer", code), timeout=3)
    assert scores["peer"].error == "no answer within 3 s"
    assert time.monotonic() - began < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_other_work_is_noticed(made_up, tmp_path):
    scores = contest(tmp_path, made_up(peers.OURS, playing(1, 0.9)), made_up("peer", playing(1, 0.8)))
    report = peers.judged(scores)
    assert not report["contestants"]["peer"]["same_work"]
    assert "NOT THE SAME WORK" in peers.show(report, TODO)


def test_the_command(made_up, monkeypatch, capsys):
    """On the real work, with made-up contestants; one JSON object on the last line."""
    players = [
        made_up(peers.OURS, playing(2).replace("(2, 4, 28, 28, 1)", "(5, 256, 28, 28, 1)")),
        made_up("peer", "1 / 0"),
    ]
    monkeypatch.setattr(peers, "contestants", lambda options: players)
    assert peers.main(["--json", "--images", "256", "--rounds", "1"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["contestants"][peers.OURS]["median_seconds"] == 2
    assert report["contestants"]["peer"]["error"] == "ZeroDivisionError: division by zero"
    assert report["ratio"] == {}


@pytest.mark.parametrize(
    ("images", "error"),
    [
        ("100", "--images: a multiple of the batch size 256; got 100"),
        ("12288", "--images: at most 12000 with 5 clients"),
    ],
)
def test_images_that_do_not_go_are_said_in_one_line(images, error, capsys):
    assert peers.main(["--images", images]) == 2
    assert capsys.readouterr().err.strip() == error


def test_work_comes_back_from_its_file(tmp_path):
    work.write(TODO, tmp_path / "work.npz")
    back = work.read(tmp_path / "work.npz")
    assert back.settings == TODO.settings
    assert back.params.keys() == TODO.params.keys()
    for name in work.ARRAYS:
        np.testing.assert_array_equal(getattr(back, name), getattr(TODO, name))


def test_the_first_model_has_the_package_s_shapes():
    """So that fedmi_jax, and who reads its layout, can start from it."""
    import jax

    from fedmi_jax.network import model

    expected = jax.eval_shape(lambda: model.init(jax.random.key(0), (28, 28, 1), (32, 64, 128), 10))
    assert {k: v.shape for k, v in peers.first_model(0).items()} == {k: v.shape for k, v in expected.items()}
