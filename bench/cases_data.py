"""Making data sets and reading them: structures an hour with all that belongs to one, and images for a network."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from measure import Limit, Row, Setting, clock, in_turn, version

import gpuion
from gpuion import dataset
from gpuion.design import arrange, choose
from gpuion.threads import one_thread

ROOT = Path(__file__).parent.parent
PRESETS = {50: ("laptop", 1), 75: ("study", 1), 150: ("study", 2)}  # preset and sites a voxel of a lattice of so many


def label(setting: Setting) -> Iterator[Row]:
    """Structures placed, solved to 0.5% and written a second, by simulate.py: lattice, processes, batch."""
    on_gpu = setting.device == "cuda"
    kinds = [(1, 8)] if setting.tiny else [(1, 8), (1, 64)] if on_gpu else [(1, 1), (1, 8), (1, 32), (2, 1), (2, 8)]
    counts = {50: 2} if setting.tiny else {75: 512, 150: 64} if on_gpu else {50: 256, 75: 128, 150: 16}
    for sites, count in counts.items():
        alone, seconds = _solve_alone(sites, 2 if setting.tiny else 8, setting.device)
        turns = [
            [_simulate(sites, count, processes, batch, setting) for processes, batch in kinds]
            for _ in range(1 if setting.tiny or on_gpu else 3)  # a start of Python and CUDA each
        ]
        for (processes, batch), sittings in zip(kinds, zip(*turns, strict=True), strict=True):
            rates = [found["rate"] for found in sittings]
            yield Row(
                what=f"simulate.py, {sites}³ sites, {processes} process(es), batch {batch}", unit="structures/s",
                samples=rates,
                limit=Limit(
                    value=alone * processes, estimate=False,
                    what="the solve alone, measured in one process, times the processes",
                ),
                facts={
                    "structures_an_hour": round(3600 * sorted(rates)[len(rates) // 2]),
                    "peak_bytes_a_process": max(found["peak_bytes"] for found in sittings),
                    "seconds_a_structure": seconds,
                },
                note=f"{3600 * max(rates):.0f} an hour",
            )  # fmt: skip


def _simulate(sites: int, count: int, processes: int, batch: int, setting: Setting) -> dict[str, float]:
    """Return what simulate.py says of its rate and memory, on its own after torch is loaded."""
    preset, finer = PRESETS[sites]
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    run = run if processes > 1 else [sys.executable]
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--preset", preset, "--structures", count, "--sites-per-voxel", finer, "--shard", count // processes]
        flags += ["--batch", batch, "--device", setting.device, "--out", f"{folder}/data"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        command = [*run, str(ROOT / "simulate.py"), *map(str, flags)]
        subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return dict(json.loads(Path(folder, "data", "timing.json").read_text())[-1])


def _solve_alone(sites: int, count: int, device: str) -> tuple[float, dict[str, float]]:
    """Return structures a second of the exact solve alone, on a CPU on one thread, and the seconds of each step."""
    preset, finer = PRESETS[sites]
    design = _design(preset)
    numbers = choose(design, count)
    code = {"box": design.box, "diameter": design.diameter, "sites_per_voxel": finer}
    centers = arrange(design, numbers, device)
    medium = gpuion.electrolyte(centers, **code)
    steps: dict[str, Callable[[], object]] = {
        "place": lambda: arrange(design, numbers, device),
        "medium": lambda: gpuion.electrolyte(centers, **code),
        "solve": lambda: gpuion.homogenize(medium, tolerance=5e-3),
    }
    with one_thread():
        seconds = {name: min(clock(step) for _ in range(3)) / count for name, step in steps.items()}
    return 1 / seconds["solve"], seconds


def _design(preset: str) -> Any:
    """Return the arrangements of a preset, as simulate.py reads them."""
    sys.path.insert(0, str(ROOT))
    import simulate
    from gpuion.config import read_preset

    return simulate.check(simulate.Config(**read_preset(ROOT, preset, "simulate", simulate.Config)))[0]


def images(setting: Setting) -> Iterator[Row]:
    """Batches of binary images for a network: drawn from stored centres, against read from HDF5 files of images."""
    count, batch, sites = (4, 2, 25) if setting.tiny else (256, 16, 75)
    centers = gpuion.place("random", n_structures=count, n_particles=91, box=75.0, volume_fraction=0.1)
    cell = {"box": 75.0, "diameter": gpuion.sphere_diameter(91, 75.0, 0.1)}
    stored = gpuion.voxelize(centers, **cell, voxels=sites)[:, 0].to(torch.uint8).numpy()
    with tempfile.TemporaryDirectory() as folder:
        shard, files = _shard(Path(folder, "shard-00000.h5"), centers, cell), _image_files(Path(folder), stored)

        def draw() -> torch.Tensor:
            data = gpuion.open_dataset(shard, setting.device)
            for part in data.centers.split(batch):
                image = gpuion.voxelize(part, **cell, voxels=sites)
            return image

        def load(name: str, cached: bool) -> torch.Tensor:
            if not cached:
                _forget(files[name])
            with h5py.File(files[name]) as file:
                for first in range(0, count, batch):
                    rows = torch.from_numpy(file["image"][first : first + batch])
                    image = rows[:, None].to(setting.device).float()
            return image

        for name, cached in ((name, cached) for name in files for cached in (False, True)):
            if not torch.equal(draw(), load(name, cached)):
                raise ValueError(f"{name}: the stored images are not those drawn")
            ours, theirs = in_turn(draw, functools.partial(load, name, cached), repeats=setting.repeats)
            yield Row(
                what=f"images of {sites}³ from centres, batches of {batch}", unit="images/s",
                samples=[count / s for s in ours],
                peer=f"h5py {version('h5py')}, {name} uint8 images {'in the page cache' if cached else 'on disk'}",
                peer_samples=[count / s for s in theirs],
                facts={
                    "bytes_an_image": {
                        "centres": shard.stat().st_size / count,
                        name: files[name].stat().st_size / count,
                    }
                },
            )  # fmt: skip


def _image_files(folder: Path, stored: np.ndarray) -> dict[str, Path]:
    """Write images uint8 [n, V, V, V] as peers keep them, plain and compressed; return the files by their names."""
    paths = {name: folder / f"{name}.h5" for name in ("plain", "gzip-1")}
    for name, options in zip(paths, ({}, {"compression": "gzip", "compression_opts": 1}), strict=True):
        with h5py.File(paths[name], "w") as file:
            file.create_dataset("image", data=stored, chunks=(1, *stored.shape[1:]), **options)
    return paths


def _forget(path: Path) -> None:
    """Write a file to the disk and drop it from the page cache, where the system can."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _shard(path: Path, centers: torch.Tensor, cell: dict[str, float]) -> Path:
    """Write the structures without labels worth the name."""
    n = len(centers)
    nan = torch.full((n, 2), torch.nan, dtype=torch.float64)
    data = gpuion.Dataset(
        centers=centers, diffusivity=torch.ones(n, 3).double(), standard_error=torch.zeros(n, 3).double(),
        id=torch.arange(n), family=np.full(n, "random"), distance=nan, gap=nan[:, 0],
        axes=torch.zeros(n, 3, dtype=torch.bool), sites_per_voxel=1, method="exact", **cell,
    )  # fmt: skip
    dataset.write_shard(path, data, seed=0)
    return path
