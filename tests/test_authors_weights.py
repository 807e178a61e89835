"""Models of the authors' form: there and back without a difference, the same logits in PyTorch, and what is refused."""

import dataclasses
import sys
import types

import numpy as np
import pytest
import studied

torch = pytest.importorskip("torch", reason="PyTorch comes with the extra [reference]")

from fedmi_jax.cli import main  # noqa: E402
from fedmi_jax.errors import FedmiError  # noqa: E402
from fedmi_jax.results import authors, authors_weights, store  # noqa: E402
from fedmi_jax.studies import study  # noqa: E402

CIRCUITS = authors_weights.CIRCUITS


@pytest.fixture(scope="module")
def run():
    return studied.result()


@pytest.fixture
def folder(run, tmp_path):
    """One seed as the authors' folder."""
    return authors_weights.export_weights(run, tmp_path / "pt", seed=8)


def read(folder):
    ds = authors.import_authors(folder / CIRCUITS, channels=studied.CHANNELS)
    return authors_weights.with_weights(ds, folder)


def test_there_and_back(run, folder):
    back = read(folder)
    for name in (name for name in run if str(name).startswith("weights_")):
        np.testing.assert_array_equal(back[name].values[0], run[name].sel(seed=8).values, err_msg=name)
        assert back[name].dims == run[name].dims
    for layer in ("conv1", "conv2", "conv3"):
        np.testing.assert_array_equal(back[f"mask_{layer}"].values[0], run[f"mask_{layer}"].sel(seed=8).values)
    assert store.load(store.save(back, folder / "again"))["weights_local_fc_kernel"].dtype == np.float64


def test_same_logits_in_pytorch(run, folder):
    """Maps of 2 x 3: channels first or last is told apart, and rows from columns."""
    state = torch.load(folder / "round_2" / "client_1_model.pt", weights_only=True)
    x, _ = studied.inputs(studied.images(20))
    y = torch.from_numpy(x.transpose(0, 3, 1, 2))
    for layer in ("conv1", "conv2", "conv3"):
        y = torch.conv2d(y, state[f"{layer}.weight"], state[f"{layer}.bias"], padding=1)
        y = torch.nn.functional.max_pool2d(torch.relu(y), 2, 2)
    theirs = torch.nn.functional.linear(y.reshape(len(y), -1), state["fc.weight"], state["fc.bias"])
    np.testing.assert_allclose(theirs.numpy(), studied.logits(studied.model(run, 8, 2, 1), x), rtol=1e-10)


def test_same_logits_in_the_reference(run, folder):
    """Through benchmarks/pytorch_reference, global model."""
    from benchmarks.pytorch_reference import model

    state = torch.load(folder / "checkpoint_round_1.pt", weights_only=True)["model_state_dict"]
    x, _ = studied.inputs(studied.images(20))
    theirs = model.forward(dict(state), torch.from_numpy(x.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(theirs.numpy(), studied.logits(studied.model(run, 8, 1), x), rtol=1e-10)
    ours = model.from_package(studied.model(run, 8, 1), model.place("float64", "cpu"))
    assert all(torch.equal(state[name], value) for name, value in ours.items())


def test_a_study_on_what_came_back_says_the_same(run, folder):
    ours, theirs = (
        study("linear", ds, seeds=[seed], nulls=0).rows
        for ds, seed in ((run.drop_vars("samples"), 8), (read(folder), 0))
    )
    assert [(row.measure, row.key, row.value) for row in ours] == [(r.measure, r.key, r.value) for r in theirs]


def test_the_settings_object_of_their_checkpoints_is_passed_over(folder, monkeypatch):
    """Theirs is a dataclass `Config` of a module `config`, which no user of this project has."""
    module = types.ModuleType("config")
    module.Config = type("Config", (), {"__module__": "config", "__annotations__": {"seed": int}, "seed": 42})
    module.Config = dataclasses.dataclass(module.Config)
    monkeypatch.setitem(sys.modules, "config", module)
    path = folder / "checkpoint_round_1.pt"
    kept = torch.load(path, weights_only=True)
    torch.save({**kept, "config": module.Config()}, path)
    monkeypatch.delitem(sys.modules, "config")
    assert read(folder)["weights_global_fc_bias"].notnull().all()


def test_other_objects_are_not_loaded(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"model_state_dict": Evil()}, folder / "checkpoint_round_1.pt")
    with pytest.raises(
        FedmiError, match=r"checkpoint_round_1.pt: not a state_dict of plain tensors saved by torch.save, or damaged$"
    ):
        read(folder)
    assert not (tmp_path / "written").exists()


def test_without_a_checkpoint_it_is_the_mean(run, folder):
    (folder / "checkpoint_round_2.pt").unlink()
    mean = run["weights_local_conv2_kernel"].sel(seed=8, round=2).mean("client")
    np.testing.assert_allclose(read(folder)["weights_global_conv2_kernel"].values[0, 1], mean, rtol=1e-12)


def test_rounds_without_models_have_none(folder):
    for path in (folder / "round_1").iterdir():
        path.unlink()
    (folder / "round_1").rmdir()
    back = read(folder)
    assert back["weights_local_fc_bias"].sel(round=1).isnull().all()
    assert back["weights_global_fc_bias"].sel(round=1).isnull().all()
    assert back["weights_local_fc_bias"].sel(round=2).notnull().all()
    with pytest.raises(FedmiError, match="seed 0, round 1: the result has no weights of client 0; keep the weights"):
        study("linear", back, rounds=[1])
    again = authors_weights.export_weights(back, folder / "again")
    assert sorted(path.name for path in again.iterdir()) == ["checkpoint_round_2.pt", CIRCUITS, "round_2"]


def changed(folder, name, change):
    path = folder / name
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


CLIENT = "round_2/client_1_model.pt"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.update({"conv2.weight": torch.zeros(6, 4, 3, 3)}),
         r"conv2.weight has shape \(6, 4, 3, 3\), but the circuits are of a network with \(6, 5, 3, 3\)"),
        (lambda s: s.update({"conv3.bias": torch.zeros(9)}), r"conv3.bias has shape \(9,\), .* with \(7,\)"),
        (lambda s: s.update({"fc.weight": torch.zeros(4, 40)}), r"fc.weight has shape \(4, 40\), .* with \(4, 35\)"),
        (lambda s: s.update({"fc.weight": torch.zeros(4, 28)}),
         r"fc.weight has shape \(4, 28\), in other files \(4, 42\)"),
        (lambda s: s.update({"conv4.weight": torch.zeros(1)}), r"holds conv1.bias, .*conv4.weight.*; the circuits'"),
        (lambda s: s.pop("fc.bias"), "the circuits' network has conv1.weight, .*fc.bias"),
        (lambda s: s["conv1.weight"].fill_(torch.nan), "conv1.weight is not finite"),
        (lambda s: s.update({"fc.weight": s["fc.weight"].to_sparse()}), "fc.weight is no plain tensor of floating-"),
        (lambda s: s.update({"fc.bias": s["fc.bias"].to(torch.complex64)}), "fc.bias is no plain tensor of floating-"),
        (lambda s: s.update({"fc.bias": s["fc.bias"].int()}), "fc.bias is no plain tensor of floating-point numbers"),
        (lambda s: s["fc.bias"].index_fill_(0, torch.tensor([1]), torch.inf), "fc.bias is not finite"),
        (lambda s: s.update({"conv1.weight": torch.zeros(5, 9)}),
         r"conv1.weight has shape \(5, 9\), .* \(5, 1, 3, 3\)"),
    ],
)  # fmt: skip
def test_another_network_is_refused_with_both_shapes(change, said, folder):
    changed(folder, CLIENT, change)
    with pytest.raises(FedmiError, match=said) as error:
        read(folder)
    assert CLIENT in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_models_of_another_run_are_refused(run, folder, tmp_path):
    """Their circuits have edges where these models have no weight."""
    other = run.copy(deep=True)
    other["weights_local_conv2_kernel"].loc[{"seed": 8, "round": 2, "client": 1}] = 0
    other["weights_global_conv3_kernel"].loc[{"seed": 8, "round": 1}] = 0
    theirs = authors_weights.export_weights(other, tmp_path / "other", seed=8)
    ds = authors.import_authors(folder / CIRCUITS, channels=studied.CHANNELS)
    with pytest.raises(FedmiError, match=r"checkpoint_round_1.pt: is of another run .* to channel \d+ of conv3, where"):
        authors_weights.with_weights(ds, theirs)
    (theirs / "checkpoint_round_1.pt").write_bytes((folder / "checkpoint_round_1.pt").read_bytes())
    with pytest.raises(
        FedmiError, match=r"round_2/client_1_model.pt: is of another run .* to channel \d+ of conv2, where"
    ):
        authors_weights.with_weights(ds, theirs)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", "cut"])
def test_a_damaged_file_is_refused(content, folder):
    path = folder / CLIENT
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
    with pytest.raises(FedmiError, match=r"client_1_model.pt: (not a state_dict of plain tensors|holds no)") as error:
        read(folder)
    assert len(str(error.value).splitlines()) == 1


def test_what_is_missing_is_named(run, folder, tmp_path):
    (folder / CLIENT).unlink()
    with pytest.raises(FedmiError, match=r"client_1_model.pt: cannot be read: No such file"):
        read(folder)
    with pytest.raises(FedmiError, match=r"no folder round_N of a round of the results file"):
        authors_weights.with_weights(run, tmp_path / "nowhere")
    with pytest.raises(FedmiError, match="seed: the result holds"):
        authors_weights.export_weights(run, tmp_path / "more")
    alone = run.drop_vars([v for v in run if str(v).startswith("weights_")])
    with pytest.raises(FedmiError, match=r"weights_\*: not in the result; keep them with"):
        authors_weights.export_weights(alone, tmp_path / "none", seed=8)


def test_without_pytorch_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(FedmiError, match=r"need PyTorch: pip install 'fedmi-jax\[reference\]'"):
        read(folder)


def test_the_commands(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # the table's cells in one line each, wherever the test runs
    store.save(run, tmp_path / "run")
    words = ["export", tmp_path / "run", "--pt", "--seed", "3", "--out", tmp_path / "pt"]
    assert main.main(list(map(str, words))) == 0
    again = tmp_path / "again"
    words = ["import", tmp_path / "pt" / CIRCUITS, "--channels", *studied.CHANNELS, "--weights", tmp_path / "pt"]
    assert main.main(list(map(str, [*words, "--out", again]))) == 0
    capsys.readouterr()
    assert main.main(["study", "linear", str(again), "--round", "all", "--nulls", "2"]) == 0
    printed = capsys.readouterr()
    assert "first only" in printed.out
    assert printed.err == ""
    np.testing.assert_array_equal(
        store.load(again)["weights_local_fc_kernel"].values[0], run["weights_local_fc_kernel"].sel(seed=3).values
    )
