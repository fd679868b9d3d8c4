"""What spheres and contacts of a network of resistors are like, all or near a move, on a CPU: loops under numba.

Legend: N particles, R bumps, C channels, I spheres or contacts looked at together, P places.
"""

from typing import NamedTuple

import numpy as np

from gpuion.kernels.rows import exponential, fma, inline
from gpuion.kernels.waves import Waves


class Perceptron(NamedTuple):
    """Three layers, weights [inputs in fours, outputs] and biases, float32."""

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

    `waves` are the bath's, `seen` [M / 2] what of them a sphere sees, `shell` the coefficients of x⁰, x¹, … of a
    shell's resistance between contacts whose angle has the cosine x; `solvent`, `polarizable` (α of a common sphere),
    `heavy` (a sphere's weight).
    """

    waves: Waves
    seen: np.ndarray
    shell: np.ndarray
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
    """One thread's room: features and results [I, ·], hidden layers [2, ·], pairs [I, 2], systems, sums of waves."""

    features: np.ndarray
    hidden: np.ndarray
    results: np.ndarray
    pairs: np.ndarray
    currents: np.ndarray
    potentials: np.ndarray
    sums: np.ndarray


@inline
def nearest(a, b, box):
    """Return the vector from a to the nearest image of b, and its square."""
    x, y, z, turn = b[0] - a[0], b[1] - a[1], b[2] - a[2], 1 / box
    x, y, z = x - box * np.rint(x * turn), y - box * np.rint(y * turn), z - box * np.rint(z * turn)
    return (x, y, z), x * x + y * y + z * z


@inline
def _bump(distance, center, width):
    """Return (1 − ((d − c) / width)²)³, 0 beyond the width."""
    inside = 1 - ((distance - center) / width) ** 2
    return inside * inside * inside if inside > 0 else 0.0


@inline
def _perceive(net, features, hidden, results, n):
    """Set `results` [n, outputs] of the features [n, inputs]. Vectors run along outputs: a move has few rows."""
    for k in range(n):
        _pass_on(net.first, net.first_bias, features[k], hidden[0], True)
        _pass_on(net.second, net.second_bias, hidden[0], hidden[1], True)
        _pass_on(net.third, net.third_bias, hidden[1], results[k], False)


@inline
def _pass_on(weights, bias, values, out, curved):
    """Set a layer's outputs, x / (1 + e^−x) of them where curved."""
    row = out[: len(bias)]
    for o in range(len(row)):
        row[o] = bias[o]
    for i in range(0, len(weights), 4):
        a, b, c, d = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        s, t, u, v = values[i], values[i + 1], values[i + 2], values[i + 3]
        for o in range(len(row)):
            row[o] = fma(v, d[o], fma(u, c[o], fma(t, b[o], fma(s, a[o], row[o]))))
    if curved:
        for o in range(len(row)):
            # Within what `exponential` takes; beyond, 1 / (1 + e^−x) is 1 or nothing next to x.
            row[o] = row[o] / (np.float32(1) + exponential(min(max(-row[o], np.float32(-80)), np.float32(80))))


@inline
def _look_around(res, centers, i, out):
    """Set features [2 R] of a sphere's neighbours: how many at which distances, and how lopsided."""
    R, box = len(res.rings), res.box
    lopsided = np.zeros((R, 3))
    reach = res.rings[R - 1] + res.ring_width
    for r in range(R):
        out[r] = 0
    for j in range(len(centers)):
        if j == i:
            continue
        vector, square = nearest(centers[i], centers[j], box)
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
    middle = centers[i, 0] + vector[0] / 2, centers[i, 1] + vector[1] / 2, centers[i, 2] + vector[2] / 2
    reach = res.thirds[R - 1] + res.third_width
    for r in range(R):
        out[r] = 0
    for k in range(len(centers)):
        if k in (i, j):
            continue
        _, square = nearest(middle, centers[k], box)
        if square < reach * reach:
            distance = np.sqrt(square)
            for r in range(R):
                out[r] += _bump(distance, res.thirds[r], res.third_width)


@inline
def _touched(box, point, moved, reach):
    """Return whether a point lies within reach of one of the places [P, 3] where a sphere was and is; any if P = 0."""
    for p in range(len(moved)):
        if nearest(point, moved[p], box)[1] < reach * reach:
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
    those, values = np.empty(N, np.int64), np.empty(2 * R)
    for i in range(N):
        if _touched(res.box, centers[i], moved, res.rings[R - 1] + res.ring_width):
            near[i], those[count] = True, i
            _look_around(res, centers, i, values)
            for f in range(2 * R):
                slate.features[count, f] = (values[f] - res.around_mean[f]) / res.around_scale[f]
            count += 1
    _perceive(place, slate.features, slate.hidden, slate.results, count)
    for k in range(count):
        for c in range(C):
            links.place[those[k], c] = slate.features[k, 2 * R + c] = slate.results[k, c]
    _perceive(sphere, slate.features, slate.hidden, slate.results, count)
    for k in range(count):
        node = links.node[those[k]]
        node[0] = bath.heavy * np.exp(0.3 * np.float64(slate.results[k, 0]) + res.common[0])
        node[1] = np.exp(_clamp(np.float64(slate.results[k, 1])))
        node[2] = 3 * np.exp(_clamp(np.float64(slate.results[k, 2]) + res.common[1]))
        node[3] = bath.polarizable * np.exp(_clamp(np.float64(slate.results[k, 3]) + res.common[3]))
    _look_at_contacts(res, contact, links, those[:count], near, slate)


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
def _look_at_contacts(res, contact, links, those, near, slate):
    """Set the conductances of contacts with an end among `those`, the numbers of the spheres that are `near`.

    A moved sphere beside a contact is near an end of it, by the sides and the median of a triangle: of two spheres c
    apart, the nearer one lies at most √(d² + c²/4) from a sphere at d from the middle between them. `network_score`
    sees to it that the reach around a sphere is no less.
    """
    N, T = len(links.place), len(res.thirds)
    centers, count = links.centers, 0
    values = np.empty(T)
    distances = np.empty(len(slate.pairs))
    for one in those:
        for other in range(N):
            if other == one or (near[other] and other < one):
                continue
            i, j = min(one, other), max(one, other)
            vector, square = nearest(centers[i], centers[j], res.box)
            if square >= res.cutoff * res.cutoff:
                links.conductance[i, j] = 0
                continue
            distance = np.sqrt(square)
            _look_beside(res, centers, i, j, vector, values)
            _describe(res, distance, values, links.place[i], links.place[j], slate.features[count])
            slate.pairs[count, 0], slate.pairs[count, 1], distances[count] = i, j, distance
            count += 1
    _perceive(contact, slate.features, slate.hidden, slate.results, count)
    for k in range(count):
        distance = distances[k]
        beyond = 2 * (distance - 13)
        soft = beyond if beyond > 20 else np.log1p(np.exp(beyond))
        value = np.float64(slate.results[k, 0]) + res.slope[0] + res.slope[1] * soft
        fade = (1 + np.cos(np.pi * distance / res.cutoff)) / 2
        conductance = np.exp(min(max(value, -12.0), 8.0)) * max(fade, 1e-9)
        links.conductance[slate.pairs[k, 0], slate.pairs[k, 1]] = conductance
