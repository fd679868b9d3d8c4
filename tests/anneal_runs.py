"""Runs of anneal.py in this process on six small structures and a stand-in for a network."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

import gpuion
from gpuion import relabel
from gpuion.dataset import write_shard, write_summary
from gpuion.labeling import label

pytest.importorskip("gpuion.training")

ROOT = Path(__file__).parent.parent
BOX, DIAMETER, N = 10.0, 4.0, 3


class Clumped(torch.nn.Module):
    """A stand-in for a trained network: the higher the more near voxels agree; a sum of integers."""

    def forward(self, image):
        alike = sum((image * image.roll(2, axis)).flatten(1).double().sum(1) for axis in (2, 3, 4))
        return (alike / 600).float()


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("anneal_script", ROOT / "anneal.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["anneal_script"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    model = gpuion.TransportModel(affinity=4.0)
    setting = {"box": BOX, "diameter": DIAMETER, "sites_per_voxel": 1, "model": model}
    centers = gpuion.place("random", n_structures=6, n_particles=N, box=BOX, diameter=DIAMETER, seed=3)
    nan = torch.full((6, 2), torch.nan, dtype=torch.float64)
    found = label(centers, **setting, tolerance=1e-2)
    data = gpuion.Dataset(
        centers=centers, diffusivity=found.diffusivity, standard_error=found.standard_error,
        id=torch.arange(6), family=["random"] * 6, distance=nan, gap=nan[:, 0],
        axes=torch.zeros(6, 3, dtype=torch.bool), method="exact", **setting,
    )  # fmt: skip
    write_shard(folder / "shard-00000.h5", data, seed=3)
    write_summary(folder, data)
    return folder


@pytest.fixture
def go(script, data, tmp_path, monkeypatch):
    """Run the script in this process with a stand-in surrogate; the flags may override."""
    reference = gpuion.open_dataset(data).d_reference
    net = Clumped()
    net.meta = {"box": BOX, "diameter": DIAMETER, "n_particles": N, "voxels": 10, "d_reference": reference}
    monkeypatch.setattr(script.gpuion, "load_surrogate", lambda *_: net, raising=False)
    monkeypatch.setattr(relabel, "_SHARD", 4)

    def run(*flags, out="out"):
        given = {
            "--data": data, "--checkpoint": "net.pt", "--out": tmp_path / out, "--chains": 2, "--cycles": 3,
            "--steps": 40, "--relabel": 3, "--tolerance": 0.01, "--device": "cpu",
        }  # fmt: skip
        words = [str(word) for pair in given.items() for word in pair]
        monkeypatch.setattr(sys, "argv", ["anneal.py", *words, *flags])
        script.main()
        return tmp_path / out

    run.net = net
    return run


def contents(folder):
    paths = [*folder.glob("shard-*.h5"), *folder.glob("*.json")]
    return {path.name: path.read_bytes() for path in paths if path.name not in {"run.json", "timing.json"}}


def read(out, name):
    return json.loads((out / name).read_text())
