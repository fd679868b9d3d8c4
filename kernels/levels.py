"""Levels of a periodic lattice for multigrid on the CPU: scalar loops under numba, over fields kept in planes.

The unknown is t = s∘u, for which A u = b reads B t = c with B t = d∘t − N(t), d = N(s) / s and c = b / s: bonds of
strength 1, one coefficient a site. A coarser level has blocks of 2 sites an axis (the last of an odd edge 3), down to
one block for all. u is constant in a block, so a coarse bond is the sum of the fine ones it replaces; half of that
is taken, since such u are too stiff, by 2 where the medium is smooth: 7, 11 and 14 iterations
to 1, 0.1 and 0.01% of D on random spheres in 75³, with 0.7 of it 10, 15 and 21. Sites and blocks without bonds are
left out: t = 0 there.

Letters: X Y Z sites of a level, L levels, A B C blocks of the next, W = Z + 2. A field in planes is [X + 1,
(Y + 2) · W]: a plane has its lines 1 … Y, each with its sites 1 … Z, and around them copies of the far ends, or
zeros on an axis of one site; plane X is zeros. Numbers beside the lines may be anything where none is read.
"""

from typing import NamedTuple

import numba
import numpy as np

_DAMPING = 0.9  # of a sweep
_STIFF = 0.5  # of a coarse bond
_STRIP = 256  # sites relaxed at once, if not a line is longer; with lines of 25 alone a sweep takes 3 times as long
_WEAKEST = {4: 1e-18, 8: 1e-150}  # by bytes of the precision: site factors whose inverse can still be worked with

jit = numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
# What others call is inlined by force: a copy of it in each caller's library may round otherwise, and which copy runs
# depends on whether a process compiles or loads what another compiled.
inline = numba.njit(cache=True, nogil=True, forceinline=True, fastmath={"reassoc", "contract", "nsz"})


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


def hierarchy(s: np.ndarray, dtype: type | np.dtype | None = None) -> Hierarchy:
    """Return the levels of a structure with site factors [X, Y, Z], in the precision of s or another.

    Factors whose inverse that precision cannot work with count as 0.
    """
    dtype = np.dtype(dtype or s.dtype)
    sizes = [s.shape]
    while max(sizes[-1]) > 1:
        sizes.append(tuple(max(1, n // 2) for n in sizes[-1]))
    first = np.cumsum([0, 0] + [(X + 1) * (Y + 2) * (Z + 2) for X, Y, Z in sizes[1:]])
    table = np.array([(*size, at) for size, at in zip(sizes, first, strict=False)], np.int64)
    X, Y, Z = s.shape
    fields = [np.zeros((X + 1, (Y + 2) * (Z + 2)), dtype) for _ in range(3)]
    weights = np.array([_DAMPING, _STIFF], dtype)
    levels = Hierarchy(*fields, table, np.zeros((5, first[-1]), dtype), weights)
    _build(levels, s, _WEAKEST[dtype.itemsize])
    return levels


@inline
def close(plane, first, last, Y, Z):
    """Copy the ends of lines first … last of a plane to beside their far ends; line 1 beyond line Y, Y before 1."""
    W = Z + 2
    for y in range(first, last + 1):
        if Z > 1:
            plane[y * W] = plane[y * W + Z]
            plane[y * W + Z + 1] = plane[y * W + 1]
        else:
            plane[y * W] = plane[y * W + 2] = 0
    if Y > 1:
        for i in range(W):  # loops: numba takes a second to compile an assignment of a slice
            if first == 1:
                plane[(Y + 1) * W + i] = plane[W + i]
            if last == Y:
                plane[i] = plane[Y * W + i]


@inline
def clear(field):
    """Set a field in planes to 0."""
    for x in range(len(field)):
        plane = field[x]
        for i in range(len(plane)):
            plane[i] = 0


@inline
def around(x, X):
    """Return the planes before and after plane x; the plane of zeros on an axis of one site."""
    if X == 1:
        return X, X
    return (x - 1 if x > 0 else X - 1), (x + 1 if x < X - 1 else 0)


@inline
def parts_of(X):
    """Return into how many parts of consecutive planes the finest level is cut, for threads to share.

    Parts of 8 planes or more, at most 16. What is left of the error of D after each of four iterations is 1 to 4% more
    than in one part on spheres in 64³, 2 to 11% on pores in 96³, where an iteration takes it down 8-fold or more.
    """
    return max(1, min(16, X // 8))


@inline
def height_of(Y, Z):
    """Return how many lines of a plane are relaxed at once."""
    return min(Y, max(1, _STRIP // (Z + 2)))


@inline
def neighbours(t, x, X, first, last, W, out):
    """Set `out` to N(t) along lines first … last of plane x; nonsense beside the lines."""
    before, after = around(x, X)
    i, j = first * W, (last + 1) * W
    a, b, c, d = t[before, i:j], t[after, i:j], t[x, i - W : j - W], t[x, i + W : j + W]
    e, f = t[x, i - 1 : j - 1], t[x, i + 1 : j + 1]
    for z in range(j - i):
        out[z] = ((a[z] + b[z]) + (c[z] + d[z])) + (e[z] + f[z])


@inline
def flow(bonds, t, x, X, first, last, W, out):
    """Set `out` to what reaches lines first … last of plane x of a coarse level, Σ g t over the neighbours."""
    before, after = around(x, X)
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


@inline
def level_of(flat, table, level):
    """Return a coarse level's part of a flat field, in planes."""
    X, Y, Z, first = table[level]
    size = (Y + 2) * (Z + 2)
    return flat[first : first + (X + 1) * size].reshape(X + 1, size)


@inline
def bonds_of(levels, level):
    """Return a coarse level's bonds along x, y, z, their sums and one over them, in planes."""
    bonds, table = levels.bonds, levels.table
    return (
        level_of(bonds[0], table, level),
        level_of(bonds[1], table, level),
        level_of(bonds[2], table, level),
        level_of(bonds[3], table, level),
        level_of(bonds[4], table, level),
    )


@jit
def _build(levels, field, weakest):
    """Fill a hierarchy for the site factors [X, Y, Z]."""
    s, d, inverse = levels.s, levels.d, levels.inverse
    X, Y, Z = field.shape
    W = Z + 2
    for x in range(X):
        for y in range(Y):
            for z in range(Z):
                value = field[x, y, z]
                s[x, (y + 1) * W + 1 + z] = value if value >= weakest else 0.0
        close(s[x], 1, Y, Y, Z)
    out = np.empty(W, s.dtype)
    for x in range(X):
        for y in range(1, Y + 1):
            neighbours(s, x, X, y, y, W, out)
            for z in range(1, Z + 1):
                i = y * W + z
                here = s[x, i]
                if here > 0 and out[z] > 0:
                    d[x, i], inverse[x, i] = out[z] / here, here / out[z]
                else:
                    s[x, i] = 0
    bonds = (d, d, d, d, inverse)
    for level in range(1, len(levels.table)):
        A, B, C, _ = levels.table[level]
        coarse = bonds_of(levels, level)
        if level == 1:
            _merge_sites(s, X, Y, Z, coarse, A, B, C, levels.weights[1])
        else:
            _merge(bonds, X, Y, Z, coarse, A, B, C, levels.weights[1])
        _sum_up(coarse, A, B, C)
        bonds, X, Y, Z = coarse, A, B, C


@inline
def _merge_sites(s, X, Y, Z, coarse, A, B, C, stiff):
    """Add up the bonds s s' between blocks of sites."""
    V, W = Z + 2, C + 2
    line = np.empty(Z, s.dtype)
    for x in range(X):
        _, after = around(x, X)
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
def _merge(fine, X, Y, Z, coarse, A, B, C, stiff):
    """Add up the bonds between blocks."""
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


@inline
def _pair_up(line, to, stiff):
    """Add the bonds of a line of sites to those of its blocks."""
    Z, C = len(line), len(to)
    if Z == 1:
        to[0] += stiff * line[0]
        return
    for c in range(C):
        to[c] += stiff * (line[2 * c] + line[2 * c + 1])
    if Z % 2:
        to[C - 1] += stiff * line[Z - 1]


@inline
def _sum_up(coarse, A, B, C):
    """Add up the bonds of each block."""
    W = C + 2
    for a in range(A):
        for axis in range(3):
            close(coarse[axis][a], 1, B, B, C)
        before, _ = around(a, A)
        for b in range(1, B + 1):
            for j in range(b * W + 1, b * W + C + 1):
                total = coarse[0][a, j] + coarse[0][before, j] + coarse[1][a, j] + coarse[1][a, j - W]
                total += coarse[2][a, j] + coarse[2][a, j - 1]
                coarse[3][a, j] = total
                coarse[4][a, j] = 1 / total if total > 0 else 0
