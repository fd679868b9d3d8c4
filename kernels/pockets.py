"""Which open sites are shut in: clusters of a periodic lattice that reach no image of themselves, on the host.

Sites are joined in runs along z, so that a structure costs little more than one reading of its labels: union-find over
runs, each with the cell in which its cluster's root lies. Two ways round to one run that end in different cells are
a way out along each axis in which the cells differ.

Legend: B structures, X Y Z sites, K classes, R runs.
"""

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from gpuion.kernels.scalar import same_threads


@numba.njit(cache=True)
def _root(parent, cell, run):
    """Return a run's root and the cell of the run relative to it; shorten the way."""
    root, x, y, z = run, 0, 0, 0  # numbers: small arrays would take longer than all the rest
    while parent[root] != root:
        x, y, z = x + cell[root, 0], y + cell[root, 1], z + cell[root, 2]
        root = parent[root]
    total = x, y, z
    while parent[run] != root:
        above, step = parent[run], (cell[run, 0], cell[run, 1], cell[run, 2])
        parent[run] = root
        cell[run, 0], cell[run, 1], cell[run, 2] = x, y, z
        x, y, z = x - step[0], y - step[1], z - step[2]
        run = above
    return root, total


@numba.njit(cache=True)
def _join(parent, cell, out, a, b, step):
    """Join run b to run a, which lies `step` cells behind it; mark ways out."""
    root_a, cell_a = _root(parent, cell, a)
    root_b, cell_b = _root(parent, cell, b)
    if root_a != root_b:
        parent[root_b] = root_a
    for axis in range(3):
        apart = cell_a[axis] + step[axis] - cell_b[axis]
        if root_a == root_b:
            out[root_a, axis] |= apart != 0
        else:
            cell[root_b, axis] = apart


@numba.njit(cache=True)
def _runs(field, conducts):
    """Return the first run of each row [X Y + 1], and first and last site along z of each run [R, 2]."""
    X, Y, Z = field.shape
    first = np.zeros(X * Y + 1, np.int64)
    for count in range(2):  # once to count, once to note
        ends, R = np.empty((first[-1] if count else 0, 2), np.int32), 0
        for row in range(X * Y):
            x, y = row // Y, row % Y
            inside = False
            for z in range(Z):
                here = conducts[field[x, y, z]]
                if here and not inside:
                    R += 1
                    if count:
                        ends[R - 1, 0] = z
                if here and count:
                    ends[R - 1, 1] = z
                inside = here
            first[row + 1] = R
    return first, ends


@numba.njit(cache=True)
def _ways_out(field, first, ends):
    """Return for each run whether its cluster leads out along each axis, [R, 3]."""
    X, Y, Z = field.shape
    R = len(ends)
    parent, cell, out = np.arange(R), np.zeros((R, 3), np.int64), np.zeros((R, 3), np.bool_)
    step = np.zeros(3, np.int64)
    for row in range(X * Y):
        x, y = row // Y, row % Y
        if first[row] < first[row + 1] and ends[first[row], 0] == 0 and ends[first[row + 1] - 1, 1] == Z - 1:
            step[0], step[1], step[2] = 0, 0, 1
            _join(parent, cell, out, first[row + 1] - 1, first[row], step)
        for axis in range(2):
            beside = (x + 1) % X * Y + y if axis == 0 else x * Y + (y + 1) % Y
            step[0] = 1 if axis == 0 and x == X - 1 else 0
            step[1] = 1 if axis == 1 and y == Y - 1 else 0
            step[2] = 0
            a, b = first[row], first[beside]
            while a < first[row + 1] and b < first[beside + 1]:
                if ends[a, 0] <= ends[b, 1] and ends[b, 0] <= ends[a, 1]:
                    _join(parent, cell, out, a, b, step)
                if ends[a, 1] < ends[b, 1]:
                    a += 1
                else:
                    b += 1
    for run in range(R):  # marks of roots that were joined to others since
        out[_root(parent, cell, run)[0]] |= out[run]
    for run in range(R):
        out[run] = out[parent[run]]
    return out


@numba.njit(cache=True, parallel=True)
def _pockets(labels, conducts, weight, trapped, leads):
    B, X, Y, Z = labels.shape
    for b in prange(B):
        first, ends = _runs(labels[b], conducts)
        out = _ways_out(labels[b], first, ends)
        total, free = 0.0, 0.0
        for row in range(X * Y):
            x, y = row // Y, row % Y
            for z in range(Z):
                total += weight[b, labels[b, x, y, z]]
            for run in range(first[row], first[row + 1]):
                leads[b] |= out[run]
                if out[run].any():
                    for z in range(ends[run, 0], ends[run, 1] + 1):
                        free += weight[b, labels[b, x, y, z]]
        trapped[b] = (total - free) / total


def pockets(labels: Tensor, conducts: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of stationary weight in clusters that lead nowhere, and the axes along which some cluster does.

    Parameters
    ----------
    labels : uint8 [B, X, Y, Z]
        On any device; read on the host.
    conducts : bool [K]
        Classes between which ions hop.
    weight : float64 [B, K]
        Stationary weight of a site of each class; some site of each structure has one.

    Returns
    -------
    float64 [B], bool [B, 3]
        On the labels' device.
    """
    trapped, leads = torch.zeros(len(labels), dtype=torch.float64), torch.zeros(len(labels), 3, dtype=torch.bool)
    arrays = [tensor.cpu().contiguous().numpy() for tensor in (labels, conducts, weight)]
    with same_threads():
        _pockets(*arrays, trapped.numpy(), leads.numpy())
    return trapped.to(labels.device), leads.to(labels.device)
