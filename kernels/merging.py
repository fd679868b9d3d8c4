"""The making of a hierarchy: site factors into planes, their sums of neighbours, and bonds between blocks.

Letters, parts and fields in planes: see `gpuion.kernels.levels`.
"""

import numpy as np

from gpuion.kernels.levels import around, bonds_of, bounds, close, inline, jit, lend, neighbours


@inline
def _enter(levels, field, weakest, x):
    """Write the site factors of a plane."""
    _, Y, Z = field.shape
    W, plane = Z + 2, levels.s[x]
    for y in range(Y):
        here, to = field[x, y], plane[(y + 1) * W + 1 : (y + 2) * W - 1]
        for z in range(Z):
            to[z] = here[z] if here[z] >= weakest else 0
    close(plane, 1, Y, Y, Z)


@jit
def enter(levels, field, weakest, k, m):
    """Write the site factors [X, Y, Z] of the first and the last plane of parts k … m − 1, which others look at."""
    levels, field = lend(levels), lend(field)
    for part in range(k, m):
        first, end = bounds(len(field), part)
        _enter(levels, field, weakest, first)
        if end - 1 > first:
            _enter(levels, field, weakest, end - 1)


@jit
def join(levels, field, weakest, k, m):
    """Write the factors of the other planes of parts k … m − 1, all sites' d, Σ s², and bonds between blocks.

    A site that is open with all its neighbours shut gets s = 0, which is nothing to these.
    """
    levels, field = lend(levels), lend(field)
    X, Y, Z, _ = levels.table[0]
    W = Z + 2
    out, line = np.empty(W, levels.s.dtype), np.empty(Z, levels.s.dtype)
    for part in range(k, m):
        first, end = bounds(X, part)
        for x in range(first, end):
            if x + 2 < end:
                _enter(levels, field, weakest, x + 1)
            before, after = around(x, X)
            levels.squares[x] = 0
            for y in range(1, Y + 1):
                neighbours(levels.s, x, before, after, y, y, W, out)
                i, j = y * W + 1, (y + 1) * W - 1
                levels.squares[x] += _divide(out, levels.s[x, i:j], levels.d[x, i:j])
            if len(levels.table) > 1:
                _merge_sites(levels, x, after, line)


@inline
def _divide(near, s, d):
    """Set d of a line, of N(s) from one site before it on, and s to 0 where N(s) is; return Σ s²."""
    near = lend(near)[1:]
    total, zero = 0.0, s.dtype.type(0)  # a plain 0 would turn all into float64
    for z in range(len(s)):
        here = s[z] if near[z] > 0 else zero
        d[z] = near[z] / here if here > 0 else zero
        s[z] = here
        total += np.float64(here) * np.float64(here)
    return total


@inline
def _merge_sites(levels, x, after, line):
    """Add up the bonds s s' from a plane of sites to the next, and in it, between blocks."""
    X, Y, Z, _ = levels.table[0]
    A, B, C, _ = levels.table[1]
    s, coarse, stiff = levels.s, bonds_of(levels, 1), levels.weights[1]
    V, W = Z + 2, C + 2
    a, a_next = min(x // 2, A - 1), min((x + 1) % X // 2, A - 1)
    for y in range(Y):
        b, b_next = min(y // 2, B - 1), min((y + 1) % Y // 2, B - 1)
        i, j = (y + 1) * V + 1, (b + 1) * W + 1
        here = s[x, i : i + Z]
        if a != a_next:
            _product(here, s[after, i : i + Z], line)
            _pair_up(line, coarse[0][a, j : j + C], stiff)
        if b != b_next:
            _product(here, s[x, i + V : i + V + Z], line)
            _pair_up(line, coarse[1][a, j : j + C], stiff)
        if C > 1:
            _product(here, s[x, i + 1 : i + 1 + Z], line)
            _add_ends(line, coarse[2][a, j : j + C], stiff)


@inline
def _product(a, b, out):
    """Set `out` to a b."""
    for i in range(len(out)):
        out[i] = a[i] * b[i]


@inline
def _add_ends(line, to, stiff):
    """Add the bonds along a line from the last site of each block to the next block."""
    for c in range(len(to) - 1):
        to[c] += stiff * line[2 * c + 1]
    to[len(to) - 1] += stiff * line[len(line) - 1]


@inline
def _pair_up(line, to, stiff):
    """Add the bonds of a line of sites to those of its blocks."""
    line = lend(line)
    Z, C = len(line), len(to)
    if Z == 1:
        to[0] += stiff * line[0]
        return
    for c in range(C):
        to[c] += stiff * (line[2 * c] + line[2 * c + 1])
    if Z % 2:
        to[C - 1] += stiff * line[Z - 1]


@jit
def add_up(levels, k, m):
    """Add up the bonds of each block in parts k … m − 1 of the first coarse level."""
    levels = lend(levels)
    X = levels.table[0, 0]
    for part in range(k, m):
        first, end = bounds(X, part)
        _add_up(levels, 1, first // 2, max(1, end // 2))


@inline
def _add_up(levels, level, begin, end):
    """Add up the bonds of each block of planes begin … end − 1 of a coarse level."""
    A, B, C, _ = levels.table[level]
    bonds, W = bonds_of(levels, level), C + 2
    for a in range(begin, end):
        for axis in range(3):
            close(bonds[axis][a], 1, B, B, C)
        before, _ = around(a, A)
        for b in range(1, B + 1):
            i, j = b * W + 1, (b + 1) * W - 1
            ahead, behind = bonds[0][a, i:j], bonds[0][before, i:j]
            right, left = bonds[1][a, i:j], bonds[1][a, i - W : j - W]
            above, below = bonds[2][a, i:j], bonds[2][a, i - 1 : j - 1]
            total = bonds[3][a, i:j]
            for c in range(C):
                total[c] = ((ahead[c] + behind[c]) + (right[c] + left[c])) + (above[c] + below[c])


@jit
def coarsen(levels):
    """Fill the levels from the second coarse one on."""
    levels = lend(levels)
    for level in range(2, len(levels.table)):
        _merge(levels, level - 1)
        _add_up(levels, level, 0, levels.table[level, 0])


@inline
def _merge(levels, level):
    """Add up the bonds between blocks of the next level."""
    X, Y, Z, _ = levels.table[level]
    A, B, C, _ = levels.table[level + 1]
    fine, coarse, stiff = bonds_of(levels, level), bonds_of(levels, level + 1), levels.weights[1]
    V, W = Z + 2, C + 2
    for x in range(X):
        a, a_next = min(x // 2, A - 1), min((x + 1) % X // 2, A - 1)
        for y in range(Y):
            b, b_next = min(y // 2, B - 1), min((y + 1) % Y // 2, B - 1)
            i, j = (y + 1) * V + 1, (b + 1) * W + 1
            if a != a_next:
                _pair_up(fine[0][x, i : i + Z], coarse[0][a, j : j + C], stiff)
            if b != b_next:
                _pair_up(fine[1][x, i : i + Z], coarse[1][a, j : j + C], stiff)
            if C > 1:
                _add_ends(fine[2][x, i : i + Z], coarse[2][a, j : j + C], stiff)
