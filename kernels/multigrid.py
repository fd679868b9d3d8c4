"""The multigrid preconditioner of homogenisation on the CPU, its finest level: scalar loops under numba.

A sweep is Gauss-Seidel over strips of lines along z, each strip relaxed as a whole. The first planes of all parts come
first, so that threads can share the rest: an order like any other, whatever their number. With M its matrix, M + Mᵀ − B
is positive for a damping below 1, so sweeps forth and back contract in B's norm, on any medium. With coarse bonds of at
least half the sum of the fine ones, what a level makes of a right side then has eigenvalues λ in (0, 2) where the
solution has 1; done twice (`gpuion.kernels.blocks`) it has λ (2 − λ) in (0, 1]. So, by induction from the one block,
the preconditioner is symmetric and positive.

Planes go through the cache once on the way down, and once on the way up: what is left of a plane is added up one plane
behind the sweep, and a plane gets the values of the blocks one plane ahead of it.

Letters and fields in planes: see `gpuion.kernels.levels`.
"""

import numpy as np

from gpuion.kernels.blocks import gather, relax
from gpuion.kernels.levels import (
    around,
    bounds,
    clear,
    close,
    height_of,
    inline,
    jit,
    lend,
    level_of,
    neighbours,
    room_of,
)


@inline
def _sweep(levels, c, t, x, before, after, back, out):
    """Relax t towards B t = c in plane x between two others, strip by strip."""
    _, Y, Z, _ = levels.table[0]
    W, damping, d = Z + 2, levels.weights[0], levels.d
    height = height_of(Y, Z)
    strips = (Y + height - 1) // height
    for k in range(strips):
        first = (strips - 1 - k if back else k) * height + 1
        last = min(first + height - 1, Y)
        neighbours(t, x, before, after, first, last, W, out)
        i, j = first * W, (last + 1) * W
        relax(d[x, i:j], c[x, i:j], t[x, i:j], out, damping)
        close(t[x], first, last, Y, Z)


@jit
def descend(levels, row, z, begun, heads, k, m):
    """Take what the last step left of r; relax z from 0; set the right side of the blocks, in parts k … m − 1.

    Of the first planes of the parts (heads), which wait for `collect` with their share in the blocks, or of all
    others, which depend on no other part's. Σ s r of each plane is left in `sums`.
    """
    levels, row, z = lend(levels), lend(row), lend(z)
    X, _, Z, _ = levels.table[0]
    blocks = level_of(row.coarse[1], levels.table, 1)
    out = np.empty(room_of(Z), z.dtype)
    for part in range(k, m):
        first, end = bounds(X, part)
        if heads:
            _enter(levels, row, z, first, X, X, begun, out)
            continue
        clear(blocks[first // 2 : max(1, end // 2)])
        for x in range(first + 1, end):
            _enter(levels, row, z, x, x - 1, end % X if x == end - 1 else X, begun, out)
            if x > first + 1:
                _collect(levels, row.r, z, x - 1, blocks, out)
        if end - 1 > first:
            _collect(levels, row.r, z, end - 1, blocks, out)


@inline
def _enter(levels, row, z, x, before, after, begun, out):
    """Take what the last step left of a plane of r, and relax z from 0, between planes already relaxed or of zeros."""
    _, Y, Z, _ = levels.table[0]
    W, total = Z + 2, 0.0
    if begun:
        for y in range(1, Y + 1):
            i, j = y * W + 1, (y + 1) * W - 1
            total += _reduce(row.r[x, i:j], row.z[x, i:j], levels.s[x, i:j], row.scale)
    row.sums[x] = total
    for i in range(len(z[x])):
        z[x, i] = 0
    _sweep(levels, row.r, z, x, before, after, False, out)


@inline
def _reduce(r, q, s, scale):
    """Take the image q of a step, and of s what the step before left, from a line of r; return Σ s r."""
    total, step, drift = 0.0, scale[1], scale[2]
    for z in range(len(r)):
        r[z] -= step * q[z] + drift * s[z]
        total += np.float64(r[z]) * np.float64(s[z])
    return total


@jit
def collect(levels, row, z, k, m):
    """Add to the right side of the blocks what is left of the first planes of parts k … m − 1."""
    levels, row, z = lend(levels), lend(row), lend(z)
    X, _, Z, _ = levels.table[0]
    blocks = level_of(row.coarse[1], levels.table, 1)
    out = np.empty(room_of(Z), z.dtype)
    for part in range(k, m):
        _collect(levels, row.r, z, bounds(X, part)[0], blocks, out)


@inline
def _collect(levels, c, t, x, blocks, out):
    """Add what is left of a plane of sites, s (c − B t), to the right side of its blocks."""
    X, Y, Z, _ = levels.table[0]
    A, B, C, _ = levels.table[1]
    W = Z + 2
    height = height_of(Y, Z)
    before, after = around(x, X)
    for first in range(1, Y + 1, height):
        last = min(first + height - 1, Y)
        neighbours(t, x, before, after, first, last, W, out)
        i, j = first * W, (last + 1) * W
        s, d, r, here = levels.s[x, i:j], levels.d[x, i:j], c[x, i:j], t[x, i:j]
        for z in range(j - i):
            out[z] = s[z] * (r[z] + out[z] - d[z] * here[z])
        gather(out, first, last, Z, blocks[min(x // 2, A - 1)], B, C)


@jit
def spread(levels, row, z, k, m):
    """Add s times the values of the blocks to z, in the first planes of parts k … m − 1."""
    levels, row, z = lend(levels), lend(row), lend(z)
    blocks = level_of(row.coarse[0], levels.table, 1)
    for part in range(k, m):
        _spread(levels, z, bounds(levels.table[0, 0], part)[0], blocks)


@jit
def ascend(levels, row, z, heads, k, m):
    """Relax z backwards in parts k … m − 1, with the values of the blocks; set `sums` to rᵀz of each plane.

    Of all planes but the first of each part, or of these (heads), which `spread` has been to.
    """
    levels, row, z = lend(levels), lend(row), lend(z)
    X, _, Z, _ = levels.table[0]
    blocks = level_of(row.coarse[0], levels.table, 1)
    out = np.empty(room_of(Z), z.dtype)
    for part in range(k, m):
        first, end = bounds(X, part)
        if heads:
            _leave(levels, row, z, first, out)
            continue
        if end - 1 > first:
            _spread(levels, z, end - 1, blocks)
        for x in range(end - 1, first, -1):
            if x - 1 > first:
                _spread(levels, z, x - 1, blocks)
            _leave(levels, row, z, x, out)


@inline
def _spread(levels, t, x, blocks):
    """Add s times the values of the blocks to a plane of sites."""
    _, Y, Z, _ = levels.table[0]
    A, B, C, _ = levels.table[1]
    W, plane = Z + 2, blocks[min(x // 2, A - 1)]
    for y in range(1, Y + 1):
        block = plane[(min((y - 1) // 2, B - 1) + 1) * (C + 2) + 1 :]
        factor, here = levels.s[x, y * W + 1 : (y + 1) * W - 1], t[x, y * W + 1 : (y + 1) * W - 1]
        for c in range(Z // 2):
            here[2 * c] += factor[2 * c] * block[c]
            here[2 * c + 1] += factor[2 * c + 1] * block[c]
        if Z % 2:
            here[Z - 1] += factor[Z - 1] * block[C - 1]
    close(t[x], 1, Y, Y, Z)


@inline
def _leave(levels, row, z, x, out):
    """Relax a plane of z backwards, and add up rᵀz over it, float64, line by line."""
    X, Y, Z, _ = levels.table[0]
    W, total = Z + 2, 0.0
    before, after = around(x, X)
    _sweep(levels, row.r, z, x, before, after, True, out)
    for y in range(1, Y + 1):
        i, j = y * W + 1, (y + 1) * W - 1
        here, there, part = row.r[x, i:j], z[x, i:j], 0.0
        for k in range(Z):
            part += np.float64(here[k]) * np.float64(there[k])
        total += part
    row.sums[x] = total
