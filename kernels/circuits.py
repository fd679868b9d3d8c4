"""Kirchhoff's laws for spheres that touch through shells, in a bath, on a CPU: dense elimination under numba.

What `gpuion.kirchhoff` says, as the power that is left when currents, then potentials of spheres and bath have been
eliminated, in float64: there is no solution to put back, and no ground.

Legend: N particles, E contacts, M waves of the bath, the first half cosines, H = M / 2.
"""

import numpy as np

from gpuion.kernels.elimination import add_waves, eliminate, mirror_waves, plane_of, turns_of, wave
from gpuion.kernels.resistors import nearest
from gpuion.kernels.rows import fill, inline


@inline
def solve(res, bath, links, slate, power):
    """Set the power over the spheres' weight in a unit field along x, y and z [3], by Kirchhoff's laws."""
    N = len(links.centers)
    E = _list_contacts(links, slate)
    system = _blank(slate.system, E + N + 3, E + N + 3)
    _assemble_contacts(res.box, bath, links, slate.pairs, E, system)
    eliminate(system, E)
    M = 2 * len(bath.steps)
    spheres = np.empty((N + 3, N + 3))
    for i in range(N + 3):
        for j in range(i, N + 3):
            spheres[i, j] = -system[E + i, E + j]
    whole = _blank(slate.system, N + M, N + M + 3)
    polarized = _assemble_bath(res.box, bath, links, spheres, slate.waves, whole)
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
def _list_contacts(links, slate):
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
def _assemble_contacts(box, bath, links, pairs, E, system):
    """Set 1 + √g G √g of the contacts, and what unit potentials and fields do to them."""
    N = len(links.centers)
    vectors, roots = np.empty((E, 3)), np.empty(E)
    members, counts = np.empty((N, N), np.int64), np.zeros(N, np.int64)
    for e in range(E):
        i, j = pairs[e]
        nearest(links.centers[i], links.centers[j], box, vectors[e])
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
def _assemble_bath(box, bath, links, spheres, waves, whole):
    """Set the system of spheres and bath with its right sides; return the polarized spheres' own power."""
    N, H = len(links.centers), len(bath.steps)
    M, unit, top = 2 * H, 2 * np.pi / box, waves.shape[2] // 2
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
        _assemble_wave(bath, m, unit, box**3 * bath.solvent, waves, N, whole)
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
