"""Where the ions flow, and how that compares with the open volume: stationary currents and tortuosity factors.

Letters: B structures, X Y Z sites, K classes.
"""

import math
import reprlib
from collections.abc import Sequence

import torch
from torch import Tensor

from gpuion.axes import ALL_AXES
from gpuion.checks import check_kind, check_limits, is_whole
from gpuion.gradients import correctors, drops, site_factors
from gpuion.homogenization import HomogenizationResult, homogenize
from gpuion.hops import count
from gpuion.medium import Medium


def currents(medium: Medium, axis: int, *, tolerance: float = 1e-6, max_iterations: int = 2000) -> Tensor:
    """Return the stationary current of ions that a force of 1 kT per unit length drives along an axis.

    On the bond from x forward along d, with w = e_axis·d + δv the drop that `homogenize` solves for,

        J_d(x) = √(D_x D_y) exp(−(U_x + U_y)/2) w_xy / ⟨exp(−U)⟩,

    in units where the ions' mean concentration ⟨π⟩ over all sites is 1. So the mean of J over all sites is the
    column D[:, axis] of the diffusivity tensor; multiplied by ⟨exp(−U)⟩ it is Σ_x exp(−U_x) / V times that.
    What flows into a site leaves it: Σ_d J_d(x) − J_d(x − d) = 0, up to the root of the tolerance: with V sites its
    mean square is at most 12 · tolerance · D · (largest J at w = 1) / V.

    Parameters
    ----------
    medium : Medium
        Labelled lattices [B, X, Y, Z].
    axis : int
        0, 1 or 2: the direction of the force.
    tolerance : float
        Bound in [1e-12, 1) on the estimated relative error of D; the current's error goes with its root.
    max_iterations : int
        Iterations after which the solve is given up.

    Returns
    -------
    Tensor
        float64 [B, 3, X, Y, Z]. J[b, d, x, y, z] belongs to the bond between site (x, y, z) and the next one along d,
        half a spacing ahead of the site. Unit: that of the diffusivities, per unit length.

    Raises
    ------
    ValueError
        For an axis that is none, a tolerance or limit out of range, a structure with no open site.
    ConvergenceError
        If a structure misses the tolerance.
    """
    check_kind("medium", medium, Medium)
    if not is_whole(axis, 0) or axis > 2:
        raise ValueError(f"axis must be 0, 1 or 2, got {reprlib.repr(axis)}")
    axis = int(axis)
    limits = check_limits(tolerance, max_iterations)
    labels = medium.labels.long()
    s, unit, _ = site_factors(medium.potential[labels], medium.diffusivity.log()[labels])
    _, v = correctors(s, *limits, (axis,))
    scale = (unit * labels[:1].numel())[:, None, None, None]
    return torch.stack([scale * s * s.roll(-1, d + 1) * drops(v, d, (axis,))[:, 0] for d in range(3)], 1)


def tortuosity(
    medium: Medium,
    result: HomogenizationResult | None = None,
    *,
    tolerance: float = 1e-4,
    max_iterations: int = 2000,
    axes: Sequence[int] = ALL_AXES,
) -> Tensor:
    """Return the tortuosity factor along each axis: τ_a = ⟨D π⟩ / (⟨π⟩ D_aa), with π = exp(−U).

    The usual definition is D_eff = D₀ ε/τ with ε the open fraction and D_eff the flux through the whole cross-section
    at unit gradient of concentration (Cooper et al., SoftwareX 5 (2016) 203; TauFactor). D_aa here is that of one ion,
    which only ever is in open sites: D_eff = ⟨π⟩ D_aa, so where U = 0 in the open class, D_eff = ε D_aa and
    τ = D₀ / D_aa. With several diffusivities ε D₀ becomes the mean local conductivity ⟨D π⟩, for U = 0 the mean ⟨D⟩ of
    TauFactor's multi-phase solver. Pockets with no way out are part of ε, as there.

    The cell is periodic. TauFactor's walls along the flow and mirrors across it are other boundary conditions: an
    image that is not periodic has another τ here, unless it is doubled by its mirror image along each axis.

    Parameters
    ----------
    medium : Medium
        Labelled lattices [B, X, Y, Z].
    result : HomogenizationResult, optional
        What `homogenize(medium)` gave, if it is at hand.
    tolerance, max_iterations, axes : float, int, ints
        Of the solve, without `result`. τ has the relative error of D_aa.

    Returns
    -------
    Tensor
        float64 [B, 3], at least 1; +inf where nothing passes (D_aa = 0), NaN where the axis was not solved for.

    Raises
    ------
    ValueError
        For a result of another number of structures, and as `homogenize` does.
    """
    check_kind("medium", medium, Medium)
    if result is not None:
        check_kind("result", result, HomogenizationResult)
    result = result or homogenize(medium, tolerance=tolerance, max_iterations=max_iterations, axes=axes)
    if len(result.tensor) != len(medium):
        raise ValueError(f"the result has {len(result.tensor)} structures, the medium {len(medium)}; give its own")
    share = torch.softmax(count(medium).double().log() - medium.potential, 1)  # of the ions in each class
    mean = (share * medium.diffusivity).sum(1, keepdim=True)
    D = result.diffusivity
    return torch.where(D == 0, math.inf, mean / D)
