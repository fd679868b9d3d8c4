"""Make structures, find how fast ions diffuse through each, and write shards of labelled structures.

    python simulate.py --preset laptop --out runs/data
    torchrun --nproc-per-node 8 simulate.py --preset paper --out runs/data

--structures takes a part of the design in which all families keep their shares; a smaller part lies within a
larger one. A structure is a function of seed and number alone, so any number of processes, stopped and
started again, ends in the same files.
"""

if __name__ == "__main__":  # before torch, which takes seconds to load: a stop meanwhile is one line, too
    from gpuion.errors import expect_stops

    expect_stops()

import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import gpuion
from gpuion import dataset, files, timing
from gpuion.config import option, parse
from gpuion.design import Design, arrange, choose
from gpuion.distributed import start
from gpuion.errors import ConfigError, run_script
from gpuion.labeling import label
from gpuion.medium import whole
from gpuion.shards import METHODS, is_whole

RANGES = (
    ("contact", 11.0),
    (11.0, 12.5),
    (12.5, 13.5),
    (13.5, 14.5),
    (14.5, 16.0),
    (16.0, 20.0),
    (20.0, 30.0),
)
WIDTHS = ((14.0, 20.0), (14.0, 20.0), (14.0, 14.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to place and how to label it."""

    out: Path = option(Path("runs/data"), "folder for the shards", identity=False)
    structures: int | None = option(None, "how many structures of the design, all if not given")
    method: str = option("exact", "exact solve, random walk (kmc), or both", choices=METHODS)
    tolerance: float = option(1e-3, "relative error of the exact solve")
    walkers: int = option(10_000, "walkers a structure, for kmc")
    time: float = option(12_000.0, "time that they walk, voxel² over bulk diffusivity")
    particles: int = option(27, "spheres a structure")
    box: float = option(50.0, "edge of the periodic cube, voxels")
    volume_fraction: float = option(0.1, "volume fraction of the spheres")
    sites_per_voxel: int = option(1, "lattice sites along a voxel's edge")
    random: int = option(722, "random structures of the design")
    chained: int = option(5304, "chained structures of the design")
    gapped: int = option(2166, "gapped structures of the design")
    chained_ranges: tuple[Any, ...] = option(RANGES, "distances of chained spheres, voxels", file_only=True)
    gapped_widths: tuple[Any, ...] = option(WIDTHS, "slab widths on one, two, three axes, voxels", file_only=True)
    shard: int = option(64, "structures a shard")
    batch: int = option(4, "structures labelled together", identity=False)
    seed: int = option(0, "seed of all random numbers")
    device: str = option("auto", "auto, cpu or cuda", identity=False)


def main() -> None:
    """Place, label, write, report."""
    config = parse(Config, Path(__file__).parent, __doc__ or "")
    design, numbers = check(config)
    world = start(config.device)
    files.claim_folder(config.out, "simulate", config, world)
    paths = {config.out / f"shard-{k:05d}.h5": ids for k, ids in enumerate(numbers.split(config.shard))}
    mine = list(paths.items())[world.rank :: world.size]
    todo = [(path, ids) for path, ids in mine if not is_whole(path, ids.numpy())]
    count, began = sum(len(ids) for _, ids in todo), time.perf_counter()
    with tqdm(total=count, unit=" structures", disable=None if world.is_main else True) as bar:
        for path, ids in todo:
            make_shard(path, ids, config, design, device=world.device, bar=bar)
    timing.tell(config.out, "simulate", count=count, unit="structures", began=began, world=world)
    if world.is_main:
        report(config, list(paths))
    world.close()


def check(config: Config) -> tuple[Design, Tensor]:
    """Return the design and the numbers of the structures to make, or say what is wrong before any work."""
    for name, low in {"shard": 1, "batch": 1, "seed": 0, "walkers": 2}.items():
        if getattr(config, name) < low:
            raise ConfigError(f"{name} must be at least {low}, got {getattr(config, name)}")
    if not 0 < config.tolerance < 1 or not (config.time > 0 and math.isfinite(config.time)):
        raise ConfigError(f"tolerance must lie in (0, 1), time above 0; got {config.tolerance} and {config.time}")
    whole(config.box, config.sites_per_voxel, "sites per voxel")
    whole(config.box, 1, "voxels")
    design = Design(
        particles=config.particles, box=config.box,
        diameter=gpuion.sphere_diameter(config.particles, config.box, config.volume_fraction),
        random=config.random, chained=config.chained, gapped=config.gapped,
        ranges=config.chained_ranges, widths=config.gapped_widths, seed=config.seed,
    )  # fmt: skip
    return design, torch.tensor(choose(design, config.structures))


def make_shard(path: Path, ids: Tensor, config: Config, design: Design, *, device: torch.device, bar: Any) -> None:
    """Place, label and write the structures of one shard."""
    centers, parts = arrange(design, ids.tolist(), device), []
    for some, numbers in zip(centers.split(config.batch), ids.split(config.batch), strict=True):
        labels = label(
            some, box=design.box, diameter=design.diameter, sites_per_voxel=config.sites_per_voxel,
            method=config.method, tolerance=config.tolerance, walkers=config.walkers, time=config.time,
            seed=config.seed, ids=numbers.to(device),
        )  # fmt: skip
        parts.append(vars(labels))
        bar.update(len(some))
    cases = [design.case(number) for number in ids.tolist()]
    nan = math.nan
    data = gpuion.Dataset(
        centers=centers.cpu(), id=ids, family=np.array([case.family for case in cases]),
        **{name: torch.cat([part[name] for part in parts]) for name, x in parts[0].items() if x is not None},
        distance=torch.tensor([case.distance or (nan, nan) for case in cases], dtype=torch.float64),
        gap=torch.tensor([case.gap or nan for case in cases], dtype=torch.float64),
        axes=torch.tensor([[axis in (case.axes or ()) for axis in range(3)] for case in cases]),
        box=design.box, diameter=design.diameter, sites_per_voxel=config.sites_per_voxel,
        method=config.method,
    )  # fmt: skip
    dataset.write_shard(path, data, seed=config.seed, config=files.identity(config))


def report(config: Config, paths: list[Path]) -> None:
    """Write dataset.json and print what the data is like."""
    data = dataset.merge([(path, dataset.read_shard(path)) for path in paths])
    dataset.write_summary(config.out, data)
    print(f"{'family':<10}{'count':>7}{'mean D':>10}{'min D':>10}{'max D':>10}")
    for family in [*dict.fromkeys(sorted(data.family)), "all"]:
        D = data.mean_diffusivity[torch.from_numpy((data.family == family) | (family == "all"))]
        print(f"{family:<10}{len(D):>7}{float(D.mean()):>10.4f}{float(D.min()):>10.4f}{float(D.max()):>10.4f}")
    if data.diffusivity_kmc is not None and data.standard_error_kmc is not None:
        z = (data.diffusivity_kmc - data.diffusivity) / data.standard_error_kmc
        z = z if data.converged_kmc is None else z[data.converged_kmc]
        print(f"|z| > 4 between settled walk and exact solve: {int((z.abs() > 4).sum())} of {z.numel()}")
    for name, flag in (("labels", data.converged), ("walks", data.converged_kmc)):
        if flag is not None and not flag.all():
            lost = data.id[~flag].tolist()
            print(f"warning: {len(lost)} {name} did not converge, of ids {lost[:5]} …", file=sys.stderr)
    print(f"{len(data)} structures in {config.out}")


if __name__ == "__main__":
    run_script(main)
