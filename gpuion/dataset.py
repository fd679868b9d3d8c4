"""Labelled structures as tensors: write, read, merge and split them.

Legend: n structures, N particles. Lengths in voxels, diffusivities in units of the bulk solvent's.

A dataset is a folder of shards `shard-00000.h5`, … (`gpuion.shards` describes the format) and, once complete,
`dataset.json` with `d_reference`: the largest mean diffusivity of the original data that settled, which defines
D* = D / d_reference and stays with the data, with checkpoints and with annealed structures.
"""

if __name__ == "__main__":  # before torch, which takes seconds to load: a stop meanwhile is one line, too
    from gpuion.errors import expect_stops

    expect_stops()

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpuion import files, record, shards, splits
from gpuion.checks import check_device, check_path, check_tensor
from gpuion.errors import DatasetError
from gpuion.medium import TransportModel
from gpuion.splits import split  # noqa: F401, a name of this module

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


def write_shard(path: str | Path, data: Dataset, *, seed: int, config: dict[str, Any] | None = None) -> None:
    """Write structures as one shard, whole or not at all; equal arguments give equal bytes.

    Parameters
    ----------
    path : path
        The file, replaced if it exists.
    data : Dataset
        n ≥ 1 structures; a `d_reference` of NaN is left out.
    seed : int
        The seed that, with the ids, made the structures.
    config : dict, optional
        What made the data, as JSON values.

    Raises
    ------
    DatasetError
        For a field of wrong shape, or NaN where none may be.
    OSError
        If the file cannot be written, for instance on a full disk.
    """
    made_by = files.provenance()
    attributes = {
        "box": float(data.box),
        "diameter": float(data.diameter),
        "sites_per_voxel": int(data.sites_per_voxel),
        "method": data.method,
        "seed": np.uint64(seed),
        "config": json.dumps(config or {}),
        "model": json.dumps(dataclasses.asdict(data.model)),
        "commit": made_by.pop("commit"),
        "machine": made_by.pop("machine"),
        "versions": json.dumps(made_by),
    }
    if not math.isnan(data.d_reference):
        attributes["d_reference"] = float(data.d_reference)
    fields = {name: getattr(data, name) for name in shards.FIELDS}
    present = {name: x for name, x in fields.items() if x is not None}
    arrays = {name: x.detach().cpu().numpy() if isinstance(x, Tensor) else x for name, x in present.items()}
    shards.write(Path(path), arrays, attributes)


def read_shard(path: str | Path) -> Dataset:
    """Read one shard and check all of it.

    Raises
    ------
    DatasetError
        If the file is missing, damaged or not a shard; the message names file, field, expected and found.
    """
    arrays, attributes = shards.read(Path(path))
    family = arrays.pop("family")
    tensors = {name: torch.from_numpy(x) for name, x in arrays.items()}
    fields: dict[str, Any] = {name: x.bool() if x.dtype is torch.uint8 else x for name, x in tensors.items()}
    return Dataset(
        **fields,
        family=family,
        box=float(attributes["box"]),
        diameter=float(attributes["diameter"]),
        sites_per_voxel=int(attributes["sites_per_voxel"]),
        method=str(attributes["method"]),
        model=_model(path, attributes.get("model")),
        d_reference=float(attributes.get("d_reference", math.nan)),
    )


def open_dataset(source: str | Path | Sequence[str | Path], device: torch.device | str = "cpu") -> Dataset:
    """Read a folder of shards, one shard, or several of these merged, onto a device.

    `d_reference` is the first source's: of its `dataset.json`, else of its shards, else its largest settled mean D.

    Parameters
    ----------
    source : path, or sequence of paths
        Folders or `.h5` files of equal N, box, diameter, sites per voxel and transport model.
    device : torch.device or str

    Raises
    ------
    DatasetError
        If anything is missing, damaged or does not fit; the message names file, field, expected and found.
    """
    given = list(source) if isinstance(source, list | tuple) else [source]
    sources, device = [check_path("source", one) for one in given], check_device(device)
    if not sources:
        raise ValueError("open_dataset needs at least one folder or file, got an empty list")
    groups = [_open(path) for path in sources]
    reference = merge(groups[0]).d_reference
    if math.isnan(reference):
        reference = _largest(merge(groups[0]))
    merged = merge([part for group in groups for part in group])
    return dataclasses.replace(merged, d_reference=reference).to(device)


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


def write_summary(folder: str | Path, data: Dataset) -> None:
    """Write `dataset.json`, the sign of completeness; d_reference is the data's or its largest D that settled."""
    record.write(Path(folder), data, _largest(data) if math.isnan(data.d_reference) else data.d_reference)


def _largest(data: Dataset) -> float:
    """Return the largest D of a label that settled; if none did, of any: a D* needs a unit."""
    D = data.mean_diffusivity
    return float((D[data.settled] if bool(data.settled.any()) else D).max())


def _model(path: str | Path, text: Any) -> TransportModel:
    try:
        return TransportModel(**json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise DatasetError(f"{path}: attribute model: expected a transport model as JSON, found {error}") from None


def _join(column: list[Any]) -> Any:
    if any(x is None for x in column):
        return None
    return np.concatenate(column) if isinstance(column[0], np.ndarray) else torch.cat(column)


def _open(path: Path) -> list[tuple[Path, Dataset]]:
    """Return the shards of a folder, or one shard, with the reference that their folder knows."""
    if not path.exists():
        raise DatasetError(f"{path}: expected a folder of shards or a shard, found nothing there")
    paths = sorted(path.glob("shard-*.h5")) if path.is_dir() else [path]
    if not paths:
        raise DatasetError(f"{path}: expected shard-*.h5 files, found none; give the --out of simulate.py")
    parts = [(p, read_shard(p)) for p in paths]
    home = path if path.is_dir() else path.parent
    if (home / record.NAME).exists():
        reference, count = record.read(home)
        found = sum(len(part) for _, part in parts)
        if path.is_dir() and found != count:
            raise DatasetError(f"{home / record.NAME}: n_structures: expected {count} in the shards, found {found}")
        parts = [(p, dataclasses.replace(part, d_reference=reference)) for p, part in parts]
    elif path.is_dir() and (path / "run.json").exists():
        raise DatasetError(f"{path}: {record.NAME}: expected in a finished run, found none; run its command again")
    held = splits.read(home, merge(parts)) if path.is_dir() else None
    if held is None:
        return parts
    ends = np.cumsum([len(part) for _, part in parts])[:-1]
    return [(p, dataclasses.replace(x, part=y)) for (p, x), y in zip(parts, np.split(held[0], ends), strict=True)]


if __name__ == "__main__":
    from gpuion.manage import command_line

    command_line()
