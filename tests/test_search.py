"""Searches beside annealing, and the tables that compare them."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

import gpuion
from gpuion import climb, compare, designs
from gpuion.dataset import write_shard, write_summary
from gpuion.labeling import label

BOX, DIAMETER, N = 30.0, 8.0, 9


@pytest.fixture(scope="module")
def tiny_study(tmp_path_factory):
    """A data set of six structures with exact labels to 1%."""
    folder = tmp_path_factory.mktemp("study")
    centers = gpuion.place("random", n_structures=6, n_particles=N, box=BOX, diameter=DIAMETER, seed=3)
    save(folder, centers, ["random"] * 6)
    return folder


def save(folder, centers, family, reference=float("nan"), **more):
    n, nan = len(centers), float("nan")
    found = label(centers, box=BOX, diameter=DIAMETER, tolerance=1e-2)
    data = gpuion.Dataset(
        centers=centers, diffusivity=found.diffusivity, standard_error=found.standard_error, converged=found.converged,
        id=torch.arange(n), family=np.array(family), distance=torch.full((n, 2), nan).double(),
        gap=torch.full((n,), nan).double(), axes=torch.zeros(n, 3, dtype=torch.bool), box=BOX, diameter=DIAMETER,
        sites_per_voxel=1, method="exact", d_reference=reference, **more,
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    write_shard(folder / "shard-00000.h5", data, seed=0)
    write_summary(folder, data)
    return data


def call(module, monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, flags)])
    module.main()


def test_the_command_labels_designs_once(tiny_study, tmp_path, monkeypatch, capsys):
    flags = tiny_study, "--out", tmp_path / "out", "--tolerance", 0.05
    call(designs, monkeypatch, *flags)
    printed = capsys.readouterr().out
    found = gpuion.open_dataset(tmp_path / "out")
    assert printed.count("D along") == len(found)
    assert found.d_reference == gpuion.open_dataset(tiny_study).d_reference
    assert float(found.d_star.max()) == pytest.approx(float(printed.split()[2]), abs=1e-4)
    monkeypatch.setattr(designs, "relabel", None)  # a second call reads what is there
    call(designs, monkeypatch, *flags)
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("direction", ["max", "min"])
def test_climbing_leads_beyond_its_start_and_goes_on_after_a_stop(tiny_study, tmp_path, monkeypatch, capsys, direction):
    flags = ["--data", tiny_study, "--start", "data", "--runs", 2, "--steps", 5, "--stride", 0.6, "--tolerance", 1e-2]
    flags += [{"max": "--maximize", "min": "--minimize"}[direction]]
    call(climb, monkeypatch, *flags, "--out", tmp_path / "out")
    data, found = gpuion.open_dataset(tiny_study), gpuion.open_dataset(tmp_path / "out")
    sign = 1 if direction == "max" else -1
    first = (sign * data.d_star).sort(descending=True).values[:2]
    assert bool((sign * found.d_star > 1.02 * first if sign > 0 else found.d_star < -0.98 * first).all())
    assert set(found.family) == {f"climbed-{direction}"}
    apart = gpuion.descriptors.nearest_distance(found.centers, box=BOX)
    assert float(apart.min()) >= DIAMETER
    traces = json.loads((tmp_path / "out" / "traces.json").read_text())
    assert [len(trace) for trace in traces["trace"]] == [6, 6]
    assert all(sign * max(sign * value for value in trace) > trace[0] * sign for trace in traces["trace"])
    (tmp_path / "out" / "dataset.json").unlink()
    (tmp_path / "out" / "run-1.pt").unlink()
    capsys.readouterr()
    call(climb, monkeypatch, *flags, "--out", tmp_path / "out")
    assert "run-0" not in capsys.readouterr().out
    again = gpuion.open_dataset(tmp_path / "out")
    assert torch.equal(again.centers, found.centers)


def annealed(folder, like):
    """Write ten annealed structures of two chains each way with made-up predictions, and traces."""
    centers = gpuion.place("random", n_structures=10, n_particles=N, box=BOX, diameter=DIAMETER, seed=8)
    family = ["annealed-max"] * 5 + ["annealed-min"] * 5
    known = gpuion.open_dataset(like).d_reference
    more = {
        "predicted": torch.linspace(0.5, 1.5, 10).double(),
        "chain": torch.arange(10) % 2,
        "cycle": torch.ones(10).long(),
    }
    data = save(folder, centers, family, known, **more)
    rows = {"ids": [0, 2], "trace": [[0.1, 0.2]] * 2, "best_trace": [[0.1, 0.2]] * 2, "acceptance": [[0.9, 0.5]] * 2}
    (folder / "traces.json").write_text(json.dumps({"max": rows, "min": rows}))
    return data


def cells(text, first):
    """Return the cells of the table rows that begin with `first`."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_searches_are_compared_by_exact_labels_alone(tiny_study, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    data, found = gpuion.open_dataset(tiny_study), annealed(tmp_path / "round", tiny_study)
    call(compare, monkeypatch, tiny_study, "--runs", tmp_path / "round", "--finer", 2, "--out", tmp_path / "out")
    text = (tmp_path / "out" / "compare.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    D = (found.mean_diffusivity / data.d_reference).numpy()
    reached, both, up, down = cells(text, "round")
    assert cells(text, "data")[0][1:4:2] == ["6", "–"]
    for family in set(data.family):
        of = data.d_star[torch.from_numpy(data.family == family)]
        row = cells(text, f"data, {family}")[0]
        assert row[1] == str(len(of))
        assert [float(row[2]), float(row[4])] == pytest.approx([float(of.max()), float(of.min())], abs=1e-4)
    assert float(reached[2]) == pytest.approx(D[:5].max(), abs=1e-4)
    assert float(reached[4]) == pytest.approx(D[5:].min(), abs=1e-4)
    assert [float(x) for x in reached[3].split(", ")] == pytest.approx(
        sorted((D[0:5:2].max(), D[1:5:2].max())), abs=1e-4
    )
    predicted = np.linspace(0.5, 1.5, 10)
    assert float(both[3]) == pytest.approx(100 * np.mean(np.abs(predicted / D - 1)), abs=0.006)
    assert float(up[4]) == pytest.approx(np.corrcoef(predicted[:5], D[:5])[0, 1], abs=6e-5)
    assert float(up[6]) == pytest.approx(D[4], abs=1e-4)
    assert float(down[6]) == pytest.approx(D[5], abs=1e-4)
    best = max((data.d_star.max(), "data, highest"), (torch.tensor(D[:5].max()), "round, highest"))
    assert f"| {best[1]} | {float(best[0]):.4f}" in text or best[0] <= 1
    names = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert names == {"searches", "winners", "pairs", "chains", "predicted"}
    assert all((tmp_path / "out" / f"{name}.png").stat().st_size > 5000 for name in names)
    for kind, count, *_, D_full, D_part in (cells(text, kind)[0] for kind in ("sc", "bcc", "fcc")):
        assert int(count) == {"sc": 27, "bcc": 16, "fcc": 32}[kind]
        assert float(D_part) == pytest.approx(float(D_full) * 2 / (3 - N / int(count)), abs=1e-4)
    finer = cells(text, "data, highest")[-1]
    exact = label(
        data.centers[data.d_star.argmax()][None], box=BOX, diameter=DIAMETER, sites_per_voxel=2, tolerance=1e-4
    )
    # solved to 2e-3, from above
    assert float(finer[2].split()[0]) == pytest.approx(float(exact.diffusivity.mean()), rel=3e-3)
    assert finer[2].endswith("(1.000)")


def test_bounds_hold_and_are_sharp_where_they_should_be():
    """Layers across x: Voigt's bound is D along them; and a uniform medium meets both bounds."""
    labels = torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
    flat = gpuion.Medium(labels, torch.tensor([0.7], dtype=torch.float64), torch.tensor([-2.0]))
    assert compare.bounds(flat) == pytest.approx((0.7, 0.7, 1.0), rel=1e-12)
    labels[:, 4:] = 1
    layers = gpuion.Medium(labels, torch.tensor([1.0, 1.0]), torch.tensor([-3.0, 0.0]))
    voigt, shtrikman, share = compare.bounds(layers)
    D = gpuion.homogenize(layers, tolerance=1e-6).diffusivity[0]
    assert share == pytest.approx(np.exp(3) / (np.exp(3) + 1))
    assert float(D.mean()) < shtrikman < 1.0
    assert float(D[1]) == pytest.approx(1.0, rel=1e-6)
    # bonds along y and z have D = 1; of those along x two in eight join layers, with the root of their product
    across = (3 * np.exp(3) + 3 + 2 * np.exp(1.5)) / (4 * np.exp(3) + 4)
    assert voigt == pytest.approx((2 + across) / 3, rel=1e-12)


def test_what_did_not_settle_is_no_extreme(tiny_study):
    data = gpuion.open_dataset(tiny_study)
    top = int(data.d_star.argmax())
    settled = torch.arange(len(data)) != top
    unsure = dataclasses.replace(data, converged=settled)
    run = compare.Searched(name="a", data=unsure, traces={})
    ends = compare.extremes([run, run])
    assert ends["found, highest"][1] == int(torch.where(settled, data.d_star, 0.0).argmax())
