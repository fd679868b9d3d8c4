"""Kirchhoff's laws for spheres that touch through shells, in a bath, on a CPU: elimination under numba.

What `gpuion.kirchhoff` says, as the power that is left when currents, then potentials of spheres and bath have been
eliminated, in float64: there is no solution to put back, and no ground.

Legend: N particles, E contacts, M waves of the bath, the first half cosines, H = M / 2.
"""

import numpy as np

from gpuion.kernels.contraction import order
from gpuion.kernels.elimination import eliminate
from gpuion.kernels.resistors import nearest
from gpuion.kernels.rows import fill, fma, inline
from gpuion.kernels.tiles import EDGE, ROWS, tiled
from gpuion.kernels.waves import TOGETHER, add_up, spread, turn


@inline
def solve(box, bath, links, slate, power):
    """Set the power over the spheres' weight in a unit field along x, y and z [3], by Kirchhoff's laws."""
    N, M = len(links.centers), 2 * len(bath.seen)
    E, place = _list_contacts(links, slate)
    first, n = tiled(E), tiled(N + M)  # where spheres begin, and fields
    contacts = _blank(slate.currents, first + tiled(N + 3), first + tiled(N + 3))
    _assemble_contacts(box, bath, links, slate.pairs[:E], place, first, contacts)
    eliminate(contacts, first)
    whole = _blank(slate.potentials, n, n + EDGE)
    for i in range(N):
        for j in range(i, N):
            whole[i, j] = -contacts[first + i, first + j]
        for axis in range(3):
            whole[i, n + axis] = -contacts[first + i, first + N + axis]
    polarized = _assemble_bath(box, bath, links, place, slate, whole)
    eliminate(whole, n)
    weight = 0.0
    for i in range(N):
        weight += links.node[i, 0]
    for axis in range(3):
        total = polarized + bath.solvent * box**3 - contacts[first + N + axis, first + N + axis]
        for i in range(N + M):
            total -= whole[i, n + axis] ** 2
        power[axis] = total / weight


@inline
def _blank(room, n, width):
    """Return a matrix [n, width] whose upper triangle is zero, in a room if that is large enough."""
    flat = room[: n * width] if n * width <= len(room) else np.empty(n * width)
    matrix = flat.reshape(n, width)
    for i in range(n):
        fill(matrix[i, i:], 0.0)
    return matrix


@inline
def _list_contacts(links, slate):
    """Set the pairs of spheres in contact, in the order of their elimination; return how many, and spheres' places."""
    N, E = len(links.centers), 0
    for i in range(N):
        for j in range(i + 1, N):
            if links.conductance[i, j] > 0:
                slate.pairs[E, 0], slate.pairs[E, 1] = i, j
                E += 1
    pairs, contacts = slate.pairs[:E].copy(), np.empty(E, np.int64)
    spheres, place = np.empty(N, np.int64), np.empty(N, np.int64)
    order(pairs, contacts, spheres)
    for e in range(E):
        slate.pairs[e, 0], slate.pairs[e, 1] = pairs[contacts[e], 0], pairs[contacts[e], 1]
    for i in range(N):
        place[spheres[i]] = i
    return E, place


@inline
def _assemble_contacts(box, bath, links, pairs, place, first, system):
    """Set 1 + √g G √g of the contacts, and what unit potentials and fields do to them."""
    N, E = len(links.centers), len(pairs)
    vectors, roots = np.empty((E, 3)), np.empty(E)
    members, counts = np.empty((N, N), np.int64), np.zeros(N, np.int64)
    for e in range(first):
        system[e, e] = 1
    for e in range(E):
        i, j = pairs[e]
        vector, square = nearest(links.centers[i], links.centers[j], box)
        roots[e] = np.sqrt(links.conductance[i, j])
        system[e, first + place[i]], system[e, first + place[j]] = -roots[e], roots[e]
        for axis in range(3):
            system[e, first + N + axis] = vector[axis] * roots[e]
            vectors[e, axis] = vector[axis] / np.sqrt(square)
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
                shell = _shell(bath.shell, same * x)
                system[e, f] += same * links.node[i, 1] * shell * roots[e] * roots[f]


@inline
def _shell(series, x):
    """Return Σ c_n xⁿ over n = 0 …"""
    total = 0.0
    for n in range(len(series) - 1, -1, -1):
        total = fma(total, x, series[n])
    return total


@inline
def _assemble_bath(box, bath, links, place, slate, whole):
    """Add the bath to the system of spheres and to its right sides; return the polarized spheres' own power."""
    waves, sums = bath.waves, slate.sums
    N, H, unit, top = len(links.centers), len(waves.x), 2 * np.pi / box, len(waves.counts) - 1
    polarized, planes = 0.0, sums[len(sums) - EDGE :]
    turns, weights = np.empty((TOGETHER, 2, 3, 2 * top + 1)), np.empty((TOGETHER, 2))
    numbers = np.empty(ROWS * EDGE)
    fill(sums.reshape(sums.size), 0.0)
    for i in range(N):
        k, h, row = i % TOGETHER, links.node[i, 2], whole[place[i]]
        polarized += links.node[i, 3]
        row[place[i]] += h
        turn(links.centers[i] * unit, turns[k])
        cosine, sine = planes[2 * k], planes[2 * k + 1]
        spread(waves, turns[k], cosine, sine)
        for m in range(H):
            x = np.uint64(top) + waves.x[m]
            a, b = turns[k, 0, 0, x], turns[k, 1, 0, x]
            c, s, seen = cosine[waves.pair[m]], sine[waves.pair[m]], -h * bath.seen[m]
            row[N + m], row[N + H + m] = seen * (a * c - b * s), seen * (a * s + b * c)
        weights[k, 0], weights[k, 1] = h, links.node[i, 3]
        if k == TOGETHER - 1 or i == N - 1:
            add_up(waves, turns, weights, k + 1, sums, numbers)
    _assemble_waves(bath, sums, box**3 * bath.solvent, N, whole)
    for i in range(N + 2 * H, len(whole)):
        whole[i, i] = 1
    return polarized


@inline
def _assemble_waves(bath, sums, stiffness, N, whole):
    """Set the waves' rows, cosines and sines, of the system: products of waves are waves of sums and differences."""
    waves, flat, width = bath.waves, sums.reshape(sums.size), np.uint64(sums.shape[1])
    H, n, k, two, three = len(waves.x), len(whole), waves.k, np.uint64(2) * width, np.uint64(3) * width
    for a in range(H):
        cosine, sine = whole[N + a], whole[N + H + a]
        for b in range(a, H):
            p, q, sign = np.uint64(waves.added[a, b]), np.uint64(waves.less[a, b]), waves.sign[a, b]
            along = k[a, 0] * k[b, 0] + k[a, 1] * k[b, 1] + k[a, 2] * k[b, 2]
            seen = bath.seen[a] * bath.seen[b] / 2
            h_sum, h_less = flat[p], flat[q]
            a_sum, a_less = along * flat[p + two], along * flat[q + two]
            cosine[N + b] = seen * (h_less + h_sum + a_less - a_sum)
            sine[N + H + b] = seen * (h_less - h_sum + a_less + a_sum)
            h_sum, h_less = flat[p + width], sign * flat[q + width]
            a_sum, a_less = along * flat[p + three], sign * along * flat[q + three]
            whole[N + b, N + H + a] = seen * (h_sum + h_less - a_sum + a_less)
            cosine[N + H + b] = seen * (h_sum - h_less - a_sum - a_less)
        stiff = stiffness * (k[a, 0] ** 2 + k[a, 1] ** 2 + k[a, 2] ** 2)
        cosine[N + a] += stiff
        sine[N + H + a] += stiff
        for axis in range(3):
            steep, own = k[a, axis] * bath.seen[a], np.uint64(waves.own[a])
            cosine[n + axis] = -steep * flat[own + three]
            sine[n + axis] = steep * flat[own + two]
