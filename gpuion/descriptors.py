"""Who is near whom: neighbours, clusters and percolation of spheres in a periodic cube.

Legend: B structures, N particles. Lengths are in voxels; sums and comparisons are in float64. g(r) is in
`gpuion.radial`, what many structures have in common in `gpuion.components`.
"""

import dataclasses
import math
import reprlib

import torch
from torch import Tensor

from gpuion.checks import check_length, check_tensor, is_between

_CHUNK = 200_000  # pairs at once in `describe`: with vectors and cells some 100 bytes each, 20 MB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """Which spheres are close, in a few numbers a structure.

    Attributes
    ----------
    nearest : float64 [B]
        Distance to the nearest other sphere, or own image, mean over the spheres, voxels.
    sizes : int64 [B, N]
        Spheres in each cluster, largest first, then zeros.
    percolates : bool [B, 3]
        Whether a cluster wraps around x, y, z.
    """

    nearest: Tensor
    sizes: Tensor
    percolates: Tensor

    @property
    def clusters(self) -> Tensor:
        """The number of clusters, spheres alone among them, int64 [B]."""
        return (self.sizes > 0).sum(1)

    @property
    def largest(self) -> Tensor:
        """The share of the spheres that is in the largest cluster, float64 [B]."""
        return self.sizes[:, 0].double() / self.sizes.shape[1]

    @property
    def axes(self) -> Tensor:
        """The number of axes along which a cluster percolates, int64 [B]."""
        return self.percolates.sum(1)


def describe(centers: Tensor, *, box: float, cutoff: float = 14.0) -> Description:
    """Return mean nearest distance, sizes of the clusters and percolating axes, with memory for any B.

    Parameters
    ----------
    centers : float [B, N, 3]
        Sphere centres, voxels, any image.
    box : float
        Edge of the periodic cube, voxels.
    cutoff : float
        Distance below which two spheres are neighbours, voxels, at most box / 2. Coronas of the default
        `TransportModel` on spheres of diameter 9.6 touch at 14, the paper's choice.

    Raises
    ------
    ValueError
        For malformed centres, box or cutoff.

    References
    ----------
    Kadulkar, Howard, Truskett and Ganesan, J. Phys. Chem. B 2021: clusters of spheres closer than 14 voxels.
    """
    _check_cutoff(cutoff, box)
    x, box, cutoff = checked_centers(centers, box), float(box), float(cutoff)
    N = x.shape[1]
    nearest, sizes, wraps = [], [], []
    for some in x.split(max(1, _CHUNK // N**2)):
        vector, step = _minimum_image(some, box)
        adjacent = _near(vector, cutoff)
        label = _components(adjacent)
        size = torch.zeros_like(label).scatter_add_(1, label, torch.ones_like(label))
        nearest.append(_nearest(vector, box).mean(-1))
        sizes.append(size.sort(1, descending=True).values)
        wraps.append(_wraps(adjacent, step))
    return Description(nearest=torch.cat(nearest), sizes=torch.cat(sizes), percolates=torch.cat(wraps))


def nearest_distance(centers: Tensor, *, box: float) -> Tensor:
    """Return each sphere's distance to the nearest other one, or to its own image: min_j min_n |r_j + nL − r_i|.

    Parameters
    ----------
    centers : float [B, N, 3]
        Sphere centres, voxels, any image.
    box : float
        Edge L of the periodic cube, voxels.

    Returns
    -------
    float64 [B, N]
        Centre to centre, voxels; L for a sphere that is alone.

    Raises
    ------
    ValueError
        For malformed centres or box.
    """
    vector, _ = _minimum_image(centers, box)
    return _nearest(vector, box)


def neighbors(centers: Tensor, *, box: float, cutoff: float) -> tuple[Tensor, Tensor]:
    """Return which spheres are closer than `cutoff`, and the shortest vector from each sphere to each other one.

    Parameters
    ----------
    centers : float [B, N, 3]
        Sphere centres, voxels, any image.
    box : float
        Edge of the periodic cube, voxels.
    cutoff : float
        Distance below which two spheres are neighbours, voxels; the diameter plus twice the corona's reach is
        where two coronas touch.

    Returns
    -------
    bool [B, N, N], float64 [B, N, N, 3]
        Symmetric, no sphere its own neighbour; vector[b, i, j] leads from i to the nearest image of j, voxels.

    Raises
    ------
    ValueError
        For malformed centres, box or cutoff.
    """
    cutoff = check_length("cutoff", cutoff)
    vector, _ = _minimum_image(centers, box)
    return _near(vector, cutoff), vector


def clusters(centers: Tensor, *, box: float, cutoff: float) -> Tensor:
    """Return for each sphere the smallest index in its cluster: the spheres it reaches by steps below `cutoff`.

    Parameters and errors are those of `neighbors`.

    Returns
    -------
    int64 [B, N]
        Equal numbers within a cluster; a sphere alone has its own index.
    """
    adjacent, _ = neighbors(centers, box=box, cutoff=cutoff)
    return _components(adjacent)


def percolates(centers: Tensor, *, box: float, cutoff: float) -> Tensor:
    """Return along which axes some cluster leads from a sphere to another image of the same sphere.

    Each sphere gets the cell in which a walk along neighbours from its cluster's first sphere arrives. A pair of
    neighbours whose cells do not fit its own step closes a loop around the box, along each axis in which they differ.

    Parameters
    ----------
    centers, box, cutoff
        As in `neighbors`, with cutoff at most box / 2, so that two spheres are neighbours through one image only.

    Returns
    -------
    bool [B, 3]
        Whether a cluster wraps around x, y, z; a diagonal loop counts for all its axes.

    Raises
    ------
    ValueError
        For malformed centres, box or cutoff.
    """
    _check_cutoff(cutoff, box)
    vector, step = _minimum_image(centers, box)
    return _wraps(_near(vector, cutoff), step)


def checked_centers(centers: Tensor, box: float) -> Tensor:
    """Return sphere centres, a tensor or an array, as float64 [B, N, 3], none of them moved, or raise ValueError."""
    centers = check_tensor("centers", centers)
    if centers.ndim != 3 or centers.shape[-1] != 3 or not centers.shape[1] or not centers.is_floating_point():
        raise ValueError(
            f"centers must be floats of shape [B, N, 3] with N ≥ 1, got {centers.dtype} {list(centers.shape)}"
        )
    check_length("box", box)
    x = centers.double()
    if not bool(x.isfinite().all()):
        raise ValueError("centers must be finite numbers")
    return x


def _check_cutoff(cutoff: float, box: float) -> None:
    """Refuse a cutoff at which two spheres could be neighbours through two images."""
    half = check_length("box", box) / 2
    if not is_between(cutoff, 0, math.inf) or float(cutoff) > half:
        raise ValueError(f"cutoff must lie in (0, box / 2 = {half}], got {reprlib.repr(cutoff)}")


def _minimum_image(centers: Tensor, box: float) -> tuple[Tensor, Tensor]:
    """Return vectors from i to the nearest image of j, float64, and that image's cell, int64, [B, N, N, 3]."""
    x, box = checked_centers(centers, box), float(box)
    apart = x[:, None] - x[:, :, None]
    # Of two images at the same distance, i → j and j → i must take opposite ones: round() to even is odd in its sign.
    step = -(apart / box).round()
    return apart + box * step, step.long()


def _nearest(vector: Tensor, box: float) -> Tensor:
    distance = vector.square().sum(-1).sqrt()
    distance.diagonal(dim1=1, dim2=2).fill_(box)  # a sphere's nearest own image
    return distance.min(-1).values


def _near(vector: Tensor, cutoff: float) -> Tensor:
    near = vector.square().sum(-1) < cutoff**2
    near.diagonal(dim1=1, dim2=2).fill_(False)
    return near


def _components(adjacent: Tensor) -> Tensor:
    """Return the smallest index that each node of each graph reaches, int64 [B, N], from adjacency [B, N, N]."""
    B, N, _ = adjacent.shape
    label = torch.arange(N, device=adjacent.device).expand(B, N)
    while True:
        offered = torch.where(adjacent, label[:, None], N).min(-1).values
        lower = torch.minimum(label, offered)
        lower = lower.gather(1, lower)  # the label's own label: distances halve each round
        if torch.equal(lower, label):
            return label
        label = lower


def _wraps(adjacent: Tensor, step: Tensor) -> Tensor:
    """Return along which axes a pair of neighbours closes a loop around the box, bool [B, 3]."""
    cell = _unfold(adjacent, step)
    loop = cell[:, :, None] + step - cell[:, None]  # [B, N, N, 3]
    return ((loop != 0) & adjacent[..., None]).flatten(1, 2).any(1)


def _unfold(adjacent: Tensor, step: Tensor) -> Tensor:
    """Return the cell of each sphere on a walk along neighbours from its cluster's first one, int64 [B, N, 3]."""
    N = adjacent.shape[1]
    reached = _components(adjacent) == torch.arange(N, device=adjacent.device)
    cell = torch.zeros_like(step[:, 0])
    while True:
        bridge = adjacent & reached[:, None]  # [B, N, N]: from i, not reached, to j, reached
        fresh = bridge.any(-1) & ~reached
        if not bool(fresh.any()):
            return cell
        j = bridge.int().argmax(-1)[..., None].expand_as(cell)
        # r_j + step_ij L is the image of j beside r_i, so i lies in j's cell minus that step.
        there = cell.gather(1, j) - step.gather(2, j[:, :, None])[:, :, 0]
        cell = torch.where(fresh[..., None], there, cell)
        reached = reached | fresh
