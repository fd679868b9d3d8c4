"""Mixed work in one process for a while, with sizes that change: does memory stay, and do files and threads?

    python tests/soak.py --minutes 20

Prints a row a minute, and after a fifth of the time, in which caches fill, how resident memory goes on: the slope of
its means over twentieths of the rest, with its standard error. The exit code is 1 if that is above 0.5 MB a minute by
more than three errors, or if open files or threads have become more.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import gpuion
from gpuion import training
from gpuion.dataset import open_dataset, write_shard
from gpuion.distributed import World
from gpuion.labeling import label
from gpuion.scoring import surrogate_score
from gpuion.training import Plan, Samples

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
MOST = 0.5  # MB a minute, of some 500


def work(draw: random.Random, folder: Path) -> None:
    """Place, draw, label, walk, differentiate, write, read, learn and anneal, with sizes of one's own."""
    n, N, edge = draw.randint(5, 12), draw.randint(2, 12), 5 * draw.randint(4, 7)
    cell = {"box": float(edge), "diameter": draw.uniform(3.0, 6.0)}
    centers = gpuion.place("random", n_structures=n, n_particles=N, seed=draw.randrange(2**32), **cell)
    gpuion.voxelize(centers, voxels=edge, **cell)
    medium = gpuion.electrolyte(centers[:2], sites_per_voxel=draw.choice((1, 1, 2)), **cell)
    gpuion.walk(medium, walkers=draw.randint(20, 200), time=draw.uniform(20.0, 80.0))
    found = label(centers, tolerance=10 ** draw.uniform(-3, -1), **cell)
    moving = centers[:1].double().requires_grad_()
    smooth = gpuion.smooth_medium(moving, core_width=0.5, **cell)
    gpuion.effective_diffusivity(smooth.potential, smooth.log_diffusivity, tolerance=1e-2).sum().backward()
    nan = torch.full((n,), torch.nan, dtype=torch.float64)
    data = gpuion.Dataset(
        centers=centers, diffusivity=found.diffusivity, standard_error=found.standard_error, id=torch.arange(n),
        family=np.array(["random"] * n), distance=torch.stack([nan, nan], 1), gap=nan,
        axes=torch.zeros(n, 3, dtype=torch.bool), sites_per_voxel=1, method="exact", **cell,
    )  # fmt: skip
    write_shard(folder / "shard-00000.h5", data, seed=0)
    data = open_dataset(folder)
    samples = Samples(centers=data.centers, target=data.d_star.float(), id=data.id, voxels=edge, **cell)
    net, plan = gpuion.Surrogate(voxels=edge, widths=(4, 4), hidden=4), Plan(epochs=1, batch=4, learning_rate=1e-3)
    net.calibrate(samples.target)
    training.train_epoch(net, training.optimizer_for(net, plan), samples, epoch=0, plan=plan, world=ALONE)
    training.save_checkpoint(folder / "net.pt", net, {"box": cell["box"], "voxels": edge})
    score = surrogate_score(gpuion.load_surrogate(folder / "net.pt"), data, batch=4)
    gpuion.anneal(score, centers[:3], cycles=2, steps=draw.randint(10, 40), seed=draw.randrange(2**32), **cell)


def state() -> tuple[float, int, int]:
    """Return resident memory in MB, open files and threads."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files, threads = (sum(1 for _ in Path("/proc/self", name).iterdir()) for name in ("fd", "task"))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, files, threads


def slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the slope of y over x and its standard error, from the means of equal parts."""
    x, y = (np.array([part.mean() for part in np.array_split(v, min(20, len(v)))]) for v in (x, y))
    u = x - x.mean()
    rate = (u * y).sum() / (u * u).sum()
    left = y - y.mean() - rate * u
    return rate, float(np.sqrt((left * left).sum() / (len(x) - 2) / (u * u).sum()))


def main(words: list[str] | None = None) -> int:
    """Read the command line, work, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long to work (default 20)")
    given, draw, rows, began = parser.parse_args(words), random.Random(0), [], time.monotonic()  # noqa: S311
    with tempfile.TemporaryDirectory() as folder:
        while (now := (time.monotonic() - began) / 60) < given.minutes or len(rows) < 8:
            work(draw, Path(folder))
            rows.append((now, *state()))
            if len(rows) == 1 or int(now) > int(rows[-2][0]):
                print("{:6.1f} min {:7.1f} MB {:4d} files {:4d} threads".format(*rows[-1]), flush=True)
    time_, memory, files, threads = np.array([x for x in rows if x[0] >= min(given.minutes / 5, rows[-4][0])]).T
    rate, error = slope(time_, memory)
    print(
        f"{len(rows)} rounds; from {time_[0]:.1f} to {time_[-1]:.1f} min memory {memory[0]:.1f} to {memory[-1]:.1f} MB"
    )
    print(f"within {memory.min():.1f} to {memory.max():.1f} MB, {rate:+.3f} ± {error:.3f} MB a minute")
    print(f"files {files[0]:.0f} to {files[-1]:.0f}, threads {threads[0]:.0f} to {threads[-1]:.0f}")
    return int(rate - 3 * error > MOST or files[-1] > files[0] or threads[-1] > threads[0])


if __name__ == "__main__":
    sys.exit(main())
