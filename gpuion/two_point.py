"""Two-point functions beside g(r): of the spheres' volume, of straight ways between them, of joined spheres.

Legend: B structures, b of them at once, N particles, V voxels along an edge, R = r_max + 1 distances. Lengths are in
voxels.
"""

import math

import torch
from torch import Tensor

from gpuion.descriptors import clusters, neighbors
from gpuion.threads import one_thread

_CHUNK = 64  # pairs of N = 91 spheres and their vectors: 17 MB


def phase_correlation(image: Tensor, r_max: int) -> Tensor:
    """Return S₂(r): how likely both ends of a segment of length r ± ½ lie in spheres, mean over all its places.

    S₂(d) is the periodic autocorrelation of the image, of which the mean over all lattice vectors d with |d| in r ± ½
    is taken; S₂(0) is the volume fraction φ, and φ² is what S₂ tends to without long-range order.

    Parameters
    ----------
    image : [B, 1, V, V, V]
        1 inside a sphere, 0 elsewhere.
    r_max : int
        The last r; vectors are the shortest of their images, so at most V / 2.

    Returns
    -------
    float64 [B, R]

    Raises
    ------
    ValueError
        For r_max beyond V / 2.

    References
    ----------
    Torquato, Random Heterogeneous Materials (2002), section 2.2: S₂.
    """
    V = image.shape[-1]
    if not 0 <= r_max <= V // 2:
        raise ValueError(f"r_max must be from 0 to half of the image's {V} voxels, got {r_max}")
    along = torch.fft.fftfreq(V, 1 / V, dtype=torch.float64, device=image.device).abs()
    length = (along[:, None, None].square() + along[:, None].square() + along.square()).sqrt()
    shell = (length + 0.5).long().clamp(max=r_max + 1).flatten()
    found = image.new_zeros(len(image), r_max + 2, dtype=torch.float64)
    with one_thread(not image.is_cuda):  # the last bits of MKL's transforms change with threads
        for row, picture in zip(found, image[:, 0].float(), strict=True):
            waves = torch.fft.rfftn(picture)
            product = torch.fft.irfftn(waves.real.square() + waves.imag.square(), s=picture.shape) / V**3
            row.scatter_add_(0, shell, product.flatten().double())
    return (found / shell.bincount(minlength=r_max + 2).clamp_min(1))[:, : r_max + 1]


def lineal_path(image: Tensor, r_max: int) -> Tensor:
    """Return L(r): how likely a segment of r + 1 voxels in a row along x, y or z meets no sphere.

    Parameters
    ----------
    image : [B, 1, V, V, V]
        1 inside a sphere, 0 elsewhere.
    r_max : int

    Returns
    -------
    float64 [B, r_max + 1]
        From exact counts: L(0) is the open share of the image.

    References
    ----------
    Lu and Torquato, Phys. Rev. A 45 (1992) 922.
    """
    V, rows = image.shape[-1], []
    at = torch.arange(2 * V, device=image.device)
    for picture in image[:, 0]:
        counts = torch.zeros(r_max + 2, dtype=torch.int64, device=image.device)
        for axis in range(3):
            line = picture.movedim(axis, -1)
            blocked = torch.where(torch.cat([line, line], -1) != 0, at, 2 * V + r_max + 1)
            ahead = blocked.flip(-1).cummin(-1).values.flip(-1)[..., :V] - at[:V]  # open voxels from here to a sphere
            counts += ahead.clamp(max=r_max + 1).flatten().bincount(minlength=r_max + 2)
        rows.append(counts.flip(0).cumsum(0).flip(0)[1:].double() / (3 * V**3))
    return torch.stack(rows)


def cluster_correlation(centers: Tensor, *, box: float, cutoff: float, r_max: int) -> Tensor:
    """Return g_c(r): as g(r), of the pairs of spheres in the same cluster alone.

    Spheres closer than the cutoff are joined, and so are those that lead to each other by such steps. Pairs count once,
    at the distance of their nearest images: r is at most half the box.

    Parameters
    ----------
    centers : float [B, N, 3]
        Sphere centres, voxels, any image.
    box, cutoff : float
        Edge of the periodic cube and distance below which two spheres are joined, voxels.
    r_max : int
        The last r, at most box / 2.

    Returns
    -------
    float64 [B, R]
        In the unit of `gpuion.pair_distribution`.

    Raises
    ------
    ValueError
        For malformed centres, box or cutoff, or r_max beyond box / 2.

    References
    ----------
    Torquato, Beasley and Chiew, J. Chem. Phys. 88 (1988) 6540: the two-point cluster function; here of the centres.
    """
    if not 0 <= r_max <= box / 2:
        raise ValueError(f"r_max must be from 0 to half the box of {box:g}, got {r_max}")
    ball = (torch.arange(r_max + 1, dtype=torch.float64, device=centers.device) + 0.5) ** 3 * (4 / 3 * math.pi)
    N, parts = centers.shape[1], []
    for some in centers.split(_CHUNK):
        label = clusters(some, box=box, cutoff=cutoff)
        _, vector = neighbors(some, box=box, cutoff=cutoff)
        joined = (label[:, :, None] == label[:, None]) & ~torch.eye(N, dtype=torch.bool, device=some.device)
        bins = (vector.square().sum(-1).sqrt() + 0.5).long().clamp(max=r_max + 1)
        counts = ball.new_zeros(len(some), r_max + 2)
        counts.scatter_add_(1, bins.flatten(1), joined.flatten(1).double())
        parts.append(counts[:, :-1] * box**3 / (N * (N - 1)))
    return torch.cat(parts) / ball.diff(prepend=ball.new_zeros(1))
