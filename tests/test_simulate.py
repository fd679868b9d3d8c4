import errno
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_design import RANGES

import gpuion
from gpuion import files, shards
from gpuion.config import parse
from gpuion.design import Case
from gpuion.errors import ConfigError, run_script

ROOT = Path(__file__).parent.parent

TINY = """
[system]
particles = 8
box = 20.0
volume_fraction = 0.05
[simulate]
random = 3
chained = 7
gapped = 6
chained_ranges = [["contact", 6.0], [6.0, 8.0]]
gapped_widths = [[3.0, 5.0], [3.0, 5.0], [3.0, 4.0]]
shard = 3
tolerance = 1e-2
method = "both"
walkers = 50
time = 100.0
"""


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT))
    yield importlib.import_module("simulate")
    sys.path.remove(str(ROOT))


@pytest.fixture
def run(script, tmp_path, monkeypatch):
    """Run simulate.py's main function in this process; return the output folder."""
    handler = signal.getsignal(signal.SIGTERM)
    (tmp_path / "tiny.toml").write_text(TINY)

    def call(*flags):
        argv = ["simulate.py", "--config", tmp_path / "tiny.toml", "--out", tmp_path / "out", "--device", "cpu", *flags]
        monkeypatch.setattr(sys, "argv", [str(word) for word in argv])
        run_script(script.main)
        return tmp_path / "out"

    yield call
    signal.signal(signal.SIGTERM, handler)


def test_both_methods_agree_and_are_stored(run, capsys):
    data = gpuion.open_dataset(run("--box", 12, "--structures", 5, "--walkers", 1000, "--time", 500))
    table = capsys.readouterr().out
    assert len(data) == 5
    assert data.method == "both"
    assert data.d_reference == float(data.mean_diffusivity.max())
    assert data.converged.all()
    # 15 comparisons at 5 σ, of a fixed seed: one in 10⁵ by chance; the exact solve's 1% adds to the walk's 2 to 5%.
    assert data.converged_kmc.sum() >= 3
    z = (data.diffusivity_kmc - data.diffusivity) / data.standard_error_kmc.hypot(data.standard_error)
    assert z[data.converged_kmc].abs().max() < 5
    z[~data.converged_kmc] = torch.nan
    torch.testing.assert_close(data.z_score, z, rtol=0, atol=0, equal_nan=True)
    settled = int(data.converged_kmc.sum())
    assert f"\n0 of {settled} settled structures have walk and exact solve more than 4σ apart (chance: 0.000" in table
    assert re.findall(r"^(\w+) +\d+ +0\.", table, re.MULTILINE) == ["chained", "gapped", "random", "all"]


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(run, capsys, monkeypatch, tmp_path):
    write = Path.write_bytes

    def full(self, data):
        if "shard-00001" not in self.name:
            return write(self, data)
        write(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SystemExit) as left:
        run("--method", "exact", "--structures", 7)
    assert left.value.code == 1
    assert capsys.readouterr().err.startswith("error: the disk is full;")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"run.json", "shard-00000.h5"}
    monkeypatch.setattr(Path, "write_bytes", write)
    first = (tmp_path / "out" / "shard-00000.h5").stat().st_mtime_ns
    assert len(gpuion.open_dataset(run("--method", "exact", "--structures", 7))) == 7
    assert (tmp_path / "out" / "shard-00000.h5").stat().st_mtime_ns == first


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--structures", "17"], "error: structures must lie in 1 … 16"),
        (["--structures", "0"], "error: structures must lie in 1 … 16"),
        (["--volume-fraction", "0.5"], "error: volume fraction 0.5000 is not below 0.3841"),
        (["--box", "20.5"], "error: box = 20.5 voxels at 1 sites per voxel is not a whole number"),
        (["--box", "20.5", "--sites-per-voxel", "2"], "error: box = 20.5 voxels at 1 voxels"),
        (["--tolerance", "0"], "error: tolerance must lie in [1e-12, 1) and rtol in (0, 1), got 0.0 and 0.02"),
        (
            ["--time", "auto", "--rtol", "1"],
            "error: tolerance must lie in [1e-12, 1) and rtol in (0, 1), got 0.01 and 1.0",
        ),
        (["--time", "nan"], "error: time must be above 0, or auto, got nan"),
        (["--part", "2"], "error: part must be k/m with 1 ≤ k ≤ m, as in 2/8, got '2'"),
        (["--part", "3/2"], "error: part must be k/m with 1 ≤ k ≤ m, as in 2/8, got '3/2'"),
        (["--part", "1/7"], "error: part 1/7: there are 6 shards to share; ask for fewer parts or smaller shards"),
        (["--shard", "0"], "error: shard must be at least 1, got 0"),
        (["--particles", "0"], "error: n_particles, box and volume_fraction must be positive"),
        (["--preset", "papr"], "error: preset 'papr' is unknown; there are laptop, paper"),
        (["--device", "abacus"], "error: device 'abacus' is unknown"),
    ],
)
def test_bad_settings_are_refused_before_any_work(run, capsys, tmp_path, flags, line):
    with pytest.raises(SystemExit) as left:
        run(*flags)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(line)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_taken_or_a_file(run, capsys, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(SystemExit):
        run()
    assert "is not empty and holds no gpuion run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("--out", tmp_path / "tiny.toml")
    assert (
        capsys.readouterr().err
        == f"error: {tmp_path / 'tiny.toml'} cannot be written: it is no folder; choose another --out\n"
    )


def command(folder, *, ranks=1):
    words = (
        [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"] if ranks > 1 else [sys.executable]
    )
    port = ["--standalone"] if ranks > 1 else []
    return [
        *words,
        *port,
        str(ROOT / "simulate.py"),
        "--config",
        str(folder.parent / "tiny.toml"),
        "--out",
        str(folder),
    ]


def problems(text):
    """Leave out the warning about walks, which are too short to settle here."""
    return [line for line in text.splitlines() if "walks did not converge" not in line]


def until(process, condition):
    """Wait for a condition while a process runs; the test fails if the process ends first."""
    limit = time.monotonic() + 240  # a busy machine may compile first
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.002)  # shards follow each other within tenths of a second


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "timing.json"}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The files of one process that nothing disturbs."""
    home = tmp_path_factory.mktemp("straight")
    (home / "tiny.toml").write_text(TINY)
    done = subprocess.run(command(home / "one"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert problems(done.stderr) == []
    assert sorted(contents(home / "one")) == ["dataset.json", "run.json", *(f"shard-{k:05d}.h5" for k in range(6))]
    return home


def test_shards_of_other_ids_or_another_seed_are_made_again(run, capsys):
    out = run()
    before = contents(out)
    paths = [out / f"shard-{k:05d}.h5" for k in range(3)]
    arrays, attributes = shards.read(paths[1])
    shards.write(paths[1], arrays, {**attributes, "seed": attributes["seed"] + 1})
    paths[2].write_bytes(paths[0].read_bytes())
    assert contents(run()) == before
    warnings = capsys.readouterr().err
    for path, named in zip(paths, (False, True, True), strict=True):
        assert (f"warning: {path} is of other ids or another seed" in warnings) is named


def test_killed_at_any_moment_two_ranks_end_it_with_the_same_bytes(straight):
    folder = straight / "killed"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command(folder), **pipes) as process:
        until(process, (folder / "shard-00000.h5").exists)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert err == "stopped; what was finished is kept, and the same command goes on from there\n"
    assert not list(folder.glob(".*.partial"))
    assert not (folder / "dataset.json").exists()
    made = len(list(folder.glob("shard-*.h5")))

    with subprocess.Popen(command(folder), **pipes) as process:
        until(process, lambda: len(list(folder.glob("shard-*.h5"))) > made)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "dataset.json").exists()

    (folder / ".shard-00005.h5.1.partial").write_bytes(b"half")
    damaged = folder / "shard-00000.h5"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    done = subprocess.run(command(folder, ranks=2), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours = [line for line in problems(done.stderr) if "warning:" in line]  # torchrun says things, too
    assert len(ours) == 1
    assert f"warning: a damaged shard is made again: {damaged}: expected a readable HDF5 file" in ours[0]
    assert contents(folder) == contents(straight / "one")


def test_two_ranks_make_the_bytes_of_one_at_the_laptop_size(tmp_path):
    # One process that shares each solve out to two threads, against two on one thread each (torchrun's default).
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    for ranks, batch, threads in ((1, 1, {"OMP_NUM_THREADS": "2"}), (2, 2, {})):
        words = command(tmp_path / str(ranks), ranks=ranks)
        at = words.index("--config")
        words[at : at + 2] = ["--preset", "laptop"]
        words += ["--structures", "4", "--shard", "2", "--tolerance", "1e-2", "--batch", str(batch), "--device", "cpu"]
        done = subprocess.run(words, capture_output=True, text=True, env=env | threads, check=False)
        assert done.returncode == 0, done.stderr
    assert sorted(contents(tmp_path / "1")) == ["dataset.json", "run.json", "shard-00000.h5", "shard-00001.h5"]
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_another_configuration_is_refused(straight, script, monkeypatch):
    monkeypatch.setattr(sys, "argv", [*command(straight / "one")[1:], "--seed", "1"])
    before = contents(straight / "one")
    with pytest.raises(ConfigError, match="holds a run with seed = 0, this one has 1"):
        script.main()
    assert contents(straight / "one") == before
    assert json.loads(before["run.json"])["config"]["structures"] is None


def test_the_presets_are_the_papers_numbers(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["simulate.py"])
    paper, shards = script.check(parse(script.Config, ROOT, "", ["--preset", "paper"]))
    assert (paper.random, paper.chained, paper.gapped, sum(len(ids) for _, ids in shards)) == (722, 5304, 2166, 8192)
    assert paper.diameter == pytest.approx(9.6024, abs=5e-5)
    laptop, _ = script.check(parse(script.Config, ROOT, "", ["--preset", "laptop"]))
    assert laptop.ranges[1:] == RANGES[1:]
    assert laptop.case(0) == Case("random")


def test_identity_leaves_out_what_does_not_change_the_result(script):
    identity = files.identity(script.Config())
    assert not {"out", "device", "batch"} & set(identity)
    assert {"seed", "structures", "shard", "chained_ranges"} <= set(identity)
