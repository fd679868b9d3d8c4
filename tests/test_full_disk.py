"""A disk that takes no more: one line, nothing half written, what was finished is kept, and a later run goes on.

The kernel refuses to let files grow beyond a limit, or a file system is as small as that, so that a write is cut off
where it stands; or each file in turn finds the disk full as it is flushed.
"""

import contextlib
import errno
import importlib
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lives import commands, contents
from lives import forking as forking  # noqa: PLC0414, a fixture
from test_train_script import IMAGES, SMALL, write_folder

import gpuion
from gpuion import training
from gpuion.errors import run_script

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


FULL = "error: the disk is full; free some space and run the same command again to go on\n"


@pytest.mark.parametrize("name", ["simulate", "train", "anneal"])
def test_each_file_once_finds_the_disk_full(forking, name, monkeypatch, capsys):
    home, whole, _ = forking
    folder, sync, met = home / f"{name}-full", os.fsync, set()

    def full(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.name not in met:
            met.add(path.name)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    script, *flags = commands(home)[name]
    main = importlib.import_module(Path(script).stem).main
    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(sys, "argv", [script, *flags, str(folder)])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    while True:
        before = len(met)
        with contextlib.suppress(SystemExit):
            run_script(main)
        said = capsys.readouterr().err
        if len(met) == before:
            break
        assert said == FULL
        assert len(met) == before + 1
        assert not [path for path in folder.iterdir() if path.name.endswith((".lock", ".partial"))]
    torch.set_num_threads(threads)
    assert len(met) >= len([path for path in whole[name] if path != "run.json"])
    assert contents(folder) == whole[name]


def alone(script):
    """Run a shell's script as root of a mount table of its own, or skip the test."""
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    return done


def word(name, home, folder):
    """Return a job as a shell's words."""
    script, *flags = commands(home)[name]
    return shlex.join([sys.executable, str(ROOT / script), *flags, str(folder)])


@pytest.mark.parametrize("name", ["simulate", *(pytest.param(x, marks=pytest.mark.slow) for x in ("train", "anneal"))])
def test_a_file_system_that_is_too_small_and_grows(forking, name):
    home, whole, _ = forking
    disk, kept = home / f"{name}-disk", home / f"{name}-kept"
    disk.mkdir()
    run, size = word(name, home, disk / "out"), sum(len(content) for content in whole[name].values())
    done = alone(
        f"mount -t tmpfs -o size={size // 2} none {disk} && {run}; echo $?; ls -A {disk}/out;"
        f"mount -o remount,size={8 * size + 2**20} {disk} && {run} && cp -r {disk}/out {kept}"
    )
    code, *names = [line for line in done.stdout.splitlines() if " " not in line]
    assert code == "1", done
    assert [line for line in done.stderr.splitlines(keepends=True) if "walks did not" not in line] == [FULL]
    assert not [path for path in names if path.endswith((".lock", ".partial"))], names
    assert contents(kept) == whole[name]


def test_a_run_whose_folder_cannot_be_written(forking):
    home, whole, _ = forking
    half = home / "half"
    half.mkdir()
    for path in ("run.json", "shard-00000.h5"):
        (half / path).write_bytes(whole["simulate"][path])
    fixed = f"mount --bind {home} {home} && mount -o remount,ro,bind {home}"
    done = alone(f"{fixed}; {word('simulate', home, half)}; echo $?")
    assert done.stdout.split() == ["2"], done
    line = f"error: {half} cannot be written: read-only file system; choose another --out\n"
    assert done.stderr == line


def test_an_installation_that_cannot_be_written():
    """Neither beside the package nor in the home is a place for compiled code."""
    code = "import gpuion.kernels.scalar, gpuion.kernels.levels, numba; print(numba.config.CACHE_DIR)"
    words = ["env", "-u", "NUMBA_CACHE_DIR", "HOME=/proc/none", "XDG_CACHE_HOME=/proc/none", f"PYTHONPATH={ROOT}"]
    fixed = f"mount --bind {ROOT} {ROOT} && mount -o remount,ro,bind {ROOT}"
    done = alone(f"{fixed}; {shlex.join([*words, sys.executable, '-c', code])}")
    place = Path(done.stdout.strip())
    assert place.name.startswith("gpuion-"), done
    assert not place.exists()
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("warning: compiled code cannot be kept here")
