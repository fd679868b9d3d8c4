"""What the ions move in: a lattice of site classes, and two tables that say what each class is.

Legend: B structures, N particles, X Y Z lattice sites, K classes, C bricks of a chunk, G sites along a brick's edge.
Lengths are in voxels, energies in kT, diffusivities in units of the bulk solvent's.
"""

import dataclasses
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpuion.checks import check_cell, check_kind, check_length, check_room, check_tensor, check_whole
from gpuion.transport import BLOCKED, LEVELS, TransportModel

if TYPE_CHECKING:
    import numpy as np

    from gpuion.images import Table

_BRICK = 10  # sites; smaller bricks test more sphere lists, larger ones more empty space
_FAR = 1e9  # a coordinate that is out of any reach
_CHUNK = 4_000_000  # sites, or pairs of brick and sphere, at once: eight float64 temporaries of this size are 256 MB


@dataclasses.dataclass(frozen=True)
class Medium:
    """A batch of labelled periodic lattices and what the labels mean.

    Attributes
    ----------
    labels : uint8 [B, X, Y, Z]
        The class of each site; given as integers of any size.
    diffusivity : float64 [K]
        Local diffusivity of each class, finite and ≥ 0.
    potential : float64 [K]
        Free energy of an ion in each class, kT; +inf blocks the class.
    spacing : float
        Distance h between neighbouring sites, voxels.

    Raises
    ------
    ValueError
        For labels that are not four-dimensional integers in [0, K), tables of other lengths or values, spacing ≤ 0.
    """

    labels: Tensor
    diffusivity: Tensor
    potential: Tensor
    spacing: float = 1.0

    def __post_init__(self) -> None:
        labels = check_tensor("labels", self.labels).detach()
        given = [check_tensor(name, getattr(self, name)) for name in ("diffusivity", "potential")]
        if any(t.is_complex() or t.dtype is torch.bool for t in given):
            raise ValueError(f"diffusivity and potential must be real numbers, got {given[0].dtype}, {given[1].dtype}")
        tables = [t.detach().to(labels.device, torch.float64) for t in given]
        if labels.dtype.is_floating_point or labels.dtype.is_complex:
            raise ValueError(f"labels must be integers, got {labels.dtype}")
        if labels.dtype in {torch.uint16, torch.uint32, torch.uint64}:
            labels = labels.long()  # torch finds no least one of these
        if labels.ndim != 4 or 0 in labels.shape[1:]:
            raise ValueError(f"labels must have shape [B, X, Y, Z] without empty axes, got {list(labels.shape)}")
        if any(t.ndim != 1 or t.shape != tables[0].shape for t in tables) or not 1 <= tables[0].shape[0] <= 256:
            shapes = [list(t.shape) for t in tables]
            raise ValueError(f"diffusivity and potential must be tables of one length in 1 … 256, got shapes {shapes}")
        if not bool(torch.isfinite(tables[0]).all()) or bool((tables[0] < 0).any()):
            raise ValueError("diffusivity must be finite and not negative; block a class with potential = +inf")
        if bool(torch.isnan(tables[1]).any()) or bool((tables[1] == -math.inf).any()):
            raise ValueError("potential must be a number or +inf (blocked), not NaN or -inf")
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < tables[0].shape[0]:
            span = f"{int(labels.min())} … {int(labels.max())}"
            raise ValueError(f"labels run over {span}, but the tables describe {tables[0].shape[0]} classes")
        spacing = check_length("spacing", self.spacing)
        for name, value in (
            ("labels", labels.to(torch.uint8)),
            ("diffusivity", tables[0]),
            ("potential", tables[1]),
        ):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "spacing", spacing)

    @classmethod
    def from_image(
        cls, array: "np.ndarray | Tensor", diffusivity: "Table", potential: "Table | None" = None, spacing: float = 1.0
    ) -> "Medium":
        """Return the medium of a labelled image, each label with its own diffusivity.

        Parameters
        ----------
        array : bool or integers of any size, [X, Y, Z] or [B, X, Y, Z]
            numpy array or tensor of labels, as from `read_image`; the cell is periodic.
        diffusivity : mapping or sequence
            Of each label: {label: D}, or D of label k in place k; 0 or None blocks it. At most 255 labels, which become
            the classes 0 … K−1 in rising order.
        potential : mapping or sequence, optional
            Free energy of an ion in each label that is not blocked, kT; +inf blocks, too. 0 if left out.
        spacing : float
            Edge of a voxel of the image.

        Raises
        ------
        ValueError
            For a label of the image with no diffusivity (which it names), or without a potential where others have one,
            values out of range, an image of other shape or dtype.
        """
        from gpuion.images import classify

        return cls(*classify(array, diffusivity, potential), spacing)

    def to(self, device: torch.device | str) -> "Medium":
        """Return the same medium on another device."""
        return Medium(self.labels.to(device), self.diffusivity.to(device), self.potential.to(device), self.spacing)

    def __getitem__(self, index: slice) -> "Medium":
        """Return some of the structures, by a slice."""
        return Medium(self.labels[index], self.diffusivity, self.potential, self.spacing)

    def __len__(self) -> int:
        """Return the number of structures."""
        return self.labels.shape[0]


def whole(length: float, parts: int, what: str) -> int:
    """Return length · parts as an integer; ValueError if it is not one to 1e-9."""
    parts = check_whole(what, parts, 1)
    count = round(length * min(parts, 2**53))
    if count < 1 or abs(length * parts - count) > 1e-9 * max(count, 1):
        raise ValueError(f"box = {length} voxels at {parts} {what} is not a whole number ≥ 1; change one of them")
    return count


def check_centers(centers: Tensor, box: float, diameter: float) -> Tensor:
    """Return sphere centres as a tensor [B, N, 3] wrapped into [0, box), or raise ValueError."""
    centers = check_tensor("centers", centers)
    if centers.ndim != 3 or centers.shape[-1] != 3 or not centers.dtype.is_floating_point:
        raise ValueError(f"centers must be floats of shape [B, N, 3], got {centers.dtype} {list(centers.shape)}")
    box, diameter = check_cell(box, diameter)
    if not bool(torch.isfinite(centers).all()):
        raise ValueError("centers must be finite numbers")
    return torch.remainder(centers.double(), box)


def electrolyte(
    centers: Tensor,
    *,
    box: float,
    diameter: float,
    sites_per_voxel: int = 1,
    model: TransportModel | None = None,
) -> Medium:
    """Return the medium that ligand-coated spheres make: ρ = Σ_i c(d_i), quantised in 255 classes, 255 inside a sphere.

    Site i of an axis is centred at (i + ½) h with h = 1 / sites_per_voxel. All periodic images count. Densities are
    summed in float64 in the order of the spheres, so a structure's labels do not depend on its batch.

    Parameters
    ----------
    centers : float [B, N, 3]
        Sphere centres, voxels, any image.
    box : float
        Edge of the periodic cube, voxels; a whole number of sites.
    diameter : float
        Sphere diameter σ, voxels.
    sites_per_voxel : int
        Lattice refinement 1/h; the paper's is 5.
    model : TransportModel, optional
        Ligand density, affinity and diffusivity.

    Returns
    -------
    Medium
        Labels uint8 [B, X, Y, Z] on the centres' device, spacing 1 / sites_per_voxel.

    Raises
    ------
    ValueError
        For malformed centres, or a box that is not a whole number of sites.
    """
    model = TransportModel() if model is None else model
    check_kind("model", model, TransportModel)
    centers, (box, diameter) = check_centers(centers, box, diameter).detach(), check_cell(box, diameter)
    sites = whole(box, sites_per_voxel, "sites per voxel")
    check_room(len(centers) * sites**3, f"{len(centers)} lattices of {sites}³ sites")
    images = [_images(center, box, diameter / 2 + model.cutoff) for center in centers]
    labels = torch.empty((len(centers), sites, sites, sites), dtype=torch.uint8, device=centers.device)
    if centers.is_cuda:
        brick_classes(images, box, diameter / 2, model, labels)
    else:
        from gpuion.kernels.scalar import site_classes

        for b in range(len(centers)):
            site_classes(
                images[b], box / sites, diameter / 2, model.reach, model.width, model.cutoff,
                LEVELS / model.max_density, BLOCKED, labels[b],
            )  # fmt: skip
    diffusivity, potential = model.tables()
    return Medium(labels, diffusivity, potential, spacing=1 / sites_per_voxel)


def brick_classes(images: list[Tensor], box: float, radius: float, model: TransportModel, labels: Tensor) -> None:
    """Write the site classes uint8 [B, X, Y, Z], brick by brick, each with the spheres in its reach.

    Bricks of several structures are evaluated together, as many as 4 million sites and as many pairs of a brick and
    a sphere allow, which is 256 MB beside the labels and a second copy of those of one such chunk or one structure.

    Parameters
    ----------
    images : B tensors float64 [M, 3]
        Sphere centres and the periodic images of them that reach into the box, of each structure.
    """
    sites, device = labels.shape[-1], labels.device
    spacing = box / sites
    bricks = math.ceil(sites / _BRICK)
    half = _BRICK * spacing / 2
    middle = (torch.arange(bricks, device=device) + 0.5).double() * (2 * half)
    corners = torch.cartesian_prod(middle, middle, middle).view(-1, 3)  # [bricks³, 3]
    offsets = (torch.arange(_BRICK, device=device) + 0.5).double() * spacing - half  # [G]
    share = max(1, _CHUNK // (len(corners) * _BRICK**3))
    for first in range(0, len(images), share):
        some = torch.nn.utils.rnn.pad_sequence(images[first : first + share], batch_first=True, padding_value=_FAR)
        middles = corners.repeat(len(some), 1)
        owner = torch.arange(len(some), device=device).repeat_interleave(len(corners))
        chunk = max(1, _CHUNK // max(_BRICK**3, some.shape[1]))
        classes = [
            _brick_classes(c, offsets, _nearby(c, some[o], half, radius + model.cutoff), radius, model)
            for c, o in zip(middles.split(chunk), owner.split(chunk), strict=True)
        ]
        lattice = torch.cat(classes).view(len(some), bricks, bricks, bricks, _BRICK, _BRICK, _BRICK)
        lattice = lattice.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, *[bricks * _BRICK] * 3)
        labels[first : first + share] = lattice[:, :sites, :sites, :sites]


def _images(centers: Tensor, box: float, reach: float) -> Tensor:
    """Return the sphere centres and all periodic images within reach of the box, [M, 3]."""
    count = math.ceil(reach / box)
    check_room(100 * len(centers) * (2 * count + 1) ** 3, f"images of spheres that reach {reach:g} of a box of {box:g}")
    steps = torch.arange(-count, count + 1, device=centers.device).double() * box
    images = (centers[:, None] + torch.cartesian_prod(steps, steps, steps)).reshape(-1, 3)
    return images[((images > -reach) & (images < box + reach)).all(-1)]


def _nearby(middles: Tensor, images: Tensor, half: float, reach: float) -> Tensor:
    """Return for each brick the spheres of its structure [C, M, 3] that may reach it, padded with far-away ones."""
    gap = torch.zeros(images.shape[:2], dtype=torch.float64, device=images.device)
    for axis in range(3):
        gap += ((middles[:, None, axis] - images[..., axis]).abs() - half).clamp_min(0).square()
    near = gap <= reach**2
    count = near.sum(-1, keepdim=True)
    order = near.byte().argsort(dim=1, descending=True, stable=True)[:, : int(count.max()) if len(count) else 0]
    listed = images.gather(1, order[..., None].expand(-1, -1, 3))
    listed[torch.arange(listed.shape[1], device=images.device) >= count] = _FAR
    return listed


def _brick_classes(middles: Tensor, offsets: Tensor, spheres: Tensor, radius: float, model: TransportModel) -> Tensor:
    """Return the site classes of some bricks, uint8 [C, G, G, G], summing sphere by sphere in a fixed order."""
    G = len(offsets)
    density = offsets.new_zeros(len(middles), G, G, G)
    blocked = torch.zeros_like(density, dtype=torch.bool)
    for m in range(spheres.shape[1]):
        squares = (middles[:, :, None] + offsets - spheres[:, m, :, None]).square()  # [C, 3, G]
        square = squares[:, 0, :, None, None] + squares[:, 1, None, :, None] + squares[:, 2, None, None, :]
        density += model.corona(square.sqrt() - radius)
        blocked |= square < radius**2
    level = (density * (LEVELS / model.max_density)).round().clamp(max=LEVELS).to(torch.uint8)
    return level.masked_fill(blocked, BLOCKED)
