"""Make structures, find how fast ions diffuse through each, and write shards of labelled structures.

    python simulate.py --preset laptop --out runs/data
    torchrun --nproc-per-node 8 simulate.py --preset paper --out runs/data

--structures takes a part of the design in which all families keep their shares; a smaller part lies within a
larger one. A structure is a function of seed and number alone, so any number of processes, stopped, killed and
started again, ends in the same files; a kill loses the batch in flight. Machines that do not know of each other take
--part 1/3, 2/3 and 3/3, and `python -m gpuion.dataset merge` makes the same data of their folders. With --method both,
the exit code is 3 if walk and exact solve disagree by more than 4σ for any structure. --source labels the structures of
a data set instead, with --particles spheres each, if given: others are taken out or put in at random.
"""

if __name__ == "__main__":  # before torch, which takes seconds to load: a stop meanwhile is one line, too
    from gpuion.errors import expect_stops

    expect_stops()

import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import gpuion
from gpuion import dataset, dry_run, files, timing, work
from gpuion.checks import FINEST
from gpuion.config import check_least, option, parse, settings
from gpuion.derived import Derived, derive
from gpuion.design import Design, choose
from gpuion.distributed import start
from gpuion.errors import ConfigError, codes, fail, run_script
from gpuion.labeling import Labels, beyond, label
from gpuion.medium import whole
from gpuion.shards import METHODS, is_whole

RANGES = (
    ("contact", 11.0), (11.0, 12.5), (12.5, 13.5), (13.5, 14.5), (14.5, 16.0), (16.0, 20.0), (20.0, 30.0),
)  # fmt: skip
WIDTHS = ((14.0, 20.0), (14.0, 20.0), (14.0, 14.0))
CELL = {"particles": 27, "box": 50.0, "volume_fraction": 0.1}  # of a design, where none is given


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to place and how to label it."""

    out: Path = option(Path("runs/data"), "folder for the shards", group="the run", identity=False)
    structures: int | None = option(None, "how many of design or source, all if not given", group="structures")
    source: str = option("", "a data set to take structures from, in place of a design", metavar="PATH")
    of: str = option("", "train, validation or test: the part of the source to take, all of it if not given")
    method: str = option("exact", "exact solve, random walk (kmc), or both", choices=METHODS, group="labels")
    tolerance: float = option(1e-3, "relative error of the exact solve")
    walkers: int = option(10_000, "walkers a structure, for kmc")
    time: float | str = option(12_000.0, "time that they walk, voxel² over bulk diffusivity, or auto", words=("auto",))
    rtol: float = option(0.02, "with --time auto, relative error of the walks' mean D")
    particles: int | None = option(None, f"spheres; the source's, or {CELL['particles']}", group="the cell")
    box: float | None = option(None, f"edge of the periodic cube, voxels; the source's, or {CELL['box']:g}")
    volume_fraction: float | None = option(None, f"of the spheres; the source's, or {CELL['volume_fraction']}")
    sites_per_voxel: int = option(1, "lattice sites along a voxel's edge")
    random: int = option(722, "random structures of the design", group="structures")
    chained: int = option(5304, "chained structures of the design")
    gapped: int = option(2166, "gapped structures of the design")
    chained_ranges: tuple[Any, ...] = option(RANGES, "distances of chained spheres, voxels", file_only=True)
    gapped_widths: tuple[Any, ...] = option(WIDTHS, "slab widths on one, two, three axes, voxels", file_only=True)
    shard: int = option(64, "structures a shard", group="the run")
    batch: int = option(4, "structures labelled together", identity=False)
    part: str = option("", "k/m: make every m-th shard from the k-th, on one of m machines")
    seed: int = option(0, "seed of all random numbers")
    device: str = option("auto", "auto, cpu or cuda", identity=False)
    dry_run: bool = option(False, "say what would be done, in what time and memory, and write nothing", identity=False)

    def __post_init__(self) -> None:
        """Give a design its cell; a source has its own."""
        for name, usual in () if self.source else CELL.items():
            object.__setattr__(self, name, usual if getattr(self, name) is None else getattr(self, name))


def main() -> None:
    """Place, label, write, report."""
    config = parse(Config, Path(__file__).parent, __doc__ or "", ends=codes("labelled, but walks contradict solves"))
    with settings():
        structures, shards = check(config)
    world = start(config.device)
    if config.dry_run:
        dry_run.simulate(config, structures, shards, world)
        return
    if isinstance(structures, Derived):  # what it is that counts, not where it lies
        config = dataclasses.replace(config, source=f"sha256:{structures.origin}", **structures.cell)
    with files.claim_folder(config.out, "simulate", config, world):
        ours = [(config.out / f"shard-{k:05d}.h5", ids) for k, ids in shards]
        mine = ours[world.rank :: world.size]
        todo = [(path, ids) for path, ids in mine if not is_whole(path, ids.numpy(), config.seed)]
        count, began, name = 0, time.perf_counter(), f"rank 0 of {world.size}" if world.size > 1 else None
        total, quiet = sum(len(ids) for _, ids in todo), None if world.is_main else True
        with tqdm(total=total, desc=name, unit=" structures", disable=quiet) as bar:
            for path, ids in todo:
                count += make_shard(path, ids, config, structures, device=world.device, bar=bar)
        timing.tell(config.out, "simulate", count=count, unit="structures", began=began, world=world)
        problem = report(config, [path for path, _ in ours]) if world.is_main else ""
    world.close()
    if problem:
        fail(problem, 3)


def check(config: Config) -> tuple[Design | Derived, Sequence[tuple[int, Tensor]]]:
    """Return the structures and the shards to make: number and ids. Say what is wrong before any work."""
    check_least(config, shard=1, batch=1, seed=0, walkers=2)
    if not FINEST <= config.tolerance < 1 or not 0 < config.rtol < 1:
        raise ConfigError(
            f"tolerance must lie in [{FINEST}, 1) and rtol in (0, 1), got {config.tolerance} and {config.rtol}"
        )
    if not isinstance(config.time, str) and not (config.time > 0 and math.isfinite(config.time)):
        raise ConfigError(f"time must be above 0, or auto, got {config.time}")
    structures, ids = plan(config)
    whole(structures.box, config.sites_per_voxel, "sites per voxel")
    whole(structures.box, 1, "voxels")
    return structures, work.share(list(enumerate(torch.tensor(ids).split(config.shard))), config.part)


def plan(config: Config) -> tuple[Design | Derived, list[int]]:
    """Return the design, or what the source gives, and the ids of the structures to make."""
    cell = {name: getattr(config, name) for name in CELL}
    if config.source:
        return derive(config.source, config.of, config.structures, config.seed, cell)
    if config.of:
        raise ConfigError(f"of = {config.of!r} is a part of a source: give --source, too")
    design = Design(
        particles=cell["particles"], box=cell["box"], diameter=gpuion.sphere_diameter(*cell.values()),
        random=config.random, chained=config.chained, gapped=config.gapped,
        ranges=config.chained_ranges, widths=config.gapped_widths, seed=config.seed,
    )  # fmt: skip
    return design, choose(design, config.structures)


def make_shard(
    path: Path, ids: Tensor, config: Config, structures: Design | Derived, *, device: torch.device, bar: Any
) -> int:
    """Place, label and write the structures of one shard; return how many were labelled now."""
    centers, before = structures.centers(ids.tolist(), device), bar.total
    made_as = files.identity(dataclasses.replace(config, part=""))  # a shard is the same in whichever part

    def solve(some: Tensor, numbers: Tensor) -> Labels:
        return label(
            some, box=structures.box, diameter=structures.diameter, sites_per_voxel=config.sites_per_voxel,
            method=config.method, tolerance=config.tolerance, walkers=config.walkers, time=config.time,
            rtol=config.rtol, seed=config.seed, ids=numbers.to(device),
        )  # fmt: skip

    def tell(made: int, found: int) -> None:
        bar.total -= found
        bar.update(made)

    labels = work.label_shard(path, centers, ids, config.batch, solve, tell, mark=files.fingerprint(made_as))
    cases = [structures.case(number) for number in ids.tolist()]
    nan = math.nan
    data = gpuion.Dataset(
        centers=centers.cpu(), id=ids, family=np.array([case.family for case in cases]),
        **vars(labels),
        distance=torch.tensor([case.distance or (nan, nan) for case in cases], dtype=torch.float64),
        gap=torch.tensor([case.gap or nan for case in cases], dtype=torch.float64),
        axes=torch.tensor([[axis in (case.axes or ()) for axis in range(3)] for case in cases]),
        box=structures.box, diameter=structures.diameter, sites_per_voxel=config.sites_per_voxel,
        method=config.method, d_reference=structures.d_reference,
    )  # fmt: skip
    dataset.write_shard(path, data, seed=config.seed, config=made_as)
    work.drop(path)
    return len(ids) - (before - bar.total)


def report(config: Config, paths: list[Path]) -> str:
    """Write dataset.json and print what the data is like; return what is wrong with it, if anything."""
    data = dataset.merge([(path, dataset.read_shard(path)) for path in paths])
    dataset.write_summary(config.out, data)
    print(f"{'family':<10}{'count':>7}{'mean D':>10}{'min D':>10}{'max D':>10}")
    for family in [*dict.fromkeys(sorted(data.family)), "all"]:
        D = data.mean_diffusivity[torch.from_numpy((data.family == family) | (family == "all"))]
        print(f"{family:<10}{len(D):>7}{float(D.mean()):>10.4f}{float(D.min()):>10.4f}{float(D.max()):>10.4f}")
    for name, flag in (("labels", data.converged), ("walks", data.converged_kmc)):
        if flag is not None and not flag.all():
            lost = data.id[~flag].tolist()
            print(f"warning: {len(lost)} {name} did not converge, of ids {lost[:5]} …", file=sys.stderr)
    for path in paths:
        work.drop(path)  # of a run that was killed between writing the shard and this
    print(f"{len(data)} structures in {config.out}")
    if data.z_score is None:
        return ""
    far, settled, chance = beyond(data.z_score)
    line = f"{int(far.sum())} of {settled} settled structures have walk and exact solve more than 4σ apart"
    print(f"{line} (chance: {chance:.2g}); {len(data) - settled} did not settle and tell nothing")
    return f"{line}, of ids {data.id[far].tolist()[:5]} …; the data are written" if far.any() else ""


if __name__ == "__main__":
    run_script(main)
