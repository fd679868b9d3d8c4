"""From sphere centres to diffusivities: medium, exact solve, random walk, in one call.

Legend: B structures, N particles. Lengths in voxels, diffusivities in units of the bulk solvent's.
"""

import dataclasses

from torch import Tensor

from gpuion.homogenization import homogenize
from gpuion.kmc import walk
from gpuion.medium import TransportModel, electrolyte
from gpuion.shards import METHODS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """Diffusivities [B, 3] with absolute errors [B, 3] and flags [B], on the CPU, named as in `Dataset`."""

    diffusivity: Tensor
    standard_error: Tensor
    converged: Tensor
    diffusivity_kmc: Tensor | None = None
    standard_error_kmc: Tensor | None = None
    converged_kmc: Tensor | None = None


def label(
    centers: Tensor, *, box: float, diameter: float, sites_per_voxel: int = 1,
    model: TransportModel | None = None, method: str = "exact", tolerance: float = 1e-3,
    walkers: int = 10_000, time: float = 12_000.0, seed: int = 0, ids: Tensor | None = None,
) -> Labels:  # fmt: skip
    """Return the diffusivities of structures, by the exact solve, by random walks or by both.

    Parameters
    ----------
    centers : float32 [B, N, 3]
        Sphere centres, voxels.
    box, diameter, sites_per_voxel, model
        As for `electrolyte`.
    method : {"exact", "kmc", "both"}
        With "both" the exact solve is the label and the walk stands beside it.
    tolerance : float
        Relative error of the exact solve.
    walkers, time, seed, ids
        As for `walk`.

    Returns
    -------
    Labels
        The error of an exact label is `HomogenizationResult.error` times `.scale`: never below 1e-6 of the Voigt
        bound times that relative error, even where nothing gets through.

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
        run = walk(medium, walkers=walkers, time=time, seed=seed, ids=ids)
        walked = {
            "diffusivity": run.diffusivity,
            "standard_error": run.standard_error,
            "converged": run.converged,
        }
        fields |= {name + "_kmc" * (method == "both"): x for name, x in walked.items()}
    return Labels(**{name: x.cpu() for name, x in fields.items()})
