"""What every public function is called with in `test_fuzz_arguments.py`: good arguments, and the kind of each.

A new public name needs an entry in `CALLS` or in `NONE`. Good arguments are small: a call takes milliseconds.
"""

import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gpuion

BOX, SIGMA = 12.0, 3.0
CELL = {"box": BOX, "diameter": SIGMA}
CENTERS = torch.tensor(
    [[[2.0, 3.0, 4.0], [10.0, 9.0, 9.0], [7.5, 3.0, 11.0]], [[1.0, 1.0, 1.0], [6.0, 6.0, 6.0], [11.0, 6.5, 2.0]]]
)
LABELS = torch.randint(0, 3, (2, 4, 3, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TABLES = (torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.0, 0.3, torch.inf]))
FIELD = torch.rand(1, 3, 3, 4, generator=torch.Generator().manual_seed(1))
LEARNT = {"box": 50.0, "diameter": 9.6}  # a cell that the network which ships takes
PLACED = gpuion.place("random", n_structures=2, n_particles=27, **LEARNT, seed=3)
ROWS = torch.rand(6, 3, generator=torch.Generator().manual_seed(2))
_ROOM = tempfile.TemporaryDirectory(prefix="gpuion-arguments-")  # goes away as Python ends
HOME = Path(_ROOM.name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """A function, good arguments by name, and the kind of each to be spoilt; `nan` may be in what it returns."""

    function: Callable[..., Any]
    good: dict[str, Any]
    kinds: dict[str, str]
    nan: bool = False


def medium():
    return gpuion.Medium(LABELS, *TABLES)


def score(centers):
    return centers.double().sum((1, 2))


@functools.cache
def network():
    torch.manual_seed(0)
    net = gpuion.Surrogate(widths=(2, 2), hidden=3, pool=2)
    return net.eval()


@functools.cache
def shipped():
    return gpuion.load_surrogate()


@functools.cache
def data():
    from mutant_shards import sound

    (HOME / "shard-00000.h5").write_bytes(sound())
    return gpuion.open_dataset(HOME / "shard-00000.h5")


@functools.cache
def image():
    path = HOME / "a.npy"
    np.save(path, LABELS[0].numpy())
    return path


def prediction():
    return network().predict(CENTERS, **CELL)


def known():
    ones = torch.ones(2, dtype=torch.float64)
    return gpuion.Prediction(d_star=ones, spread=ones / 10, quantiles=torch.linspace(0, 2, 100, dtype=torch.float64))


def steps(n):
    if n > 9:
        raise ValueError(f"too fine a lattice for a test: {n}")
    return gpuion.Medium(LABELS.repeat_interleave(n, 1), *TABLES)


_CELL = {"box": "length", "diameter": "length"}
_SPHERES = {"centers": "numbers", **_CELL}
_WALK = {"medium": "object", "walkers": "count", "time": "number", "rtol": "number", "max_attempts": "number"}
_SOLVE = {"tolerance": "number", "max_iterations": "count", "axes": "axes"}
_ANNEAL = {
    **_SPHERES, "cycles": "count", "steps": "count", "maximize": "flag", "temperature": "numbers", "cooling": "number",
    "seed": "count", "ids": "ids", "samples": "count", "replicas": "count", "every": "count", "state": "object",
    "score": "object", "progress": "object", "save": "object",
}  # fmt: skip
_MODEL = dict.fromkeys((x.name for x in dataclasses.fields(gpuion.TransportModel)), "number")


def calls() -> dict[str, Call]:
    """Return all calls by name; a name may have several, with a word behind a colon."""
    placed = {"n_structures": 2, "n_particles": 3, **CELL, "seed": 1, "device": "cpu", "ids": [0, 1]}
    place = {"family": "word", "n_structures": "count", "n_particles": "count", **_CELL, "seed": "count",
             "device": "device", "ids": "ids"}  # fmt: skip
    of_model = {x.name: x.default for x in dataclasses.fields(gpuion.TransportModel)}
    return {
        "sphere_diameter": Call(
            function=gpuion.sphere_diameter, good={"n_particles": 3, "box": BOX, "volume_fraction": 0.1},
            kinds={"n_particles": "count", "box": "length", "volume_fraction": "number"},
        ),
        "place": Call(function=gpuion.place, good={"family": "random", **placed}, kinds=place),
        "place: fraction": Call(
            function=gpuion.place,
            good={"family": "random", "n_structures": 1, "n_particles": 2, "box": BOX, "volume_fraction": 0.05},
            kinds={"volume_fraction": "number", "box": "length", "n_particles": "count"},
        ),
        "place: chained": Call(
            function=gpuion.place, good={"family": "chained", **placed, "distance": (4.0, 6.0)},
            kinds={**place, "distance": "numbers"},
        ),
        "place: gapped": Call(
            function=gpuion.place, good={"family": "gapped", **placed, "gap": 3.0, "axes": (0, 2)},
            kinds={**place, "gap": "numbers", "axes": "axes"},
        ),
        "change_loading": Call(
            function=gpuion.change_loading, good={"centers": CENTERS, "n_particles": 4, **CELL, "seed": 1, "ids": [0,
            1]},
            kinds={**_SPHERES, "n_particles": "count", "seed": "count", "ids": "ids"},
        ),
        "separate": Call(function=gpuion.separate, good={"centers": CENTERS, **CELL}, kinds=_SPHERES),
        "Medium": Call(
            function=gpuion.Medium,
            good={"labels": LABELS, "diffusivity": TABLES[0], "potential": TABLES[1], "spacing": 0.5},
            kinds={"labels": "labels", "diffusivity": "numbers", "potential": "numbers", "spacing": "length"},
        ),
        "Medium: from_image": Call(
            function=gpuion.Medium.from_image,
            good={"array": LABELS, "diffusivity": {0: 1.0, 1: 0.5, 2: None}, "potential": {0: 0.0, 1: 0.1},
            "spacing": 1.0},
            kinds={"array": "labels", "diffusivity": "table", "potential": "table", "spacing": "length"},
        ),
        "TransportModel": Call(function=gpuion.TransportModel, good=of_model, kinds=_MODEL),
        "electrolyte": Call(
            function=gpuion.electrolyte, good={"centers": CENTERS, **CELL, "sites_per_voxel": 1, "model": None},
            kinds={**_SPHERES, "sites_per_voxel": "count", "model": "object"},
        ),
        "walk": Call(
            function=gpuion.walk,
            good={"medium": medium(), "walkers": 40, "time": 50.0, "rtol": 0.5, "max_attempts": 1e6, "seed": 0,
            "ids": [0, 1]},
            kinds={**_WALK, "seed": "count", "ids": "ids"},
        ),
        "homogenize": Call(
            function=gpuion.homogenize,
            good={"medium": medium(), "tolerance": 1e-3, "max_iterations": 100, "axes": (0, 1, 2)},
            kinds={"medium": "object", **_SOLVE}, nan=True,
        ),
        "refine": Call(
            function=gpuion.refine,
            good={"centers": CENTERS[:1] / 3, "box": BOX / 3, "diameter": SIGMA / 3, "sites_per_voxel": (1, 2, 3),
            "model": None,
                  "tolerance": 0.1},
            kinds={**_SPHERES, "sites_per_voxel": "counts", "model": "object", "tolerance": "number"},
        ),
        "refine_medium": Call(
            function=gpuion.refine_medium, good={"make": steps, "sites_per_voxel": (1, 2, 3), "tolerance": 0.1},
            kinds={"make": "object", "sites_per_voxel": "counts", "tolerance": "number"},
        ),
        "effective_diffusivity": Call(
            function=gpuion.effective_diffusivity,
            good={"potential": FIELD, "diffusivity": FIELD + 1, "tolerance": 1e-4, "max_iterations": 200, "axes": (0,
            1, 2)},
            kinds={"potential": "numbers", "diffusivity": "numbers", **_SOLVE}, nan=True,
        ),
        "effective_diffusivity: log": Call(
            function=gpuion.effective_diffusivity, good={"potential": FIELD, "log_diffusivity": FIELD,
            "tolerance": 1e-4},
            kinds={"log_diffusivity": "numbers"}, nan=True,
        ),
        "smooth_medium": Call(
            function=gpuion.smooth_medium,
            good={"centers": CENTERS, **CELL, "sites_per_voxel": 1, "model": None, "core_width": 0.25},
            kinds={**_SPHERES, "sites_per_voxel": "count", "model": "object", "core_width": "length"},
        ),
        "currents": Call(
            function=gpuion.currents, good={"medium": medium(), "axis": 0, "tolerance": 1e-4, "max_iterations": 200},
            kinds={"medium": "object", "axis": "count", "tolerance": "number", "max_iterations": "count"},
        ),
        "tortuosity": Call(
            function=gpuion.tortuosity,
            good={"medium": medium(), "result": None, "tolerance": 1e-3, "max_iterations": 100, "axes": (0, 1, 2)},
            kinds={"medium": "object", "result": "object", **_SOLVE}, nan=True,
        ),
        "read_image": Call(function=gpuion.read_image, good={"path": image()}, kinds={"path": "path"}),
        "describe": Call(
            function=gpuion.describe, good={"centers": CENTERS, "box": BOX, "cutoff": 5.0},
            kinds={"centers": "numbers", "box": "length", "cutoff": "length"},
        ),
        "pair_distribution": Call(
            function=gpuion.pair_distribution, good={"centers": CENTERS, "box": BOX, "r_max": 8},
            kinds={"centers": "numbers", "box": "length", "r_max": "count"},
        ),
        "principal_components": Call(function=gpuion.principal_components, good={"x": ROWS}, kinds={"x": "numbers"}),
        "correlation": Call(
            function=gpuion.correlation, good={"a": ROWS, "b": ROWS[:, 0] + 1, "ranks": False},
            kinds={"a": "numbers", "b": "numbers", "ranks": "flag"}, nan=True,
        ),
        "tile": Call(
            function=gpuion.tile, good={"image": FIELD[None, :, :, :3, :3], "repeats": 2},
            kinds={"image": "numbers", "repeats": "count"}, nan=True,
        ),
        "voxelize": Call(
            function=gpuion.voxelize, good={"centers": CENTERS, **CELL, "voxels": 12},
            kinds={**_SPHERES, "voxels": "count"},
        ),
        "open_dataset": Call(
            function=gpuion.open_dataset, good={"source": data() and HOME / "shard-00000.h5", "device": "cpu"},
            kinds={"source": "path", "device": "device"}, nan=True,
        ),
        "Dataset: subset": Call(function=data().subset, good={"index": [0, 2]}, kinds={"index": "ids"}, nan=True),
        "write_xyz": Call(
            function=gpuion.write_xyz, good={"path": HOME / "a.xyz", "structures": CENTERS, **CELL,
            "info": {"D": [1.0, 2.0]}},
            kinds={"path": "path", "structures": "numbers", **_CELL, "info": "table"},
        ),
        "write_vtkhdf": Call(
            function=gpuion.write_vtkhdf,
            good={"path": HOME / "a.vtkhdf", "fields": {"U": FIELD[0]}, "spacing": 1.0, "origin": (0.0, 0.0, 0.0)},
            kinds={"path": "path", "fields": "table", "spacing": "length", "origin": "numbers"},
        ),
        "write_medium": Call(
            function=gpuion.write_medium,
            good={"path": HOME / "b.vtkhdf", "medium": medium(), "index": 0, "axis": 0, "tolerance": 1e-3},
            kinds={"path": "path", "medium": "object", "index": "count", "axis": "count", "tolerance": "number"},
        ),
        "Surrogate": Call(
            function=gpuion.Surrogate, good={"boundary": "zero", "voxels": 8, "widths": (2,), "hidden": 2, "pool": 2},
            kinds={"boundary": "word", "voxels": "count", "widths": "counts", "hidden": "count", "pool": "count"},
            nan=True,
        ),
        "Surrogate: forward": Call(
            function=lambda image: network()(image).detach(), good={"image": gpuion.voxelize(CENTERS, **CELL,
            voxels=12)},
            kinds={"image": "numbers"}, nan=True,
        ),
        "Surrogate: predict": Call(
            function=lambda **given: network().predict(**given).d_star, good={"centers": CENTERS, **CELL, "batch": 2},
            kinds={**_SPHERES, "batch": "count"},
        ),
        "load_surrogate: predict": Call(
            function=lambda **given: shipped().predict(**given), good={"centers": PLACED, **LEARNT, "batch": 2},
            kinds={**_SPHERES, "batch": "count"},
        ),
        "Prediction: interval": Call(function=known().interval, good={"coverage": 0.9}, kinds={"coverage": "number"}),
        "load_surrogate": Call(
            function=gpuion.load_surrogate, good={"path": None, "device": "cpu"},
            kinds={"path": "path", "device": "device"}, nan=True,
        ),
        "anneal": Call(
            function=gpuion.anneal,
            good={"score": score, "centers": CENTERS, **CELL, "cycles": 1, "steps": 4, "maximize": True,
                  "temperature": 0.1, "cooling": 0.9, "seed": 0, "ids": torch.arange(2), "samples": 2, "replicas": 1,
                  "every": 2, "state": None, "progress": None, "save": None},
            kinds=_ANNEAL,
        ),
        "Objective": Call(
            function=lambda **given: gpuion.Objective(**given)(ROWS, ROWS / 10),
            good={"name": "x", "maximize": True, "target": None, "caution": 0.5},
            kinds={"name": "word", "maximize": "flag", "target": "number", "caution": "number"},
        ),
        "Objective: call": Call(
            function=gpuion.Objective(name="even", maximize=False, caution=1.0), good={"D": ROWS, "spread": ROWS / 10},
            kinds={"D": "numbers", "spread": "numbers"}, nan=True,
        ),
        "aim": Call(
            function=lambda score, objective: gpuion.aim(score, objective)(CENTERS),
            good={"score": score, "objective": gpuion.Objective()}, kinds={"score": "object", "objective": "object"},
        ),
    }  # fmt: skip


NONE = {
    "GpuionError", "ConfigError", "PackingError", "ConvergenceError", "DatasetError", "CheckpointError",  # errors
    "WalkResult", "HomogenizationResult", "RefinementResult", "SmoothMedium", "AnnealResult",  # what functions return
    "__version__",
}  # fmt: skip
