"""Plane waves at spheres and the sums over spheres of their products, on a CPU: loops under numba.

A product of two waves is half a sum of the waves of the sum and of the difference of their numbers, so all products of
H waves take some 2 H sums over the spheres. These are made for q_x ≥ 0, as products of matrices, four spheres at once.

Legend: N particles, H wave vectors, t the largest q along an axis, P pairs (q_y, q_z), by how long they are.
"""

import math
from typing import NamedTuple

import numpy as np

from gpuion.kernels.rows import fill, inline
from gpuion.kernels.tiles import EDGE, ROWS, add_tile, tiled

TOGETHER = EDGE // 2  # spheres, of a row of cosines and one of sines each


class Waves(NamedTuple):
    """Which waves there are, and where their sums lie among those of `add_up`, flat.

    `plane` int64 [P, 2] are q_y and q_z, of which q_x = x takes the first `counts` [t + 1][x]; `x` and `pair` [H] are a
    wave's, `k` [H, 3] itself, and `own` [H] its place. Of two waves, [H, H], `added` and `less` are the places of sum
    and difference, and `sign`, int8, is −1 where that of the opposite of the difference is meant. Places are unsigned,
    uint32, and widened where read: of a signed one numba asks whether it counts from the end, which keeps loops from
    vectors.
    """

    plane: np.ndarray
    counts: np.ndarray
    x: np.ndarray
    pair: np.ndarray
    k: np.ndarray
    own: np.ndarray
    added: np.ndarray
    less: np.ndarray
    sign: np.ndarray


def waves(steps: np.ndarray, unit: float) -> Waves:
    """Return the tables of waves k = `unit` n of numbers n int64 [H, 3] with n_x ≥ 0."""
    reach = 4 * int((steps**2).sum(1).max(initial=0))
    top = math.isqrt(reach)
    line = np.arange(-top, top + 1)
    plane = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    square = (plane**2).sum(1)
    nearest = np.argsort(square, kind="stable")[: int((square <= reach).sum())]
    plane, square = plane[nearest], square[nearest]
    counts = np.searchsorted(square, reach - np.arange(top + 1) ** 2, side="right")
    number = np.zeros((2 * top + 1, 2 * top + 1), np.int32)
    number[plane[:, 0] + top, plane[:, 1] + top] = np.arange(len(plane))
    stride = np.int32(ROWS * tiled(len(plane)))

    def place(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return x * stride + number[y + top, z + top]

    x, y, z = steps.astype(np.int32).T
    added = place(*(n[:, None] + n for n in (x, y, z)))
    sign = np.where(x[:, None] < x, np.int8(-1), np.int8(1))
    less = place(*(sign * (n[:, None] - n) for n in (x, y, z)))
    return Waves(
        plane, counts, steps[:, 0].astype(np.uint64), number[y + top, z + top].astype(np.uint64), unit * steps,
        place(x, y, z).astype(np.uint32), added.astype(np.uint32), less.astype(np.uint32), sign,
    )  # fmt: skip


def shape_of(waves: Waves) -> tuple[int, int]:
    """Return the shape of the sums with the room for what is added to them."""
    return ROWS * len(waves.counts) + EDGE, tiled(len(waves.plane))


@inline
def turn(phases, turns):
    """Set turns [2, 3, 2 t + 1] to cos and sin of q times a sphere's phases [3], q = −t … t."""
    top = turns.shape[2] // 2
    for axis in range(3):
        c, s = np.cos(phases[axis]), np.sin(phases[axis])
        x, y = 1.0, 0.0
        for q in range(top + 1):
            turns[0, axis, top + q] = turns[0, axis, top - q] = x
            turns[1, axis, top + q], turns[1, axis, top - q] = y, -y
            x, y = x * c - y * s, x * s + y * c


@inline
def spread(waves, turns, cosine, sine):
    """Set rows [P] to cos and sin of q_y y + q_z z of a sphere."""
    top, plane = turns.shape[2] // 2, waves.plane
    for p in range(len(plane)):
        y, z = np.uint64(top + plane[p, 0]), np.uint64(top + plane[p, 1])
        a, b, c, d = turns[0, 1, y], turns[1, 1, y], turns[0, 2, z], turns[1, 2, z]
        cosine[p], sine[p] = a * c - b * d, a * d + b * c


@inline
def add_up(waves, turns, weights, count, sums, numbers):
    """Add to the sums what up to four spheres bring, whose planes, cos and sin by turns, are their last eight rows.

    Sums, of `shape_of`: of each q_x four rows, cos and sin of q · r times the first weight [4, 2] of a sphere, and
    times the second. `turns` [4, 2, 3, 2 t + 1]; numbers [32] are room.
    """
    top, source = len(waves.counts) - 1, len(sums) - EDGE
    fill(numbers, 0.0)
    for x in range(top + 1):
        for i in range(count):
            c, s = turns[i, 0, 0, top + x], turns[i, 1, 0, top + x]
            for k in range(2):
                first, second, w = 2 * k * EDGE + 2 * i, (2 * k + 1) * EDGE + 2 * i, weights[i, k]
                numbers[first], numbers[first + 1] = w * c, -w * s
                numbers[second], numbers[second + 1] = w * s, w * c
        for column in range(0, waves.counts[x], EDGE):
            add_tile(sums, numbers, source, ROWS * x, column)
