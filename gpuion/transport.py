"""How ligands around particles hold and slow an ion: what a density of ligands means, and the classes it comes in.

Legend: lengths in voxels, energies in kT, diffusivities in units of the bulk solvent's.
"""

import dataclasses
import math
import reprlib

import torch
from torch import Tensor

from gpuion.checks import is_between

_MOST = 1e9  # of any parameter

BLOCKED = 255
"""The class of a site inside a particle, in media made by `gpuion.electrolyte`."""

LEVELS = 254
"""The class of the highest density; 0 is that of none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransportModel:
    """How ligands of density ρ bind and slow an ion.

    A site at distance d from a particle's surface sees ρ = Σ c(d), c(d) = 1 / (1 + exp((d − δ)/w)). Its free energy is
    U = −ε ρ up to ρ = 1 and −ε − ε₂ (ρ − 1) above; its diffusivity D_b + (D_s − D_b) ρ up to 1 and D_s exp(−κ (ρ − 1))
    above, where ligands of two particles interpenetrate. With the default reach two coronas just touch at a
    centre-to-centre distance of 14 voxels for particles of diameter 9.6.

    Attributes: `reach` δ and `width` w in voxels, `affinity` ε and `crowded_affinity` ε₂ in kT,
    `bulk_diffusivity` D_b, `shell_diffusivity` D_s, `crowding` κ, `max_density` the ρ of the highest site class.
    """

    reach: float = 2.2
    width: float = 0.35
    affinity: float = 8.0
    crowded_affinity: float = 0.5
    bulk_diffusivity: float = 1.0
    shell_diffusivity: float = 1.0
    crowding: float = 3.0
    max_density: float = 4.0

    def __post_init__(self) -> None:
        for name in ("width", "bulk_diffusivity", "shell_diffusivity", "max_density"):
            if not is_between(getattr(self, name), 0, math.inf):
                raise ValueError(f"{name} must be positive and finite, got {reprlib.repr(getattr(self, name))}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not is_between(value, -_MOST, _MOST):
                raise ValueError(f"{field.name} must be a number within ±{_MOST:g}, got {reprlib.repr(value)}")
            object.__setattr__(self, field.name, float(value))
        tables = self.tables()
        if not bool(tables[0].isfinite().all() and (tables[0] >= 0).all() and tables[1][:-1].isfinite().all()):
            raise ValueError(f"diffusivity and potential of some site classes are no numbers with {self}")

    @property
    def cutoff(self) -> float:
        """Distance from the surface beyond which a corona counts as zero, voxels; c is 1e-7 there."""
        return max(self.reach, 0.0) + 16 * self.width

    def corona(self, distance: Tensor) -> Tensor:
        """Return one particle's ligand density c at a distance from its surface."""
        density = 1 / (1 + torch.exp((distance - self.reach) / self.width))
        return torch.where(distance <= self.cutoff, density, 0.0)

    def potential(self, density: Tensor) -> Tensor:
        """Return the free energy U(ρ) of an ion, kT."""
        crowded = -self.affinity - self.crowded_affinity * (density - 1)
        return torch.where(density <= 1, -self.affinity * density, crowded)

    def diffusivity(self, density: Tensor) -> Tensor:
        """Return the local diffusivity D(ρ)."""
        mixed = self.bulk_diffusivity + (self.shell_diffusivity - self.bulk_diffusivity) * density
        return torch.where(density <= 1, mixed, self.shell_diffusivity * torch.exp(-self.crowding * (density - 1)))

    def tables(self) -> tuple[Tensor, Tensor]:
        """Return diffusivity and potential of the 256 site classes, float64 [256] each; class 255 is blocked."""
        density = torch.arange(LEVELS + 1, dtype=torch.float64) * (self.max_density / LEVELS)
        diffusivity = torch.cat([self.diffusivity(density), torch.zeros(1, dtype=torch.float64)])
        potential = torch.cat([self.potential(density), torch.full((1,), math.inf, dtype=torch.float64)])
        return diffusivity, potential
