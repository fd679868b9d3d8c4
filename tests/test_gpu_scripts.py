"""The scripts on a GPU, from end to end, beside a CPU."""

import importlib
import signal
import sys
from pathlib import Path

import pytest
import torch
from cells import overlap

import gpuion

ROOT = Path(__file__).parent.parent

TINY = """
[system]
particles = 2
box = 9.0
volume_fraction = 0.05
[simulate]
random = 2
chained = 2
gapped = 3
chained_ranges = [["contact", 4.5], [4.5, 6.0]]
gapped_widths = [[1.0, 2.0], [1.0, 2.0], [1.0, 1.5]]
shard = 4
tolerance = 1e-2
method = "both"
walkers = 20
time = 50.0
[train]
model = "periodic"
widths = [4, 4]
hidden = 4
epochs = 2
pool = 3
batch = 4
[anneal]
chains = 2
cycles = 2
steps = 6
samples = 2
relabel = 2
tolerance = 1e-2
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a script's main function in this process, on the GPU unless told otherwise."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.syspath_prepend(str(ROOT))
    (tmp_path / "tiny.toml").write_text(TINY)

    def call(script, *flags):
        words = [f"{script}.py", "--config", tmp_path / "tiny.toml", "--device", "cuda", *flags]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        importlib.import_module(script).main()

    yield call
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.usefixtures("real")
def test_the_scripts_run_from_end_to_end(run, tmp_path):
    data, model, found = (tmp_path / name for name in ("data", "model", "found"))
    run("simulate", "--out", data)
    run("simulate", "--out", tmp_path / "cpu", "--device", "cpu")
    made, same = gpuion.open_dataset(data), gpuion.open_dataset(tmp_path / "cpu")
    assert torch.equal(made.centers, same.centers)
    assert torch.allclose(made.diffusivity, same.diffusivity, rtol=2e-2)  # a tolerance of 1e-2 each
    assert torch.allclose(made.diffusivity_kmc, same.diffusivity_kmc, rtol=1e-12)
    run("train", "--data", data, "--out", model)
    run("train", "--data", data, "--out", model)  # goes on from the last epoch: nothing is left to do
    run("anneal", "--data", data, "--checkpoint", model / "surrogate.pt", "--out", found)
    run("anneal", "--data", data, "--checkpoint", model / "surrogate.pt", "--out", found)
    annealed = gpuion.open_dataset(found)
    assert set(annealed.family) == {"annealed-max", "annealed-min"}
    assert not overlap(annealed.centers, annealed.box, annealed.diameter)
    assert bool(annealed.predicted.isfinite().all())
