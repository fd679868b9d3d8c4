"""Chains of structures scored by the network of resistors: loops under numba, a call a thread.

Legend: C chains, N particles, T threads.
"""

import math

import numpy as np

from gpuion.kernels.circuits import solve
from gpuion.kernels.resistors import Links, Slate, look
from gpuion.kernels.rows import aligned, inline, jit
from gpuion.kernels.tiles import EDGE, tiled
from gpuion.kernels.waves import Waves, shape_of


def slates(T: int, N: int, channels: int, inputs: int, hidden: int, waves: Waves) -> Slate:
    """Return the rooms of all threads, in arrays of one more dimension."""
    most = max(N * (N - 1) // 2, N)
    currents, potentials = tiled(8 * N), tiled(N + 2 * len(waves.x))  # with more contacts, each solve makes room
    sums = shape_of(waves)
    return Slate(
        aligned(T, most, (inputs + 3) // 4 * 4), aligned(T, 2, (hidden + 3) // 4 * 4),
        aligned(T, most, max(channels, 4)), np.zeros((T, most, 2), np.int64), _numbers(T, currents**2),
        _numbers(T, potentials * (potentials + EDGE)), _numbers(T, math.prod(sums)).reshape(T, *sums),
    )  # fmt: skip


def _numbers(T: int, count: int) -> np.ndarray:
    """Return zeros float64 for each thread that begin with a line of the cache; counts are multiples of 8."""
    return aligned(T, 2 * count).view(np.float64)


@inline
def _slate(all_, t):
    return Slate(
        all_.features[t],
        all_.hidden[t],
        all_.results[t],
        all_.pairs[t],
        all_.currents[t],
        all_.potentials[t],
        all_.sums[t],
    )


@inline
def _links(all_, c):
    return Links(all_.centers[c], all_.place[c], all_.node[c], all_.conductance[c])


@inline
def _copy(source, target):
    target.centers[:] = source.centers
    target.place[:] = source.place
    target.node[:] = source.node
    target.conductance[:] = source.conductance


@inline
def _move(center, position):
    """Move a sphere; return where it was and where it is, [2, 3], or nothing if that is the same."""
    places, count = np.empty((2, 3)), 0
    for axis in range(3):
        places[0, axis], places[1, axis] = center[axis], position[axis]
        if center[axis] != position[axis]:
            center[axis], count = position[axis], 2
    return places[:count]


@jit
def start(network, known, slates, power, t):
    """Fill what is known of a thread's chains, every T-th from t on, from their centres, and their power [C, 3]."""
    res, place, sphere, contact, bath = network
    slate = _slate(slates, t)
    for c in range(t, len(power), len(slates.potentials)):
        links = _links(known, c)
        look(res, place, sphere, contact, bath, links, np.empty((0, 3)), slate)
        solve(res.box, bath, links, slate, power[c])


@jit
def propose(network, known, trial, spheres, positions, slates, power, t):
    """Fill `trial` with what would be known if a sphere of each chain moved; leave the power of those that do not."""
    res, place, sphere, contact, bath = network
    slate = _slate(slates, t)
    for c in range(t, len(power), len(slates.potentials)):
        links = _links(trial, c)
        _copy(_links(known, c), links)
        moved = _move(links.centers[spheres[c]], positions[c])
        if len(moved):
            look(res, place, sphere, contact, bath, links, moved, slate)
            solve(res.box, bath, links, slate, power[c])


@jit
def commit(known, trial, accepted):
    """Take over what is known of the chains `accepted` bool [C]."""
    for c in range(len(accepted)):
        if accepted[c]:
            _copy(_links(trial, c), _links(known, c))
