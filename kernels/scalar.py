"""Scalar loops under numba: the twins that a loop says best, and the CPU path of those kernels.

Each function does for one walker or one structure what a kernel's lane or program does, in the same order with the
same arithmetic, so that the results are equal bit for bit.
"""

import contextlib
from collections.abc import Iterator

import numba
import numpy as np
import torch
from numba import prange, uint32, uint64
from torch import Tensor

from gpuion.kernels.reference import Stream
from gpuion.kernels.rows import inside, span

_DRAW, _PARENT = int(Stream.DRAW), int(Stream.PARENT)
_UNIT = 2.0**-32
_MANY = 256  # spheres from which on cells pay: at 91 they cost a quarter more, at 10⁴ they are 27 times as fast


@contextlib.contextmanager
def same_threads() -> Iterator[None]:
    """Give numba as many threads as torch has, and torch its own number back.

    The first parallel kernel of a process sets OpenMP's count to numba's largest, and torch goes by that count.
    """
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@numba.njit(cache=True, inline="always")
def philox(c0, c1, c2, c3, key0, key1):
    """Return four random words, uint32; twin of `gpuion.kernels.reference.philox`.

    Counters are 64 bits wide whose upper halves are anything: what a multiplication of vectors makes and takes. Cut to
    32 bits each round, they are packed and unpacked, and a loop over many calls takes twice the instructions.
    """
    low = uint64(0xFFFFFFFF)
    c0, c1, c2, c3 = uint64(c0), uint64(c1), uint64(c2), uint64(c3)
    for _ in range(10):
        product0 = uint64(0xD2511F53) * (c0 & low)
        product1 = uint64(0xCD9E8D57) * (c2 & low)
        c0, c1 = (product1 >> uint64(32)) ^ c1 ^ uint64(key0), product1
        c2, c3 = (product0 >> uint64(32)) ^ c3 ^ uint64(key1), product0
        key0 = uint32(key0 + uint32(0x9E3779B9))
        key1 = uint32(key1 + uint32(0xBB67AE85))
    return uint32(c0), uint32(c1), uint32(c2), uint32(c3)


@numba.njit(cache=True, inline="always")
def _wrap(x, box):
    """Return a coordinate rounded to float32 and wrapped into [0, box)."""
    wrapped = np.float64(np.float32(x % box))
    return 0.0 if wrapped >= box else wrapped


@numba.njit(cache=True, inline="always")
def _square(a, b, box):
    """Return the squared distance between nearest images."""
    total = 0.0
    for axis in range(3):
        apart = abs(a[axis] - b[axis])
        apart = min(apart, box - apart)
        total += apart * apart
    return total


@numba.njit(cache=True)
def _candidate(u, point, parent, chained, slab, gap, axes, box, diameter, low, high):
    """Set `point` to a draw's position; return whether it obeys its family's rule."""
    if chained:
        a, b = 2 * u[0] - 1, 2 * u[1] - 1
        s = a * a + b * b
        radius = low + (high - low) * u[2]
        if s >= 1 or u[3] * high**2 >= radius**2:
            return False
        stretch = 2 * np.sqrt(1 - s)
        point[0] = _wrap(parent[0] + radius * (a * stretch), box)
        point[1] = _wrap(parent[1] + radius * (b * stretch), box)
        point[2] = _wrap(parent[2] + radius * (1 - 2 * s), box)
        square = _square(point, parent, box)
        if square < low**2 * (1 + 1e-12) or square > high**2 * (1 - 1e-12):
            return False
    else:
        for axis in range(3):
            x = u[axis] * box
            if axes[axis]:
                x = slab[axis] + gap + diameter / 2 + u[axis] * (box - gap - diameter)
            point[axis] = _wrap(x, box)
    for axis in range(3):
        if axes[axis]:
            along = (point[axis] - slab[axis]) % box
            if along < (gap + diameter / 2) * (1 + 1e-12) or along > (box - diameter / 2) * (1 - 1e-12):
                return False
    return True


@numba.njit(cache=True, inline="always")
def _cell(x, G, box):
    """Return which of G cells along an axis a coordinate in [0, box) lies in."""
    return min(int(x * (G / box)), G - 1)


@numba.njit(cache=True, inline="always")
def _around(cell, G):
    """Return a cell in −1 … G wrapped."""
    return cell + G if cell < 0 else (cell - G if cell >= G else cell)


@numba.njit(cache=True)
def _apart(point, filled, heads, following, box, limit):
    """Return whether a position keeps its distance from the spheres in the cells around it."""
    G = len(heads)
    around = min(G, 3)  # 1 or 2 cells along an edge are all there are, each looked into once
    i, j, k = (_cell(point[0], G, box), _cell(point[1], G, box), _cell(point[2], G, box))
    for x in range(i - 1, i - 1 + around):
        for y in range(j - 1, j - 1 + around):
            row = heads[_around(x, G), _around(y, G)]
            for z in range(k - 1, k - 1 + around):
                other = row[_around(z, G)]
                while other >= 0:
                    if _square(point, filled[other], box) < limit:
                        return False
                    other = following[other]
    return True


@numba.njit(cache=True, parallel=True)
def _fill(ids, slabs, centers, placed, key0, key1, box, diameter, distance, gap, axes, patience, max_draws):
    B, N = centers.shape[:2]
    limit = diameter**2 * (1 + 1e-12)
    # Cells no smaller than a sphere, with a guard against rounding, and at most eight for each sphere.
    G = 1 if N < _MANY else max(1, min(int(box / diameter * (1 - 1e-9)), int(2 * N ** (1 / 3))))
    for b in prange(B):
        point, u = np.empty(3), np.empty(4)
        filled, following = np.empty((N, 3)), np.empty(N, np.int64)
        heads = np.full((G, G, G), -1)  # the newest sphere of each cell; `following` has the one before it there
        name = uint32(ids[b])
        low, high = distance[b, 0], distance[b, 1]
        for n in range(N):
            parent = n - 1
            for draw in range(max_draws):
                if draw > 0 and draw % patience == 0:
                    word = philox(uint32(draw // patience), uint32(n), name, uint32(_PARENT), key0, key1)[0]
                    parent = (np.int64(word) * n) >> 32
                words = philox(uint32(draw), uint32(n), name, uint32(_DRAW), key0, key1)
                for k in range(4):
                    u[k] = words[k] * _UNIT
                chained = high > 0 and n > 0
                fits = _candidate(
                    u, point, filled[max(parent, 0)], chained, slabs[b], gap[b], axes[b], box, diameter, low, high
                )
                if fits and _apart(point, filled, heads, following, box, limit):
                    i, j, k = (_cell(point[0], G, box), _cell(point[1], G, box), _cell(point[2], G, box))
                    filled[n], following[n], heads[i, j, k] = point, heads[i, j, k], n
                    placed[b] += 1
                    break
            if placed[b] == n:
                break
        for n in range(placed[b]):
            for axis in range(3):
                centers[b, n, axis] = filled[n, axis]


def fill(
    ids: Tensor, slabs: Tensor, n_particles: int, seed: int, box: float, diameter: float, distance: Tensor,
    gap: Tensor, axes: Tensor, patience: int, max_draws: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return sphere centres float32 [B, N, 3] and how many were placed, int64 [B]; twin of `insertion.fill_batch`.

    `distance` float64 [B, 2], `gap` float64 [B] and `axes` bool [B, 3] are those of `insertion.Rules`.
    """
    centers = torch.zeros(len(ids), n_particles, 3)
    placed = torch.zeros(len(ids), dtype=torch.int64)
    keys = np.uint32(seed & 0xFFFFFFFF), np.uint32((seed >> 32) & 0xFFFFFFFF)
    tables = [table.contiguous().numpy() for table in (slabs, distance, gap, axes)]
    with same_threads():
        _fill(
            ids.numpy(), tables[0], centers.numpy(), placed.numpy(), *keys, box, diameter, *tables[1:], patience,
            max_draws,
        )  # fmt: skip
    return centers, placed


@numba.njit(cache=True, parallel=True)
def _site_classes(images, spacing, radius, reach, width, cutoff, scale, blocked, classes):
    X, Y, Z = classes.shape
    extent = radius + cutoff
    for x in prange(X):
        density = np.zeros((Y, Z))
        inside = np.zeros((Y, Z), np.bool_)
        for i in range(len(images)):
            dx = (x + 0.5) * spacing - images[i, 0]
            if abs(dx) > extent:
                continue
            first_y = max(0, int(np.ceil((images[i, 1] - extent) / spacing - 0.5)))
            last_y = min(Y - 1, int(np.floor((images[i, 1] + extent) / spacing - 0.5)))
            first_z = max(0, int(np.ceil((images[i, 2] - extent) / spacing - 0.5)))
            last_z = min(Z - 1, int(np.floor((images[i, 2] + extent) / spacing - 0.5)))
            for y in range(first_y, last_y + 1):
                dy = (y + 0.5) * spacing - images[i, 1]
                for z in range(first_z, last_z + 1):
                    dz = (z + 0.5) * spacing - images[i, 2]
                    square = dx * dx + dy * dy + dz * dz
                    distance = np.sqrt(square) - radius
                    if distance <= cutoff:
                        density[y, z] += 1 / (1 + np.exp((distance - reach) / width))
                        inside[y, z] |= square < radius * radius
        for y in range(Y):
            for z in range(Z):
                level = min(np.rint(density[y, z] * scale), np.float64(blocked - 1))
                classes[x, y, z] = blocked if inside[y, z] else np.uint8(level)


def site_classes(
    images: Tensor, spacing: float, radius: float, reach: float, width: float, cutoff: float, scale: float,
    blocked: int, classes: Tensor,
) -> None:  # fmt: skip
    """Write the classes [X, Y, Z] of one structure's sites; twin of `medium.brick_classes`, which says more."""
    with same_threads():
        _site_classes(images.numpy(), spacing, radius, reach, width, cutoff, scale, blocked, classes.numpy())


@numba.njit(cache=True, parallel=True)
def _voxelize(image, centers, radius, spacing):
    B, N = centers.shape[:2]
    V = image.shape[1]
    square = radius * radius
    for b in prange(B):
        for n in range(N):
            cx, cy, cz = centers[b, n]
            first_x, end_x = span(cx, radius, spacing)
            first_y, end_y = span(cy, radius, spacing)
            for x in range(first_x, end_x):
                dx = (x + 0.5) * spacing - cx
                for y in range(first_y, end_y):
                    dy = (y + 0.5) * spacing - cy
                    plane = dx * dx + dy * dy
                    if plane < square:
                        # Whole rows at a time, 2.1 times as fast as a test of each voxel.
                        first, end = inside(cz, plane, square, spacing)
                        row = image[b, x % V, y % V]
                        if first >= 0 and end <= V:
                            row[first:end] = 1.0
                        else:
                            for z in range(first, end):
                                row[z % V] = 1.0


def voxelize(image: Tensor, centers: Tensor, *, radius: float, spacing: float) -> None:
    """Set the voxels of images float32 [B, V, V, V] inside spheres at float64 [B, N, 3]; twin of `voxels.draw`."""
    with same_threads():
        _voxelize(image.numpy(), centers.contiguous().numpy(), radius, spacing)
