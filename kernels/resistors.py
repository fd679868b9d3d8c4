"""The network of resistors on a CPU, one structure at a time, what a move leaves as it was kept: loops under numba.

Legend: N particles, E contacts, K contacts of a sphere, M waves of the bath, I spheres or contacts looked at together.
"""

from typing import NamedTuple

import numpy as np

from gpuion.kernels.elimination import add_waves, eliminate, mirror_waves, plane_of, turns_of, wave
from gpuion.kernels.rows import add_rows, fill, inline


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

    `steps` int64 [M / 2, 3] are the waves' wave numbers, `seen` [M / 2] what of them a sphere sees, `orders` those of a
    shell's resistance; `solvent`, `polarizable` (α of a common sphere), `heavy` (a sphere's weight).
    """

    steps: np.ndarray
    seen: np.ndarray
    orders: np.ndarray
    solvent: float
    polarizable: float
    heavy: float


class Links(NamedTuple):
    """What is known of a chain: centres [N, 3], `place` [N, C], `node` [N, 4]: w, s, h, α; conductances [N, N], i < j."""

    centers: np.ndarray
    place: np.ndarray
    node: np.ndarray
    conductance: np.ndarray


class Slate(NamedTuple):
    """One thread's room: features and two hidden layers [·, I], contacts [I, 2], the two systems, and sums of waves."""

    features: np.ndarray
    hidden: np.ndarray
    results: np.ndarray
    pairs: np.ndarray
    system: np.ndarray
    waves: np.ndarray


@inline
def _nearest(a, b, box, out):
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
        square = _nearest(centers[i], centers[j], box, vector)
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
        square = _nearest(middle, centers[k], box, apart)
        if square < reach * reach:
            distance = np.sqrt(square)
            for r in range(R):
                out[r] += _bump(distance, res.thirds[r], res.third_width)


@inline
def _touched(res, point, moved, reach):
    """Return whether a point lies within reach of one of the places [P, 3] where a sphere was and is; any if P = 0."""
    vector = np.empty(3)
    for p in range(len(moved)):
        if _nearest(point, moved[p], res.box, vector) < reach * reach:
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
    _look_at_contacts(res, contact, links, near, moved, slate)


@inline
def _look_at_contacts(res, contact, links, near, moved, slate):
    """Set the conductances of contacts with an end that is `near` or with a moved sphere beside them."""
    N, C = links.place.shape
    centers, count = links.centers, 0
    vector, middle, values = np.empty(3), np.empty(3), np.empty(len(res.thirds))
    L, T = len(res.lengths), len(res.thirds)
    distances = np.empty(len(slate.pairs))
    for i in range(N):
        for j in range(i + 1, N):
            square = _nearest(centers[i], centers[j], res.box, vector)
            if square >= res.cutoff * res.cutoff:
                links.conductance[i, j] = 0
                continue
            if not (near[i] or near[j]):
                for axis in range(3):
                    middle[axis] = centers[i, axis] + vector[axis] / 2
                if not _touched(res, middle, moved, res.thirds[T - 1] + res.third_width):
                    continue
            distance = np.sqrt(square)
            for f in range(L):
                slate.features[f, count] = _bump(distance, res.lengths[f], 1.0)
            _look_beside(res, centers, i, j, vector, values)
            for f in range(T):
                slate.features[L + f, count] = (values[f] - res.beside_mean[f]) / res.beside_scale[f]
            for c in range(C):
                a, b = links.place[i, c], links.place[j, c]
                slate.features[L + T + c, count], slate.features[L + T + C + c, count] = a + b, a * b
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


@inline
def solve(res, bath, links, slate, power):
    """Set the power over the spheres' weight in a unit field along x, y and z [3], by Kirchhoff's laws."""
    N = len(links.centers)
    E = _list_contacts(res, links, slate)
    system = _blank(slate.system, E + N + 3, E + N + 3)
    _assemble_contacts(res, bath, links, slate.pairs, E, system)
    eliminate(system, E)
    M = 2 * len(bath.steps)
    spheres = np.empty((N + 3, N + 3))
    for i in range(N + 3):
        for j in range(i, N + 3):
            spheres[i, j] = -system[E + i, E + j]
    whole = _blank(slate.system, N + M, N + M + 3)
    polarized = _assemble_bath(res, bath, links, spheres, slate.waves, whole)
    eliminate(whole, N + M)
    weight = 0.0
    for i in range(N):
        weight += links.node[i, 0]
    for axis in range(3):
        total = spheres[N + axis, N + axis] + polarized + bath.solvent * res.box**3
        for i in range(N + M):
            total -= whole[i, N + M + axis] ** 2
        power[axis] = total / weight


@inline
def _blank(room, n, width):
    """Return a matrix [n, ≥ width] whose upper triangle is zero, in a room if that is large enough."""
    width = (width + 7) // 8 * 8
    flat = room[: n * width] if n * width <= len(room) else np.empty(n * width)
    matrix = flat.reshape(n, width)
    for i in range(n):
        fill(matrix[i, i:], 0.0)
    return matrix


@inline
def _list_contacts(res, links, slate):
    """Set the pairs of spheres in contact, in the order of their lower ends along x; return how many."""
    N, E = len(links.centers), 0
    order = np.argsort(links.centers[:, 0])
    for a in range(N):
        for b in range(a + 1, N):
            i, j = order[a], order[b]
            if links.conductance[min(i, j), max(i, j)] > 0:
                slate.pairs[E, 0], slate.pairs[E, 1] = i, j
                E += 1
    return E


@inline
def _assemble_contacts(res, bath, links, pairs, E, system):
    """Set 1 + √g G √g of the contacts, and what unit potentials and fields do to them."""
    N = len(links.centers)
    vectors, roots = np.empty((E, 3)), np.empty(E)
    members, counts = np.empty((N, N), np.int64), np.zeros(N, np.int64)
    for e in range(E):
        i, j = pairs[e]
        _nearest(links.centers[i], links.centers[j], res.box, vectors[e])
        roots[e] = np.sqrt(links.conductance[min(i, j), max(i, j)])
        system[e, e] = 1
        system[e, E + i], system[e, E + j] = -roots[e], roots[e]
        for axis in range(3):
            system[e, E + N + axis] = vectors[e, axis] * roots[e]
        length = np.sqrt(vectors[e, 0] ** 2 + vectors[e, 1] ** 2 + vectors[e, 2] ** 2)
        for axis in range(3):
            vectors[e, axis] /= length
        members[i, counts[i]], members[j, counts[j]] = e, e
        counts[i] += 1
        counts[j] += 1
    for i in range(N):
        for a in range(counts[i]):
            e = members[i, a]
            for b in range(a, counts[i]):
                f = members[i, b]
                same = 1.0 if (pairs[e, 0] == i) == (pairs[f, 0] == i) else -1.0
                x = vectors[e, 0] * vectors[f, 0] + vectors[e, 1] * vectors[f, 1] + vectors[e, 2] * vectors[f, 2]
                shell = _shell(bath.orders, same * x)
                system[e, f] += same * links.node[i, 1] * shell * roots[e] * roots[f]


@inline
def _shell(orders, x):
    """Return Σ γ_l P_l(x) over l = 1 …"""
    before, here, total = 1.0, x, 0.0
    for l in range(1, len(orders) + 1):  # noqa: E741
        total += orders[l - 1] * here
        before, here = here, ((2 * l + 1) * x * here - l * before) / (l + 1)
    return total


@inline
def _assemble_bath(res, bath, links, spheres, waves, whole):
    """Set the system of spheres and bath with its right sides; return the polarized spheres' own power."""
    N, H = len(links.centers), len(bath.steps)
    M, unit, top = 2 * H, 2 * np.pi / res.box, waves.shape[2] // 2
    edge, polarized = 2 * top + 1, 0.0
    turns, plane = np.empty((2, 3, edge)), np.empty((2, edge * edge))
    fill(waves.reshape(waves.size), 0.0)
    for i in range(N):
        h = links.node[i, 2]
        polarized += links.node[i, 3]
        turns_of(links.centers[i] * unit, top, turns)
        plane_of(turns, plane)
        add_waves(turns, plane, h, waves[0].reshape(2, edge, edge * edge))
        add_waves(turns, plane, links.node[i, 3], waves[1].reshape(2, edge, edge * edge))
        for j in range(i, N):
            whole[i, j] = spheres[i, j]
        whole[i, i] += h
        for axis in range(3):
            whole[i, N + M + axis] = spheres[i, N + axis]
        for m in range(H):
            q = bath.steps[m]
            cosine, sine = wave(turns, top + q[0], top + q[1], top + q[2])
            whole[i, N + m], whole[i, N + H + m] = -h * bath.seen[m] * cosine, -h * bath.seen[m] * sine
    mirror_waves(waves[0], top)
    mirror_waves(waves[1], top)
    for m in range(H):
        _assemble_wave(bath, m, unit, res.box**3 * bath.solvent, waves, N, whole)
    return polarized


@inline
def _assemble_wave(bath, m, unit, stiffness, waves, N, whole):
    """Set a wave's rows, cosine and sine, of the system: products of waves are waves of sums and differences."""
    H, top, a = len(bath.steps), waves.shape[2] // 2, bath.steps[m]
    for n in range(H):
        b = bath.steps[n]
        seen = bath.seen[m] * bath.seen[n] / 2
        along = (a[0] * b[0] + a[1] * b[1] + a[2] * b[2]) * unit * unit
        x, y, z = top + a[0] + b[0], top + a[1] + b[1], top + a[2] + b[2]
        u, v, w = top + a[0] - b[0], top + a[1] - b[1], top + a[2] - b[2]
        h_sum, h_less = waves[0, 0, x, y, z], waves[0, 0, u, v, w]
        a_sum, a_less = along * waves[1, 0, x, y, z], along * waves[1, 0, u, v, w]
        if n >= m:
            whole[N + m, N + n] = seen * (h_less + h_sum + a_less - a_sum)
            whole[N + H + m, N + H + n] = seen * (h_less - h_sum + a_less + a_sum)
        h_sum, h_less = waves[0, 1, x, y, z], waves[0, 1, u, v, w]
        a_sum, a_less = along * waves[1, 1, x, y, z], along * waves[1, 1, u, v, w]
        whole[N + m, N + H + n] = seen * (h_sum - h_less - a_sum - a_less)
    stiff = stiffness * (a[0] * a[0] + a[1] * a[1] + a[2] * a[2]) * unit * unit
    whole[N + m, N + m] += stiff
    whole[N + H + m, N + H + m] += stiff
    for axis in range(3):
        k = a[axis] * unit * bath.seen[m]
        x, y, z = top + a[0], top + a[1], top + a[2]
        whole[N + m, N + 2 * H + axis] = -k * waves[1, 1, x, y, z]
        whole[N + H + m, N + 2 * H + axis] = k * waves[1, 0, x, y, z]
