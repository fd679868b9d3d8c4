"""Labelled structures in files: write them, and read one file or many as tensors.

Legend: n structures, N particles.

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpuion import files, record, shards, splits
from gpuion.checks import check_device, check_path
from gpuion.errors import DatasetError
from gpuion.medium import TransportModel
from gpuion.splits import split  # noqa: F401, a name of this module
from gpuion.structures import Dataset, largest, merge


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
        reference = largest(merge(groups[0]))
    merged = merge([part for group in groups for part in group])
    return dataclasses.replace(merged, d_reference=reference).to(device)


def write_summary(folder: str | Path, data: Dataset) -> None:
    """Write `dataset.json`, the sign of completeness; d_reference is the data's or its largest D that settled."""
    record.write(Path(folder), data, largest(data) if math.isnan(data.d_reference) else data.d_reference)


def _model(path: str | Path, text: Any) -> TransportModel:
    try:
        return TransportModel(**json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise DatasetError(f"{path}: attribute model: expected a transport model as JSON, found {error}") from None


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
