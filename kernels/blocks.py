"""The coarse levels of multigrid on the CPU: scalar loops under numba.

A visit to a level is a sweep forth, two visits to the next, and a sweep back (a W cycle), as on the finest one: see
`gpuion.kernels.multigrid`. Of large lattices the first coarse level is cut into parts, which threads share.

Letters and fields in planes: see `gpuion.kernels.levels`. `flat` has t and right side of all coarse levels.
"""

import numpy as np

from gpuion.kernels.levels import (
    around,
    bonds_of,
    bounds,
    clear,
    close,
    height_of,
    inline,
    jit,
    lend,
    level_of,
    room_of,
)


@inline
def relax(d, c, t, out, damping):
    """Relax some sites towards t = (c + out) / d; those without bonds stay 0, whatever a coarser level says.

    That division takes no time that counts; fields of 1 / d would.
    """
    zero = t.dtype.type(0)
    for z in range(len(t)):
        t[z] = t[z] + damping * ((c[z] + out[z]) / d[z] - t[z]) if d[z] > 0 else zero


@inline
def gather(out, first, last, Z, plane, B, C):
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
def _flow(bonds, t, x, before, after, behind, first, last, W, out):
    """Set `out` to what reaches lines first … last of a plane, Σ g t over the neighbours in it and in two others.

    `behind` is the plane whose bonds lead here. No loop has more than eight inputs: see `gpuion.kernels.rows`.
    """
    out = lend(out)
    i, j = first * W, (last + 1) * W
    g, h, a, b = bonds[0][x, i:j], bonds[0][behind, i:j], t[after, i:j], t[before, i:j]
    for z in range(j - i):
        out[z] = g[z] * a[z] + h[z] * b[z]
    g, h, a, b = bonds[1][x, i:j], bonds[1][x, i - W : j - W], t[x, i + W : j + W], t[x, i - W : j - W]
    for z in range(j - i):
        out[z] += g[z] * a[z] + h[z] * b[z]
    g, h, a, b = bonds[2][x, i:j], bonds[2][x, i - 1 : j - 1], t[x, i + 1 : j + 1], t[x, i - 1 : j - 1]
    for z in range(j - i):
        out[z] += g[z] * a[z] + h[z] * b[z]


@inline
def _look_at(levels, flat, level):
    """Return a level's edges and the next one's, its bonds, t and right side, the next one's, the damping, its strips.

    Of these how many a plane has, and their lines.
    """
    table = levels.table
    t, c = level_of(flat[0], table, level), level_of(flat[1], table, level)
    to, of = level_of(flat[0], table, level + 1), level_of(flat[1], table, level + 1)
    X, Y, Z, _ = table[level]
    A, B, C, _ = table[level + 1]
    height = height_of(Y, Z)
    strips = (Y + height - 1) // height
    return (X, Y, Z), (A, B, C), bonds_of(levels, level), t, c, to, of, levels.weights[0], (strips, height)


@inline
def _sweep(view, x, before, after, back, out):
    """Relax t in plane x of a level between two others, strip by strip."""
    (X, Y, Z), _, bonds, t, c, _, _, damping, (strips, height) = view
    W, behind = Z + 2, around(x, X)[0]
    for k in range(strips):
        first = (strips - 1 - k if back else k) * height + 1
        last = min(first + height - 1, Y)
        _flow(bonds, t, x, before, after, behind, first, last, W, out)
        i, j = first * W, (last + 1) * W
        relax(bonds[3][x, i:j], c[x, i:j], t[x, i:j], out, damping)
        close(t[x], first, last, Y, Z)


@inline
def _collect(view, x, out):
    """Add what is left of a plane to the right side of the next level; nothing of blocks without bonds."""
    (X, Y, Z), (A, B, C), bonds, t, c, _, blocks, _, (_, height) = view
    W, zero = Z + 2, out.dtype.type(0)
    before, after = around(x, X)
    for first in range(1, Y + 1, height):
        last = min(first + height - 1, Y)
        _flow(bonds, t, x, before, after, before, first, last, W, out)
        i, j = first * W, (last + 1) * W
        d, r, here = bonds[3][x, i:j], c[x, i:j], t[x, i:j]
        for z in range(j - i):
            out[z] = r[z] + out[z] - d[z] * here[z] if d[z] > 0 else zero
        gather(out, first, last, Z, blocks[min(x // 2, A - 1)], B, C)


@inline
def _spread(view, x):
    """Add the values of the next level's blocks to a plane."""
    (_, Y, Z), (A, B, C), _, t, _, blocks, _, _, _ = view
    W, plane = Z + 2, blocks[min(x // 2, A - 1)]
    for y in range(1, Y + 1):
        block = plane[(min((y - 1) // 2, B - 1) + 1) * (C + 2) + 1 :]
        here = t[x, y * W + 1 : (y + 1) * W - 1]
        for c in range(Z // 2):
            here[2 * c] += block[c]
            here[2 * c + 1] += block[c]
        if Z % 2:
            here[Z - 1] += block[C - 1]
    close(t[x], 1, Y, Y, Z)


@inline
def _down(view, first, end, begin, stop, again, out):
    """Relax planes begin … stop − 1 of those of a part, from 0 or again; collect what is left, but of the first."""
    X, t = view[0][0], view[3]
    for x in range(begin, stop):
        before, after = around(x, X)
        if not again:
            before = X if x == first else before
            after = X if x == first or x < end - 1 else after
            clear(t[x : x + 1])
        _sweep(view, x, before, after, False, out)
        if x > first + 1:
            _collect(view, x - 1, out)
    if stop == end and end - 1 > first:
        _collect(view, end - 1, out)


@inline
def _up(view, first, end, out):
    """Add what the next level says to a part's planes but the first, which has it, and relax them backwards."""
    X = view[0][0]
    if end - 1 > first:
        _spread(view, end - 1)
    for x in range(end - 1, first, -1):
        if x - 1 > first:
            _spread(view, x - 1)
        before, after = around(x, X)
        _sweep(view, x, before, after, True, out)


@jit
def cycle(levels, flat, top):
    """Solve a level nearly, by two visits."""
    levels, flat = lend(levels), lend(flat)
    last = len(levels.table) - 1
    visits, out = np.zeros(last + 1, np.int64), np.empty(room_of(levels.table[top, 2]), flat.dtype)
    level = top
    clear(level_of(flat[0], levels.table, last))  # one block, whose value is 0
    while level < last:
        view = _look_at(levels, flat, level)
        X = view[0][0]
        clear(view[6])
        if visits[level] == 0:
            clear(view[3])
        for x in range(X):
            before, after = around(x, X)
            _sweep(view, x, before, after, False, out)
        for x in range(X):
            _collect(view, x, out)
        level += 1
        visits[level] = 0
        while level > top and (level == last or visits[level] == 2):
            level -= 1
            view = _look_at(levels, flat, level)
            X = view[0][0]
            for x in range(X):
                _spread(view, x)
            for x in range(X - 1, -1, -1):
                before, after = around(x, X)
                _sweep(view, x, before, after, True, out)
            visits[level] += 1
        if visits[top] == 2:
            break


@jit
def descend(levels, flat, again, heads, k, m):
    """Relax the first coarse level, from 0 or again, in parts k … m − 1; set the right side of the second.

    As `gpuion.kernels.multigrid.descend`: of the first planes of the parts, or of all others.
    """
    levels, flat = lend(levels), lend(flat)
    view, out = _look_at(levels, flat, 1), np.empty(room_of(levels.table[1, 2]), flat.dtype)
    for part in range(k, m):
        first, end = bounds(view[0][0], part)
        if not heads:
            clear(view[6][first // 2 : max(1, end // 2)])
        _down(view, first, end, first + (not heads), first + 1 if heads else end, again, out)


@jit
def collect(levels, flat, k, m):
    """Add to the right side of the second coarse level what is left of the first planes of parts k … m − 1."""
    levels, flat = lend(levels), lend(flat)
    view, out = _look_at(levels, flat, 1), np.empty(room_of(levels.table[1, 2]), flat.dtype)
    for part in range(k, m):
        _collect(view, bounds(view[0][0], part)[0], out)


@jit
def spread(levels, flat, k, m):
    """Add the values of the second coarse level to the first planes of parts k … m − 1."""
    levels, flat = lend(levels), lend(flat)
    view = _look_at(levels, flat, 1)
    for part in range(k, m):
        _spread(view, bounds(view[0][0], part)[0])


@jit
def ascend(levels, flat, heads, k, m):
    """Relax the first coarse level backwards in parts k … m − 1, with the values of the second.

    As `gpuion.kernels.multigrid.ascend`: all planes but the first of each part, or these.
    """
    levels, flat = lend(levels), lend(flat)
    view, out = _look_at(levels, flat, 1), np.empty(room_of(levels.table[1, 2]), flat.dtype)
    for part in range(k, m):
        first, end = bounds(view[0][0], part)
        if heads:
            before, after = around(first, view[0][0])
            _sweep(view, first, before, after, True, out)
        else:
            _up(view, first, end, out)
