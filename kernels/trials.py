"""Scores of image networks for chains in which one sphere moves a step: loops under numba, a call a thread.

Legend: C chains, N particles, T threads.
"""

from typing import NamedTuple

import numpy as np

from gpuion.kernels.cells import UNITS, Layers, accept, desk, trial
from gpuion.kernels.modes import add_sphere, power, trial_power
from gpuion.kernels.rows import inline, jit
from gpuion.kernels.spheres import Modes, bench, find_rows, set_up, set_up_difference


class Head(NamedTuple):
    """What comes after convolutions and spectrum, float64.

    Features of mean 0 and deviation 1 are those times `scale` plus `shift`; `hidden` [H, features], `middle` [H];
    `output` [H + 3] are weights, bias, and scale and shift of log D*.
    """

    scale: np.ndarray
    shift: np.ndarray
    hidden: np.ndarray
    middle: np.ndarray
    output: np.ndarray


class Network(NamedTuple):
    """A network and the cell that it reads."""

    modes: Modes
    layers: Layers
    head: Head
    box: float
    radius: float
    spacing: float


class Memory(NamedTuple):
    """What is known of the chains.

    Attributes
    ----------
    centers : float64 [C, N, 3]
    field : int32 [C, …]
        Modes of the images.
    cells : float32 [C, …]
        Voxels inside spheres in each cell, and the layers' numbers.
    sums : int64 [C, channels]
        Of the layers' channels.
    score : float64 [C]
    """

    centers: np.ndarray
    field: np.ndarray
    cells: np.ndarray
    sums: np.ndarray
    score: np.ndarray


class Move(NamedTuple):
    """What would be if one sphere of each chain moved.

    Attributes
    ----------
    sphere : int64 [C]
    position : float64 [C, 3]
    region : int64 [C, 4]
        The first cell that the move changes, along each axis, and how many; 0 if nothing moves.
    patch : float32 [C, …]
        The cells' and layers' new numbers.
    sums, score : int64 [C, channels], float64 [C]
    """

    sphere: np.ndarray
    position: np.ndarray
    region: np.ndarray
    patch: np.ndarray
    sums: np.ndarray
    score: np.ndarray


@inline
def _count(network, rows, box, region, times, patch):
    """Add to the region's counts of voxels `times` those of a sphere."""
    pool, G, n = network.layers.pool, network.layers.G, region[3]
    for x in range(box[0, 1]):
        i = ((box[0, 0] + x) // pool - region[0]) % G
        for y in range(box[1, 1]):
            j = ((box[1, 0] + y) // pool - region[1]) % G
            z, end = rows[x, y, 0], rows[x, y, 1]
            while z < end:
                stop = min(end, (z // pool + 1) * pool)
                patch[(i * n + j) * n + (z // pool - region[2]) % G] += np.float32(times * (stop - z))
                z = stop


@inline
def _find_region(network, bench, shift, region):
    """Set the cells that two spheres touch, the second one's voxels moved by a whole number of cells' edges."""
    pool, size = network.layers.pool, 0
    for axis in range(3):
        was, now = bench.box[0, axis], bench.box[1, axis]
        first = min(was[0], now[0] + shift[axis]) // pool
        last = (max(was[0] + was[1], now[0] + shift[axis] + now[1]) - 1) // pool
        region[axis], size = first, max(size, last - first + 1)
    region[3] = min(size, network.layers.G)


@inline
def _predict(network, shells, sums):
    """Return D* of the power in the shells, and one more that holds none, and the sums of the channels."""
    head, G = network.head, network.layers.G
    V = G * network.layers.pool
    features = np.empty(len(head.scale))
    S = len(features) - len(sums)
    for s in range(S):
        features[s] = np.log(shells[s] / V**3 + 1e-6)
    for c in range(len(sums)):
        features[S + c] = sums[c] / (UNITS * G**3)
    for i in range(len(features)):
        features[i] = features[i] * head.scale[i] + head.shift[i]
    H = len(head.middle)
    value = head.output[H]
    for h in range(H):
        total = head.middle[h]
        for i in range(len(features)):
            total += head.hidden[h, i] * features[i]
        value += head.output[h] * max(total, 0.0)
    return np.exp(value * head.output[H + 1] + head.output[H + 2])


@jit
def start(network, memory, move, benches, desks, shells, t):
    """Fill the memory of a thread's chains, every T-th from t on, from their centres."""
    room, table = bench(benches, t), desk(desks, t)
    for c in range(t, len(memory.score), len(shells)):
        _start(network, memory, move, c, room, table, shells[t])


@jit
def propose(network, memory, move, benches, desks, shells, t):
    """Set region, numbers and score of the moves of a thread's chains."""
    room, table = bench(benches, t), desk(desks, t)
    for c in range(t, len(memory.score), len(shells)):
        _propose(network, memory, move, c, room, table, shells[t])


@jit
def commit(network, memory, move, benches, desks, shells, accepted, t):  # noqa: ARG001, called like the others
    """Make the moves of a thread's chains that are `accepted` bool [C]."""
    room = bench(benches, t)
    for c in range(t, len(memory.score), len(shells)):
        if accepted[c] and move.region[c, 3] > 0:
            _commit(network, memory, move, c, room)


@inline
def _start(network, memory, move, c, room, table, shells):
    """Fill a chain's memory; its move's numbers are overwritten."""
    state, patch, sums = memory.cells[c], move.patch[c], memory.sums[c]
    memory.field[c] = 0
    patch[: network.layers.G**3] = 0
    sums[:] = 0
    region = np.array([0, 0, 0, network.layers.G])
    for i in range(memory.centers.shape[1]):
        find_rows(memory.centers[c, i], network.radius, network.spacing, room.rows[0], room.box[0])
        set_up(network.modes, room, 0, 1)
        add_sphere(network.modes, memory.field[c], room, 0)
        _count(network, room.rows[0], room.box[0], region, 1, patch)
    power(network.modes, memory.field[c], room, shells)
    trial(network.layers, table, state, patch, region[:3], region[3], sums, False)
    accept(network.layers, state, patch, region[:3], region[3])
    memory.score[c] = _predict(network, shells, sums)


@inline
def _propose(network, memory, move, c, room, table, shells):
    """Set region, numbers and score of a chain's move."""
    G, pool = network.layers.G, network.layers.pool
    was, now, region, patch = memory.centers[c, move.sphere[c]], move.position[c], move.region[c], move.patch[c]
    if was[0] == now[0] and was[1] == now[1] and was[2] == now[2]:
        region[3], move.score[c] = 0, memory.score[c]
        return
    shift = np.empty(3, np.int64)
    for axis in range(3):
        shift[axis] = -np.int64(np.rint((now[axis] - was[axis]) / network.box)) * G * pool
    find_rows(was, network.radius, network.spacing, room.rows[0], room.box[0])
    find_rows(now, network.radius, network.spacing, room.rows[1], room.box[1])
    _find_region(network, room, shift, region)
    n = region[3]
    for i in range(n):
        for j in range(n):
            row = ((region[0] + i) % G * G + (region[1] + j) % G) * G
            for k in range(n):
                patch[(i * n + j) * n + k] = memory.cells[c, row + (region[2] + k) % G]
    _count(network, room.rows[0], room.box[0], region, -1, patch)
    _count(network, room.rows[1], room.box[1], region, 1, patch)
    move.sums[c] = memory.sums[c]
    trial(network.layers, table, memory.cells[c], patch, region[:3], n, move.sums[c], True)
    spheres = set_up_difference(network.modes, room, shift)
    trial_power(network.modes, memory.field[c], room, spheres, shells)
    move.score[c] = _predict(network, shells, move.sums[c])


@inline
def _commit(network, memory, move, c, room):
    """Make a chain's move."""
    center = memory.centers[c, move.sphere[c]]
    for times in (-1, 1):
        find_rows(center, network.radius, network.spacing, room.rows[0], room.box[0])
        set_up(network.modes, room, 0, times)
        add_sphere(network.modes, memory.field[c], room, 0)
        for axis in range(3):
            center[axis] = move.position[c, axis]
    accept(network.layers, memory.cells[c], move.patch[c], move.region[c, :3], move.region[c, 3])
    for i in range(len(memory.sums[c])):
        memory.sums[c, i] = move.sums[c, i]
    memory.score[c] = move.score[c]
