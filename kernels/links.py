"""Chains of structures scored by the network of resistors: loops under numba, a call a thread.

Legend: C chains, N particles, T threads.
"""

import numpy as np

from gpuion.kernels.circuits import solve
from gpuion.kernels.resistors import Links, Slate, look
from gpuion.kernels.rows import aligned, inline, jit


def slates(T: int, N: int, channels: int, inputs: int, hidden: int, waves: int, top: int) -> Slate:
    """Return the rooms of all threads, in arrays of one more dimension."""
    most = max(N * (N - 1) // 2, N) // 16 * 16 + 16
    size = max(8 * N + 3, N + waves + 16)
    return Slate(
        aligned(T, (inputs + 3) // 4 * 4, most), aligned(T, 2, (hidden + 3) // 4 * 4, most),
        aligned(T, max(channels, 4), most), np.zeros((T, most, 2), np.int64), np.zeros((T, size * size)),
        np.zeros((T, 2, 2, 2 * top + 1, 2 * top + 1, 2 * top + 1)),
    )  # fmt: skip


@inline
def _slate(all_, t):
    return Slate(all_.features[t], all_.hidden[t], all_.results[t], all_.pairs[t], all_.system[t], all_.waves[t])


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
    for c in range(t, len(power), len(slates.system)):
        links = _links(known, c)
        look(res, place, sphere, contact, bath, links, np.empty((0, 3)), slate)
        solve(res, bath, links, slate, power[c])


@jit
def propose(network, known, trial, spheres, positions, slates, power, t):
    """Fill `trial` with what would be known if a sphere of each chain moved; leave the power of those that do not."""
    res, place, sphere, contact, bath = network
    slate = _slate(slates, t)
    for c in range(t, len(power), len(slates.system)):
        links = _links(trial, c)
        _copy(_links(known, c), links)
        moved = _move(links.centers[spheres[c]], positions[c])
        if len(moved):
            look(res, place, sphere, contact, bath, links, moved, slate)
            solve(res, bath, links, slate, power[c])


@jit
def commit(known, trial, accepted):
    """Take over what is known of the chains `accepted` bool [C]."""
    for c in range(len(accepted)):
        if accepted[c]:
            _copy(_links(trial, c), _links(known, c))
