"""Symmetric elimination and plane-wave sums on a CPU: dense loops under numba that pass over blocks of zeros."""

import numpy as np

from gpuion.kernels.rows import fma, inline

_PIVOTS = 8  # rows eliminated at once
_PITCH = 520  # of their copies: a constant, so that LLVM knows that they do not overlap


@inline
def eliminate(matrix, count):
    """Eliminate the first `count` rows of a symmetric matrix [n, ≥ n], of which the upper triangle is there.

    The rows eliminated become those of its Cholesky factor, the others its Schur complement; columns beyond n are right
    sides. What is below the diagonal may be anything. Four rows whose part in a block of pivots is zero are left out.
    """
    n, width = len(matrix), matrix.shape[1]
    panel, weights = np.zeros(_PIVOTS * _PITCH), np.zeros((4, _PIVOTS))
    for first in range(0, count, _PIVOTS):
        end = min(first + _PIVOTS, count)
        _factor(matrix, first, end)
        for begin in range(end, width, _PITCH):
            size = min(_PITCH, width - begin)
            for p in range(first, end):
                row = matrix[p, begin : begin + size]
                for i in range(size):
                    panel[(p - first) * _PITCH + i] = row[i]
            for i in range(end, min(n, begin + size), 4):
                if _weigh(matrix, i, first, end, weights):
                    at = max(i, begin)
                    _update(matrix, i, min(4, n - i), at, begin + size, panel, at - begin, weights)


@inline
def _factor(matrix, first, end):
    """Make rows first … end − 1 those of the Cholesky factor, earlier ones having been taken off."""
    width = matrix.shape[1]
    for p in range(first, end):
        row = matrix[p, p:]
        for q in range(first, p):
            factor, by = -matrix[q, p], matrix[q, p:]
            for i in range(width - p):
                row[i] = fma(factor, by[i], row[i])
        scale = 1 / np.sqrt(matrix[p, p])
        for i in range(width - p):
            row[i] *= scale


@inline
def _weigh(matrix, i, first, end, weights):
    """Set the weights of the pivots in rows i … i + 3; return whether there are any."""
    used = False
    for k in range(4):
        for p in range(_PIVOTS):
            inside = i + k < len(matrix) and first + p < end
            weights[k, p] = -matrix[first + p, i + k] if inside else 0.0
            used |= weights[k, p] != 0
    return used


@inline
def _update(matrix, i, rows, begin, end, panel, at, weights):
    """Add to columns begin … end − 1 of up to four rows from i on the pivots, in `panel` from `at` on."""
    n = end - begin
    x = panel[at:]
    if rows == 4:
        a, b = matrix[i, begin:end], matrix[i + 1, begin:end]
        c, d = matrix[i + 2, begin:end], matrix[i + 3, begin:end]
        _update_two(a, b, x, weights[0], weights[1], n)
        _update_two(c, d, x, weights[2], weights[3], n)
        return
    for k in range(rows):
        a = matrix[i + k, begin:end]
        w = weights[k]
        for j in range(n):
            total = a[j]
            for p in range(_PIVOTS):
                total = fma(w[p], x[p * _PITCH + j], total)
            a[j] = total


@inline
def _update_two(a, b, x, w, v, n):
    w0, w1, w2, w3, w4, w5, w6, w7 = w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]
    v0, v1, v2, v3, v4, v5, v6, v7 = v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]
    for j in range(n):
        p, q, r, s = x[j], x[_PITCH + j], x[2 * _PITCH + j], x[3 * _PITCH + j]
        t, u, y, z = x[4 * _PITCH + j], x[5 * _PITCH + j], x[6 * _PITCH + j], x[7 * _PITCH + j]
        total = fma(w3, s, fma(w2, r, fma(w1, q, fma(w0, p, a[j]))))
        a[j] = fma(w7, z, fma(w6, y, fma(w5, u, fma(w4, t, total))))
        total = fma(v3, s, fma(v2, r, fma(v1, q, fma(v0, p, b[j]))))
        b[j] = fma(v7, z, fma(v6, y, fma(v5, u, fma(v4, t, total))))


@inline
def turns_of(phases, top, turns):
    """Set turns [2, 3, 2 t + 1] to cos and sin of q times a sphere's phases [3], q = −t … t."""
    for axis in range(3):
        c, s = np.cos(phases[axis]), np.sin(phases[axis])
        x, y = 1.0, 0.0
        for q in range(top + 1):
            turns[0, axis, top + q] = turns[0, axis, top - q] = x
            turns[1, axis, top + q], turns[1, axis, top - q] = y, -y
            x, y = x * c - y * s, x * s + y * c


@inline
def wave(turns, x, y, z):
    """Return cos and sin of q · r, q being places in the turns of a sphere."""
    a = turns[0, 0, x] * turns[0, 1, y] - turns[1, 0, x] * turns[1, 1, y]
    b = turns[0, 0, x] * turns[1, 1, y] + turns[1, 0, x] * turns[0, 1, y]
    return a * turns[0, 2, z] - b * turns[1, 2, z], a * turns[1, 2, z] + b * turns[0, 2, z]


@inline
def plane_of(turns, plane):
    """Set a plane [2, (2 t + 1)²] to cos and sin of q_y y + q_z z of a sphere."""
    edge = turns.shape[2]
    c, s = turns[0, 2], turns[1, 2]
    for y in range(edge):
        a, b = turns[0, 1, y], turns[1, 1, y]
        real, imaginary = plane[0, y * edge : (y + 1) * edge], plane[1, y * edge : (y + 1) * edge]
        for z in range(edge):
            real[z], imaginary[z] = a * c[z] - b * s[z], a * s[z] + b * c[z]


@inline
def add_waves(turns, plane, weight, sums):
    """Add to sums [2, 2 t + 1, (2 t + 1)²] `weight` times cos and sin of q · r of a sphere, where q_x ≥ 0."""
    edge = turns.shape[2]
    c, s = plane[0], plane[1]
    for x in range(edge // 2, edge):
        a, b, real, imaginary = weight * turns[0, 0, x], weight * turns[1, 0, x], sums[0, x], sums[1, x]
        for i in range(len(c)):
            real[i] = fma(a, c[i], fma(-b, s[i], real[i]))
        for i in range(len(c)):
            imaginary[i] = fma(a, s[i], fma(b, c[i], imaginary[i]))


@inline
def mirror_waves(sums, top):
    """Set the sums for q_x < 0, the conjugates of others."""
    edge = 2 * top + 1
    for x in range(top):
        for y in range(edge):
            for z in range(edge):
                sums[0, x, y, z] = sums[0, 2 * top - x, 2 * top - y, 2 * top - z]
                sums[1, x, y, z] = -sums[1, 2 * top - x, 2 * top - y, 2 * top - z]
