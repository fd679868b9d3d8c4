"""anneal.py from data and checkpoint to labelled shards: complete, resumable."""

import dataclasses
import json
import shutil

import anneal_runs as runs
import pytest
import torch
from anneal_runs import BOX, DIAMETER, contents

import gpuion
from gpuion import relabel, scoring
from gpuion.dataset import write_shard
from gpuion.errors import ConfigError, DatasetError
from gpuion.labeling import label
from gpuion.starts import check_starts, extreme, starts

script, data, go = runs.script, runs.data, runs.go


def test_both_directions_end_in_a_labelled_dataset(go, data, capsys):
    out = go()
    found, original = gpuion.open_dataset(out), gpuion.open_dataset(data)
    assert found.family.tolist() == ["annealed-max"] * 5 + ["annealed-min"] * 5
    assert found.id.tolist() == list(range(10))
    assert found.model == original.model
    assert found.d_reference == original.d_reference
    assert found.chain[[0, 1, 5, 6]].tolist() == [0, 2, 1, 3]
    assert set(found.cycle.tolist()) <= {0, 1, 2}
    image = gpuion.voxelize(found.centers, box=BOX, diameter=DIAMETER, voxels=10)
    assert torch.equal(go.net(image).double(), found.predicted)
    again = label(found.centers, box=BOX, diameter=DIAMETER, sites_per_voxel=1, model=original.model, tolerance=0.01)
    # Solved in other batches: the two answers differ by their two tolerances at most.
    assert torch.allclose(again.diffusivity, found.diffusivity, rtol=0.02)
    merged = gpuion.open_dataset([data, out])
    assert len(merged) == 16
    assert merged.d_reference == original.d_reference
    summary, traces = (json.loads((out / name).read_text()) for name in ("summary.json", "traces.json"))
    for d, chains in (("max", [0, 2]), ("min", [1, 3])):
        part = found.subset(torch.from_numpy(found.family == f"annealed-{d}"))
        most, other = (max, min) if d == "max" else (min, max)
        assert traces[d]["ids"] == chains
        assert [len(row) for row in traces[d]["acceptance"]] == [3, 3]
        assert part.predicted[:2].tolist() == [row[-1] for row in traces[d]["best_trace"]]
        assert summary[d]["predicted"] == most(part.predicted.tolist())
        assert summary[d]["exact"] == float(part.d_star[part.predicted.tolist().index(summary[d]["predicted"])])
        assert summary[d]["best"] == most(part.d_star.tolist())
        assert summary[d]["ratio"] == summary[d]["best"] / most(original.d_star.tolist())
        assert most(summary[d]["best"], other(part.d_star.tolist())) == summary[d]["best"]
    assert summary["all"]["structures"] == 10
    assert summary["max"]["predicted"] > summary["min"]["predicted"]
    printed = capsys.readouterr().out
    assert "max: best predicted D*" in printed
    assert "proposals/s" in printed
    assert "10 annealed structures: MAPE" in printed
    assert f"(max {summary['max']['r']:.4f}, min {summary['min']['r']:.4f})" in printed


@pytest.mark.parametrize(("name", "after", "left"), [("save_state", 4, 10), ("write_shard", 2, 0), ("label", 7, 3)])
def test_a_stopped_run_goes_on_to_the_same_files(go, script, monkeypatch, name, after, left):
    whole = contents(go(out="whole"))
    monkeypatch.setattr(relabel, "_BATCH", 1)  # 7 structures are a shard of 4 and three batches of the next
    home, calls = script if name == "save_state" else relabel, []
    real = getattr(home, name)

    def stopping(*args, **kwargs):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(args)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(home, name, stopping)
        with pytest.raises(KeyboardInterrupt):
            go(out="halves")
    out = go(out="halves")
    assert contents(out) == whole
    rows = json.loads((out / "timing.json").read_text())
    assert sum(row["count"] for row in rows if row["stage"] == "label") == left  # what was solved before is kept
    assert not list(out.glob(".*"))
    assert contents(go(out="halves")) == whole


def test_a_damaged_shard_is_named_and_made_again(go, capsys):
    out = go()
    whole = contents(out)
    damaged = out / "shard-00001.h5"
    damaged.write_bytes(whole[damaged.name][:-100])
    capsys.readouterr()
    assert contents(go()) == whole
    told = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(told) == 1
    assert told[0].startswith(f"warning: a damaged shard is made again: {damaged}: expected a readable HDF5 file")
    rows = json.loads((out / "timing.json").read_text())
    assert [(row["stage"], row["count"]) for row in rows] == [("max", 240), ("min", 240), ("label", 10), ("label", 4)]


@pytest.mark.parametrize("what", ["checkpoint", "data"])
def test_a_run_does_not_go_on_with_other_content(go, data, tmp_path, what):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    go("--data", str(folder), "--maximize", "--cycles", "1")
    if what == "data":
        like = gpuion.open_dataset(folder)
        write_shard(folder / "shard-00000.h5", dataclasses.replace(like, diffusivity=like.diffusivity * 0.99), seed=3)
    else:
        go.net.meta["voxels"] = 12
    with pytest.raises(ConfigError, match=f"other content of {what} = "):
        go("--data", str(folder), "--maximize", "--cycles", "1")


def test_labels_that_did_not_settle_set_no_mark_and_start_no_chain(data):
    like = gpuion.open_dataset(data)
    top = like.d_star.argmax()
    part = dataclasses.replace(like, converged=torch.arange(6) != top)
    assert extreme(part, maximize=True) == float(like.d_star.sort().values[-2])
    first = starts(part, torch.tensor([0]), "data", maximize=True, seed=0)
    assert torch.equal(first[0], like.centers[like.d_star.argsort()[-2]])
    check_starts(part, 5)
    with pytest.raises(ConfigError, match="chains = 6 exceeds the 5 structures"):
        check_starts(part, 6)
    with pytest.raises(DatasetError, match="none of the data's labels settled"):
        check_starts(dataclasses.replace(like, converged=torch.zeros(6, dtype=torch.bool)))


def test_one_direction_alone_gives_what_both_give(go):
    both, down = gpuion.open_dataset(go(out="both")), gpuion.open_dataset(go("--minimize", out="down"))
    assert set(down.family) == {"annealed-min"}
    assert torch.equal(down.centers, both.centers[5:])


def test_starts_are_fresh_or_the_extremes(go, data):
    original = gpuion.open_dataset(data)
    order = original.d_star.argsort()
    up = starts(original, torch.tensor([0, 2]), "data", maximize=True, seed=0)
    down = starts(original, torch.tensor([1, 3]), "data", maximize=False, seed=0)
    assert torch.equal(up, original.centers[order[[-1, -2]]])
    assert torch.equal(down, original.centers[order[[0, 1]]])
    fresh = starts(original, torch.arange(6), "random", maximize=True, seed=3)
    assert not any(torch.equal(a, b) for a in fresh for b in original.centers)
    go("--start", "data")


def test_what_is_labelled_lies_beyond_the_original_data(go, script, data, tmp_path, monkeypatch, capsys):
    # Of two folders the first is the original: a second one of twice and half its D, as of annealing, sets no mark.
    original, more = gpuion.open_dataset(data), tmp_path / "more"
    factor = torch.tensor([2.0, 0.5] * 3, dtype=torch.float64)[:, None]
    centers = gpuion.place("random", n_structures=6, n_particles=3, box=BOX, diameter=DIAMETER, seed=8)
    more.mkdir()
    wider = dataclasses.replace(original, centers=centers, diffusivity=original.diffusivity * factor)
    write_shard(more / "shard-00000.h5", wider, seed=8)
    limits, real = [], script.select
    monkeypatch.setattr(script, "select", lambda *args, **given: limits.append(given["limit"]) or real(*args, **given))
    out = go("--data", str(data), str(more), "--minimize")
    assert limits == [float(original.d_star.min())]
    summary = json.loads((out / "summary.json").read_text())["min"]
    score = script.load_states(out.glob("state-min-*.pt")).visited_score
    assert summary["data"] == limits[0]
    assert summary["visited_beyond"] <= summary["visited"] <= score.numel()
    assert (summary["visited_beyond"] == summary["visited"]) is bool((score < limits[0]).all())
    assert "{visited_beyond} of {visited} visited".format(**summary) in capsys.readouterr().out


def test_on_the_exact_solver_nothing_is_predicted(go, data, capsys):
    out = go(
        "--score", "exact", "--checkpoint", "", "--cycles", "2", "--steps", "8", "--start", "data", "--relabel", "0"
    )
    found, start = gpuion.open_dataset(out), gpuion.open_dataset(data)
    assert bool(found.predicted.isnan().all())
    summary, traces = (json.loads((out / name).read_text()) for name in ("summary.json", "traces.json"))
    assert summary["all"] == {"structures": 4}
    for d, most in (("max", max), ("min", min)):
        assert set(summary[d]) == {"exact", "best", "data", "ratio", "structures", "visited", "visited_beyond"}
        best = most(found.d_star[torch.from_numpy(found.family == f"annealed-{d}")].tolist())
        assert summary[d]["exact"] == summary[d]["best"] == best
        # Both are solves of the same labels to a relative 1e-2, the one alone and the other among chains: equal bits.
        assert most(row[-1] for row in traces[d]["best_trace"]) == pytest.approx(best, rel=1e-6)
    printed = capsys.readouterr().out
    assert "predicted" not in printed
    assert "MAPE" not in printed
    assert "4 annealed structures, by the exact solver" in printed
    rising = torch.from_numpy(found.family == "annealed-max")
    assert float(found.d_star[rising].max()) >= float(start.d_star.max()) * 0.99
    assert float(found.d_star[~rising].min()) <= float(start.d_star.min()) * 1.01
    assert not torch.equal(found.d_star[rising].sort().values, start.d_star.sort().values[-2:])


def test_a_chain_on_a_real_network_is_the_same_alone_and_among_others(data):
    torch.manual_seed(0)
    like = gpuion.open_dataset(data)
    net = gpuion.Surrogate(pool=2).eval()
    net.meta = {"box": BOX, "voxels": 12}
    score = scoring.surrogate_score(net, like, batch=4)
    setting = {"box": BOX, "diameter": DIAMETER, "cycles": 2, "steps": 60, "seed": 5}
    threads = torch.get_num_threads()
    together = gpuion.anneal(score, like.centers, ids=range(6), **setting)
    try:
        torch.set_num_threads(1)
        alone = gpuion.anneal(score, like.centers[4:5], ids=[4], **setting)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together.best_score[4:5], alone.best_score)
    assert torch.equal(together.visited[4:5], alone.visited)
