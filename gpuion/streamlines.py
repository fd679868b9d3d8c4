"""Lines along a stationary current, for pictures of where ions go.

Legend: X Y Z sites, L lines, T points of a line. Lengths in voxels.
"""

import numpy as np
import torch
from torch import Tensor

_STEP = 0.5  # of a step along a line, in sites
_KEEP = 4  # every so many steps are a point of the line


def streamlines(current: Tensor, *, box: float, count: int = 60, length: float = 60.0) -> list[np.ndarray]:
    """Return lines that follow a periodic current, cut where they leave the box.

    Lines begin where the current is: site by site along the lattice, at equal shares of Σ |J|. Each goes so far both
    ways, by the midpoint rule on the current between sites, by its direction alone.

    Parameters
    ----------
    current : float [3, X, Y, Z]
        On bonds, as `gpuion.currents` gives it for one structure: J[d, x] flows from site x to the next one along d.
    box : float
        Edge of the periodic cube, voxels.
    count : int
        Lines to begin.
    length : float
        Of each, voxels, both ways together.

    Returns
    -------
    list of float32 [T, 3]
        Pieces of two points or more, voxels, in the direction of the current; none where nothing flows.

    Raises
    ------
    ValueError
        For another shape.
    """
    if current.ndim != 4 or len(current) != 3 or len(set(current.shape[1:])) != 1:
        raise ValueError(f"current must be [3, X, Y, Z] with X = Y = Z, got {list(current.shape)}")
    J = torch.stack([(current[d] + current[d].roll(1, d)) / 2 for d in range(3)]).double()
    share = J.square().sum(0).sqrt().flatten().cumsum(0)
    if not float(share[-1]) > 0:
        return []
    spacing, n = box / J.shape[1], J.shape[1]
    first = torch.searchsorted(share, (torch.arange(count, dtype=torch.float64) + 0.5) / count * share[-1])
    start = torch.stack([first // n**2, first // n % n, first % n], 1).double() + 0.5
    steps = max(_KEEP, round(length / 2 / spacing / _STEP))
    back, ahead = (_follow(J, start, sign * _STEP, steps) for sign in (-1, 1))
    points = torch.cat([back.flip(0), ahead[1:]])[::_KEEP] * spacing  # [T, L, 3]
    return [piece for line in points.unbind(1) for piece in _pieces(line.numpy(), box)]


def _follow(J: Tensor, start: Tensor, step: float, steps: int) -> Tensor:
    """Return the points met from start [L, 3], in sites, by steps of one length, [steps + 1, L, 3]."""
    points = [start]
    for _ in range(steps):
        here = points[-1]
        middle = here + step / 2 * _direction(J, here)
        points.append(here + step * _direction(J, middle))
    return torch.stack(points)


def _direction(J: Tensor, at: Tensor) -> Tensor:
    """Return the direction of the current at points [L, 3], in sites, from the eight sites around each."""
    n = J.shape[1]
    low = (at - 0.5).floor()
    part, low = at - 0.5 - low, low.long()
    value = torch.zeros_like(at)
    for corner in range(8):
        bits = torch.tensor([corner >> 2 & 1, corner >> 1 & 1, corner & 1])
        weight = torch.where(bits.bool(), part, 1 - part).prod(1)
        x, y, z = (low + bits).remainder(n).unbind(1)
        value += weight[:, None] * J[:, x, y, z].T
    return value / value.norm(dim=1, keepdim=True).clamp_min(1e-300)


def _pieces(line: np.ndarray, box: float) -> list[np.ndarray]:
    """Return an unwrapped line [T, 3] as pieces within the box."""
    cell = np.floor(line / box)
    cuts = np.flatnonzero((cell[1:] != cell[:-1]).any(1)) + 1
    pieces = np.split(line - box * cell, cuts)
    return [piece.astype(np.float32) for piece in pieces if len(piece) > 1]
