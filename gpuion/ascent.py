"""Starts for annealing: spheres moved uphill along a gradient, and apart where they come to overlap.

Legend: C structures, N particles. Lengths are in voxels.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gpuion.dataset import Dataset
from gpuion.gradients import effective_diffusivity
from gpuion.models import Model
from gpuion.objectives import Objective
from gpuion.predictor import Predictor
from gpuion.separation import separate
from gpuion.smooth import smooth_medium

STEPS = 20
_STRIDE, _SHRINK = 1.0, 0.9  # voxels; 20 steps lead some 9 voxels far
_CORE = 0.5  # voxels: D of the smooth medium is within 11% of the labelled one's


def ascend(
    diffusivity: Callable[[Tensor], Tensor], centers: Tensor, objective: Objective, *, box: float, diameter: float,
    steps: int = STEPS,
) -> Tensor:  # fmt: skip
    """Return the best of the structures met on a way uphill in an objective, or downhill if it is to fall.

    In step k the sphere of the steepest gradient moves by 0.9^k voxels and the others in proportion; then
    `gpuion.separate` takes overlaps away. Each structure goes its own way, on a CPU the same bits alone and in a batch.

    Parameters
    ----------
    diffusivity : callable
        Maps centres float32 [1, N, 3] to D* along the axes [1, 3], or to D* [1], with gradients in the centres.
    centers : float32 [C, N, 3]
        Without overlaps.
    objective : Objective
    box, diameter : float
    steps : int

    Returns
    -------
    float32 [C, N, 3]
        Without overlaps; the start itself where nothing better was met.
    """
    return torch.cat([_ascend(diffusivity, one[None], objective, box, diameter, steps) for one in centers])


def _ascend(
    diffusivity: Callable[[Tensor], Tensor], x: Tensor, objective: Objective, box: float, diameter: float, steps: int
) -> Tensor:
    sign = 1.0 if objective.maximize else -1.0
    best, most = x, -torch.inf
    for step in range(steps + 1):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            value = sign * objective.value(diffusivity(x))
            (uphill,) = torch.autograd.grad(value.sum(), x)
        if float(value.detach()) > most:
            best, most = x.detach(), float(value.detach())
        steepest = uphill.norm(dim=-1).max()
        if not float(steepest) > 0:
            break
        x = separate(x.detach() + uphill * (_STRIDE * _SHRINK**step / steepest), box=box, diameter=diameter)
    return best


def exact_gradient(like: Dataset, tolerance: float = 1e-3) -> Callable[[Tensor], Tensor]:
    """Return D* along the axes [C, 3] of centres [C, N, 3] in the smooth medium of `like`, with exact gradients."""

    def diffusivity(centers: Tensor) -> Tensor:
        medium = smooth_medium(
            centers.double(), box=like.box, diameter=like.diameter, sites_per_voxel=like.sites_per_voxel,
            model=like.model, core_width=_CORE,
        )  # fmt: skip
        found = effective_diffusivity(medium.potential, medium.log_diffusivity, tolerance=tolerance)
        return found.diagonal(dim1=1, dim2=2) / like.d_reference

    return diffusivity


def gradient(net: Model | None, like: Dataset, objective: Objective) -> Callable[[Tensor], Tensor]:
    """Return D* with gradients: by the model where it has them and what the objective takes, else by the exact solver.

    A model on images has none, and one on g(r) neither: where centres do not move a count, it does not change.
    """
    if not isinstance(net, Predictor) or (objective.per_axis and not net.per_axis):
        return exact_gradient(like)

    def diffusivity(centers: Tensor) -> Tensor:
        return net(*net.prepare(centers, like.box, like.diameter))

    with torch.enable_grad():
        x = like.centers[:1].to(net.output_shift.device).requires_grad_()
        value = diffusivity(x).sum()
        known = torch.autograd.grad(value, x, allow_unused=True)[0] if value.requires_grad else None
    return diffusivity if known is not None and bool(known.any()) else exact_gradient(like)
