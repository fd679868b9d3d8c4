"""From sphere centres to diffusivities: medium, exact solve, random walk, in one call.

Legend: B structures, N particles. Lengths in voxels, diffusivities in units of the bulk solvent's.
"""

import dataclasses
import math

import torch
from torch import Tensor

from gpuion.homogenization import homogenize
from gpuion.kmc import walk
from gpuion.medium import electrolyte
from gpuion.shards import METHODS
from gpuion.transport import TransportModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """Diffusivities [B, 3] with absolute errors [B, 3] and flags [B], on the CPU, named as in `Dataset`."""

    diffusivity: Tensor
    standard_error: Tensor
    converged: Tensor
    diffusivity_kmc: Tensor | None = None
    standard_error_kmc: Tensor | None = None
    converged_kmc: Tensor | None = None
    z_score: Tensor | None = None


def label(
    centers: Tensor, *, box: float, diameter: float, sites_per_voxel: int = 1,
    model: TransportModel | None = None, method: str = "exact", tolerance: float = 1e-3,
    walkers: int = 10_000, time: float | str = 12_000.0, rtol: float = 0.02, seed: int = 0, ids: Tensor | None = None,
) -> Labels:  # fmt: skip
    """Return the diffusivities of structures, by the exact solve, by random walks or by both.

    Parameters
    ----------
    centers : float32 [B, N, 3]
        Sphere centres, voxels.
    box, diameter, sites_per_voxel, model
        As for `electrolyte`.
    method : {"exact", "kmc", "both"}
        With "both" the exact solve is the label and the walk stands beside it, with the z-scores of their difference.
    tolerance : float
        Relative error of the exact solve.
    walkers, time, rtol, seed, ids
        As for `walk`; time="auto" goes on until the mean is known to `rtol`.

    Returns
    -------
    Labels
        The error of an exact label is `HomogenizationResult.error` times `.scale`: never below 1e-6 of the Voigt
        bound times that relative error, even where nothing gets through. For `z_score` see `deviation`.

    Raises
    ------
    ValueError
        For arguments that the functions above refuse, or an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    medium = electrolyte(
        centers, box=box, diameter=diameter, sites_per_voxel=sites_per_voxel, model=model or TransportModel()
    )
    fields: dict[str, Tensor] = {}
    if method != "kmc":
        solution = homogenize(medium, tolerance=tolerance)
        error = solution.error * solution.scale  # where D is next to nothing, more than of D
        fields |= {
            "diffusivity": solution.diffusivity,
            "standard_error": error,
            "converged": solution.converged,
        }
    if method != "exact":
        run = walk(medium, walkers=walkers, time=time, rtol=rtol, seed=seed, ids=ids)
        walked = {
            "diffusivity": run.diffusivity,
            "standard_error": run.standard_error,
            "converged": run.converged,
        }
        fields |= {name + "_kmc" * (method == "both"): x for name, x in walked.items()}
    labels = Labels(**{name: x.cpu() for name, x in fields.items()})
    return dataclasses.replace(labels, z_score=deviation(labels)) if method == "both" else labels


def beyond(z_score: Tensor, limit: float = 4.0) -> tuple[Tensor, int, float]:
    """Return which structures have |z| > limit along an axis, bool [B], how many settled, how many chance puts there.

    Chance is that of normal errors: of 8192 structures, 1.6 lie beyond 4σ along one of three axes or more.
    """
    settled = int((~z_score.isnan()).all(-1).sum())
    return (z_score.abs() > limit).any(-1), settled, 3 * settled * math.erfc(limit / math.sqrt(2))


def deviation(labels: Labels) -> Tensor:
    """Return z = (D_walk − D_exact) / √(s_walk² + s_exact²) of each axis, float64 [B, 3]; NaN if either is unsettled.

    The exact solve's error counts as a standard error, though it is an estimate of what its D is too high at most, by
    the tolerance: next to a walk to 2% a solve to 0.5% widens the sum by 3%, and next to one as good as the solve it
    keeps the stop of the iteration from passing for a disagreement. Where neither lets anything through, z is 0.
    """
    assert labels.diffusivity_kmc is not None
    assert labels.standard_error_kmc is not None
    assert labels.converged_kmc is not None
    error = labels.standard_error_kmc.hypot(labels.standard_error).clamp_min(1e-300)
    z = (labels.diffusivity_kmc - labels.diffusivity) / error
    return z.masked_fill(~(labels.converged & labels.converged_kmc)[:, None], torch.nan)
