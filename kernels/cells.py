"""Tied periodic convolutions of a cube of cells on a CPU, all or where one sphere moved: scalar loops under numba.

A cell's numbers come of the same operations in the same order, whether all are made or a few: they are the same bits.

Legend: C channels, G cells along an edge, n along that of a region, which wraps around, P = n + 2 with its neighbours.
A layer is [C, G, G, G] in one row, a region's new numbers [C, n, n, n].
"""

from typing import NamedTuple

import numpy as np

from gpuion.kernels.rows import add_rows, aligned, fill, inline

_BLOCK = 384  # cells at once: eight rows of sums and sixteen of a layer's numbers, 37 kB, stay in the first cache
UNITS = 2.0**30  # of an activation, in which sums are exact


class Layers(NamedTuple):
    """A network's convolutions.

    Attributes
    ----------
    G, pool : int
        Cells along an edge, and voxels along that of one.
    channels : int64 [layers + 1]
        1, then those of each layer.
    first : int64 [layers + 2]
        Where in a row the layers begin, cells first.
    weights : float32 [layers, most, 4 · most]
        By output, then by input and distance: centre, faces, edges, corners.
    bias : float32 [layers, most]
    """

    G: int
    pool: int
    channels: np.ndarray
    first: np.ndarray
    weights: np.ndarray
    bias: np.ndarray


def layers(G: int, pool: int, weights: list[np.ndarray], bias: list[np.ndarray]) -> Layers:
    """Return the layers of weights [outputs, inputs, 4] and biases [outputs]."""
    channels = np.array([1, *(len(b) for b in bias)])
    most = int(channels.max())
    table, shift = np.zeros((len(bias), most, 4 * most), np.float32), np.zeros((len(bias), most), np.float32)
    for i, (w, b) in enumerate(zip(weights, bias, strict=True)):
        outputs, inputs, _ = w.shape
        table[i, :outputs, : 4 * inputs], shift[i, :outputs] = w.reshape(outputs, -1), b
    return Layers(G, pool, channels, np.cumsum([0, *(channels * G**3)]), table, shift)


class Desk(NamedTuple):
    """One thread's room to work in: neighbours' sums [4 · most, P³], results [most, P³], and three rows [3, P³].

    `places` int64 [3, 2, P] are the cells of a region along each axis, and what of the region before they are, or −1.
    """

    sums: np.ndarray
    results: np.ndarray
    rows: np.ndarray
    places: np.ndarray


def desks(layers: Layers, threads: int) -> Desk:
    """Return the rooms of all threads, in arrays of one more dimension."""
    most, P, T = layers.bias.shape[1], layers.G + 2, threads
    pitch = (P**3 // 32 + 1) * 32 + 16
    return Desk(
        aligned(T, 4 * most, pitch), aligned(T, most, pitch), aligned(T, 3, pitch), np.zeros((T, 3, 2, P), np.int64)
    )


@inline
def desk(all_, t):
    """Return the room of one thread."""
    return Desk(all_.sums[t], all_.results[t], all_.rows[t], all_.places[t])


@inline
def _find_places(places, start, P, before, n, G):
    """Set the places of a region's cells and neighbours, the region before it being of n cells from `before` on."""
    for axis in range(3):
        for p in range(P):
            at = (start[axis] - 1 + p) % G
            inner = (at - before[axis]) % G
            places[axis, 0, p], places[axis, 1, p] = at, inner if inner < n else -1


@inline
def _take(layer, patch, places, G, n, P, out):
    """Set `out` [P, P, P] to a channel's numbers, those of the region of n cells from `patch`."""
    for i in range(P):
        for j in range(P):
            at = (places[0, 0, i] * G + places[1, 0, j]) * G
            row, to = layer[at : at + G], out[(i * P + j) * P : (i * P + j + 1) * P]
            for k in range(P):
                to[k] = row[places[2, 0, k]]
            if places[0, 1, i] >= 0 and places[1, 1, j] >= 0:
                at = (places[0, 1, i] * n + places[1, 1, j]) * n
                row = patch[at : at + n]
                for k in range(P):
                    inner = places[2, 1, k]
                    if inner >= 0:
                        to[k] = row[inner]


@inline
def _add_neighbours(sums, rows, P):
    """Set rows 1, 2, 3 of `sums` [4, P³] to what lies beside each cell of row 0: over faces, edges and corners."""
    Q, end = P * P, P * P * P
    x, along, once, twice = sums[0], rows[0], rows[1], rows[2]
    _pair(x[: end - 2], x[2:end], along[1 : end - 1])
    m = end - 2 * P - 2
    _pair(along[1 : 1 + m], along[1 + 2 * P : 1 + 2 * P + m], twice[P + 1 : P + 1 + m])
    _pair_and(x[1 : 1 + m], x[1 + 2 * P : 1 + 2 * P + m], along[P + 1 : P + 1 + m], once[P + 1 : P + 1 + m])
    low, m = P + 1, end - 2 * Q - 2 * P - 2
    here, back, front = slice(low + Q, low + Q + m), slice(low, low + m), slice(low + 2 * Q, low + 2 * Q + m)
    _pair_and(x[back], x[front], once[here], sums[1, low + Q : low + Q + m])
    _pair_and(once[back], once[front], twice[here], sums[2, low + Q : low + Q + m])
    _pair(twice[back], twice[front], sums[3, low + Q : low + Q + m])


@inline
def _pair(a, b, out):
    for i in range(len(out)):
        out[i] = a[i] + b[i]


@inline
def _pair_and(a, b, c, out):
    for i in range(len(out)):
        out[i] = c[i] + (a[i] + b[i])


@inline
def _convolve(layers, l, P, sums, results):  # noqa: E741
    """Set `results` to a layer's numbers, before they are cut at 0, from sums; right inside the region."""
    rows, outputs = 4 * layers.channels[l], layers.channels[l + 1]
    first, end = (P * P + P + 1) // 16 * 16, P * P * P - P * P - P - 1
    for begin in range(first, end, _BLOCK):
        n = min(_BLOCK, end - begin)
        for o in range(outputs):
            fill(results[o, begin : begin + n], layers.bias[l, o])
        for r in range(0, rows, 8):
            some = sums[r : min(r + 8, rows)]
            for o in range(outputs):
                add_rows(some, begin, layers.weights[l, o, r : r + len(some)], results[o, begin : begin + n])


@inline
def _put(layer, patch, results, places, G, n, compare):
    """Put a channel's numbers into `patch` [n, n, n]; return by how much their sum grew, or their sum."""
    P, total = n + 2, np.int64(0)
    for i in range(n):
        for j in range(n):
            row = results[((i + 1) * P + j + 1) * P + 1 :]
            to = patch[(i * n + j) * n : (i * n + j + 1) * n]
            for k in range(n):
                to[k] = max(row[k], np.float32(0))
            for k in range(n):
                total += np.int64(np.float64(to[k]) * UNITS)
            if compare:
                at = (places[0, 0, i + 1] * G + places[1, 0, j + 1]) * G
                row = layer[at : at + G]
                for k in range(n):
                    total -= np.int64(np.float64(row[places[2, 0, k + 1]]) * UNITS)
    return total


@inline
def region(layers, start, n, l):  # noqa: E741
    """Return where the region of a layer begins along an axis, and how large it is, from that of the cells."""
    return start - l, min(n + 2 * l, layers.G)


@inline
def trial(layers, desk, state, patch, start, n, sums, compare):
    """Set `patch` and sums int64 of all layers' channels for cells that are new in a region of n from `start` [3] on.

    `state` is not read within regions, but to `compare`: then what `sums` grow by is added to them.
    """
    G = layers.G
    before, here = np.empty(3, np.int64), np.empty(3, np.int64)
    channel = 0
    for l in range(len(layers.bias)):  # noqa: E741
        for axis in range(3):
            before[axis], size = region(layers, start[axis], n, l)
            here[axis], m = region(layers, start[axis], n, l + 1)
        P = m + 2
        _find_places(desk.places, here, P, before, size, G)
        for c in range(layers.channels[l]):
            at = layers.first[l] + c * G**3
            _take(state[at : at + G**3], patch[at:], desk.places, G, size, P, desk.sums[4 * c])
            if l == 0:
                _scale(desk.sums[0, : P**3], layers.pool**3)
            _add_neighbours(desk.sums[4 * c : 4 * c + 4], desk.rows, P)
        _convolve(layers, l, P, desk.sums, desk.results)
        for c in range(layers.channels[l + 1]):
            at = layers.first[l + 1] + c * G**3
            sums[channel] += _put(state[at:], patch[at:], desk.results[c], desk.places, G, m, compare)
            channel += 1


@inline
def _scale(cells, voxels):
    """Turn counts of voxels inside spheres into what the network reads."""
    for i in range(len(cells)):
        cells[i] = (cells[i] / np.float32(voxels) - np.float32(0.1)) / np.float32(0.2)


@inline
def accept(layers, state, patch, start, n):
    """Copy a region's new numbers into the state."""
    G = layers.G
    for l in range(len(layers.channels)):  # noqa: E741
        x, m = region(layers, start[0], n, l)
        y, z = start[1] - l, start[2] - l
        for c in range(layers.channels[l]):
            at = layers.first[l] + c * G**3
            for i in range(m):
                for j in range(m):
                    row = at + ((x + i) % G * G + (y + j) % G) * G
                    for k in range(m):
                        state[row + (z + k) % G] = patch[at + (i * m + j) * m + k]
