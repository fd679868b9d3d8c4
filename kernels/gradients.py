"""Conjugate gradients on one row of a homogenisation, and the energy of solutions: scalar loops under numba.

Sums that decide a result are float64, line by line, in one order. All loops go plane by plane, so that what one of them
writes is still in the cache where it is read again.

Letters and fields in planes: see `gpuion.kernels.levels`.
"""

from typing import NamedTuple

import numpy as np

from gpuion.kernels.levels import around, bounds, inline, jit, lend, neighbours


class State(NamedTuple):
    """Fields of a row: c − B t, t, the search direction, work space; t and right side of the coarser levels.

    `scale` [3] holds what the next step starts with, in the fields' precision: the share of the old direction in the
    new one; how far along the last direction t is to go, which the fields learn when they are next at hand; and how
    much of s there is in c − B t. Exactly there is none, but rounding leaves some, which no t removes: the
    preconditioner answers it with more and more of s, which spoils the steps at strong contrast. So each step takes
    out what the last one left. `last` float64 [1] is rᵀz of the last step, `sums` float64 [X] are sums over planes,
    added in order.
    """

    r: np.ndarray
    t: np.ndarray
    p: np.ndarray
    z: np.ndarray
    coarse: np.ndarray
    scale: np.ndarray
    last: np.ndarray
    sums: np.ndarray


@jit
def divide(levels, b, r, k, m):
    """Set r to b / s, in planes, of b [X, Y, Z] in parts k … m − 1."""
    levels, b, r = lend(levels), lend(b), lend(r)
    X, Y, Z = b.shape
    for x in range(bounds(X, k)[0], bounds(X, m - 1)[1]):
        for y in range(Y):
            i, j = (y + 1) * (Z + 2) + 1, (y + 2) * (Z + 2) - 1
            here, to, line = levels.s[x, i:j], r[x, i:j], b[x, y]
            for z in range(Z):
                to[z] = line[z] / here[z] if here[z] > 0 else 0


@jit
def solution(levels, row, begun, u, k, m):
    """Write u = t / s [X, Y, Z] after so many steps, the last of which t does not know of, in parts k … m − 1."""
    levels, row, u = lend(levels), lend(row), lend(u)
    X, Y, Z = u.shape
    scale = row.scale[1]
    for x in range(bounds(X, k)[0], bounds(X, m - 1)[1]):
        for y in range(Y):
            i, j = (y + 1) * (Z + 2) + 1, (y + 2) * (Z + 2) - 1
            here, t, p, to = levels.s[x, i:j], row.t[x, i:j], row.p[x, i:j], u[x, y]
            if begun > 1:
                for z in range(Z):
                    to[z] = (t[z] + scale * p[z]) / here[z] if here[z] > 0 else 0
            else:
                for z in range(Z):
                    to[z] = scale * p[z] / here[z] if here[z] > 0 else 0


@inline
def _turn(row, x, begun):
    """Let t go along p, and set p to z + scale · p, on a plane."""
    t, p, z, share, scale = row.t[x], row.p[x], row.z[x], row.scale[0], row.scale[1]
    if begun > 1:
        for i in range(len(p)):
            t[i] += scale * p[i]
            p[i] = z[i] + share * p[i]
    else:
        for i in range(len(p)):
            t[i] = scale * p[i]
            p[i] = z[i] + share * p[i]


@jit
def turn(row, begun, k, m):
    """Take the new direction on the first and the last plane of parts k … m − 1, which others look at."""
    row = lend(row)
    for part in range(k, m):
        first, end = bounds(len(row.sums), part)
        _turn(row, first, begun)
        if end - 1 > first:
            _turn(row, end - 1, begun)


@jit
def apply(levels, row, begun, k, m):
    """Take the new direction on all other planes of parts k … m − 1; set z to B p, `sums` to pᵀB p of each plane.

    In the first step p is z as it is.
    """
    levels, row = lend(levels), lend(row)
    X, Y, Z, _ = levels.table[0]
    W = Z + 2
    out = np.empty(W, row.p.dtype)
    for part in range(k, m):
        first, end = bounds(X, part)
        for x in range(first, end):
            if begun and x + 2 < end:
                _turn(row, x + 1, begun)
            before, after = around(x, X)
            total = 0.0
            for y in range(1, Y + 1):
                neighbours(row.p, x, before, after, y, y, W, out)
                i, j = y * W + 1, (y + 1) * W - 1
                total += _image(levels.d[x, i:j], row.p[x, i:j], out, row.z[x, i:j])
            row.sums[x] = total


@inline
def _image(d, p, near, q):
    """Set a line q to d p − N(p), of N(p) from one site before it on; return pᵀq."""
    near = lend(near)[1:]
    total = 0.0
    for z in range(len(q)):
        value = d[z] * p[z] - near[z]
        q[z] = value
        total += np.float64(p[z]) * np.float64(value)
    return total


@jit
def add_up(sums):
    """Return the sum of the planes' sums, in order."""
    sums = lend(sums)
    total = 0.0
    for x in range(len(sums)):
        total += sums[x]
    return total


@inline
def _conductance(here, ahead, out):
    """Set `out` to the conductances s s' from a line to its neighbours ahead; if there is one less, the first is next.

    Slices and plain indices: with an index z + 1 numba would ask of each whether it is negative.
    """
    for z in range(len(ahead)):
        out[z] = here[z] * ahead[z]
    if len(ahead) < len(out):
        out[len(ahead)] = here[len(ahead)] * here[0]


@inline
def _drop(here, ahead, out):
    """Set `out` to the drops u' − u from a line to its neighbours ahead; if there is one less, the first is next."""
    for z in range(len(ahead)):
        out[z] = np.float64(ahead[z]) - np.float64(here[z])
    if len(ahead) < len(out):
        out[len(ahead)] = np.float64(here[0]) - np.float64(here[len(ahead)])


@inline
def _add_flow(flow, axis, x, y, out):
    """Add to a line's drops along an axis what they were before u, of the layers along that axis."""
    if axis == 2:
        for z in range(len(out)):
            out[z] += flow[z]
    else:
        before = flow[x if axis == 0 else y]
        for z in range(len(out)):
            out[z] += before


@jit
def energy(s, u, flow, axes, total, k, m):
    """Set `total` [X, A, A] to Σ_bonds g (e_a·d + δu_a)(e_b·d + δu_b) of the bonds from each plane, in parts k … m − 1.

    Of site factors float64 [X, Y, Z], solutions u [A, X, Y, Z] for the axes int64 [A], and drops along each before u,
    `flow` float64 [A, longest].
    """
    s, u, flow, axes, total = lend(s), lend(u), lend(flow), lend(axes), lend(total)
    X, Y, Z = s.shape
    g, drop = np.empty(Z), np.empty((len(axes), Z))
    for x in range(bounds(X, k)[0], bounds(X, m - 1)[1]):
        for y in range(Y):
            for axis in range(3):
                _line_energy(s, u, flow, axes, x, y, axis, total[x], g, drop)


@inline
def _line_energy(s, u, flow, axes, x, y, axis, total, g, drop):
    """Add to `total` [A, A] the energy of the bonds from a line of sites ahead along an axis."""
    X, Y, _ = s.shape
    g, drop = lend(g), lend(drop)
    i, j, shift = (x + 1) % X if axis == 0 else x, (y + 1) % Y if axis == 1 else y, axis // 2
    _conductance(s[x, y], s[i, j, shift:], g)
    for a in range(len(axes)):
        _drop(u[a, x, y], u[a, i, j, shift:], drop[a])
        if axis == axes[a]:
            _add_flow(flow[a], axis, x, y, drop[a])
    for a in range(len(axes)):
        for b in range(a, len(axes)):
            total[a, b] += _weigh(g, drop[a], drop[b])


@inline
def _weigh(g, a, b):
    """Return Σ g a b."""
    total = 0.0
    for z in range(len(g)):
        total += g[z] * a[z] * b[z]
    return total
