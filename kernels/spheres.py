"""Waves seen by one sphere's voxels, or by those it gains and loses as it moves: scalar loops under numba.

Legend: V voxels along an edge, W those of a sphere at most, K waves 0 … K − 1 along an axis; modes (k, l, m) of waves
along x, y, z, of which l and −l are apart and −k is made of what k is. Voxels are counted on beyond the cell's faces.
"""

from typing import NamedTuple

import numpy as np

from gpuion.kernels.rows import add_rows, aligned, fill, inline, inside, span

LINES = 8  # of one l each, worked on at once: the planes' parts, 40 kB, stay in the first cache


class Modes(NamedTuple):
    """What the modes of all structures share.

    Attributes
    ----------
    cosine, sine : float32 [V, K]
        Of 2π times the product of a voxel and a wave number over V.
    lines : int64 [K]
        L of the blocks of k.
    group : int64 [K, K]
        A number for k² + l².
    waves : int64 [groups]
        One more than the largest m that counts.
    shell : int64 [groups, K]
        The first shell that a mode's power goes to.
    low, high : float64 [groups, K]
        Its weight in that and in the next one.
    scale : float32
    """

    cosine: np.ndarray
    sine: np.ndarray
    lines: np.ndarray
    group: np.ndarray
    waves: np.ndarray
    shell: np.ndarray
    low: np.ndarray
    high: np.ndarray
    scale: np.float32


def modes(V: int, weights: np.ndarray, most: int) -> Modes:
    """Return the modes with weights [k, l, m, shell] above 0, for images of `most` voxels inside spheres.

    Weights are those of `gpuion.layers.RadialSpectrum`, of which wave numbers 0, 1, 2 … along each axis are read.
    """
    K = int(np.flatnonzero((weights > 0).any((0, 1, 3))).max()) + 1
    weights = weights[:K, :K, :K]
    used = (weights > 0).any(-1)
    lines = np.array([np.flatnonzero(used[k].any(-1)).max(initial=-1) + 1 for k in range(K)])
    squares = np.arange(K)[:, None] ** 2 + np.arange(K) ** 2
    _, where, group = np.unique(squares, return_index=True, return_inverse=True)
    one = weights.reshape(K * K, K, -1)[where]  # of each group
    shell = (one > 0).argmax(-1)
    pad = np.concatenate([one, np.zeros_like(one[..., :1])], -1)
    low, high = (np.take_along_axis(pad, shell[..., None] + i, -1)[..., 0] for i in (0, 1))
    angle = 2 * np.pi / V * (np.arange(V)[:, None] * np.arange(K) % V)
    scale = 2.0 ** np.floor(np.log2(2**31 / max(most, 1)))
    return Modes(
        np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32), lines, group.reshape(K, K),
        ((low > 0) * np.arange(1, K + 1)).max(1), shell, low, high, np.float32(scale),
    )  # fmt: skip


def size(modes: Modes) -> int:
    """Return how many numbers the modes of a structure are."""
    return int(len(modes.lines) * (8 * modes.lines.sum() - 4 * modes.lines[0]))


class Bench(NamedTuple):
    """One thread's room to work in, for up to two spheres: where one was, and where it is.

    Attributes
    ----------
    rows : int64 [2, W, W, 2]
        The first voxel of each row along z, and one past the last.
    box : int64 [2, 3, 2]
        Where they begin along x, y, z, and in how many rows, at most, they lie.
    prefix : float32 [2, W + 1, K]
        Sums of exp(−i m z) up to each z, real and imaginary parts.
    along : float32 [2, W, W K]
        Sums along z, [part, y, x and m].
    line : float32 [4, W K]
    planes : float32 [2, 2, 2, W, K K]
        Sums along z and y, [sphere, l or −l, part, x, l and m].
    depth : int64 [2]
        The number of x in them, the next multiple of four.
    turns : float32 [2, K, 2, W]
        Cosine and sine of k x.
    sums : float32 [4, …]
        Sums over x: times the cosine, both parts, then times the sine.
    power : float32 […]
    groups : float64 [groups, K]
    """

    rows: np.ndarray
    box: np.ndarray
    prefix: np.ndarray
    along: np.ndarray
    line: np.ndarray
    planes: np.ndarray
    depth: np.ndarray
    turns: np.ndarray
    sums: np.ndarray
    power: np.ndarray
    groups: np.ndarray


def benches(modes: Modes, W: int, threads: int) -> Bench:
    """Return the rooms of all threads, in arrays of one more dimension."""
    K, W, T = len(modes.lines), (W + 3) // 4 * 4, threads
    pitch = K * K // 16 * 16 + 16  # never 4096 bytes: the rows would meet in the same places of the first cache
    line = LINES * K // 16 * 16 + 16
    return Bench(
        np.zeros((T, 2, W, W, 2), np.int64), np.zeros((T, 2, 3, 2), np.int64), aligned(T, 2, W + 1, K),
        aligned(T, 2, W, W * K), aligned(T, 4, W * K), aligned(T, 2, 2, 2, W, pitch), np.zeros((T, 2), np.int64),
        aligned(T, 2, K, 2, W), aligned(T, 4, line), aligned(T, line), np.zeros((T, *modes.low.shape)),
    )  # fmt: skip


@inline
def bench(all_, t):
    """Return the room of one thread."""
    return Bench(
        all_.rows[t], all_.box[t], all_.prefix[t], all_.along[t], all_.line[t], all_.planes[t], all_.depth[t],
        all_.turns[t], all_.sums[t], all_.power[t], all_.groups[t],
    )  # fmt: skip


@inline
def fours(n):
    """Return the next multiple of four, of rows that `add_rows` takes."""
    return (n + 3) // 4 * 4


@inline
def find_rows(center, radius, spacing, rows, box):
    """Set the rows [W, W, 2] of a sphere's voxels, first and one past the last, and the box [3, 2]: first and number.

    Voxels are counted on beyond the cell's faces. Rows are counted from the box's corner.
    """
    square = radius * radius
    first_x, end_x = span(center[0], radius, spacing)
    first_y, end_y = span(center[1], radius, spacing)
    low, high = (2**62, 2**62, 2**62), (-(2**62), -(2**62), -(2**62))
    for x in range(first_x, end_x):
        dx = (x + 0.5) * spacing - center[0]
        for y in range(first_y, end_y):
            dy = (y + 0.5) * spacing - center[1]
            plane = dx * dx + dy * dy
            first, end = 0, 0
            if plane < square:
                first, end = inside(center[2], plane, square, spacing)
                if first < end:
                    low = min(low[0], x), min(low[1], y), min(low[2], first)
                    high = max(high[0], x + 1), max(high[1], y + 1), max(high[2], end)
            rows[x - first_x, y - first_y, 0], rows[x - first_x, y - first_y, 1] = first, end
    if low[0] > high[0]:  # not a single voxel
        low = high = (first_x, first_y, 0)
    for axis in range(3):
        box[axis, 0], box[axis, 1] = low[axis], high[axis] - low[axis]
    shift_x, shift_y = low[0] - first_x, low[1] - first_y
    for x in range(box[0, 1]):
        for y in range(box[1, 1]):
            first, end = rows[x + shift_x, y + shift_y, 0], rows[x + shift_x, y + shift_y, 1]
            rows[x, y, 0], rows[x, y, 1] = (first, end) if first < end else (low[2], low[2])


@inline
def _along_z(modes, rows, box, low, times, prefix, along):
    """Add `times` the sums of exp(−i m z) over rows whose box stands at `low` [2] of that of `along`."""
    V, K = modes.cosine.shape
    fill(prefix[0, 0], np.float32(0))
    fill(prefix[1, 0], np.float32(0))
    for z in range(box[2, 1]):
        at = (box[2, 0] + z) % V
        cosine, sine = modes.cosine[at], modes.sine[at]
        a, b, c, d = prefix[0, z], prefix[0, z + 1], prefix[1, z], prefix[1, z + 1]
        for m in range(K):
            b[m] = a[m] + cosine[m]
        for m in range(K):
            d[m] = c[m] - sine[m]
    for part in range(2):
        for y in range(box[1, 1]):
            for x in range(box[0, 1]):
                first, end = rows[x, y, 0] - box[2, 0], rows[x, y, 1] - box[2, 0]
                at = (x + low[0]) * K
                a, b, out = prefix[part, end], prefix[part, first], along[part, y + low[1], at : at + K]
                for m in range(K):
                    out[m] += times * (a[m] - b[m])


@inline
def _along_y(modes, along, low, size, line, planes):
    """Set planes [l or −l, part, x, l and m] from sums along z of a box that begins at voxel `low` [2]."""
    V, K = modes.cosine.shape
    count = fours(size[1])
    turns = np.zeros((2, count), np.float32)
    n = size[0] * K
    for l in range(K):  # noqa: E741
        for y in range(size[1]):
            at = (low[1] + y) % V
            turns[0, y], turns[1, y] = modes.cosine[at, l], modes.sine[at, l]
        for i in range(4):
            fill(line[i, :n], np.float32(0))
            add_rows(along[i % 2], 0, turns[i // 2], line[i, :n])
        for x in range(size[0]):
            for sign in range(2):
                turn = np.float32(1 - 2 * sign)
                a, b = line[0, x * K : (x + 1) * K], line[1, x * K : (x + 1) * K]
                c, d = line[2, x * K : (x + 1) * K], line[3, x * K : (x + 1) * K]
                real, imaginary = planes[sign, 0, x, l * K : (l + 1) * K], planes[sign, 1, x, l * K : (l + 1) * K]
                if l == 0 and sign == 1:
                    continue
                for m in range(K):
                    real[m] = a[m] + turn * d[m]
                for m in range(K):
                    imaginary[m] = b[m] - turn * c[m]


@inline
def _set_up(modes, bench, which, low, size):
    """Set all but the sums over x, from sums along z of a box of `size` [2] that begins at voxel `low` [2]."""
    V, K = modes.cosine.shape
    _along_y(modes, bench.along, low, size, bench.line, bench.planes[which])
    bench.depth[which] = fours(size[0])
    for k in range(K):
        fill(bench.turns[which, k, 0], np.float32(0))
        fill(bench.turns[which, k, 1], np.float32(0))
    for x in range(size[0]):
        at = (low[0] + x) % V
        for k in range(K):
            bench.turns[which, k, 0, x], bench.turns[which, k, 1, x] = modes.cosine[at, k], modes.sine[at, k]


@inline
def _clear_along(along, size, K):
    for part in range(2):
        for y in range(size[1]):
            fill(along[part, y, : size[0] * K], np.float32(0))


@inline
def set_up(modes, bench, which, times):
    """Set up `times` a sphere whose rows and box are there."""
    box = bench.box[which]
    low, size = (box[0, 0], box[1, 0]), (box[0, 1], box[1, 1])
    _clear_along(bench.along, size, len(modes.lines))
    _along_z(modes, bench.rows[which], box, (0, 0), np.float32(times), bench.prefix, bench.along)
    _set_up(modes, bench, which, low, size)


@inline
def set_up_difference(modes, bench, shift):
    """Set up what a sphere where it is has more than where it was; return as how many: two if these are far apart.

    `shift` [2] takes the second one's voxels to the image of the cell that the first one's lie in.
    """
    was, now, W = bench.box[0], bench.box[1], bench.along.shape[1]
    x, y = now[0, 0] + shift[0], now[1, 0] + shift[1]
    low = min(was[0, 0], x), min(was[1, 0], y)
    size = max(was[0, 0] + was[0, 1], x + now[0, 1]) - low[0], max(was[1, 0] + was[1, 1], y + now[1, 1]) - low[1]
    one = np.float32(1)
    if max(size[0], size[1]) > W:
        set_up(modes, bench, 0, -one)
        set_up(modes, bench, 1, one)
        return 2
    _clear_along(bench.along, size, len(modes.lines))
    at = was[0, 0] - low[0], was[1, 0] - low[1]
    _along_z(modes, bench.rows[0], was, at, -one, bench.prefix, bench.along)
    at = x - low[0], y - low[1]
    _along_z(modes, bench.rows[1], now, at, one, bench.prefix, bench.along)
    _set_up(modes, bench, 0, low, size)
    return 1
