"""Conjugate gradients with a multigrid preconditioner as scalar loops under numba: homogenisation on the CPU.

The unknown is t = s∘u, for which A u = b reads B t = c with B t = d∘t − N(t), d = N(s) / s and c = b / s: bonds of
strength 1, one coefficient a site. Sites with s = 0 are left out: t = 0 there.

A coarser level has blocks of 2 sites an axis (the last of an odd edge 3), down to one block for all. u is constant
in a block, so a coarse bond is the sum of the fine ones it replaces; half of that is taken, since such u are too
stiff, by 2 where the medium is smooth. Sweeps are Gauss-Seidel over the lines along z, each relaxed as a whole. With
M their matrix, M + Mᵀ − B is positive for a damping below 1, so forth and back they contract in B's norm. With the
half, what a level makes of a right side then has eigenvalues λ in (0, 2) where the solution has 1, and done twice (a
W cycle) λ (2 − λ) in (0, 1]. So, by induction from the one block, the preconditioner is symmetric and positive on
any medium.

Sums that decide a result are float64 in one order, line by line. One thread solves a row.

Letters: X Y Z sites of a level, L levels, A B C blocks of the next. A line is the sites of one x, y; a field in lines is
[X·Y + 1, Z + 2]: beside a line the copies of its far ends, or zeros if it is one site; the last line is zeros.
"""

from typing import NamedTuple

import numba
import numpy as np

_DAMPING = 0.9  # of a sweep
_STIFF = 0.5  # of a coarse bond
_STRIP = 256  # sites relaxed at once, or a line; shorter loops cost more a site than they smooth better
_jit = numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})


class Hierarchy(NamedTuple):
    """What the rows of a structure share: s, d and 1/d of its sites in lines, and the coarser levels.

    `table` int64 [L, 4] has X, Y, Z of each level and its first place in `bonds` [5, …], where the finest is not:
    strengths along x, y, z from a block to the next, the sum of a block's six, and 1 over it. `weights` [2] are
    _DAMPING and _STIFF in the fields' precision.
    """

    s: np.ndarray
    d: np.ndarray
    inverse: np.ndarray
    table: np.ndarray
    bonds: np.ndarray
    weights: np.ndarray


class State(NamedTuple):
    """Fields of a row: c − B t, t, the search direction, work space; t and right side of the coarser levels.

    `drift` float64 [1] is how much of s there is in c − B t. Exactly there is none, but rounding leaves some, which
    no t removes: the preconditioner answers it with more and more of s, and at a contrast of 1e8 that spoils the step.
    So each step takes out what it finds.
    """

    r: np.ndarray
    t: np.ndarray
    p: np.ndarray
    z: np.ndarray
    coarse: np.ndarray
    drift: np.ndarray


def hierarchy(s: np.ndarray) -> Hierarchy:
    """Return the levels of a structure with site factors [X, Y, Z], in the precision of s."""
    sizes = [s.shape]
    while max(sizes[-1]) > 1:
        sizes.append(tuple(max(1, n // 2) for n in sizes[-1]))
    first = np.cumsum([0, 0] + [(X + 1) * (Y + 2) * (Z + 2) for X, Y, Z in sizes[1:]])
    table = np.array([(*size, at) for size, at in zip(sizes, first, strict=False)], np.int64)
    X, Y, Z = s.shape
    fields = [np.zeros((X + 1, (Y + 2) * (Z + 2)), s.dtype) for _ in range(3)]
    weights = np.array([_DAMPING, _STIFF], s.dtype)
    levels = Hierarchy(*fields, table, np.zeros((5, first[-1]), s.dtype), weights)
    _build(levels, s)
    return levels


def state(levels: Hierarchy, b: np.ndarray) -> State:
    """Return the fields of a row before its first step, from the right side b [X, Y, Z]."""
    fields = [np.zeros_like(levels.s) for _ in range(4)]
    _divide(b, levels.s, fields[0])
    return State(*fields, np.zeros_like(levels.bonds[:2]), np.zeros(1))


def solution(levels: Hierarchy, row: State, u: np.ndarray) -> None:
    """Write a row's u [X, Y, Z]."""
    _undo(row.t, levels.s, u)


@_jit
def _divide(b, s, field):
    """Set `field` to b / s, in planes."""
    X, Y, Z = b.shape
    for x in range(X):
        for y in range(Y):
            first = (y + 1) * (Z + 2) + 1
            for z in range(Z):
                here = s[x, first + z]
                field[x, first + z] = b[x, y, z] / here if here > 0 else 0


@_jit
def _undo(t, s, u):
    """Set u to t / s."""
    X, Y, Z = u.shape
    for x in range(X):
        for y in range(Y):
            first = (y + 1) * (Z + 2) + 1
            for z in range(Z):
                here = s[x, first + z]
                u[x, y, z] = t[x, first + z] / here if here > 0 else 0


@_jit
def _close(plane, first, last, Y, Z):
    """Copy the ends of lines first … last of a plane to beside their far ends; line 1 beyond line Y, Y before 1."""
    W = Z + 2
    for y in range(first, last + 1):
        if Z > 1:
            plane[y * W] = plane[y * W + Z]
            plane[y * W + Z + 1] = plane[y * W + 1]
        else:
            plane[y * W] = plane[y * W + 2] = 0
    if Y > 1 and first == 1:
        plane[(Y + 1) * W :] = plane[W : 2 * W]
    if Y > 1 and last == Y:
        plane[:W] = plane[Y * W : (Y + 1) * W]


@_jit
def _around(x, X):
    """Return the planes before and after plane x; the plane of zeros on an axis of one site."""
    if X == 1:
        return X, X
    return (x - 1 if x > 0 else X - 1), (x + 1 if x < X - 1 else 0)


@_jit
def _height(Y, Z):
    """Return how many lines of a plane are relaxed at once."""
    return min(Y, max(1, _STRIP // (Z + 2)))


@_jit
def _neighbours(t, x, X, first, last, W, out):
    """Set `out` to N(t) along lines first … last of plane x; nonsense beside the lines."""
    before, after = _around(x, X)
    i, j = first * W, (last + 1) * W
    a, b, c, d = t[before, i:j], t[after, i:j], t[x, i - W : j - W], t[x, i + W : j + W]
    e, f = t[x, i - 1 : j - 1], t[x, i + 1 : j + 1]
    for z in range(j - i):
        out[z] = ((a[z] + b[z]) + (c[z] + d[z])) + (e[z] + f[z])


@_jit
def _flow(bonds, t, x, X, first, last, W, out):
    """Set `out` to what reaches lines first … last of plane x of a coarse level, Σ g t over the neighbours."""
    before, after = _around(x, X)
    i, j = first * W, (last + 1) * W
    g, h, a, b = bonds[0][x, i:j], bonds[0][before, i:j], t[after, i:j], t[before, i:j]
    for z in range(j - i):
        out[z] = g[z] * a[z] + h[z] * b[z]
    g, h, a, b = bonds[1][x, i:j], bonds[1][x, i - W : j - W], t[x, i + W : j + W], t[x, i - W : j - W]
    for z in range(j - i):
        out[z] += g[z] * a[z] + h[z] * b[z]
    g, h, a, b = bonds[2][x, i:j], bonds[2][x, i - 1 : j - 1], t[x, i + 1 : j + 1], t[x, i - 1 : j - 1]
    for z in range(j - i):
        out[z] += g[z] * a[z] + h[z] * b[z]


@_jit
def _level(flat, table, level):
    """Return a coarse level's part of a flat field, in planes."""
    X, Y, Z, first = table[level]
    size = (Y + 2) * (Z + 2)
    return flat[first : first + (X + 1) * size].reshape(X + 1, size)


@_jit
def _bonds(levels, level):
    """Return a coarse level's bonds along x, y, z, their sums and one over them, in planes."""
    bonds, table = levels.bonds, levels.table
    return (
        _level(bonds[0], table, level),
        _level(bonds[1], table, level),
        _level(bonds[2], table, level),
        _level(bonds[3], table, level),
        _level(bonds[4], table, level),
    )


@_jit
def _build(levels, field):
    """Fill a hierarchy for the site factors [X, Y, Z]."""
    s, d, inverse = levels.s, levels.d, levels.inverse
    X, Y, Z = field.shape
    W = Z + 2
    for x in range(X):
        for y in range(Y):
            s[x, (y + 1) * W + 1 : (y + 2) * W - 1] = field[x, y]
        _close(s[x], 1, Y, Y, Z)
    out = np.empty(W, s.dtype)
    g = np.zeros((3, *s.shape), s.dtype)
    for x in range(X):
        _, after = _around(x, X)
        for y in range(1, Y + 1):
            _neighbours(s, x, X, y, y, W, out)
            for z in range(1, Z + 1):
                i = y * W + z
                here = s[x, i]
                g[0, x, i], g[1, x, i], g[2, x, i] = here * s[after, i], here * s[x, i + W], here * s[x, i + 1]
                if here > 0 and out[z] > 0:
                    d[x, i], inverse[x, i] = out[z] / here, here / out[z]
    bonds = (g[0], g[1], g[2], d, inverse)
    for level in range(1, len(levels.table)):
        A, B, C, _ = levels.table[level]
        coarse = _bonds(levels, level)
        _merge(bonds, X, Y, Z, coarse, A, B, C, levels.weights[1])
        bonds, X, Y, Z = coarse, A, B, C


@_jit
def _merge(fine, X, Y, Z, coarse, A, B, C, stiff):
    """Add up the bonds between blocks, and those of each block."""
    V, W = Z + 2, C + 2
    for x in range(X):
        a, a_next = min(x // 2, A - 1), min((x + 1) % X // 2, A - 1)
        for y in range(Y):
            b, b_next = min(y // 2, B - 1), min((y + 1) % Y // 2, B - 1)
            for z in range(Z):
                c, c_next = min(z // 2, C - 1), min((z + 1) % Z // 2, C - 1)
                i, j = (y + 1) * V + z + 1, (b + 1) * W + c + 1
                if a != a_next:
                    coarse[0][a, j] += stiff * fine[0][x, i]
                if b != b_next:
                    coarse[1][a, j] += stiff * fine[1][x, i]
                if c != c_next:
                    coarse[2][a, j] += stiff * fine[2][x, i]
    for a in range(A):
        for axis in range(3):
            _close(coarse[axis][a], 1, B, B, C)
        before, _ = _around(a, A)
        for b in range(1, B + 1):
            for j in range(b * W + 1, b * W + C + 1):
                total = coarse[0][a, j] + coarse[0][before, j] + coarse[1][a, j] + coarse[1][a, j - W]
                total += coarse[2][a, j] + coarse[2][a, j - 1]
                coarse[3][a, j] = total
                coarse[4][a, j] = 1 / total if total > 0 else 0


@_jit
def _relax(inverse, c, t, out, damping):
    """Relax some sites towards t = (c + out) · inverse."""
    for z in range(len(t)):
        t[z] += damping * (inverse[z] * (c[z] + out[z]) - t[z])


@_jit
def _sweep(inverse, c, t, X, Y, Z, damping, back):
    """Relax t towards B t = c, strip by strip."""
    W = Z + 2
    height = _height(Y, Z)
    out = np.empty(height * W, t.dtype)
    strips = (Y + height - 1) // height
    for k in range(X * strips):
        n = X * strips - 1 - k if back else k
        x, first = n // strips, n % strips * height + 1
        last = min(first + height - 1, Y)
        _neighbours(t, x, X, first, last, W, out)
        i, j = first * W, (last + 1) * W
        _relax(inverse[x, i:j], c[x, i:j], t[x, i:j], out, damping)
        _close(t[x], first, last, Y, Z)


@_jit
def _sweep_blocks(bonds, c, t, X, Y, Z, damping, back):
    """Relax t of a coarse level."""
    W = Z + 2
    height = _height(Y, Z)
    out = np.empty(height * W, t.dtype)
    strips = (Y + height - 1) // height
    for k in range(X * strips):
        n = X * strips - 1 - k if back else k
        x, first = n // strips, n % strips * height + 1
        last = min(first + height - 1, Y)
        _flow(bonds, t, x, X, first, last, W, out)
        i, j = first * W, (last + 1) * W
        _relax(bonds[4][x, i:j], c[x, i:j], t[x, i:j], out, damping)
        _close(t[x], first, last, Y, Z)


@_jit
def _gather(out, first, last, Z, plane, B, C):
    """Add lines first … last to a plane of blocks."""
    for y in range(first, last + 1):
        line = out[(y - first) * (Z + 2) + 1 :]
        block = plane[(min((y - 1) // 2, B - 1) + 1) * (C + 2) + 1 :]
        for c in range(Z // 2):
            block[c] += line[2 * c] + line[2 * c + 1]
        if Z % 2:
            block[C - 1] += line[Z - 1]


@_jit
def _restrict(levels, c, t, X, Y, Z, coarse, A, B, C):
    """Set `coarse` to what is left of each block's right side, Σ s (c − B t)."""
    W = Z + 2
    height = _height(Y, Z)
    out = np.empty(height * W, t.dtype)
    coarse[:] = 0
    for x in range(X):
        for first in range(1, Y + 1, height):
            last = min(first + height - 1, Y)
            _neighbours(t, x, X, first, last, W, out)
            i, j = first * W, (last + 1) * W
            s, d, r, here = levels.s[x, i:j], levels.d[x, i:j], c[x, i:j], t[x, i:j]
            for z in range(j - i):
                out[z] = s[z] * (r[z] + out[z] - d[z] * here[z])
            _gather(out, first, last, Z, coarse[min(x // 2, A - 1)], B, C)


@_jit
def _restrict_blocks(bonds, c, t, X, Y, Z, coarse, A, B, C):
    """Set `coarse` to what is left of each block's right side."""
    W = Z + 2
    height = _height(Y, Z)
    out = np.empty(height * W, t.dtype)
    coarse[:] = 0
    for x in range(X):
        for first in range(1, Y + 1, height):
            last = min(first + height - 1, Y)
            _flow(bonds, t, x, X, first, last, W, out)
            i, j = first * W, (last + 1) * W
            d, r, here = bonds[3][x, i:j], c[x, i:j], t[x, i:j]
            for z in range(j - i):
                out[z] = r[z] + out[z] - d[z] * here[z]
            _gather(out, first, last, Z, coarse[min(x // 2, A - 1)], B, C)


@_jit
def _prolong(s, t, X, Y, Z, coarse, A, B, C):
    """Add s times the values of the blocks to t."""
    W = Z + 2
    for x in range(X):
        plane = coarse[min(x // 2, A - 1)]
        for y in range(1, Y + 1):
            block = plane[(min((y - 1) // 2, B - 1) + 1) * (C + 2) + 1 :]
            factor, here = s[x, y * W + 1 : (y + 1) * W - 1], t[x, y * W + 1 : (y + 1) * W - 1]
            for c in range(Z // 2):
                here[2 * c] += factor[2 * c] * block[c]
                here[2 * c + 1] += factor[2 * c + 1] * block[c]
            if Z % 2:
                here[Z - 1] += factor[Z - 1] * block[C - 1]
        _close(t[x], 1, Y, Y, Z)


@_jit
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
        _close(t[x], 1, Y, Y, Z)


@_jit
def _cycle(levels, flat):
    """Solve the first coarse level nearly, by two W cycles; `flat` has its t and right side."""
    table, damping = levels.table, levels.weights[0]
    last = len(table) - 1
    visits = np.zeros(last + 1, np.int64)
    level = 1
    _level(flat[0], table, 1)[:] = 0
    while True:
        while level < last:
            X, Y, Z, _ = table[level]
            A, B, C, _ = table[level + 1]
            bonds, t, c = _bonds(levels, level), _level(flat[0], table, level), _level(flat[1], table, level)
            _sweep_blocks(bonds, c, t, X, Y, Z, damping, False)
            _restrict_blocks(bonds, c, t, X, Y, Z, _level(flat[1], table, level + 1), A, B, C)
            level += 1
            visits[level] = 0
            _level(flat[0], table, level)[:] = 0
        again = False
        while level > 1 and not again:  # the last level is one block, whose value is 0
            level -= 1
            X, Y, Z, _ = table[level]
            A, B, C, _ = table[level + 1]
            bonds, t, c = _bonds(levels, level), _level(flat[0], table, level), _level(flat[1], table, level)
            _prolong_blocks(t, X, Y, Z, _level(flat[0], table, level + 1), A, B, C)
            _sweep_blocks(bonds, c, t, X, Y, Z, damping, True)
            visits[level] += 1
            again = visits[level] < 2
        if not again:
            break


@_jit
def precondition(levels, c, t, flat):
    """Set t to what the preconditioner makes of c, in planes; `flat` is work space [2, …]."""
    table, damping = levels.table, levels.weights[0]
    t[:] = 0
    if len(table) == 1:
        return
    X, Y, Z, _ = table[0]
    A, B, C, _ = table[1]
    _sweep(levels.inverse, c, t, X, Y, Z, damping, False)
    _restrict(levels, c, t, X, Y, Z, _level(flat[1], table, 1), A, B, C)
    _cycle(levels, flat)
    _prolong(levels.s, t, X, Y, Z, _level(flat[0], table, 1), A, B, C)
    _sweep(levels.inverse, c, t, X, Y, Z, damping, True)


@_jit
def _dot(a, b, X, Y, Z):
    """Return Σ a b over the sites, float64, line by line."""
    W = Z + 2
    total = 0.0
    for x in range(X):
        for y in range(1, Y + 1):
            here, there = a[x, y * W + 1 : (y + 1) * W - 1], b[x, y * W + 1 : (y + 1) * W - 1]
            part = 0.0
            for z in range(Z):
                part += np.float64(here[z]) * np.float64(there[z])
            total += part
    return total


@_jit
def _apply(d, p, q, X, Y, Z):
    """Set q to B p; return pᵀB p."""
    W = Z + 2
    out = np.empty(W, p.dtype)
    total = 0.0
    for x in range(X):
        for y in range(1, Y + 1):
            _neighbours(p, x, X, y, y, W, out)
            i, j = y * W + 1, (y + 1) * W - 1
            here, there, sums, near = p[x, i:j], q[x, i:j], d[x, i:j], out[1:]
            part = 0.0
            for z in range(Z):
                value = sums[z] * here[z] - near[z]
                there[z] = value
                part += np.float64(here[z]) * np.float64(value)
            total += part
    return total


@_jit
def _add(a, scale, b, out):
    """Set `out` to a + scale · b, plane by plane."""
    for x in range(len(a)):
        here, there, to = a[x], b[x], out[x]
        for i in range(len(here)):
            to[i] = here[i] + scale * there[i]


@_jit
def _reduce(r, alpha, q, drift, s, X, Y, Z):
    """Take alpha q and drift · s from r; return how much of s is left in it, Σ s r / Σ s²."""
    W = Z + 2
    total = weight = 0.0
    for x in range(X):
        for y in range(1, Y + 1):
            i, j = y * W + 1, (y + 1) * W - 1
            here, there, null = r[x, i:j], q[x, i:j], s[x, i:j]
            part = norm = 0.0
            for z in range(Z):
                here[z] -= alpha * there[z] + drift * null[z]
                part += np.float64(here[z]) * np.float64(null[z])
                norm += np.float64(null[z]) * np.float64(null[z])
            total += part
            weight += norm
    return total / weight if weight > 0 else 0.0


@_jit
def step(levels, row, before):
    """Do one iteration; return the fall of the energy and rᵀz, of which `before` is that of the last iteration."""
    r, t, p, z, flat, drift = row
    X, Y, Z, _ = levels.table[0]
    precondition(levels, r, z, flat)
    rz = _dot(r, z, X, Y, Z)
    scale = np.empty(3, r.dtype)
    scale[0] = rz / before if before > 0 else 0
    _add(z, scale[0], p, p)
    curvature = _apply(levels.d, p, z, X, Y, Z)
    alpha = rz / curvature if curvature > 0 else 0.0
    scale[1], scale[2] = alpha, drift[0]
    _add(t, scale[1], p, t)
    drift[0] = _reduce(r, scale[1], z, scale[2], levels.s, X, Y, Z)
    return alpha * rz, rz
