"""--dry-run says what would be done, in what time and memory, and writes nothing."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from rehearsal import rehearse

import gpuion
from gpuion import dry_run
from gpuion.errors import ConfigError

ROOT = Path(__file__).parent.parent
SMALL = """
[system]
particles = 2
box = 40.0
volume_fraction = 0.05
[simulate]
chained = 0
gapped = 0
chained_ranges = [["contact", 20.0]]
gapped_widths = [[2.0, 3.0], [2.0, 3.0], [2.0, 3.0]]
tolerance = 1e-2
"""


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a script in this process; return what it printed."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL)

    def call(script, *flags):
        monkeypatch.setattr(sys, "argv", [f"{script}.py", "--config", "small.toml", *map(str, flags)])
        sys.argv += ["--out", f"{script}-out"]
        importlib.import_module(script).main()
        return capsys.readouterr().out

    return call


@pytest.fixture
def data(run):
    run("simulate", "--random", 10, "--shard", 5)
    return "simulate-out"


def everything(folder):
    """Return each file with its content."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_simulate(run, tmp_path):
    said = run("simulate", "--random", 7, "--shard", 4, "--method", "both", "--walkers", 50, "--time", 20, "--dry-run")
    assert set(everything(tmp_path)) == {str(tmp_path / "small.toml")}
    assert "would label 7 of 7 structures, 40 voxels and 40 sites an edge, method both" in said
    assert "files in simulate-out, which would be made: 2 of 2 shards, shard-00000.h5 … shard-00001.h5" in said
    solve, walk = (float(re.search(rf"{name}: (\S+) s each \(", said)[1]) for name in ("exact solve", "walk"))
    assert solve > 0
    assert walk > 0
    # six float32 fields of three axes, and 64 positions of three coordinates in 20 bytes for 50 walkers
    assert f"{(6 * 3 * 4 * 40**3 + 64 * 3 * 20 * 50) / 1e6:.2g} MB for each structure in hand (formula" in said
    assert re.search(r"memory of a process: [\d.]+ GB, its peak until now \(measured\)", said)
    assert re.search(r"time: about \S+ (seconds|minutes) on 1 process\(es\) like this one; nothing was written", said)


def test_what_is_done_is_not_counted(run, tmp_path, data):
    (tmp_path / data / "shard-00001.h5").unlink()
    before = everything(tmp_path)
    said = run("simulate", "--random", 10, "--shard", 5, "--dry-run")
    assert everything(tmp_path) == before
    assert "would label 5 of 10 structures" in said
    assert "which is there: 1 of 2 shards" in said


def test_automatic_walks_are_not_foreseen_and_fine_lattices_are_scaled(run, monkeypatch):
    said = run("simulate", "--random", 2, "--method", "kmc", "--time", "auto", "--dry-run")
    assert "not foreseen, as with --time auto" in said
    assert "time: not foreseen on 1 process(es)" in said
    monkeypatch.setattr(dry_run, "_EDGE", 40)
    said = run("simulate", "--random", 2, "--sites-per-voxel", 3, "--dry-run")
    assert "on 40³ sites, times 27)" in said


@pytest.mark.parametrize("model", ["periodic", "pairs", "ridge"])
def test_train(run, tmp_path, data, model):
    flags = ["--data", data, "--model", model, "--epochs", 7, "--pool", 4, "--widths", 4, 4, "--batch", 3]
    before = everything(tmp_path)
    said = run("train", *flags, "--dry-run")
    assert everything(tmp_path) == before
    assert f"would train {model} (" in said
    assert "on 6 train, 2 validation, 2 test" in said
    assert "surrogate.pt" in said
    if model == "ridge":
        assert "it is solved at once" in said
    else:
        assert re.search(r"learning: \S+ s a structure and epoch \(measured, batch of 3\), 7 epochs", said)
    assert "its peak at these steps (measured)" in said


def test_anneal(run, tmp_path, data):
    before = everything(tmp_path)
    flags = ["--data", data, "--score", "exact", "--tolerance", 0.1, "--chains", 2, "--steps", 40, "--samples", 5]
    said = run("anneal", *flags, "--cycles", 3, "--relabel", 4, "--relabel-min", 1, "--dry-run")
    assert everything(tmp_path) == before
    assert "would anneal 2 chains of 2 spheres max and min, by exact" in said
    for direction in ("max", "min"):
        assert re.search(
            rf"{direction}: \S+ s a step of 2 chains \(measured, \d+ steps\), .*3 cycles of 40 steps", said
        )
    assert re.search(r"labels: \S+ s each \(measured on one\), 9 at most", said)  # 2 + 4 up, 2 + 1 down
    visited = 2 * 3 * 5 * 2 * (12 * 2 + 8)  # chains, cycles, samples, directions, bytes
    assert f"{visited / 1e6:.2g} MB of structures visited (formula: 30 a chain" in said


def test_many_chains_are_timed_by_a_few(run, data):
    flags = ["--data", data, "--score", "exact", "--tolerance", 0.1, "--chains", 500, "--cycles", 1, "--steps", 9]
    said = run("anneal", *flags, "--maximize", "--dry-run")
    assert re.search(r"a step of 500 chains \(measured, \d+ steps of 8 of them\)", said)


def test_climbs_to_begin_with_are_foreseen(run, data):
    flags = ["--data", data, "--score", "exact", "--tolerance", 0.1, "--chains", 3, "--cycles", 1, "--steps", 9]
    said = run("anneal", *flags, "--maximize", "--start", "ascent", "--dry-run")
    climb = float(re.search(r"max: (\S+) s to lead 3 chains along the gradient \(measured on one\)", said)[1])
    assert climb > 0
    assert float(re.search(r"time: about (\S+) seconds", said)[1]) > 0.99 * climb


def test_rounds_are_foreseen_and_refused_as_they_are(run, tmp_path, data):
    run("train", "--data", data, "--model", "network", "--epochs", 1)
    before = everything(tmp_path)
    flags = ["--data", data, "--checkpoint", "train-out/surrogate.pt", "--chains", 3, "--steps", 4, "--cycles", 1]
    said = run("anneal", *flags, "--relabel", 0, "--rounds", 50, "--dry-run")
    assert everything(tmp_path) == before
    assert "rounds.json, round-1 … round-50 and model-1 … model-50" in said
    assert re.search(r"relearning: \S+ s a structure and epoch \(measured, 10 at once\), 3 epochs a round", said)
    for more in (["--score", "exact"], ["--force"], ["--objective", "x"], ["--maximize"]):
        with pytest.raises(ConfigError, match=r"rounds (learn|train)"):
            run("anneal", *flags, *more, "--rounds", 2, "--dry-run")


def test_on_a_gpu(run, tmp_path, data):
    with rehearse():
        flags = ["--random", 2, "--method", "both", "--walkers", 20, "--time", 5, "--device", "cuda", "--dry-run"]
        assert "14 float32 fields" in run("simulate", *flags)
        flags = ["--data", data, "--pool", 4, "--widths", 4, 4, "--batch", 3, "--device", "cuda", "--dry-run"]
        assert "learning: " in run("train", *flags)
        flags = ["--data", data, "--score", "exact", "--tolerance", 0.1, "--chains", 2, "--cycles", 1, "--steps", 9]
        assert "labels: " in run("anneal", *flags, "--device", "cuda", "--dry-run")
    assert not (tmp_path / "train-out").exists()


def test_the_times_add_up(capsys):
    for seconds, text in ((1.0, "1 seconds"), (119, "119 seconds"), (7100, "118 minutes"), (600, "10 minutes"),
                          (9000, "2.5 hours"), (3 * 86400, "3 days"), (float("nan"), "not foreseen")):  # fmt: skip
        dry_run._total(seconds, gpuion.distributed.World(rank=0, size=1, device=torch.device("cpu")))
        assert text in capsys.readouterr().out
