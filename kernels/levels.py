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
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpuion.kernels import caching  # noqa: F401, before anything is compiled

_STRIP = 256  # sites relaxed at once, if not a line is longer; with lines of 25 alone a sweep takes 3 times as long

_OPTIONS = {"cache": True, "nogil": True, "fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy"}
jit = numba.njit(**_OPTIONS)
# What others call is inlined by force: a copy of it in each caller's library may round otherwise, and which copy runs
# depends on whether a process compiles or loads what another compiled.
inline = numba.njit(forceinline=True, **_OPTIONS)


@intrinsic
def lend(typing, value):  # noqa: ARG001, numba's signature
    """Return an array, or a tuple of some, of which slices need not count who uses them: arguments outlive their call.

    A count is one atomic operation, and lines are short: energies of 50³ sites take a quarter of the time.
    """

    def strip(context, builder, kind, given):
        if isinstance(kind, types.BaseTuple):
            for i, part in enumerate(kind):
                given = builder.insert_value(given, strip(context, builder, part, builder.extract_value(given, i)), i)
            return given
        array = context.make_array(kind)(context, builder, value=given)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        return array._getvalue()  # noqa: SLF001, numba's own way

    def generate(context, builder, signature, given):  # noqa: ARG001, numba's signature
        return strip(context, builder, value, given[0])

    return value(value), generate


class Hierarchy(NamedTuple):
    """What the rows of a structure share: s and d of its sites in lines, and the coarser levels.

    `table` int64 [L, 4] has X, Y, Z of each level and its first place in `bonds` [4, …], where the finest is not:
    strengths along x, y, z from a block to the next, and the sum of a block's six. `weights` [2] are
    the damping of a sweep and the stiffness of a coarse bond, in the fields' precision. `squares` float64 [X] is Σ s²
    of each plane.
    """

    s: np.ndarray
    d: np.ndarray
    table: np.ndarray
    bonds: np.ndarray
    weights: np.ndarray
    squares: np.ndarray


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
def bounds(X, part):
    """Return the first plane of a part and the one past its last; the first is even, so that blocks are of one part."""
    parts, pairs = parts_of(X), X // 2
    return part * pairs // parts * 2, X if part == parts - 1 else (part + 1) * pairs // parts * 2


@inline
def room_of(Z):
    """Return a length that lines relaxed at once do not exceed, on no coarser level either."""
    return max(_STRIP, Z + 2)


@inline
def neighbours(t, x, before, after, first, last, W, out):
    """Set `out` to N(t) along lines first … last of plane x between two others; nonsense beside the lines."""
    i, j = first * W, (last + 1) * W
    a, b, c, d = t[before, i:j], t[after, i:j], t[x, i - W : j - W], t[x, i + W : j + W]
    e, f = t[x, i - 1 : j - 1], t[x, i + 1 : j + 1]
    for z in range(j - i):
        out[z] = ((a[z] + b[z]) + (c[z] + d[z])) + (e[z] + f[z])


@inline
def level_of(flat, table, level):
    """Return a coarse level's part of a flat field, in planes."""
    X, Y, Z, first = table[level]
    size = (Y + 2) * (Z + 2)
    return flat[first : first + (X + 1) * size].reshape(X + 1, size)


@inline
def bonds_of(levels, level):
    """Return a coarse level's bonds along x, y, z and their sums, in planes."""
    bonds, table = levels.bonds, levels.table
    return (
        level_of(bonds[0], table, level),
        level_of(bonds[1], table, level),
        level_of(bonds[2], table, level),
        level_of(bonds[3], table, level),
    )
