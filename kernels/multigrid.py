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

from gpuion.kernels.levels import bonds_of, clear, close, flow, height_of, inline, jit, level_of, neighbours, parts_of


@inline
def _relax(inverse, c, t, out, damping):
    """Relax some sites towards t = (c + out) · inverse; those without bonds stay 0, whatever a coarser level says."""
    for z in range(len(t)):
        t[z] = t[z] + damping * (inverse[z] * (c[z] + out[z]) - t[z]) if inverse[z] > 0 else 0


@inline
def _sweep_planes(levels, c, t, begin, end, back, out):
    """Relax t towards B t = c in planes begin … end − 1, strip by strip."""
    X, Y, Z, _ = levels.table[0]
    W, damping, inverse = Z + 2, levels.weights[0], levels.inverse
    height = height_of(Y, Z)
    strips = (Y + height - 1) // height
    for k in range((end - begin) * strips):
        n = (end - begin) * strips - 1 - k if back else k
        x, first = begin + n // strips, n % strips * height + 1
        last = min(first + height - 1, Y)
        neighbours(t, x, X, first, last, W, out)
        i, j = first * W, (last + 1) * W
        _relax(inverse[x, i:j], c[x, i:j], t[x, i:j], out, damping)
        close(t[x], first, last, Y, Z)


@jit
def sweep(levels, c, t, back, heads, k, m):
    """Relax t in parts k … m − 1: their first planes (heads), or else all others, which depend on no other part's."""
    X, Y, Z, _ = levels.table[0]
    parts = parts_of(X)
    out = np.empty(height_of(Y, Z) * (Z + 2), t.dtype)
    for part in range(k, m):
        first, end = part * X // parts, (part + 1) * X // parts
        if heads:
            _sweep_planes(levels, c, t, first, first + 1, back, out)
        else:
            _sweep_planes(levels, c, t, first + 1, end, back, out)


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
    for y in range(first, last + 1):
        line = out[(y - first) * (Z + 2) + 1 :]
        block = plane[(min((y - 1) // 2, B - 1) + 1) * (C + 2) + 1 :]
        for c in range(Z // 2):
            block[c] += line[2 * c] + line[2 * c + 1]
        if Z % 2:
            block[C - 1] += line[Z - 1]


@jit
def restrict(levels, c, t, flat, k, m):
    """Set what is left of each block's right side, Σ s (c − B t), in parts k … m − 1 of the first coarse level."""
    X, Y, Z, _ = levels.table[0]
    A, B, C, _ = levels.table[1]
    coarse, parts = level_of(flat[1], levels.table, 1), parts_of(X)
    W = Z + 2
    height = height_of(Y, Z)
    out = np.empty(height * W, t.dtype)
    begin, end = k * A // parts, m * A // parts
    clear(coarse[begin:end])
    for x in range(2 * begin, X if end == A else 2 * end):
        for first in range(1, Y + 1, height):
            last = min(first + height - 1, Y)
            neighbours(t, x, X, first, last, W, out)
            i, j = first * W, (last + 1) * W
            s, d, r, here = levels.s[x, i:j], levels.d[x, i:j], c[x, i:j], t[x, i:j]
            for z in range(j - i):
                out[z] = s[z] * (r[z] + out[z] - d[z] * here[z])
            _gather(out, first, last, Z, coarse[min(x // 2, A - 1)], B, C)


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


@jit
def prolong(levels, t, flat, k, m):
    """Add s times the values of the blocks to t, in parts k … m − 1."""
    X, Y, Z, _ = levels.table[0]
    A, B, C, _ = levels.table[1]
    s, coarse, parts = levels.s, level_of(flat[0], levels.table, 1), parts_of(X)
    W = Z + 2
    for x in range(k * X // parts, m * X // parts):
        plane = coarse[min(x // 2, A - 1)]
        for y in range(1, Y + 1):
            block = plane[(min((y - 1) // 2, B - 1) + 1) * (C + 2) + 1 :]
            factor, here = s[x, y * W + 1 : (y + 1) * W - 1], t[x, y * W + 1 : (y + 1) * W - 1]
            for c in range(Z // 2):
                here[2 * c] += factor[2 * c] * block[c]
                here[2 * c + 1] += factor[2 * c + 1] * block[c]
            if Z % 2:
                here[Z - 1] += factor[Z - 1] * block[C - 1]
        close(t[x], 1, Y, Y, Z)


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
