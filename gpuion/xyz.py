"""Arrangements as extended XYZ: text that OVITO, ASE and many others read, a frame a structure.

Legend: n structures, N particles. Lengths in voxels.

A frame has a line with N, a line of `key=value` pairs, and a line a sphere: species, x, y, z, radius.

    2
    Lattice="50.0 0 0 0 50.0 0 0 0 50.0" pbc="T T T" Properties=species:S:1:pos:R:3:radius:R:1 id=17 D=0.21
    X 12.5 3.25 49.75 4.8
    X …

The species is X, which ASE knows as an atom of no element. Numbers have as many digits as tell them from their
neighbours in their own precision: read back and cast to it, they are the same bits.
"""

import math
import re
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpuion import files
from gpuion.checks import check_length, check_path, check_tensor
from gpuion.dataset import Dataset
from gpuion.descriptors import checked_centers

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_OURS = ("lattice", "pbc", "properties")


def write_xyz(
    path: str | Path,
    structures: Tensor | Dataset,
    *,
    box: float | None = None,
    diameter: float | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Write arrangements as an extended XYZ file, whole or not at all.

    Centres outside [0, box) are wrapped into it; the others are written as they are.

    Parameters
    ----------
    path : path
        The file, replaced if it exists; OVITO and ASE know it by the ending .xyz or .extxyz.
    structures : float [n, N, 3], or Dataset
        Sphere centres, voxels, any image. A data set brings `box`, `diameter` and what it knows of each structure: id,
        family, D, D_star, diffusivity, standard_error, and where it has them gap, distance, converged, predicted, chain
        and cycle.
    box, diameter : float
        Edge of the periodic cube and sphere diameter, voxels; not beside a data set.
    info : mapping, optional
        More of each frame: a name, and one number, truth value, word or row of numbers for each structure ([n, …]).
        NaN is left out. A word that reads as a number or as T or F is taken for one by readers.

    Raises
    ------
    ValueError
        For malformed centres, box, diameter or info.
    OSError
        If the file cannot be written.
    """
    if isinstance(structures, Dataset):
        if box is not None or diameter is not None:
            raise ValueError("a data set has its own box and diameter; leave them out")
        centers, box, diameter = structures.centers, structures.box, structures.diameter
        info = _known(structures) | dict(info or {})
    else:
        centers = structures
    if box is None or diameter is None:
        raise ValueError("write_xyz needs box and diameter beside centers, in voxels")
    path, centers = check_path("path", path), check_tensor("structures", centers)
    box, diameter = check_length("box", box), check_length("diameter", diameter)
    if info is not None and not isinstance(info, Mapping):
        raise ValueError(f"info must be values by name, got {reprlib.repr(info)}")
    x = _wrapped(centers, box)
    columns = {key: _column(key, values, len(x)) for key, values in (info or {}).items()}
    with files.atomic(Path(path)) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        for frame in _frames(x, box, diameter, columns):
            file.write(frame)


def _known(data: Dataset) -> dict[str, Any]:
    known: dict[str, Any] = {"id": data.id, "family": data.family, "D": data.mean_diffusivity}
    if math.isfinite(data.d_reference):
        known["D_star"] = data.d_star
    known |= {"diffusivity": data.diffusivity, "standard_error": data.standard_error}
    known |= {"gap": data.gap, "distance": data.distance}
    optional = {name: getattr(data, name) for name in ("converged", "predicted", "chain", "cycle")}
    return known | {name: values for name, values in optional.items() if values is not None}


def _wrapped(centers: Tensor, box: float) -> np.ndarray:
    """Return the centres in [0, box), those that are there bit for bit, in their own precision."""
    x = checked_centers(centers, box).detach().cpu().numpy()
    if not len(x):
        raise ValueError(f"a file holds at least one structure, got {list(x.shape)}")
    kind = np.float64 if centers.dtype is torch.float64 else np.float32
    moved = np.mod(x, box).astype(kind)
    moved[moved >= box] = 0  # just below 0, rounded up
    return np.where((x >= 0) & (x < box), x.astype(kind), moved)


def _column(key: str, values: Any, n: int) -> np.ndarray:
    """Return the values of a key, one row a structure, or raise ValueError."""
    name = reprlib.repr(key)
    if not isinstance(key, str) or not _KEY.fullmatch(key) or key.lower() in _OURS:
        raise ValueError(
            f"info key {name} must be letters, digits, _ and -, begin with a letter, and not be of {_OURS}"
        )
    try:
        is_tensor = isinstance(values, Tensor)
        column = check_tensor(key, values).detach().cpu().numpy() if is_tensor else np.asarray(values)
    except (ValueError, TypeError):
        raise ValueError(f"info {name} must be a row a structure, got {reprlib.repr(values)}") from None
    if column.ndim not in (1, 2) or len(column) != n or 0 in column.shape or column.dtype.kind not in "biufU":
        found = f"{column.dtype} {list(column.shape)}"
        raise ValueError(
            f"info {name} must be numbers, truth values or words of shape [n = {n}] or [n, k], got {found}"
        )
    if column.dtype.kind == "U":
        for word in column.flat:
            if column.ndim > 1 or not word or not word.isprintable() or set(word) & {'"', "\\"}:
                raise ValueError(
                    f"info {name} must be one printable word a structure, with no quote or \\, got {word!r}"
                )
    return column


def _frames(x: np.ndarray, box: float, diameter: float, columns: Mapping[str, np.ndarray]) -> Iterator[str]:
    L = float(box)
    head = f'Lattice="{L} 0 0 0 {L} 0 0 0 {L}" pbc="T T T" Properties=species:S:1:pos:R:3:radius:R:1'
    digits = 9 if x.dtype == np.float32 else 17
    line = f"X %.{digits}g %.{digits}g %.{digits}g {float(diameter) / 2}\n"
    for centers, *values in zip(x, *columns.values(), strict=True):
        pairs = [f"{key}={_value(value)}" for key, value in zip(columns, values, strict=True) if _is_there(value)]
        spheres = "".join(line % tuple(center) for center in centers.tolist())
        yield f"{len(centers)}\n{' '.join([head, *pairs])}\n{spheres}"


def _is_there(value: Any) -> bool:
    return np.asarray(value).dtype.kind != "f" or not bool(np.isnan(value).any())


def _value(value: Any) -> str:
    text = " ".join(_text(item) for item in np.ravel(value))
    return text if re.fullmatch(r"[\w.+-]+", text, re.ASCII) else f'"{text}"'


def _text(item: Any) -> str:
    """Return the shortest text that reads as this number in its own precision, T or F, or a word."""
    return "FT"[int(item)] if isinstance(item, np.bool_) else str(item)
