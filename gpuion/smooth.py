"""The electrolyte as smooth fields, so that its diffusivity has gradients in the particles' positions.

`electrolyte` rounds densities to classes and cuts cores out: D then moves in jumps as spheres do. Here the density is
not rounded, and a core fades in over a width: stationary weight and diffusivity carry a factor Π_i s(d_i) with
s(d) = 1 / (1 + exp(−d/w_c)). As w_c goes to 0 this is the labelled medium but for the rounding.

Legend: B structures, N particles, S spheres of a chunk, V sites along an edge, W sites along the edge of a sphere's
window. Lengths are in voxels, energies in kT.
"""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from gpuion.checks import check_cell, check_kind, check_length, check_room
from gpuion.gradients import effective_diffusivity
from gpuion.medium import check_centers, whole
from gpuion.transport import TransportModel

_CHUNK = 500_000  # window sites evaluated at once: twenty float64 temporaries of this size are 80 MB


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmoothMedium:
    """Fields for `effective_diffusivity`: U_x in kT and ln D_x, float64 [B, V, V, V], and the spacing h in voxels."""

    potential: Tensor
    log_diffusivity: Tensor
    spacing: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Coat:
    """What surrounds a sphere, and the lattice of V sites an edge it is drawn on."""

    model: TransportModel
    radius: float
    core_width: float
    sites: int
    spacing: float

    @property
    def reach(self) -> float:
        """Distance from a surface beyond which nothing is left: 1e-7 of ρ and of ln s."""
        return max(self.model.cutoff, 16 * self.core_width)

    def values(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Return c(d) and ln s(d) less their values at the reach, so that nothing jumps there."""
        reach = distance.new_tensor(self.reach)
        near = distance < reach
        density, core = (
            torch.where(near, f(distance) - f(reach), 0.0)
            for f in (
                lambda d: torch.sigmoid((self.model.reach - d) / self.model.width),
                lambda d: -softplus(-d / self.core_width),
            )
        )
        return density, core


def smooth_medium(
    centers: Tensor,
    *,
    box: float,
    diameter: float,
    sites_per_voxel: int = 1,
    model: TransportModel | None = None,
    core_width: float = 0.25,
) -> SmoothMedium:
    """Return U_x = U(ρ_x) − Σ_i ln s(d_i) and ln D_x = ln D(ρ_x) + Σ_i ln s(d_i), differentiable in the centres.

    Site i of an axis is centred at (i + ½) h with h = 1 / sites_per_voxel; all periodic images within reach count.
    U(ρ) and D(ρ) have a kink at ρ = 1, and ρ is capped at the model's `max_density`, as in `electrolyte`: gradients
    are exact wherever no site sits on a kink. Memory grows with the lattice, not with the number of spheres.

    Parameters
    ----------
    centers : float [B, N, 3]
        Sphere centres, voxels, any image.
    box : float
        Edge of the periodic cube, voxels; a whole number of sites.
    diameter : float
        Sphere diameter σ, voxels.
    sites_per_voxel : int
        Lattice refinement 1/h.
    model : TransportModel, optional
        Ligand density, affinity and diffusivity.
    core_width : float
        w_c, voxels. Narrow is closer to `electrolyte`, wide has gradients that hold for longer steps. D of two random
        and one chained arrangement (h = 1) against the labelled one: 0, −9, −25% at 1.0; 1, 3, −11% at 0.5; 1, 1, −3%
        at 0.25; all within 0.5% at 0.1 (255 classes). At h = ½ the cores lose more: −4 and −6% at 0.25.

    Returns
    -------
    SmoothMedium
        Fields float64 [B, V, V, V] on the centres' device.

    Raises
    ------
    ValueError
        For malformed centres, a box that is not a whole number of sites, a core width that is not positive.
    """
    core_width = check_length("core_width", core_width)  # electrolyte() has sharp cores
    model = TransportModel() if model is None else model
    check_kind("model", model, TransportModel)
    centers, (box, diameter) = check_centers(centers, box, diameter), check_cell(box, diameter)
    sites = whole(box, sites_per_voxel, "sites per voxel")
    check_room(24 * len(centers) * sites**3, f"{len(centers)} lattices of {sites}³ sites")
    coat = _Coat(model=model, radius=diameter / 2, core_width=core_width, sites=sites, spacing=box / sites)
    window = 2 * (coat.radius + coat.reach) / coat.spacing
    check_room(200 * window**3, f"a sphere that reaches {coat.reach:g} beyond its surface")
    density, core = _Coats.apply(centers, coat)
    density = density.clamp(max=model.max_density)
    return SmoothMedium(
        potential=model.potential(density) - core,
        log_diffusivity=model.diffusivity(density).log() + core,
        spacing=1 / sites_per_voxel,
    )


def smooth_diffusivity(centers: Tensor, *, tolerance: float, **setting: Any) -> Tensor:
    """Return D along the axes, float64 [B, 3], of the smooth medium of centres; with gradients in these.

    `setting` is of `smooth_medium`, `tolerance` of `effective_diffusivity`.
    """
    medium = smooth_medium(centers.double(), **setting)
    found = effective_diffusivity(medium.potential, medium.log_diffusivity, tolerance=tolerance)
    return found.diagonal(dim1=1, dim2=2)


def _windows(spheres: Tensor, structure: Tensor, coat: _Coat) -> tuple[Tensor, Tensor]:
    """Return where the sites around spheres [S, 3] lie in flat fields, int64 [S W³], and their distances from surfaces.

    A window may be wider than the box and meet a site more than once: as many images are then within reach.
    """
    h, V, far = coat.spacing, coat.sites, coat.radius + coat.reach
    W = math.ceil(2 * far / h) + 2
    first = ((spheres.detach() - far) / h - 0.5).floor().long()
    index = first[..., None] + torch.arange(W, device=spheres.device)  # [S, 3, W]
    square = ((index + 0.5) * h - spheres[..., None]).square()
    x, y, z = square.unbind(1)
    # At a centre the distance has no derivative; the clamp gives it 0.
    distance = (x[:, :, None, None] + y[:, None, :, None] + z[:, None, None, :]).clamp_min(1e-30).sqrt()
    x, y, z = index.remainder(V).unbind(1)
    place = ((structure[:, None] * V + x)[:, :, None] * V + y[:, None])[..., None] * V + z[:, None, None]
    return place.flatten(), distance.flatten() - coat.radius


class _Coats(torch.autograd.Function):
    """Sums over spheres, a chunk at a time; the backward pass makes each chunk again rather than keep it."""

    @staticmethod
    def _chunks(centers: Tensor, coat: _Coat) -> tuple[Any, Any]:
        """Return the spheres [S, 3] of each chunk, and the structure [S] of each sphere."""
        B, N = centers.shape[:2]
        window = math.ceil(2 * (coat.radius + coat.reach) / coat.spacing) + 2
        size = max(1, _CHUNK // window**3)
        structure = torch.arange(B, device=centers.device).repeat_interleave(N)
        return centers.reshape(-1, 3).split(size), structure.split(size)

    @staticmethod
    def forward(ctx: Any, centers: Tensor, coat: _Coat) -> tuple[Tensor, Tensor]:
        ctx.coat = coat
        ctx.save_for_backward(centers)
        density = centers.new_zeros(len(centers) * coat.sites**3)
        core = torch.zeros_like(density)
        for spheres, structure in zip(*_Coats._chunks(centers, coat), strict=True):
            place, distance = _windows(spheres, structure, coat)
            for field, values in zip((density, core), coat.values(distance), strict=True):
                field.index_add_(0, place, values)
        shape = len(centers), coat.sites, coat.sites, coat.sites
        return density.view(shape), core.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, density_grad: Tensor, core_grad: Tensor) -> tuple[Tensor, None]:
        (centers,) = ctx.saved_tensors
        fields = density_grad.flatten(), core_grad.flatten()
        grads = []
        for spheres, structure in zip(*_Coats._chunks(centers, ctx.coat), strict=True):
            with torch.enable_grad():
                moved = spheres.detach().requires_grad_()
                place, distance = _windows(moved, structure, ctx.coat)
                values = ctx.coat.values(distance)
            grads += torch.autograd.grad(values, moved, [field[place] for field in fields])
        return torch.cat(grads).view_as(centers), None
