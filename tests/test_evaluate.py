"""Errors of trained models on data sets: by hand, by family, across cells, and what no model can take."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from test_models import BOX, DIAMETER, ON_CENTERS, folder, model, placed

import gpuion
from gpuion import evaluate, files, splits, training
from gpuion.errors import CheckpointError, DatasetError
from gpuion.models import MODELS, create

pytestmark = pytest.mark.usefixtures("single_thread")

KINDS = np.array(["random", "gapped", "chained", "gapped"])


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    evaluate.main()


def save(path, name, **meta):
    """Write a checkpoint of a model that learnt nothing."""
    if name in ON_CENTERS:
        net = model(name)
    else:
        torch.manual_seed(0)
        net = create(name, voxels=50, widths=(2, 2), hidden=4)
    held = {"d_reference": 0.5, "box": BOX, "diameter": DIAMETER, "voxels": 50, "sites_per_voxel": 1, **meta}
    path.parent.mkdir(parents=True, exist_ok=True)
    training.save_checkpoint(path, net, held)
    return path


def mixed(path, n=20, **changes):
    """Write a data set of three families, some gapped on one axis and some on two."""
    axes = torch.tensor([[True, k % 4 == 3, False] if k % 4 in {1, 3} else [False] * 3 for k in range(n)])
    return folder(path, n, family=np.resize(KINDS, n), axes=axes, **changes)


def test_measures_by_hand():
    found = evaluate.Found(
        id=torch.arange(3), kind=np.array(["a", "b", "b"]), true=torch.tensor([1.0, 2.0, 4.0]).double(),
        predicted=torch.tensor([1.5, 2.0, 3.0]).double(), label=torch.tensor([0.01, 0.02, 0.03]).double(),
        spread=torch.tensor([0.3, 0.1, 0.1]).double(), quantiles=torch.arange(1, 101).double() / 50,
    )  # fmt: skip
    whole = evaluate.measures(found)
    assert whole["structures"] == 3
    assert whole["mse"] == pytest.approx((0.25 + 0 + 1) / 3)
    assert whole["mape"] == pytest.approx(100 * (0.5 + 0 + 0.25) / 3)
    assert whole["mean_error"] == pytest.approx(100 * (0.5 + 0 - 0.25) / 3)
    assert whole["worst_error"] == pytest.approx(50)
    assert whole["label_error"] == pytest.approx(2)
    assert whole["label_error_most"] == pytest.approx(3)
    # Errors of log D*: log 1.5 = 0.405, 0 and log 0.75 = −0.288; 68% reaches 1.36 σ = 0.408 and 0.136.
    assert whole["error"] == pytest.approx(math.sqrt((math.log(1.5) ** 2 + math.log(0.75) ** 2) / 3))
    assert whole["spread"] == pytest.approx(math.sqrt((0.09 + 0.01 + 0.01) / 3))
    assert whole["coverage_68"] == whole["coverage_95"] == pytest.approx(2 / 3)
    some = evaluate.measures(found.of(found.kind == "b"))
    assert some["coverage_68"] == 0.5
    assert (some["structures"], some["worst_error"]) == (2, pytest.approx(-25))


@pytest.mark.parametrize("name", ["pairs", "network", "periodic"])
def test_a_part_in_the_checkpoints_own_unit(tmp_path, monkeypatch, capsys, name):
    source = mixed(tmp_path / "data", reference=9.0)
    checkpoint = save(tmp_path / "a" / "surrogate.pt", name)
    call(monkeypatch, checkpoint, "--data", source, "--out", tmp_path / "found.json", "--worst", 3)
    data, net = gpuion.open_dataset(source), gpuion.load_surrogate(checkpoint)
    test = data.subset(splits.split(len(data), 0)[2].sort().values)
    (result,) = json.loads((tmp_path / "found.json").read_text())["results"]
    (row,) = result["results"]
    assert (row["structures"], result["model"], row["part"]) == (4, name, "test")
    assert row["true"] == pytest.approx((test.mean_diffusivity / 0.5).tolist())  # not the data's own unit, 9
    x = test.centers
    if name == "periodic":
        D = net(gpuion.voxelize(x, box=BOX, diameter=DIAMETER, voxels=50))
    else:
        D = net(*net.prepare(x, BOX, DIAMETER))
    D = (D.mean(1) if name == "network" else D).detach().double()
    # The same float32 network on the same structures, alone or together.
    assert row["predicted"] == pytest.approx(D.tolist(), rel=1e-5)
    error = D / (test.mean_diffusivity / 0.5) - 1
    assert row["mape"] == pytest.approx(100 * float(error.abs().mean()), rel=1e-4)
    order = error.abs().argsort(descending=True)[:3]
    assert [x["id"] for x in row["worst"]] == test.id[order].tolist()
    kinds = evaluate.kinds(test)
    assert {kind: of["structures"] for kind, of in row["families"].items()} == {
        kind: int((kinds == kind).sum()) for kind in set(kinds)
    }
    assert sum(of["structures"] * of["mape"] for of in row["families"].values()) / 4 == pytest.approx(row["mape"])
    shown = capsys.readouterr().out
    assert "| model | data | structures | MSE | MAPE, % |" in shown
    assert f"| {row['worst'][0]['id']} | {row['worst'][0]['family']} |" in shown
    assert "the labels' own stated error is 1% of D on average" in shown  # write_folder's 0.01 D


def test_what_moves_of_the_cell_do_and_how_sure_a_model_is(tmp_path, monkeypatch, capsys):
    source = mixed(tmp_path / "data")
    paths = [save(tmp_path / f"{name}.pt", name) for name in ("network", "periodic", "zero")]
    sure = gpuion.load_surrogate(paths[0])
    sure.doubt.scale.fill_(0.5)
    sure.doubt.quantiles.copy_(torch.linspace(0.02, 2, 100))
    training.save_checkpoint(paths[0], sure, sure.meta)
    call(monkeypatch, *paths, "--data", source, "--symmetry", "--out", tmp_path / "found.json")
    network, periodic, zero = (x["results"][0] for x in json.loads((tmp_path / "found.json").read_text())["results"])
    for row in (network, periodic, zero):
        for name in ("shift_sensitivity", "turn_sensitivity"):
            assert row[name] >= row[f"{name}_rms"] >= 0
    # Float32 sums of some thousand terms; the spread of D* here is 3% of D*, and zero padding sees any shift.
    assert max(network["shift_sensitivity"], network["turn_sensitivity"], periodic["turn_sensitivity"]) < 1e-3
    assert zero["shift_sensitivity"] > 1e-2
    assert zero["turn_sensitivity"] > 1e-2
    test = evaluate.part_of(source, "test")
    said = sure.predict(test.centers, box=BOX, diameter=DIAMETER)
    assert network["spread"] == pytest.approx(float(said.spread.square().mean().sqrt()), rel=1e-4)
    low, high = said.interval(0.68)
    true = test.mean_diffusivity / 0.5
    assert network["coverage_68"] == float(((true >= low) & (true <= high)).double().mean())
    assert "coverage_68" not in periodic
    shown = capsys.readouterr().out
    assert f"| network | {source} | all | 4 | {100 * network['error']:.2f} | {100 * network['spread']:.2f} |" in shown
    assert shown.count("| network | ") == 1 + 3 + 1 + 1  # on the whole, by family, how sure, and moves
    assert f"| zero | {source} | {100 * zero['shift_sensitivity_rms']:.2g} |" in shown


def test_gapped_structures_are_told_apart_by_their_slabs(tmp_path):
    found = evaluate.kinds(gpuion.open_dataset(mixed(tmp_path / "data", 8)))
    assert found.tolist() == ["random", "gapped on 1", "chained", "gapped on 2"] * 2


@pytest.mark.parametrize("name", ["nearest", "pairs", "graph", "network", "periodic"])
def test_other_cells_and_other_numbers_of_spheres(tmp_path, monkeypatch, name):
    x = placed(6)
    larger = torch.cat([x, x + BOX], 1) % (2 * BOX)
    cells = [folder(tmp_path / "large", 6, centers=larger, box=2 * BOX), folder(tmp_path / "few", 6, centers=x[:, :9])]
    checkpoint = save(tmp_path / "surrogate.pt", name)
    call(monkeypatch, checkpoint, "--data", *cells, "--part", "all", "--out", tmp_path / "found.json")
    rows = json.loads((tmp_path / "found.json").read_text())["results"][0]["results"]
    assert [row["structures"] for row in rows] == [6, 6]
    assert all(math.isfinite(row["mape"]) for row in rows)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("zero", {"box": 2 * BOX}, r"cells of edge 50 alone, .* has 100; .*periodic, .*nearest, pairs, ridge, graph"),
        ("tiled", {"box": 2 * BOX}, "cells of edge 50 alone"),
        ("periodic", {"box": 52.0}, "pools 5 voxels first, .* has 52; models on centres"),
        ("network", {"diameter": 8.0}, "diameter 9.6, .* has 8; .* Models of images"),
        ("network", {"centers": torch.rand(20, 5, 3) * 30, "box": 30.0}, "cannot take .*box must be 33 or more"),
        ("ridge", {"centers": torch.rand(20, 5, 3) * 30, "box": 30.0}, "cannot take .*cutoff must lie"),
    ],
)
def test_what_a_model_cannot_take_is_said_before_any_work(tmp_path, monkeypatch, name, changes, words):
    checkpoint = save(tmp_path / "surrogate.pt", name)
    source = folder(tmp_path / "data", **changes)
    monkeypatch.setattr(evaluate, "predict", lambda *_: pytest.fail("work began"))
    with pytest.raises(CheckpointError, match=words):
        call(monkeypatch, checkpoint, "--data", source)


def test_missing_structures_and_units_are_named(tmp_path, monkeypatch):
    checkpoint = save(tmp_path / "surrogate.pt", "nearest")
    lost = folder(tmp_path / "lost", converged=torch.zeros(20, dtype=torch.bool))
    with pytest.raises(DatasetError, match="expected settled labels in its part test"):
        call(monkeypatch, checkpoint, "--data", lost)
    bare = save(tmp_path / "bare.pt", "nearest", d_reference=None)
    with pytest.raises(CheckpointError, match="does not say its d_reference"):
        call(monkeypatch, bare, "--data", folder(tmp_path / "data"))


def test_labels_that_did_not_settle_and_other_lattices(tmp_path, monkeypatch, capsys):
    settled = torch.arange(20) % 5 > 0
    source = folder(tmp_path / "data", converged=settled, sites_per_voxel=2)
    call(monkeypatch, save(tmp_path / "surrogate.pt", "nearest"), "--data", source, "--part", "all")
    shown = capsys.readouterr().out
    assert "| 16 |" in shown
    assert "learnt labels of 1 site(s) a voxel" in shown


def test_many_structures_are_predicted_in_chunks(tmp_path, monkeypatch):
    net = gpuion.load_surrogate(save(tmp_path / "surrogate.pt", "network"))
    data = gpuion.open_dataset(folder(tmp_path / "data"))
    together = evaluate.predict(net, data)
    monkeypatch.setattr(evaluate, "_PAIRS", 3 * 20**2)
    apart = evaluate.predict(net, data)
    assert torch.equal(apart.id, together.id)
    # Float32 in batches padded otherwise.
    assert torch.allclose(apart.predicted, together.predicted, rtol=1e-5)


def test_seeds_and_sizes_are_put_together_and_drawn(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    source, paths = mixed(tmp_path / "data"), []
    for seed, count in ((0, 12), (1, 12), (0, 5)):
        home = tmp_path / f"{count}-{seed}"
        meta = {"config": {"seed": seed}, "structures": {"train": count}}
        paths.append(save(home / "surrogate.pt", "nearest", **meta))
        row = {"epoch": 0, "loss": 0.5, "mse": 0.3 + seed}
        (home / "history.jsonl").write_text("".join(json.dumps(row | {"epoch": k}) + "\n" for k in range(3)))
    paths.append(save(tmp_path / "other" / "surrogate.pt", "pairs"))
    drawn = []
    write = files.atomic
    monkeypatch.setattr(files, "atomic", lambda path: drawn.append(path.name) or write(path))
    call(monkeypatch, *paths, "--data", source, "--pictures", tmp_path / "pictures")
    shown = capsys.readouterr().out
    assert "| nearest (12 structures) | " + str(source) + " | 2 |" in shown
    assert "nearest (5 structures, seed 0)" in shown
    lines = [line for line in shown.splitlines() if line.startswith("| nearest (")]
    assert [line.split(" | ")[-1] for line in lines if " to " in line] == [
        "1.00 |",
        "– |",
    ]  # the same untrained weights
    assert sorted(drawn) == ["families.png", "learning.png", "losses.png", "parity.png"]
    for name in drawn:
        assert (tmp_path / "pictures" / name).read_bytes().startswith(b"\x89PNG")


def test_every_model_has_a_mark():
    panels = pytest.importorskip("gpuion.model_panels")
    assert set(panels.MARKS) == set(MODELS)
    assert len(set(panels.MARKS.values())) == len(MODELS)
