"""Structures of a data set with other numbers of spheres, for `simulate.py` to label as it labels a design's.

Legend: B structures, N particles. Lengths in voxels.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gpuion import files, splits
from gpuion.dataset import Dataset, open_dataset
from gpuion.design import Case
from gpuion.errors import ConfigError
from gpuion.loading import change_loading


@dataclasses.dataclass(frozen=True, kw_only=True)
class Derived:
    """The structures of a source with spheres taken out or put in; each keeps its id and the family it came from.

    Attributes
    ----------
    source : Dataset
        The structures to start from.
    particles : int
        Spheres that each is to have.
    seed : int
    """

    source: Dataset
    particles: int
    seed: int

    @property
    def box(self) -> float:
        """Edge of the periodic cube."""
        return self.source.box

    @property
    def diameter(self) -> float:
        """Diameter of the spheres."""
        return self.source.diameter

    @property
    def d_reference(self) -> float:
        """D of D* = 1: the source's."""
        return self.source.d_reference

    @property
    def volume_fraction(self) -> float:
        """φ = N π σ³ / (6 L³) of what comes out."""
        return self.particles * math.pi * self.diameter**3 / (6 * self.box**3)

    @property
    def origin(self) -> str:
        """SHA-256 of the structures that all comes of, and of their cell; their labels change nothing here."""
        names = ("centers", "id", "family", "distance", "gap", "axes", "box", "diameter")
        return files.fingerprint({name: getattr(self.source, name) for name in names})

    @property
    def cell(self) -> dict[str, Any]:
        """Particles, box and volume fraction of what comes out."""
        return {"particles": self.particles, "box": self.box, "volume_fraction": self.volume_fraction}

    def case(self, number: int) -> Case:
        """Return the family and parameters of the structure that `number` came from."""
        at = self._at[number]
        distance, gap = self.source.distance[at].tolist(), float(self.source.gap[at])
        return Case(
            str(self.source.family[at]),
            distance=None if math.isnan(distance[0]) else (distance[0], distance[1]),
            gap=None if math.isnan(gap) else gap,
            axes=tuple(self.source.axes[at].nonzero()[:, 0].tolist()) or None,
        )

    def centers(self, numbers: list[int], device: torch.device | str = "cpu") -> Tensor:
        """Return the centres of some structures, float32 [B, N, 3]."""
        before = self.source.centers[[self._at[number] for number in numbers]].to(device)
        return change_loading(
            before, self.particles, box=self.box, diameter=self.diameter, seed=self.seed, ids=torch.tensor(numbers)
        )

    @cached_property
    def _at(self) -> dict[int, int]:
        """Where in the source each number is."""
        return {number: i for i, number in enumerate(self.source.id.tolist())}


def derive(source: str, of: str, count: int | None, seed: int, given: Mapping[str, Any]) -> tuple[Derived, list[int]]:
    """Return the structures that come of a data set, or of one part of it, and the first `count` of their numbers.

    `given` may have particles, the number that each is to have, in place of the source's; a box or a volume fraction
    there must be the source's, or be what comes out.

    Raises
    ------
    ConfigError
        For an unknown part, more structures than there are, or another cell than the source's.
    DatasetError
        If the data set is not right, or has no split though a part was asked for.
    ValueError
        For numbers of spheres that no arrangement can have.
    """
    data = open_dataset(source)
    if of and of not in splits.PARTS:
        raise ConfigError(f"of must be one of {', '.join(splits.PARTS)}, or nothing for all structures, got {of!r}")
    if of:
        data = data.subset(torch.from_numpy(splits.parts_of(data) == of))
    if len(set(data.id.tolist())) != len(data):
        raise ConfigError(f"{source}: structures must have different ids to derive others from; merged sets have not")
    count = len(data) if count is None else count
    if not 1 <= count <= len(data):
        raise ConfigError(f"structures must lie in 1 … {len(data)}, what {source} has, got {count}")
    before = Derived(source=data, particles=data.centers.shape[1], seed=seed)
    derived = before if given.get("particles") is None else dataclasses.replace(before, particles=given["particles"])
    for name in ("box", "volume_fraction"):
        value, allowed = given.get(name), (before.cell[name], derived.cell[name])
        if value is not None and not any(math.isclose(value, one, rel_tol=1e-6) for one in allowed):
            raise ConfigError(
                f"{name} = {value} is not that of {source}, {allowed[0]:.6g}; leave it out, "
                "and say with particles how many spheres each is to have"
            )
    change_loading(data.centers[:0], derived.particles, box=data.box, diameter=data.diameter, seed=seed)  # possible?
    return derived, data.id[:count].tolist()
