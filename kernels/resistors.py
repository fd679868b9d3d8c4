"""What spheres and contacts of a network of resistors are like, all or near a move, on a CPU: loops under numba.

Legend: N particles, R bumps, C channels, I spheres or contacts looked at together, P places.
"""

from typing import NamedTuple

import numpy as np

from gpuion.kernels.rows import add_rows, fill, inline
from gpuion.kernels.waves import Waves


class Perceptron(NamedTuple):
    """Three layers, weights [outputs, inputs in fours] and biases, float32."""

    first: np.ndarray
    first_bias: np.ndarray
    second: np.ndarray
    second_bias: np.ndarray
    third: np.ndarray
    third_bias: np.ndarray


class Resistors(NamedTuple):
    """The constants of a network that surroundings and conductances take.

    Bumps: `lengths`, `rings`, `thirds` of widths 1, `ring_width`, `third_width`; means and scales of features; `slope`
    [2]; `common` [4]; and cell and cutoff.
    """

    lengths: np.ndarray
    rings: np.ndarray
    thirds: np.ndarray
    ring_width: float
    third_width: float
    around_mean: np.ndarray
    around_scale: np.ndarray
    beside_mean: np.ndarray
    beside_scale: np.ndarray
    slope: np.ndarray
    common: np.ndarray
    box: float
    cutoff: float


class Bath(NamedTuple):
    """Constants of bath and shells.

    `waves` are the bath's, `seen` [M / 2] what of them a sphere sees, `orders` those of a shell's resistance;
    `solvent`, `polarizable` (α of a common sphere), `heavy` (a sphere's weight).
    """

    waves: Waves
    seen: np.ndarray
    orders: np.ndarray
    solvent: float
    polarizable: float
    heavy: float


class Links(NamedTuple):
    """What is known of a chain: centres [N, 3], `place` [N, C], `node` [N, 4]: w, s, h, α; conductance [N, N]."""

    centers: np.ndarray
    place: np.ndarray
    node: np.ndarray
    conductance: np.ndarray


class Slate(NamedTuple):
    """One thread's room: features and hidden layers [·, I], pairs [I, 2], the two systems flat, sums of waves."""

    features: np.ndarray
    hidden: np.ndarray
    results: np.ndarray
    pairs: np.ndarray
    currents: np.ndarray
    potentials: np.ndarray
    sums: np.ndarray


@inline
def nearest(a, b, box, out):
    """Set `out` to the vector from a to the nearest image of b; return its square."""
    square = 0.0
    for axis in range(3):
        apart = b[axis] - a[axis]
        apart -= box * np.rint(apart / box)
        out[axis] = apart
        square += apart * apart
    return square


@inline
def _bump(distance, center, width):
    """Return (1 − ((d − c) / width)²)³, 0 beyond the width."""
    inside = 1 - ((distance - center) / width) ** 2
    return inside * inside * inside if inside > 0 else 0.0


@inline
def _perceive(net, features, hidden, results, n):
    """Set `results` [outputs, n] of the features [inputs, n]."""
    for layer in range(3):
        if layer == 0:
            weights, bias, x, out = net.first, net.first_bias, features, hidden[0]
        elif layer == 1:
            weights, bias, x, out = net.second, net.second_bias, hidden[0], hidden[1]
        else:
            weights, bias, x, out = net.third, net.third_bias, hidden[1], results
        for o in range(len(bias)):
            row = out[o, :n]
            fill(row, bias[o])
            add_rows(x, 0, weights[o], row)
            if layer < 2:
                for i in range(n):
                    row[i] = row[i] / (np.float32(1) + np.exp(-row[i]))


@inline
def _look_around(res, centers, i, out):
    """Set features [2 R] of a sphere's neighbours: how many at which distances, and how lopsided."""
    R, box = len(res.rings), res.box
    vector, lopsided = np.empty(3), np.zeros((R, 3))
    reach = res.rings[R - 1] + res.ring_width
    for r in range(R):
        out[r] = 0
    for j in range(len(centers)):
        if j == i:
            continue
        square = nearest(centers[i], centers[j], box, vector)
        if square >= reach * reach:
            continue
        distance = np.sqrt(square)
        for r in range(R):
            bump = _bump(distance, res.rings[r], res.ring_width)
            if bump > 0:
                out[r] += bump
                for axis in range(3):
                    lopsided[r, axis] += bump * vector[axis] / distance
    for r in range(R):
        out[R + r] = np.sqrt(lopsided[r, 0] ** 2 + lopsided[r, 1] ** 2 + lopsided[r, 2] ** 2 + 1e-4)


@inline
def _look_beside(res, centers, i, j, vector, out):
    """Set features [R] of third spheres around the middle of a contact."""
    R, box = len(res.thirds), res.box
    middle, apart = np.empty(3), np.empty(3)
    for axis in range(3):
        middle[axis] = centers[i, axis] + vector[axis] / 2
    reach = res.thirds[R - 1] + res.third_width
    for r in range(R):
        out[r] = 0
    for k in range(len(centers)):
        if k in (i, j):
            continue
        square = nearest(middle, centers[k], box, apart)
        if square < reach * reach:
            distance = np.sqrt(square)
            for r in range(R):
                out[r] += _bump(distance, res.thirds[r], res.third_width)


@inline
def _touched(res, point, moved, reach):
    """Return whether a point lies within reach of one of the places [P, 3] where a sphere was and is; any if P = 0."""
    vector = np.empty(3)
    for p in range(len(moved)):
        if nearest(point, moved[p], res.box, vector) < reach * reach:
            return True
    return len(moved) == 0


@inline
def _clamp(x):
    return min(max(x, -6.0), 6.0)


@inline
def look(res, place, sphere, contact, bath, links, moved, slate):
    """Set what spheres and contacts are like, all of them or those near the places [P, 3] of a move."""
    N, C = links.place.shape
    centers = links.centers
    R = len(res.rings)
    near, count = np.zeros(N, np.bool_), 0
    numbers, values = np.empty(N, np.int64), np.empty(2 * R)
    for i in range(N):
        if _touched(res, centers[i], moved, res.rings[R - 1] + res.ring_width):
            near[i], numbers[count] = True, i
            _look_around(res, centers, i, values)
            for f in range(2 * R):
                slate.features[f, count] = (values[f] - res.around_mean[f]) / res.around_scale[f]
            count += 1
    _perceive(place, slate.features, slate.hidden, slate.results, count)
    for k in range(count):
        for c in range(C):
            links.place[numbers[k], c] = slate.features[2 * R + c, k] = slate.results[c, k]
    _perceive(sphere, slate.features, slate.hidden, slate.results, count)
    for k in range(count):
        node = links.node[numbers[k]]
        node[0] = bath.heavy * np.exp(0.3 * np.float64(slate.results[0, k]) + res.common[0])
        node[1] = np.exp(_clamp(np.float64(slate.results[1, k])))
        node[2] = 3 * np.exp(_clamp(np.float64(slate.results[2, k]) + res.common[1]))
        node[3] = bath.polarizable * np.exp(_clamp(np.float64(slate.results[3, k]) + res.common[3]))
    _look_at_contacts(res, contact, links, near, slate)


@inline
def _describe(res, distance, beside, tail, head, out):
    """Set a contact's features."""
    L, T, C = len(res.lengths), len(res.thirds), len(tail)
    for f in range(L):
        out[f] = _bump(distance, res.lengths[f], 1.0)
    for f in range(T):
        out[L + f] = (beside[f] - res.beside_mean[f]) / res.beside_scale[f]
    for c in range(C):
        out[L + T + c], out[L + T + C + c] = tail[c] + head[c], tail[c] * head[c]


@inline
def _look_at_contacts(res, contact, links, near, slate):
    """Set the conductances of contacts with an end that is `near`; a moved sphere beside a contact is near an end.

    By the sides and the median of a triangle: of two spheres c apart, the nearer one lies at most √(d² + c²/4) from a
    sphere at d from the middle between them. `network_score` sees to it that the reach around a sphere is no less.
    """
    N, T = len(links.place), len(res.thirds)
    centers, count = links.centers, 0
    vector, values = np.empty(3), np.empty(T)
    distances = np.empty(len(slate.pairs))
    for i in range(N):
        for j in range(i + 1, N):
            if not (near[i] or near[j]):
                continue
            square = nearest(centers[i], centers[j], res.box, vector)
            if square >= res.cutoff * res.cutoff:
                links.conductance[i, j] = 0
                continue
            distance = np.sqrt(square)
            _look_beside(res, centers, i, j, vector, values)
            _describe(res, distance, values, links.place[i], links.place[j], slate.features[:, count])
            slate.pairs[count, 0], slate.pairs[count, 1], distances[count] = i, j, distance
            count += 1
    _perceive(contact, slate.features, slate.hidden, slate.results, count)
    for k in range(count):
        distance = distances[k]
        beyond = 2 * (distance - 13)
        soft = beyond if beyond > 20 else np.log1p(np.exp(beyond))
        value = np.float64(slate.results[0, k]) + res.slope[0] + res.slope[1] * soft
        fade = (1 + np.cos(np.pi * distance / res.cutoff)) / 2
        conductance = np.exp(min(max(value, -12.0), 8.0)) * max(fade, 1e-9)
        links.conductance[slate.pairs[k, 0], slate.pairs[k, 1]] = conductance
