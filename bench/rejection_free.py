"""Is a walk without rejections faster? Null-event walk against the n-fold way, seconds for the same walks on a CPU.

    python bench/rejection_free.py

The n-fold way (Bortz, Kalos & Lebowitz, J. Comput. Phys. 17 (1975) 10) draws an exponential residence time and then one
of the six hops by its rate, so that nothing is rejected. Both sample the same process, so walks as many and as long
have the same standard error, and the ratio of seconds is the ratio of costs.
"""

import argparse
import math
import statistics
import time
from typing import Any

import numba
import numpy as np
import torch
from numba import prange, uint32

import gpuion
from gpuion import hops, slopes
from gpuion.kernels import lanes
from gpuion.kernels.reference import Stream
from gpuion.kernels.scalar import philox

CHECKPOINTS = 64
_HOP = int(Stream.WALK_HOP)


@numba.njit(cache=True)
def _sum_rates(field: Any, shape: Any, at: Any, leave: Any, enter: Any, total: Any) -> Any:
    """Set the cumulative rates of the six hops; return their sum."""
    stride = (shape[1] * shape[2], shape[2], 1)
    site = at[0] * stride[0] + at[1] * stride[1] + at[2]
    for axis in range(3):
        last = shape[axis] - 1
        ahead = site + stride[axis] if at[axis] < last else site - last * stride[axis]
        behind = site - stride[axis] if at[axis] > 0 else site + last * stride[axis]
        total[axis], total[axis + 3] = enter[field[ahead]], enter[field[behind]]
    running = np.float32(0)
    for direction in range(6):
        running += leave[field[site]] * total[direction]
        total[direction] = running
    return running


@numba.njit(cache=True, parallel=True)
def n_fold_way(labels: Any, leave: Any, enter: Any, start: Any, interval: Any, displacement: Any, made: Any) -> None:
    """Walk by events: displacements [T, W, 3] at equal times and hops [W]; rates are leave · enter."""
    T, W = displacement.shape[:2]
    field, shape = labels.reshape(-1), labels.shape
    for w in prange(W):
        site = np.int64(start[w])
        at = np.array((site // (shape[1] * shape[2]), site // shape[2] % shape[1], site % shape[2]))
        count, total = np.zeros(6, np.int64), np.empty(6, np.float32)
        words = np.empty((4, 32), np.uint32)
        rate = _sum_rates(field, shape, at, leave, enter, total)
        t, clock, quad = 0, 0.0, 0
        while t < T:
            for i in range(32):
                words[0, i], words[1, i], words[2, i], words[3, i] = philox(
                    uint32(quad + i), uint32(w), uint32(0), uint32(_HOP), uint32(1), uint32(0)
                )  # fmt: skip
            quad += 32
            for k in range(0, 128, 2):
                clock += -np.log((words[k & 3, k >> 2] + 0.5) * 2.0**-32) / rate if rate > 0 else np.inf
                while t < T and clock > (t + 1) * interval:
                    for axis in range(3):
                        displacement[t, w, axis] = count[axis] - count[axis + 3]
                    t += 1
                if t == T:
                    break
                u = np.float32(words[(k + 1) & 3, k >> 2] * np.float32(2.0**-32)) * rate
                direction = 0
                for j in range(5):
                    direction += u >= total[j]
                count[direction] += 1
                axis = direction % 3
                moved = at[axis] + (1 if direction < 3 else -1)
                at[axis] = 0 if moved == shape[axis] else (shape[axis] - 1 if moved < 0 else moved)
                rate = _sum_rates(field, shape, at, leave, enter, total)
        made[w] = count.sum()


def compare(sites_per_voxel: int, *, walkers: int = 400, quads: int = 200, repeats: int = 5) -> dict[str, float]:
    """Return seconds of both on one random structure of 27 spheres in 50³ voxels, and what they sampled.

    Medians over runs that alternate, one thread each.
    """
    box, n = 50.0, 27
    diameter = gpuion.sphere_diameter(n, box, 0.1)
    centers = gpuion.place("random", n_structures=1, n_particles=n, box=box, diameter=diameter, seed=0)
    medium = gpuion.electrolyte(centers, box=box, diameter=diameter, sites_per_voxel=sites_per_voxel)
    rates, ids = hops.rates(medium), torch.tensor([0])
    start = hops.starts(medium, walkers, 0, ids)
    per_tick = (rates.leave.double() / 2**32 / 6).float()  # rates in the clock's ticks

    def null_event() -> tuple[torch.Tensor, int]:
        steps = torch.tensor([quads], dtype=torch.int32)
        path, made = lanes.walk(medium.labels, rates.leave, rates.enter, start, steps, ids, 0, CHECKPOINTS)
        return path, int(made.sum())

    def without() -> tuple[torch.Tensor, int]:
        path = torch.empty(CHECKPOINTS, walkers, 3, dtype=torch.int32)
        made = torch.empty(walkers, dtype=torch.int64)
        tables = per_tick[0].numpy(), rates.enter[0].numpy()
        n_fold_way(medium.labels[0].numpy(), *tables, start[0].numpy(), 4.0 * quads, path.numpy(), made.numpy())
        return path[None], int(made.sum())

    seconds: dict[str, list[float]] = {"null_event": [], "rejection_free": []}
    found = {}
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    for repeat in range(repeats + 1):  # the first compiles
        for name, run in (("null_event", null_event), ("rejection_free", without)):
            begin = time.perf_counter()
            found[name] = run()
            seconds[name] += [time.perf_counter() - begin] * (repeat > 0)
    result = {name: statistics.median(x) for name, x in seconds.items()}
    for name, (path, made) in found.items():
        slope = slopes._slopes(path)[0, 2].mean(0)  # noqa: SLF001
        result[f"{name}_hops"] = float(made)
        result[f"{name}_relative_error"] = float(slope.std() / slope.mean()) / math.sqrt(walkers)
    attempts = walkers * CHECKPOINTS * 4 * quads
    ratio = result["null_event"] / result["rejection_free"]
    return result | {"acceptance": found["null_event"][1] / attempts, "ratio": ratio}


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for sites in (1, 2, 3, 5):
        row = compare(sites)
        print(f"{sites} sites per voxel: " + ", ".join(f"{name} {x:.3g}" for name, x in row.items()))
