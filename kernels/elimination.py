"""Symmetric elimination and plane-wave sums on a CPU: dense loops under numba that pass over blocks of zeros."""

import numpy as np

from gpuion.kernels.rows import add_rows, inline

_PIVOTS = 8  # rows eliminated at once


@inline
def eliminate(matrix, count):
    """Eliminate the first `count` rows of a symmetric matrix [n, ≥ n], of which the upper triangle is there.

    The rows eliminated become those of its Cholesky factor, the others its Schur complement; columns beyond n are right
    sides. Rows whose part in a block of pivots is zero are left out.
    """
    n, width = len(matrix), matrix.shape[1]
    weights = np.zeros(_PIVOTS)
    for first in range(0, count, _PIVOTS):
        end = min(first + _PIVOTS, count)
        for p in range(first, end):
            for q in range(first, p):
                factor, row, by = -matrix[q, p], matrix[p, p:], matrix[q, p:]
                for i in range(width - p):
                    row[i] += factor * by[i]
            scale, row = 1 / np.sqrt(matrix[p, p]), matrix[p, p:]
            for i in range(width - p):
                row[i] *= scale
        height = (end - first + 3) // 4 * 4
        for i in range(end, n):
            used = False
            for p in range(first, end):
                weights[p - first] = -matrix[p, i]
                used |= matrix[p, i] != 0
            for p in range(end - first, height):
                weights[p] = 0
            if used:
                add_rows(matrix[first : first + height], i, weights[:height], matrix[i, i:])


@inline
def wave_sums(phases, weights, top, sums):
    """Set sums [2, 2 t + 1, 2 t + 1, 2 t + 1] over spheres of weight times cos and sin of q · r, q = −t … t each axis.

    `phases` [N, 3] are 2π r / box.
    """
    edge = 2 * top + 1
    turns = np.empty((3, 2, edge))
    flat = sums.reshape(2, edge * edge * edge)
    for part in range(2):
        for i in range(edge**3):
            flat[part, i] = 0
    for n in range(len(phases)):
        for axis in range(3):
            for q in range(edge):
                angle = phases[n, axis] * (q - top)
                turns[axis, 0, q], turns[axis, 1, q] = np.cos(angle), np.sin(angle)
        c, s = turns[2, 0], turns[2, 1]
        for x in range(top, edge):  # the others are their conjugates
            for y in range(edge):
                a = weights[n] * (turns[0, 0, x] * turns[1, 0, y] - turns[0, 1, x] * turns[1, 1, y])
                b = weights[n] * (turns[0, 0, x] * turns[1, 1, y] + turns[0, 1, x] * turns[1, 0, y])
                real, imaginary = sums[0, x, y], sums[1, x, y]
                for z in range(edge):
                    real[z] += a * c[z] - b * s[z]
                for z in range(edge):
                    imaginary[z] += a * s[z] + b * c[z]
    for x in range(top):
        for y in range(edge):
            for z in range(edge):
                sums[0, x, y, z] = sums[0, 2 * top - x, 2 * top - y, 2 * top - z]
                sums[1, x, y, z] = -sums[1, 2 * top - x, 2 * top - y, 2 * top - z]
