"""Fields on the lattice as VTKHDF, the HDF5 format of VTK and ParaView: the medium and the ions' current.

Legend: X Y Z sites, b one structure. Lengths in voxels.

A file is a regular grid (`ImageData`) whose cells are the sites: site (x, y, z) fills the cube from (x, y, z) h to
(x + 1, y + 1, z + 1) h, as the media of `gpuion.electrolyte` lie. VTK counts x fastest, so that the datasets in
/VTKHDF/CellData are [Z, Y, X], or [Z, Y, X, 3] for vectors, whose components stay x, y, z. VTK 9.3 to 9.7 read it.
"""

import math
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from gpuion import files
from gpuion.checks import check_kind, check_length, check_path, check_tensor, is_whole
from gpuion.flux import currents
from gpuion.medium import Medium

_VERSION = (1, 0)  # of the format; the first has all that images need, and readers take what is older than they are
_KINDS = "biuf"


def write_vtkhdf(
    path: str | Path,
    fields: Mapping[str, Tensor],
    *,
    spacing: float = 1.0,
    origin: Sequence[float] = (0.0, 0.0, 0.0),
) -> None:
    """Write fields of one lattice as a VTKHDF image, whole or not at all; equal arguments give equal bytes.

    Parameters
    ----------
    path : path
        The file, replaced if it exists; ParaView knows it by the ending .vtkhdf.
    fields : mapping of names to tensors [X, Y, Z] or [X, Y, Z, 3]
        Numbers or vectors at the sites, of any real dtype, all on one lattice; truth values become 0 and 1, halves
        float32. The first of each kind is marked as what to show at first. The compressed file is
        made in memory, which takes up to twice the fields' bytes beside them.
    spacing : float
        Edge of a site.
    origin : three floats
        The corner of site (0, 0, 0).

    Raises
    ------
    ValueError
        For no fields, other shapes or types, names that are none, a spacing or origin that is no length.
    OSError
        If the file cannot be written.
    """
    path, spacing = check_path("path", path), check_length("spacing", spacing)
    corner = check_tensor("origin", origin)
    if corner.shape != (3,) or corner.is_complex() or corner.dtype is torch.bool or not bool(corner.isfinite().all()):
        raise ValueError(f"origin must be three finite lengths, got {reprlib.repr(origin)}")
    known = isinstance(fields, Mapping)
    if not known:
        raise ValueError(f"fields must be tensors by name, got {reprlib.repr(fields)}")
    arrays = {name: _array(name, field) for name, field in fields.items()}
    shapes = {name: array.shape[:3] for name, array in arrays.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"fields must be of one lattice, got {shapes or 'none'}")
    image = _image(arrays, float(spacing), tuple(corner.tolist()))
    with files.atomic(Path(path)) as partial:
        partial.write_bytes(image)


def write_medium(
    path: str | Path, medium: Medium, *, index: int = 0, axis: int | None = None, tolerance: float = 1e-6
) -> None:
    """Write what one structure's ions move in, and with `axis` how they flow, as a VTKHDF image.

    Its fields, of float32 but for the labels:

    - `label`, uint8: the class of each site;
    - `diffusivity`: the local D, 0 in blocked sites;
    - `potential`: the free energy U in kT, NaN in blocked sites;
    - `concentration`: exp(−U) / ⟨exp(−U)⟩, where the ions are at equilibrium;
    - `current`, vectors: the stationary current along `axis` (`gpuion.currents`) at the sites, the mean of the bonds
      on their two sides, (J_d(x) + J_d(x − d)) / 2. Its mean over the sites is the column D[:, axis].

    Parameters
    ----------
    path : path
        The file, replaced if it exists.
    medium : Medium
        Labelled lattices [B, X, Y, Z].
    index : int
        Which structure, 0 … B − 1.
    axis : int, optional
        0, 1 or 2: the direction of the force; no current without it.
    tolerance : float
        Of the solve for the current, as in `gpuion.currents`.

    Raises
    ------
    ValueError
        For an index or axis that is none, and as `currents` does.
    ConvergenceError
        If the solve misses the tolerance.
    OSError
        If the file cannot be written.
    """
    files.check_file(check_path("path", path))
    check_kind("medium", medium, Medium)
    if not is_whole(index, 0) or index >= len(medium):
        raise ValueError(f"index must lie in 0 … {len(medium) - 1}, got {reprlib.repr(index)}")
    one = medium[index : index + 1]
    labels = one.labels[0].long()
    potential = one.potential[labels]
    blocked = potential.isinf()
    weight = torch.exp(potential[~blocked].min() - potential) if not bool(blocked.all()) else ~blocked
    fields = {
        "label": one.labels[0],
        "diffusivity": one.diffusivity[labels].masked_fill(blocked, 0).float(),
        "potential": potential.masked_fill(blocked, math.nan).float(),
        "concentration": (weight / weight.double().mean().clamp_min(torch.finfo(torch.float64).tiny)).float(),
    }
    if axis is not None:
        J = currents(one, axis, tolerance=tolerance)[0]
        fields["current"] = torch.stack([(J[d] + J[d].roll(1, d)) / 2 for d in range(3)], -1).float()
    write_vtkhdf(path, fields, spacing=medium.spacing)


def _array(name: str, field: Tensor) -> np.ndarray:
    """Return a field as VTK orders it, [Z, Y, X] or [Z, Y, X, 3], or raise ValueError."""
    if not isinstance(name, str) or not 0 < len(name) < 256 or not name.isprintable() or "/" in name or name == ".":
        raise ValueError(f"a field's name must be printable, short and without /, got {reprlib.repr(name)}")
    tensor = check_tensor(f"field {name!r}", field).detach().cpu()
    tensor = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    tensor = tensor.byte() if tensor.dtype is torch.bool else tensor
    shape = list(tensor.shape)
    if tensor.is_complex() or len(shape) not in (3, 4) or shape[3:] not in ([], [3]) or 0 in shape:
        raise ValueError(f"field {name!r} must be real, [X, Y, Z] or [X, Y, Z, 3], got {tensor.dtype} {shape}")
    return tensor.numpy().transpose(2, 1, 0, *range(3, len(shape)))


def _image(arrays: Mapping[str, np.ndarray], spacing: float, origin: tuple[float, ...]) -> bytes:
    """Return the bytes of an HDF5 file made in memory: a full disk or a signal then meets plain Python."""
    Z, Y, X = next(iter(arrays.values())).shape[:3]
    with h5py.File("image", "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
        root = file.create_group("VTKHDF")
        root.attrs["Version"] = np.array(_VERSION, np.int64)
        root.attrs["Type"] = np.bytes_("ImageData")  # of fixed length, ASCII, as the format wants it
        root.attrs["WholeExtent"] = np.array([0, X, 0, Y, 0, Z], np.int64)  # of the points: one more than cells
        root.attrs["Origin"] = np.array(origin)
        root.attrs["Spacing"] = np.full(3, spacing)
        root.attrs["Direction"] = np.eye(3).ravel()
        cells = root.create_group("CellData")
        for name, array in arrays.items():
            stored = cells.create_dataset(
                name, data=array, chunks=(1, *array.shape[1:]), compression="gzip", compression_opts=1, shuffle=True,
                fletcher32=True, track_times=False,
            )  # fmt: skip
            kind = "Scalars" if array.ndim == 3 else "Vectors"
            if kind not in cells.attrs:
                cells.attrs[kind] = np.bytes_(name.encode())
                stored.attrs["Attribute"] = np.bytes_(kind)
        file.flush()
        return file.id.get_file_image()
