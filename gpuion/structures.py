"""Labelled structures as tensors: take some of them, put several sets together.

Legend: n structures, N particles. Lengths in voxels, diffusivities in units of the bulk solvent's.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpuion import files, shards
from gpuion.checks import check_tensor
from gpuion.errors import DatasetError
from gpuion.medium import TransportModel

_COLUMNS = (*shards.FIELDS, "part")
_SHARED = ("box", "diameter", "sites_per_voxel", "model")  # by all parts of a merged set


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """Structures and their diffusivities, in the order of the shards.

    Attributes
    ----------
    centers : float32 [n, N, 3]
        Sphere centres in the periodic box.
    diffusivity, standard_error : float64 [n, 3]
        D_xx, D_yy, D_zz and the absolute error of each.
    id : int64 [n]
        Structure number.
    family : numpy array of str [n]
        random, chained, gapped, annealed-max, annealed-min, or annealed- and another objective of anneal.py.
    distance : float64 [n, 2]
        Range of a chained sphere to its parent; NaN if not chained.
    gap : float64 [n]
        Width of the slabs that are free of spheres; NaN if there are none.
    axes : bool [n, 3]
        Which axes have such a slab.
    box, diameter : float
    sites_per_voxel : int
    method : {"exact", "kmc", "both", "mixed"}
        Where the labels come from.
    model : TransportModel
        What the medium of the labels was made with.
    d_reference : float
        D of D* = 1; NaN in a shard made before it was known.
    converged, converged_kmc : bool [n], optional
        Whether the label, and the walk beside an exact label, settled.
    diffusivity_kmc, standard_error_kmc : float64 [n, 3], optional
        The walk's answer beside an exact label.
    z_score : float64 [n, 3], optional
        (walk − exact) over their errors in quadrature; NaN where either did not settle.
    predicted : float64 [n], optional
        D* that the surrogate predicted while annealing; NaN where none did.
    chain, cycle : int64 [n], optional
        Where in the annealing the structure was met.
    part : numpy array of str [n], optional
        train, validation or test, if the folder has a `split.json`; a shard does not hold it.
    """

    centers: Tensor
    diffusivity: Tensor
    standard_error: Tensor
    id: Tensor
    family: np.ndarray
    distance: Tensor
    gap: Tensor
    axes: Tensor
    box: float
    diameter: float
    sites_per_voxel: int
    method: str
    model: TransportModel = dataclasses.field(default_factory=TransportModel)
    d_reference: float = math.nan
    converged: Tensor | None = None
    diffusivity_kmc: Tensor | None = None
    standard_error_kmc: Tensor | None = None
    converged_kmc: Tensor | None = None
    z_score: Tensor | None = None
    predicted: Tensor | None = None
    chain: Tensor | None = None
    cycle: Tensor | None = None
    part: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of structures."""
        return len(self.centers)

    @property
    def mean_diffusivity(self) -> Tensor:
        """D = (D_xx + D_yy + D_zz) / 3, float64 [n]."""
        return self.diffusivity.mean(-1)

    @property
    def d_star(self) -> Tensor:
        """D* = D / d_reference, float64 [n]; 1 is the best structure of the original data."""
        return self.mean_diffusivity / self.d_reference

    @property
    def settled(self) -> Tensor:
        """Which labels settled, bool [n]: `converged`, or all where that is not known."""
        known = self.converged
        return torch.ones(len(self), dtype=torch.bool, device=self.centers.device) if known is None else known.bool()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of structures, labels, cell, unit of D* and split."""
        held = {name: getattr(self, name) for name in (*shards.FIELDS, *_SHARED, "d_reference")}
        held |= {} if self.part is None else {"part": self.part}
        return files.fingerprint(held | {"model": dataclasses.asdict(self.model)})

    def subset(self, index: Any) -> "Dataset":
        """Return some of the structures: a slice, a mask, or a list or tensor of positions."""
        index = index if isinstance(index, slice) else check_tensor("index", index).cpu()
        try:
            at = torch.arange(len(self))[index].reshape(-1)
        except (IndexError, TypeError) as error:
            raise ValueError(f"index must pick some of {len(self)} structures: {error}") from None
        return self._each(lambda x: x[at.numpy()] if isinstance(x, np.ndarray) else x[at.to(x.device)])

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the same structures on another device."""
        return self._each(lambda x: x if isinstance(x, np.ndarray) else x.to(device))

    def _each(self, change: Callable[[Any], Any]) -> "Dataset":
        fields = {name: getattr(self, name) for name in _COLUMNS}
        return dataclasses.replace(self, **{name: change(x) for name, x in fields.items() if x is not None})


def merge(parts: Sequence[tuple[Path, Dataset]]) -> Dataset:
    """Return named sets as one, in order; an optional field stays if all have it, d_reference is the first's.

    Raises
    ------
    DatasetError
        If N, box, diameter, sites per voxel or transport model differ.
    """
    (home, first), *others = parts
    for path, part in others:
        pairs = [("N", first.centers.shape[1], part.centers.shape[1])]
        pairs += [(name, getattr(first, name), getattr(part, name)) for name in _SHARED]
        for name, expected, found in pairs:
            if expected != found:
                raise DatasetError(f"{path}: {name}: expected {expected} as in {home}, found {found}")
    columns = {name: [getattr(part, name) for _, part in parts] for name in _COLUMNS}
    methods = {part.method for _, part in parts}
    return dataclasses.replace(
        first,
        **{name: _join(column) for name, column in columns.items()},
        method=first.method if len(methods) == 1 else "mixed",
    )


def _join(column: list[Any]) -> Any:
    if any(x is None for x in column):
        return None
    return np.concatenate(column) if isinstance(column[0], np.ndarray) else torch.cat(column)


def largest(data: Dataset) -> float:
    """Return the largest D of a label that settled; if none did, of any: a D* needs a unit."""
    D = data.mean_diffusivity
    return float((D[data.settled] if bool(data.settled.any()) else D).max())
