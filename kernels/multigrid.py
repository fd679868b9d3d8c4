"""The multigrid preconditioner of homogenisation on the CPU: one W cycle, scalar loops under numba.

A sweep is Gauss-Seidel over strips of lines along z, each strip relaxed as a whole. On the finest level the first
planes of all parts come first, so that threads can share the rest: an order like any other, whatever their number.
With M its matrix, M + Mᵀ − B is positive for a damping below 1, so sweeps forth and back contract in B's norm, on any
medium. With coarse bonds of at least half the sum of the fine ones, what a level makes of a right side then has
eigenvalues λ in (0, 2) where the solution has 1; done twice (a W cycle) it has λ (2 − λ) in (0, 1]. So, by induction
from the one block, the preconditioner is symmetric and positive.

Letters and fields in planes: see `gpuion.kernels.levels`.
"""

import numpy as np

from gpuion.kernels.levels import (
    around,
    bonds_of,
    bounds,
    clear,
    close,
    flow,
    height_of,
    inline,
    jit,
    lend,
    level_of,
    neighbours,
)


@inline
def _relax(inverse, c, t, out, damping):
    """Relax some sites towards t = (c + out) · inverse; those without bonds stay 0, whatever a coarser level says."""
    for z in range(len(t)):
        t[z] = t[z] + damping * (inverse[z] * (c[z] + out[z]) - t[z]) if inverse[z] > 0 else 0


@inline
def _sweep(levels, c, t, x, before, after, back, out):
    """Relax t towards B t = c in plane x between two others, strip by strip."""
    _, Y, Z, _ = levels.table[0]
    W, damping, inverse = Z + 2, levels.weights[0], levels.inverse
    height = height_of(Y, Z)
    strips = (Y + height - 1) // height
    for k in range(strips):
        first = (strips - 1 - k if back else k) * height + 1
        last = min(first + height - 1, Y)
        neighbours(t, x, before, after, first, last, W, out)
        i, j = first * W, (last + 1) * W
        _relax(inverse[x, i:j], c[x, i:j], t[x, i:j], out, damping)
        close(t[x], first, last, Y, Z)


@jit
def descend(levels, row, z, begun, heads, k, m):
    """Take what the last step left of r; relax z from 0; set the right side of the blocks, in parts k … m − 1.

    Of the first planes of the parts (heads), which wait for `collect` with their share in the blocks, or of all
    others, which depend on no other part's. Σ s r of each plane is left in `sums`.
    """
    levels, row, z = lend(levels), lend(row), lend(z)
    X, Y, Z, _ = levels.table[0]
    blocks = level_of(row.coarse[1], levels.table, 1)
    out = np.empty(height_of(Y, Z) * (Z + 2), z.dtype)
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
    X, Y, Z, _ = levels.table[0]
    blocks = level_of(row.coarse[1], levels.table, 1)
    out = np.empty(height_of(Y, Z) * (Z + 2), z.dtype)
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
        _gather(out, first, last, Z, blocks[min(x // 2, A - 1)], B, C)


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
    X, Y, Z, _ = levels.table[0]
    blocks = level_of(row.coarse[0], levels.table, 1)
    out = np.empty(height_of(Y, Z) * (Z + 2), z.dtype)
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


@inline
def _sweep_blocks(bonds, c, t, X, Y, Z, damping, back):
    """Relax t of a coarse level."""
    W = Z + 2
    height = height_of(Y, Z)
    out = np.empty(height * W, t.dtype)
    strips = (Y + height - 1) // height
    for k in range(X * strips):
        n = X * strips - 1 - k if back else k
        x, first = n // strips, n % strips * height + 1
        last = min(first + height - 1, Y)
        flow(bonds, t, x, X, first, last, W, out)
        i, j = first * W, (last + 1) * W
        _relax(bonds[4][x, i:j], c[x, i:j], t[x, i:j], out, damping)
        close(t[x], first, last, Y, Z)


@inline
def _gather(out, first, last, Z, plane, B, C):
    """Add lines first … last to a plane of blocks."""
    out, plane = lend(out), lend(plane)
    for y in range(first, last + 1):
        line = out[(y - first) * (Z + 2) + 1 :]
        block = plane[(min((y - 1) // 2, B - 1) + 1) * (C + 2) + 1 :]
        for c in range(Z // 2):
            block[c] += line[2 * c] + line[2 * c + 1]
        if Z % 2:
            block[C - 1] += line[Z - 1]


@inline
def _restrict_blocks(bonds, c, t, X, Y, Z, coarse, A, B, C):
    """Set `coarse` to what is left of each block's right side; nothing of blocks without bonds."""
    W = Z + 2
    height = height_of(Y, Z)
    out = np.empty(height * W, t.dtype)
    clear(coarse)
    for x in range(X):
        for first in range(1, Y + 1, height):
            last = min(first + height - 1, Y)
            flow(bonds, t, x, X, first, last, W, out)
            i, j = first * W, (last + 1) * W
            d, r, here = bonds[3][x, i:j], c[x, i:j], t[x, i:j]
            for z in range(j - i):
                out[z] = r[z] + out[z] - d[z] * here[z] if d[z] > 0 else 0
            _gather(out, first, last, Z, coarse[min(x // 2, A - 1)], B, C)


@inline
def _prolong_blocks(t, X, Y, Z, coarse, A, B, C):
    """Add the values of the coarser blocks to t."""
    W = Z + 2
    for x in range(X):
        plane = coarse[min(x // 2, A - 1)]
        for y in range(1, Y + 1):
            block = plane[(min((y - 1) // 2, B - 1) + 1) * (C + 2) + 1 :]
            here = t[x, y * W + 1 : (y + 1) * W - 1]
            for c in range(Z // 2):
                here[2 * c] += block[c]
                here[2 * c + 1] += block[c]
            if Z % 2:
                here[Z - 1] += block[C - 1]
        close(t[x], 1, Y, Y, Z)


@jit
def cycle(levels, flat):
    """Solve the first coarse level nearly, by two W cycles; `flat` has its t and right side."""
    levels, flat = lend(levels), lend(flat)
    table, damping = levels.table, levels.weights[0]
    last = len(table) - 1
    visits = np.zeros(last + 1, np.int64)
    level = 1
    clear(level_of(flat[0], table, level))
    while True:
        while level < last:
            X, Y, Z, _ = table[level]
            A, B, C, _ = table[level + 1]
            bonds, t, c = bonds_of(levels, level), level_of(flat[0], table, level), level_of(flat[1], table, level)
            _sweep_blocks(bonds, c, t, X, Y, Z, damping, False)
            _restrict_blocks(bonds, c, t, X, Y, Z, level_of(flat[1], table, level + 1), A, B, C)
            level += 1
            visits[level] = 0
            clear(level_of(flat[0], table, level))
        again = False
        while level > 1 and not again:  # the last level is one block, whose value is 0
            level -= 1
            X, Y, Z, _ = table[level]
            A, B, C, _ = table[level + 1]
            bonds, t, c = bonds_of(levels, level), level_of(flat[0], table, level), level_of(flat[1], table, level)
            _prolong_blocks(t, X, Y, Z, level_of(flat[0], table, level + 1), A, B, C)
            _sweep_blocks(bonds, c, t, X, Y, Z, damping, True)
            visits[level] += 1
            again = visits[level] < 2
        if not again:
            break
