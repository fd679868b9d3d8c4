"""Fourier modes of an image of spheres on a CPU, kept up to date as spheres move: scalar loops under numba.

A mode is a sum over spheres, each of which gives a number that depends on where it lies alone, rounded to a multiple
of 1 / scale. Sums of such integers are exact: the modes do not depend on the way that led to a structure.

They are kept in the order in which they are gone through: lines of l, LINES at a time, of l ≥ 0, then of −l; for
each of these k, as many lines of it as the power spectrum needs, the real and the imaginary parts of k, then of −k;
in a line m. The line of l = −0 is zero. Legend: as in `gpuion.kernels.spheres`.
"""

import numpy as np

from gpuion.kernels.rows import add_rows, fill, fma, inline
from gpuion.kernels.spheres import LINES


@inline
def _along_x(bench, which, k, sign, begin, n):
    """Add to the sums [4, n] over x of n numbers of the planes."""
    planes, turns = bench.planes[which, sign], bench.turns[which, k]
    count = bench.depth[which]
    for i in range(4):
        add_rows(planes[i % 2], begin, turns[i // 2, :count], bench.sums[i, :n])


@inline
def _clear(sums, n):
    for i in range(4):
        fill(sums[i, :n], np.float32(0))


@inline
def trial_power(modes, field, bench, spheres, shells):
    """Set the power in each shell [S] of modes `field` and of one or two spheres that are set up."""
    K, at = len(modes.lines), 0
    unit = np.float32(1) / modes.scale
    for g in range(len(bench.groups)):
        fill(bench.groups[g], 0.0)
    for l in range(0, K, LINES):  # noqa: E741
        for sign in range(2):
            for k in range(K):
                n = (min(l + LINES, modes.lines[k]) - l) * K
                if n > 0:
                    _clear(bench.sums, n)
                    for which in range(spheres):
                        _along_x(bench, which, k, sign, l * K, n)
                    at = _squares(field, at, bench.sums, k > 0, unit, bench.power[:n])
                    _fold(modes, k, l, bench.power[:n], bench.groups)
    _gather(modes, bench.groups, shells)


@inline
def _squares(field, at, sums, both, unit, power):
    """Set `power` to the squares of the modes k, and −k if `both`, from `at` on, and sums; return where they end."""
    n = len(power)
    a, b, c, d = sums[0, :n], sums[1, :n], sums[2, :n], sums[3, :n]
    e, f = field[at : at + n], field[at + n : at + 2 * n]
    if not both:
        for i in range(n):
            x, y = fma(unit, np.float32(e[i]), a[i] + d[i]), fma(unit, np.float32(f[i]), b[i] - c[i])
            power[i] = fma(x, x, y * y)
        return at + 2 * n
    g, h = field[at + 2 * n : at + 3 * n], field[at + 3 * n : at + 4 * n]
    for i in range(n):
        x, y = fma(unit, np.float32(e[i]), a[i] + d[i]), fma(unit, np.float32(f[i]), b[i] - c[i])
        z, w = fma(unit, np.float32(g[i]), a[i] - d[i]), fma(unit, np.float32(h[i]), b[i] + c[i])
        power[i] = fma(x, x, y * y) + fma(z, z, w * w)
    return at + 4 * n


@inline
def _fold(modes, k, first, power, groups):
    """Add the power of the waves k and l from `first` on to that of their groups."""
    K = len(modes.lines)
    for l in range(len(power) // K):  # noqa: E741
        row, to = power[l * K : (l + 1) * K], groups[modes.group[k, first + l]]
        for m in range(K):
            to[m] += np.float64(row[m])


@inline
def _gather(modes, groups, shells):
    """Set the power of the shells from that of the groups."""
    fill(shells, 0.0)
    for g in range(len(groups)):
        for m in range(modes.waves[g]):
            s, power = modes.shell[g, m], groups[g, m]
            shells[s] += modes.low[g, m] * power
            shells[s + 1] += modes.high[g, m] * power


@inline
def add_sphere(modes, field, bench, which):
    """Add to the modes those of a sphere that is set up."""
    K, at = len(modes.lines), 0
    one, scale = np.float32(1), modes.scale
    for l in range(0, K, LINES):  # noqa: E741
        for sign in range(2):
            for k in range(K):
                n = (min(l + LINES, modes.lines[k]) - l) * K
                if n > 0:
                    sums = bench.sums
                    _clear(sums, n)
                    _along_x(bench, which, k, sign, l * K, n)
                    for back in range(2 if k else 1):
                        to = one if back == 0 else -one
                        _add(field[at : at + n], sums[0], sums[3], to, scale)
                        _add(field[at + n : at + 2 * n], sums[1], sums[2], -to, scale)
                        at += 2 * n


@inline
def _add(field, a, b, sign, scale):
    """Add to a field a ± b, rounded to whole units."""
    for i in range(len(field)):
        field[i] = np.int32(field[i] + np.int32(np.rint((a[i] + sign * b[i]) * scale)))


@inline
def power(modes, field, bench, shells):
    """Set the power in each shell [S] of modes `field`: that of no sphere more."""
    for i in range(4):
        fill(bench.sums[i], np.float32(0))
    trial_power(modes, field, bench, 0, shells)
