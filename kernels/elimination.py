"""Symmetric elimination on a CPU: tiles of vectors that pass over tiles of zeros, under numba."""

import numpy as np

from gpuion.kernels.rows import fma, inline
from gpuion.kernels.tiles import EDGE, ROWS, add_tile, solve_tile


@inline
def eliminate(matrix, count):
    """Eliminate the first `count` rows of a symmetric matrix [n, width ≥ n], of which the upper triangle is there.

    The rows eliminated become those of its Cholesky factor, the others its Schur complement; columns beyond n are right
    sides. What is below the diagonal may be anything. `count`, n and `width` are multiples of 8: unknowns that nothing
    else meets fill up. Eight columns of eight rows whose numbers are all zero are left out.
    """
    n, width = matrix.shape
    lower, weights, filled = np.empty(EDGE * EDGE), np.empty(ROWS * EDGE), np.empty(width // EDGE, np.int64)
    for first in range(0, count, EDGE):
        _factor(matrix, first, lower)
        tiles = 0
        for column in range(first + EDGE, width, EDGE):
            if solve_tile(matrix, lower, first, column):
                filled[tiles] = column
                tiles += 1
        for k in range(tiles):
            for i in range(filled[k], min(filled[k] + EDGE, n), ROWS):
                if _weigh(matrix, first, i, weights):
                    for column in filled[k:tiles]:
                        add_tile(matrix, weights, first, i, column)


@inline
def _factor(matrix, first, lower):
    """Make the square at the diagonal from `first` on that of the factor; set what `solve_tile` takes of it."""
    for p in range(EDGE):
        row = matrix[first + p, first : first + EDGE]
        scale = 1 / np.sqrt(row[p])
        for q in range(p, EDGE):
            row[q] *= scale
        lower[p * EDGE + p] = scale
        for q in range(p + 1, EDGE):
            lower[p * EDGE + q] = -row[q]
            other = matrix[first + q, first : first + EDGE]
            for r in range(q, EDGE):
                other[r] = fma(-row[q], row[r], other[r])


@inline
def _weigh(matrix, first, i, weights):
    """Set the weights of eight pivots in rows i … i + 3; return whether there are any."""
    used = False
    for k in range(ROWS):
        for p in range(EDGE):
            weight = -matrix[first + p, i + k]
            weights[k * EDGE + p] = weight
            used |= weight != 0
    return used
