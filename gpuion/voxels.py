"""Binary images of sphere arrangements, the surrogate's input.

Legend: B structures, N particles, S spheres of a chunk, V voxels along an edge, W along that of a sphere's window.
"""

import math

import torch
from torch import Tensor

from gpuion.checks import check_cell, check_room, check_tensor, check_whole
from gpuion.medium import check_centers

_CHUNK = 4_000_000  # window voxels tested at once, or one sphere's: four temporaries of 8 bytes each are 128 MB


def voxelize(centers: Tensor, *, box: float, diameter: float, voxels: int) -> Tensor:
    """Return binary images: 1 where |x − c_i| < σ/2 for a voxel's centre x and any image of a sphere i.

    Voxel i of an axis is centred at (i + ½) box / voxels. Distances are float64, and every voxel is tested on
    its own, so an image depends neither on its batch nor on the device.

    Parameters
    ----------
    centers : float [B, N, 3]
        Sphere centres, voxels, any image.
    box : float
        Edge of the periodic cube, in the unit of `centers`.
    diameter : float
        Sphere diameter σ, same unit.
    voxels : int
        Voxels V along an edge.

    Returns
    -------
    Tensor
        float32 [B, 1, V, V, V] of zeros and ones.

    Raises
    ------
    ValueError
        For malformed centres, a diameter outside (0, box], or voxels < 1.

    Notes
    -----
    The input of the network of Kadulkar, Howard, Truskett and Ganesan, J. Phys. Chem. B 2021.
    """
    V, centers = check_whole("voxels", voxels, 1), check_centers(centers, box, diameter).detach()
    B, (box, diameter) = len(centers), check_cell(box, diameter)
    check_room(4 * B * V**3, f"{B} images of {V}³ voxels")
    return images(centers, box, diameter, V)


def images(centers: Tensor, box: float, diameter: float, voxels: int) -> Tensor:
    """Return what `voxelize` does, of float64 centres in [0, box) that are known to be in order."""
    V = voxels
    image = torch.zeros((len(centers), V, V, V), device=centers.device)
    if centers.is_cuda:
        draw(image, centers, radius=diameter / 2, spacing=box / V)
    else:
        from gpuion.kernels import scalar

        scalar.voxelize(image, centers, radius=diameter / 2, spacing=box / V)
    return image[:, None]


def _window(diameter: float, spacing: float) -> int:
    """Return the edge W of a window that holds every voxel of a sphere wherever its centre lies."""
    return math.ceil(diameter / spacing) + 2


def draw(image: Tensor, centers: Tensor, *, radius: float, spacing: float) -> None:
    """Set the voxels of images [B, V, V, V] that lie inside a sphere, a chunk of spheres at a time."""
    B, N, _ = centers.shape
    V = image.shape[-1]
    window = _window(2 * radius, spacing)
    start = torch.arange(B, device=centers.device).repeat_interleave(N) * V**3
    step = max(1, _CHUNK // window**3)
    for chunk, offset in zip(centers.reshape(-1, 3).split(step), start.split(step), strict=True):
        _draw(image.view(-1), chunk, offset, radius, spacing, window, V)


def _draw(
    image: Tensor, centers: Tensor, start: Tensor, radius: float, spacing: float, window: int, voxels: int
) -> None:
    """Set the voxels [B V³] inside spheres [S, 3], testing the W³ around each; its image begins at start [S]."""
    first = ((centers - radius) / spacing - 0.5).floor().long()  # [S, 3], a voxel at or below the sphere's edge
    index = first[..., None] + torch.arange(window, device=centers.device)  # [S, 3, W]
    x, y, z = ((index + 0.5) * spacing - centers[..., None]).square().unbind(1)
    inside = (x[:, :, None] + y[:, None, :])[..., None] + z[:, None, None] < radius**2
    x, y, z = index.remainder(voxels).unbind(1)
    line = start[:, None, None] + (x[:, :, None] * voxels + y[:, None, :]) * voxels
    place = line[..., None] + z[:, None, None]  # [S, W, W, W]
    # Not image[place[inside]] = 1: the host would wait to know how many are inside.
    image.scatter_reduce_(0, place.flatten(), inside.flatten().to(image.dtype), "amax")


def tile(image: Tensor, repeats: int) -> Tensor:
    """Return images [B, C, V, V, V] repeated along each axis: [B, C, rV, rV, rV]; r = 3 in the paper.

    Raises
    ------
    ValueError
        If the image has no five axes or repeats < 1.
    """
    image = check_tensor("image", image)
    if image.ndim != 5:
        raise ValueError(f"image must have shape [B, C, V, V, V], got {list(image.shape)}")
    times = check_whole("repeats", repeats, 1)
    check_room(image.numel() * image.element_size() * times**3, f"an image repeated {times}³ times")
    return image.repeat(1, 1, times, times, times)
