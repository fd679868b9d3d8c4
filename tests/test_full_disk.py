"""A disk that takes no more: one line, nothing half written, what was finished is kept, and a later run goes on.

The kernel refuses to let files grow beyond a limit, so that a write is cut off where it stands, as on a full disk.
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_train_script import IMAGES, SMALL, write_folder

import gpuion
from gpuion import training

ROOT = Path(__file__).parent.parent
LINE = "error: a file met the limit on its size; raise it (ulimit -f) and run the same command again to go on"


def run(script, *flags, limit=None):
    def cap():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    env = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / script), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False, preexec_fn=cap)


def names(folder):
    return {path.name for path in folder.iterdir()}


def refused(done):
    assert done.returncode == 1
    assert done.stderr.splitlines() == [LINE]
    return True


def test_training(tmp_path):
    data, out, calm = write_folder(tmp_path / "data"), tmp_path / "out", tmp_path / "calm"
    flags = ["--data", data, "--epochs", 2, *IMAGES, *SMALL, "--out"]
    assert run("train.py", *flags, calm).returncode == 0
    # The first network fits below the limit; with the optimizer's moments beside it, it does not.
    small, large = ((calm / name).stat().st_size for name in ("surrogate.pt", "last.pt"))
    assert small < large
    assert refused(run("train.py", *flags, out, limit=(small + large) // 2))
    assert names(out) == {"run.json", "surrogate.pt"}
    training.load_surrogate(out / "surrogate.pt")
    assert run("train.py", *flags, out).returncode == 0
    assert names(out) == names(calm)
    one, two = (training.load_checkpoint(folder / "surrogate.pt")["weights"] for folder in (out, calm))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.fixture
def network(tmp_path):
    data = write_folder(tmp_path / "data", 6, diameter=3.0)
    like = gpuion.open_dataset(data)
    torch.manual_seed(0)
    net = gpuion.Surrogate(voxels=15, widths=(4, 4), hidden=4)
    meta = {"box": 15.0, "diameter": 3.0, "n_particles": 3, "voxels": 15, "d_reference": like.d_reference}
    training.save_checkpoint(tmp_path / "net.pt", net, meta)
    return ["--data", data, "--checkpoint", tmp_path / "net.pt", "--chains", 2, "--cycles", 2, "--steps", 20]


def test_annealing(tmp_path, network):
    flags, out, calm = (
        [*network, "--relabel", 3, "--tolerance", 0.01, "--device", "cpu", "--out"],
        tmp_path / "out",
        tmp_path / "calm",
    )
    assert run("anneal.py", *flags, calm).returncode == 0
    shards = {path.name: path.read_bytes() for path in calm.glob("shard-*.h5")}
    size = {path.name: path.stat().st_size for path in calm.iterdir()}
    most = max(value for name, value in size.items() if not name.startswith("shard"))
    assert most < size["shard-00000.h5"]
    # A cycle's structures fit and the state does not; then all but a shard does.
    visited = size["state-max-0of1.00000.visited"]
    assert visited < size["state-max-0of1.pt"]
    assert refused(run("anneal.py", *flags, out, limit=visited))
    assert names(out) == {"run.json", "state-max-0of1.00000.visited"}
    assert refused(run("anneal.py", *flags, out, limit=most))
    finished = {name for name in names(out) if name.endswith(".batch")}  # labels that fitted wait for the rest
    assert finished
    assert names(out) - finished == {name for name in size if name.startswith(("run", "state", "timing"))}
    assert run("anneal.py", *flags, out).returncode == 0
    assert names(out) == names(calm)
    assert {path.name: path.read_bytes() for path in out.glob("shard-*.h5")} == shards
    for name in ("dataset.json", "traces.json", "summary.json"):
        assert (out / name).read_bytes() == (calm / name).read_bytes()
