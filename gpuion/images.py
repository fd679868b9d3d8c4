"""Labelled images, from files and from arrays of any integers, as media.

Letters: B structures, X Y Z sites, K labels.
"""

import math
import reprlib
import tokenize
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpuion.checks import check_path, check_tensor, is_whole
from gpuion.errors import DatasetError

_MAX_LABELS = 255
_UNREADABLE = (  # tifffile's own errors are ValueErrors
    ValueError, EOFError, RuntimeError, MemoryError, LookupError, TypeError, ArithmeticError, tokenize.TokenError,
)  # fmt: skip

Table = Mapping[int, float | None] | Sequence[float | None]
"""One number for each label: a mapping, or a sequence whose item k belongs to label k; None where there is none."""


def read_image(path: str | Path) -> np.ndarray:
    """Return the array of a .npy file or of a .tif/.tiff stack, whose pages are the first axis.

    Raises
    ------
    ValueError
        For another kind of file.
    DatasetError
        For a file that cannot be read as what its name says.
    ImportError
        For a .tif without tifffile installed.
    """
    path = check_path("path", path)
    kind = path.suffix.lower()
    if kind not in (".npy", ".tif", ".tiff"):
        raise ValueError(f"{path} is not a .npy, .tif or .tiff file; save the array with numpy.save")
    if kind != ".npy":
        try:
            import tifffile
        except ImportError:
            raise ImportError(f"reading {path} needs tifffile; install it with: pip install gpuion[tif]") from None
    with path.open("rb") as file:  # a missing file is reported as such
        try:
            return _npy(path) if kind == ".npy" else np.asarray(tifffile.imread(file))
        except _UNREADABLE as error:
            raise DatasetError(f"{path} is not a readable {kind} file: {error}") from error


def _npy(path: Path) -> np.ndarray:
    """Return the array of a .npy file: mapped first, so that no more is allocated than the file has."""
    with np.errstate(over="raise"):  # in the product of the lengths that it claims
        return np.array(np.lib.format.open_memmap(path, mode="r"))


def classify(array: np.ndarray | Tensor, diffusivity: Table, potential: Table | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return labels uint8 [B, X, Y, Z] and tables float64 [K] of diffusivities and potentials, for `Medium`.

    Class k is the k-th of the given labels in rising order, whether it occurs or not: the same tables give the same
    classes for every image.
    """
    image = _integers(array)
    diffusivities = _table(diffusivity, "diffusivity")
    if len(diffusivities) > _MAX_LABELS:
        raise ValueError(
            f"diffusivity has {len(diffusivities)} labels, at most {_MAX_LABELS} are possible; merge labels of one kind"
        )
    known = sorted(diffusivities)
    _check_known(image, known)
    blocked = {label for label, value in diffusivities.items() if not value}
    potentials = dict.fromkeys(known, 0.0) if potential is None else _table(potential, "potential")
    for label in known:
        if label not in blocked and potentials.get(label) is None:
            raise ValueError(f"label {label} has a diffusivity, but no potential; add it to potential (kT, inf blocks)")
    labels = torch.searchsorted(torch.tensor(known, device=image.device), image).to(torch.uint8)
    D = [diffusivities[label] or 0.0 for label in known]
    U = [math.inf if label in blocked else potentials[label] for label in known]
    return labels, torch.tensor(D, dtype=torch.float64), torch.tensor(U, dtype=torch.float64)


def _integers(array: np.ndarray | Tensor) -> Tensor:
    """Return an array of labels as int64 [B, X, Y, Z]."""
    if not isinstance(array, Tensor):
        try:
            array = np.asarray(array)
        except ValueError:  # lists of different lengths
            raise ValueError(f"the image must be an array of labels, got {reprlib.repr(array)}") from None
        if array.dtype.kind not in "iub":
            raise ValueError(f"the image must hold integers or booleans, got {array.dtype}; label its phases first")
        if array.dtype == np.uint64 and array.size and int(array.max()) >= 2**63:
            raise ValueError(f"labels must be below 2**63, got {array.max()}")
        array = torch.from_numpy(array.astype(np.int64, order="C"))  # torch has no big-endian or negative strides
    array = check_tensor("the image", array)
    if array.is_floating_point() or array.is_complex():
        raise ValueError(f"the image must hold integers or booleans, got {array.dtype}; label its phases first")
    if array.ndim not in (3, 4):
        raise ValueError(f"the image must have shape [X, Y, Z] or [B, X, Y, Z], got {list(array.shape)}")
    return (array if array.ndim == 4 else array[None]).long().contiguous()


def _table(values: Table, name: str) -> dict[int, float | None]:
    """Return label → value; refuse what is neither None nor a number."""
    known = isinstance(values, Mapping | Sequence | np.ndarray | Tensor) and not isinstance(values, str | bytes)
    if not known:
        raise ValueError(f"{name} must be a number of each label, {{label: number}}, got {reprlib.repr(values)}")
    if not isinstance(values, Mapping | Sequence):
        values = check_tensor(name, values).reshape(-1).tolist()
    pairs = values.items() if isinstance(values, Mapping) else enumerate(values)
    table = {_label(label, name): None if value is None else _number(value, label, name) for label, value in pairs}
    for label, value in table.items():
        wrong = value is not None and (math.isnan(value) or (name == "diffusivity" and not 0 <= value < math.inf))
        if wrong:
            allowed = "a number ≥ 0, or None (blocked)" if name == "diffusivity" else "a number or inf (blocked)"
            raise ValueError(f"{name} of label {label} must be {allowed}, got {value}")
    return table


def _label(label: Any, name: str) -> int:
    if isinstance(label, bool | np.bool_):
        return int(label)
    if not is_whole(label, -(2**63)) or label >= 2**63:
        raise ValueError(f"{name}: labels must be whole numbers of 64 bits, got {reprlib.repr(label)}")
    return int(label)


def _number(value: Any, label: Any, name: str) -> float:
    try:
        return float("x" if isinstance(value, str | bool) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"{name} of label {label} must be a number or None, got {reprlib.repr(value)}") from None


def _check_known(image: Tensor, known: list[int]) -> None:
    """Refuse an image with a label that has no diffusivity."""
    if not known:
        raise ValueError("diffusivity must name at least one label")
    table = torch.tensor(known, device=image.device)
    place = torch.searchsorted(table, image).clamp(max=len(known) - 1)
    strange = table[place] != image
    if bool(strange.any()):
        missing = torch.unique(image[strange])
        first, more = ", ".join(map(str, missing[:8].tolist())), " …" if len(missing) > 8 else ""
        raise ValueError(
            f"no diffusivity for label {first}{more}, which occurs {int(strange.sum())} times in the image; give one "
            f"(None blocks), known are {known[:8]}{' …' if len(known) > 8 else ''}"
        )
