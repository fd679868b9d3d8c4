"""How often two spheres of a periodic arrangement are how far apart: the pair distribution g(r).

Legend: B structures, b of them at once, N particles, P pairs of particles, R bins and one for what is farther. Lengths
are in voxels.
"""

import itertools
import math

import torch
from torch import Tensor

from gpuion.checks import check_whole
from gpuion.descriptors import checked_centers

_LAYERS = 40  # of images along an axis: 64 000 in all
_CHUNK = 300_000  # pairs at once: ten float64 temporaries of this size are 24 MB; larger ones were no faster


def pair_distribution(centers: Tensor, *, box: float, r_max: int = 38) -> Tensor:
    """Return g(r) at r = 0, 1, …, r_max voxels: how many pairs have a distance in r ± ½ over how many an ideal gas has.

        g(r) = c(r) V / (N (N − 1) v(r)),   v(r) = 4π/3 ((r + ½)³ − max(r − ½, 0)³),

    with c(r) the number of ordered pairs i ≠ j and images n with r − ½ ≤ |r_j + nL − r_i| < r + ½; the bin of r = 0
    is the ball of radius ½. All periodic images count, so r may go beyond L / 2 and L. A sphere's own images do not:
    they are at the same distances in every arrangement. With N (N − 1), rather than N², the mean over independent
    uniform points is 1 in every bin, at any N.

    Parameters
    ----------
    centers : float [B, N, 3]
        Sphere centres, voxels, any image; N ≥ 2.
    box : float
        Edge L of the periodic cube, voxels.
    r_max : int
        The last r; the paper's is 38, just beyond half its box.

    Returns
    -------
    float64 [B, r_max + 1]
        From exact counts: a structure's g(r) does not depend on its batch or on the order of its spheres.

    Raises
    ------
    ValueError
        For malformed centres or box, fewer than two spheres, a negative or fractional r_max.

    References
    ----------
    Kadulkar, Howard, Truskett and Ganesan, J. Phys. Chem. B 2021: g(r), r = 0 … 38 voxels, as the input of a network.
    """
    r_max = check_whole("r_max", r_max, 0)
    x, box = checked_centers(centers, box), float(box)
    if 2 * r_max > _LAYERS * box:
        raise ValueError(f"r_max must be at most {_LAYERS / 2:g} boxes of {box}, got {r_max}; g(r) is 1 there")
    B, N, _ = x.shape
    if N < 2:
        raise ValueError(f"g(r) needs at least two spheres in a structure, got centers of shape {list(x.shape)}")
    counts = torch.zeros(B, r_max + 2, dtype=torch.int64, device=x.device)  # the last: farther than all bins
    reach = r_max + 0.5
    i, j = torch.triu_indices(N, N, 1, device=x.device)
    share = max(1, _CHUNK // len(i))
    for some, count in zip(x.split(share), counts.split(share), strict=True):
        for first, second in zip(i.split(_CHUNK), j.split(_CHUNK), strict=True):
            _count(some[:, second] - some[:, first], box, reach, count)
    ball = (torch.arange(r_max + 1, dtype=torch.float64, device=x.device) + 0.5) ** 3 * (4 / 3 * math.pi)
    shell = ball.diff(prepend=ball.new_zeros(1))
    return counts[:, :-1].double() * (2 * box**3 / (N * (N - 1))) / shell


def _count(apart: Tensor, box: float, reach: float, counts: Tensor) -> None:
    """Add to counts [b, R] the distances of all images of the pairs that lie apart [b, P, 3]."""
    apart = apart.abs().remainder(box)
    along = torch.minimum(apart, box - apart).unbind(-1)  # mirrored into [0, L/2]: distances stay
    # Along an axis the k-th nearest image of the pair is |d|, L − |d|, L + |d|, 2L − |d|, … away: at least kL/2.
    layers = range(math.ceil(2 * reach / box))
    for image in itertools.product(layers, repeat=3):
        if math.hypot(*image) * box / 2 >= reach:
            continue
        square = torch.zeros_like(along[0])
        for d, k in zip(along, image, strict=True):
            square += ((k + 1) // 2 * box + (d if k % 2 == 0 else -d)).square()
        # 2 to 3 ns a distance on one core, where a search among the edges takes 30 to 40.
        bins = (square.sqrt() + 0.5).long().clamp(max=counts.shape[1] - 1)
        counts.scatter_add_(1, bins, torch.ones((), dtype=torch.int64, device=bins.device).expand_as(bins))
