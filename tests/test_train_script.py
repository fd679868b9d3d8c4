"""train.py as a user runs it: on ranks, retraining, and refusing what does not fit."""

import dataclasses
import importlib
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_training import ROOT, torchrun

import gpuion
from gpuion import dataset, training

pytestmark = pytest.mark.usefixtures("single_thread")

IMAGES = ["--model", "periodic"]
SMALL = ["--widths", "4", "4", "--hidden", "4", "--device", "cpu", "--batch", "4"]


def write_folder(folder, n=20, *, seed=0, diameter=4.0, box=15.0, reference=0.5, **changes):
    """Write a dataset whose D is a function of the distances of three spheres."""
    draw = torch.Generator().manual_seed(seed)
    centers = torch.rand(n, 3, 3, generator=draw) * box
    D = 0.1 + 0.05 * torch.rand(n, 3, generator=draw, dtype=torch.float64)
    nan = torch.full((n,), math.nan, dtype=torch.float64)
    data = gpuion.Dataset(
        centers=centers, diffusivity=D, standard_error=0.01 * D, id=torch.arange(n), family=np.array(["random"] * n),
        distance=torch.stack([nan, nan], 1), gap=nan, axes=torch.zeros(n, 3, dtype=torch.bool), box=box,
        diameter=diameter, sites_per_voxel=1, method="exact", d_reference=reference,
    )  # fmt: skip
    data = dataclasses.replace(data, **changes)
    folder.mkdir(parents=True, exist_ok=True)
    dataset.write_shard(folder / "shard-00000.h5", data, seed=seed)
    dataset.write_summary(folder, data)
    return folder


def script(*args, ranks=1):
    """Run train.py as a user would: in this process, or by torchrun."""
    flags = [*([] if "--preset" in args else IMAGES), *map(str, args), *SMALL]
    if ranks == 1:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["train.py", *flags])
            patch.syspath_prepend(str(ROOT))
            importlib.import_module("train").main()
        return
    torchrun(ROOT / "train.py", ranks, *flags)


def weights(path):
    return training.load_checkpoint(path)["weights"]


def test_the_script_on_two_ranks(tmp_path):
    data = write_folder(tmp_path / "data")
    runs = [tmp_path / "one", tmp_path / "two"]
    for ranks, out in enumerate(runs, 1):
        script("--data", data, "--out", out, "--epochs", 2, ranks=ranks)
    curves = [[json.loads(line)["loss"] for line in (out / "history.jsonl").read_text().splitlines()] for out in runs]
    # In float32 Adam turns the rounding of gradients that should be zero into steps: 1e-3 was seen, 1e-2 is allowed.
    assert curves[0] == pytest.approx(curves[1], rel=1e-2)


@pytest.mark.parametrize("model", ["tiled", "zero"])
def test_the_papers_networks_from_the_first_epoch_to_the_last(tmp_path, model):
    data, out = write_folder(tmp_path / "data"), tmp_path / "out"
    script("--data", data, "--out", out, "--model", model, "--epochs", 2)
    net = gpuion.load_surrogate(out / "surrogate.pt")
    assert net.arguments["boundary"] == model
    # Two pools by 2 of an edge of 15 voxels, repeated by the one and not by the other, in 4 channels.
    assert net.body.features == 4 * ((45 if model == "tiled" else 15) // 4) ** 3
    found = json.loads((out / "metrics.json").read_text())["test"]
    assert math.isfinite(found["mse"])
    # Zero padding sees any shift, in the image repeated or not.
    assert found["shift_sensitivity"] > 0


def test_retraining_keeps_test_set_and_reference(tmp_path):
    first = write_folder(tmp_path / "a", 20, reference=0.5)
    more = write_folder(tmp_path / "b", 15, seed=1, reference=9.0)
    out, again = tmp_path / "out", tmp_path / "again"
    script("--data", first, "--out", out, "--epochs", 1)
    flags = ["--data", first, more, "--checkpoint", out / "surrogate.pt", "--epochs", 2, "--seed", 5]
    script(*flags, "--out", again)
    before, after = (json.loads((folder / "predictions.json").read_text()) for folder in (out, again))
    test = [k for k, name in enumerate(after["split"]) if name == "test"]
    assert [after["id"][k] for k in test] == before["id"]
    assert [after["true"][k] for k in test] == before["true"]
    found = json.loads((again / "metrics.json").read_text())
    assert set(found) == {"train", "validation", "test", f"test of {more}"}
    net = gpuion.load_surrogate(again / "surrogate.pt")
    assert net.meta["d_reference"] == 0.5
    assert net.meta["n_particles"] == 3
    assert net.meta["metrics"] == found
    truth = dataset.open_dataset(more).mean_diffusivity / 0.5
    mine = [v for v, name in zip(after["true"], after["split"], strict=True) if name.startswith("test of")]
    assert len(mine) == 3
    assert all((truth.float() - v).abs().min() < 1e-6 for v in mine)


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        ({"n": 4}, [], "5 structures or more"),
        ({"box": 16.0}, [], "must cut 16 voxels"),
        ({}, ["--data", "nowhere"], "nowhere"),
        ({}, ["--epochs", "0"], "epochs must be at least 1"),
        ({}, ["--voxels", "16"], "must cut 16 voxels"),
        ({}, ["--learning-rate", "nan"], "learning_rate"),
        ({}, ["--checkpoint", "nowhere.pt"], "no checkpoint nowhere.pt"),
    ],
)
def test_errors_say_what_is_wrong(tmp_path, change, flags, message):
    data = write_folder(tmp_path / "data", **change)
    with pytest.raises(ValueError, match=message):
        script("--data", data, "--out", tmp_path / "out", *flags)


def test_an_unknown_model_is_bad_use(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        script("--data", tmp_path, "--out", tmp_path / "out", "--model", "perodic")
    assert left.value.code == 2
    assert "invalid choice: 'perodic'" in (line := capsys.readouterr().err)
    assert "; did you mean periodic? (see " in line


def test_an_error_is_one_line(tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), "--data", "nowhere", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: nowhere: ")
    assert done.stderr.count("\n") == 1


def test_folders_that_do_not_fit_together(tmp_path):
    first = write_folder(tmp_path / "a")
    other = write_folder(tmp_path / "b", diameter=5.0)
    with pytest.raises(ValueError, match=r"b: expected .*diameter = 4\.0.* as in .*a, found .*diameter = 5\.0"):
        script("--data", first, other, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("boundary", "voxels", "batch"),
    [
        ("periodic", 50, 32), ("periodic", 75, 32), ("periodic", 200, 32), ("periodic", 375, 5), ("zero", 50, 32),
        ("tiled", 50, 4), ("tiled", 75, 1), ("tiled", 100, 1),
    ],
)  # fmt: skip
def test_predicting_keeps_layers_within_a_gigabyte(boundary, voxels, batch):
    # 2²⁸ float32 are a gigabyte: 4 · 16 · 150³ = 0.80 · 2²⁸, 1 · 16 · 225³ = 0.68 · 2²⁸, 5 · 375³ = 0.98 · 2²⁸.
    net = gpuion.Surrogate(boundary, voxels=16)
    assert training._together(net, voxels) == batch


def test_batches_of_predictions_cover_all(monkeypatch):
    torch.manual_seed(0)
    net = gpuion.Surrogate("tiled", voxels=8, widths=(2, 2), hidden=3)
    centers = 8 * torch.rand(7, 2, 3)
    data = training.Samples(centers=centers, target=torch.ones(7), id=torch.arange(7), box=8.0, diameter=2.0, voxels=8)
    whole = training.predict(net, data)
    monkeypatch.setattr(training, "_NUMBERS", 2 * 2 * 24**3)
    sizes = []
    net.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    # Sums of float32 in another order, of layers of 54 terms and one of 2 · 6³: 1e-5 is 100 roundings.
    assert torch.allclose(training.predict(net, data), whole, rtol=1e-5, atol=1e-6)
    assert sizes == [2, 2, 2, 1]
