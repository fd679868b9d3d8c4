"""Conjugate gradients on one row of a homogenisation, and the energy of solutions: scalar loops under numba.

Sums that decide a result are float64, line by line, in one order: a row is the work of one thread.

Letters and fields in planes: see `gpuion.kernels.levels`.
"""

from typing import NamedTuple

import numpy as np

from gpuion.kernels.levels import Hierarchy, inline, jit, neighbours, parts_of


class State(NamedTuple):
    """Fields of a row: c − B t, t, the search direction, work space; t and right side of the coarser levels.

    `drift` float64 [1] is how much of s there is in c − B t. Exactly there is none, but rounding leaves some, which
    no t removes: the preconditioner answers it with more and more of s, which spoils the steps at strong contrast.
    So each step takes out what the last one left. `sums` float64 [2, X] are sums over planes, added in order.
    """

    r: np.ndarray
    t: np.ndarray
    p: np.ndarray
    z: np.ndarray
    coarse: np.ndarray
    drift: np.ndarray
    sums: np.ndarray


def state(levels: Hierarchy, b: np.ndarray) -> State:
    """Return the fields of a row before its first step, from the right side b [X, Y, Z]."""
    fields = [np.zeros(levels.s.shape, levels.s.dtype) for _ in range(4)]
    _divide(b, levels.s, fields[0])
    return State(*fields, np.zeros(levels.bonds[:2].shape, levels.s.dtype), np.zeros(1), np.zeros((2, b.shape[0])))


def solution(levels: Hierarchy, row: State, u: np.ndarray) -> None:
    """Write a row's u [X, Y, Z]."""
    _undo(row.t, levels.s, u)


@jit
def _divide(b, s, field):
    """Set `field` to b / s, in planes."""
    X, Y, Z = b.shape
    for x in range(X):
        for y in range(Y):
            first = (y + 1) * (Z + 2) + 1
            for z in range(Z):
                here = s[x, first + z]
                field[x, first + z] = b[x, y, z] / here if here > 0 else 0


@jit
def _undo(t, s, u):
    """Set u to t / s."""
    X, Y, Z = u.shape
    for x in range(X):
        for y in range(Y):
            first = (y + 1) * (Z + 2) + 1
            for z in range(Z):
                here = s[x, first + z]
                u[x, y, z] = t[x, first + z] / here if here > 0 else 0


@inline
def planes(X, k, m):
    """Return the planes of parts k … m − 1."""
    parts = parts_of(X)
    return range(k * X // parts, m * X // parts)


@jit
def dot(levels, a, b, sums, k, m):
    """Set `sums` to Σ a b over the sites of each plane of parts k … m − 1, float64, line by line."""
    X, Y, Z, _ = levels.table[0]
    W = Z + 2
    for x in planes(X, k, m):
        total = 0.0
        for y in range(1, Y + 1):
            here, there = a[x, y * W + 1 : (y + 1) * W - 1], b[x, y * W + 1 : (y + 1) * W - 1]
            part = 0.0
            for z in range(Z):
                part += np.float64(here[z]) * np.float64(there[z])
            total += part
        sums[x] = total


@jit
def turn(levels, z, scale, p, k, m):
    """Set p to z + scale · p in parts k … m − 1."""
    for x in planes(levels.table[0][0], k, m):
        _add(z[x], scale[0], p[x], p[x])


@jit
def apply(levels, p, q, sums, k, m):
    """Set q to B p, `sums` to pᵀB p of each plane, in parts k … m − 1."""
    X, Y, Z, _ = levels.table[0]
    W = Z + 2
    out = np.empty(W, p.dtype)
    for x in planes(X, k, m):
        total = 0.0
        for y in range(1, Y + 1):
            neighbours(p, x, X, y, y, W, out)
            i, j = y * W + 1, (y + 1) * W - 1
            here, there, sums_here, near = p[x, i:j], q[x, i:j], levels.d[x, i:j], out[1:]
            part = 0.0
            for z in range(Z):
                value = sums_here[z] * here[z] - near[z]
                there[z] = value
                part += np.float64(here[z]) * np.float64(value)
            total += part
        sums[x] = total


@inline
def _add(a, scale, b, out):
    """Set a plane `out` to a + scale · b."""
    for i in range(len(a)):
        out[i] = a[i] + scale * b[i]


@jit
def update(levels, row, scale, k, m):
    """Take the step in parts k … m − 1: t + alpha p, r − alpha B p − drift · s; set Σ s r and Σ s² of each plane."""
    X, Y, Z, _ = levels.table[0]
    W = Z + 2
    for x in planes(X, k, m):
        _add(row.t[x], scale[1], row.p[x], row.t[x])
        total = weight = 0.0
        for y in range(1, Y + 1):
            i, j = y * W + 1, (y + 1) * W - 1
            here, there, null = row.r[x, i:j], row.z[x, i:j], levels.s[x, i:j]
            part = norm = 0.0
            for z in range(Z):
                here[z] -= scale[1] * there[z] + scale[2] * null[z]
                part += np.float64(here[z]) * np.float64(null[z])
                norm += np.float64(null[z]) * np.float64(null[z])
            total += part
            weight += norm
        row.sums[0, x], row.sums[1, x] = total, weight


@jit
def add_up(sums):
    """Return the sum of the planes' sums, in order."""
    total = 0.0
    for x in range(len(sums)):
        total += sums[x]
    return total


@inline
def _ahead(field, x, y, axis, out):
    """Set `out` to a line's neighbours one site on along an axis."""
    X, Y, Z = field.shape
    i, j, shift = (x + 1) % X if axis == 0 else x, (y + 1) % Y if axis == 1 else y, 1 if axis == 2 else 0
    for z in range(Z - shift):
        out[z] = field[i, j, z + shift]
    if shift:
        out[Z - 1] = field[x, y, 0]


@inline
def _drop(u, flow, x, y, axis, along, out):
    """Set `out` to the drops e·d + δu from a line to its neighbours one site on along an axis."""
    Z = len(out)
    _ahead(u, x, y, axis, out)
    for z in range(Z):
        out[z] -= u[x, y, z]
    if axis == along:
        for z in range(Z):
            out[z] += flow[x if axis == 0 else y if axis == 1 else z]


@jit
def energy(s, u, flow, axes, total, first, last):
    """Set `total` [X, A, A] to Σ_bonds g (e_a·d + δu_a)(e_b·d + δu_b) of the bonds from planes first … last − 1.

    Of site factors float64 [X, Y, Z], solutions u [A, X, Y, Z] for the axes int64 [A], and drops along each before u,
    `flow` float64 [A, longest].
    """
    _, Y, Z = s.shape
    A = len(axes)
    g, drop = np.empty(Z), np.empty((A, Z))
    for line in range(first * Y, last * Y):
        x, y = line // Y, line % Y
        for axis in range(3):
            _ahead(s, x, y, axis, g)
            for z in range(Z):
                g[z] *= s[x, y, z]
            for a in range(A):
                _drop(u[a], flow[a], x, y, axis, axes[a], drop[a])
            for a in range(A):
                for b in range(a, A):
                    left, right = drop[a], drop[b]
                    part = 0.0
                    for z in range(Z):
                        part += g[z] * left[z] * right[z]
                    total[x, a, b] += part
