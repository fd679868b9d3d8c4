"""The file format of labelled structures: HDF5, readable with plain h5py, checked in full when read.

Legend: n structures of a shard, N particles. Lengths in voxels, diffusivities in units of the bulk solvent's.

A shard has these datasets, each with a `unit` attribute and Fletcher-32 checksums; HDF5's own structures are
checksummed too (format v110). Equal content gives equal bytes.

    centers              f4 [n, N, 3]  sphere centres in the periodic box
    diffusivity          f8 [n, 3]     D_xx, D_yy, D_zz
    standard_error       f8 [n, 3]     of the walk, or the estimated error of the exact solve; absolute
    id                   i8 [n]        structure number; with the seed it determines the structure
    family               utf-8 [n]     random, chained, gapped, or annealed- and max, min, target, x, y, z, even
    distance             f8 [n, 2]     range of a chained sphere to its parent; NaN if not chained
    gap                  f8 [n]        width of the slabs free of spheres; NaN if there are none
    axes                 u1 [n, 3]     1 where an axis has such a slab
    converged            u1 [n]        optional: 0 where the label did not settle
    diffusivity_kmc      f8 [n, 3]     optional, as are all below: the walk's answer beside the exact one
    standard_error_kmc   f8 [n, 3]
    converged_kmc        u1 [n]
    z_score              f8 [n, 3]     (walk − exact) / their errors in quadrature; NaN where either did not settle
    predicted            f8 [n]        D* that the surrogate predicted while annealing; NaN where none did
    chain, cycle         i8 [n]        where in the annealing the structure was met

Root attributes: schema, version, box, diameter, sites_per_voxel, method (exact, kmc or both), seed, commit, machine,
d_reference (if it was known), and as JSON config, model (the transport model) and versions. Readers pass over fields
and attributes that they do not know; the version grows when what is there changes its meaning. Text has a fixed length
everywhere: version 1 kept attributes where nothing is checksummed. `docs/format.md` says this at length.
"""

import dataclasses
import json
import math
import reprlib
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpuion import checks, files
from gpuion.checks import LONGEST, is_between
from gpuion.errors import DatasetError

SCHEMA, VERSION = "gpuion-dataset", 2
METHODS = ("exact", "kmc", "both")
ATTRIBUTES = (
    "schema", "version", "box", "diameter", "sites_per_voxel", "method", "seed", "config", "model", "commit", "machine",
    "versions", "d_reference",
)  # fmt: skip

_NAME_LENGTH = 16  # bytes; fixed, since HDF5 keeps strings of variable length outside the checksummed chunks
_CHUNK = 1024  # structures
_LONGEST = 2**20  # bytes of text in an attribute
_FILTERS = (h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_SHUFFLE)
_BULK = "bulk solvent diffusivity"


@dataclasses.dataclass(frozen=True)
class Field:
    """How a field lies on disk: type, shape behind n, unit, whether NaN may be, whether it may lack."""

    dtype: str
    tail: tuple[str | int, ...] = ()
    unit: str = "1"
    nan: bool = False
    optional: bool = False


FIELDS = {
    "centers": Field("<f4", ("N", 3), "voxel"),
    "diffusivity": Field("<f8", (3,), _BULK),
    "standard_error": Field("<f8", (3,), _BULK),
    "id": Field("<i8"),
    "family": Field(f"|S{_NAME_LENGTH}"),
    "distance": Field("<f8", (2,), "voxel", nan=True),
    "gap": Field("<f8", (), "voxel", nan=True),
    "axes": Field("|u1", (3,)),
    "converged": Field("|u1", optional=True),
    "diffusivity_kmc": Field("<f8", (3,), _BULK, optional=True),
    "standard_error_kmc": Field("<f8", (3,), _BULK, optional=True),
    "converged_kmc": Field("|u1", optional=True),
    "z_score": Field("<f8", (3,), "standard error", nan=True, optional=True),
    "predicted": Field("<f8", (), "d_reference", nan=True, optional=True),
    "chain": Field("<i8", optional=True),
    "cycle": Field("<i8", optional=True),
}


def write(path: Path, arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> None:
    """Check and write a shard, whole or not at all; DatasetError if a field is not as the schema says."""
    arrays = {name: _to_disk(path, name, array) for name, array in arrays.items()}
    attributes = {"schema": SCHEMA, "version": VERSION, **attributes}
    _check(path, arrays, attributes)
    with files.atomic(path) as partial:
        partial.write_bytes(_image(arrays, attributes))


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the fields and attributes of a shard, all checked, or raise DatasetError."""
    if path.exists() and not path.is_file():
        raise DatasetError(f"{path}: expected a readable HDF5 file, found what is no file")
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            attributes = attributes_of(path, file)
            _check_attributes(path, attributes)
            found = {name: file.get(name, getlink=True) for name in FIELDS}
            names = [name for name, field in FIELDS.items() if found[name] or not field.optional]
            arrays = {name: _load(path, file, name) for name in names}
    except FileNotFoundError:
        raise DatasetError(f"{path}: expected a shard, found no such file") from None
    except DatasetError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise DatasetError(f"{path}: expected a readable HDF5 file, found: {error}") from None
    _check(path, arrays, attributes)
    try:
        arrays["family"] = np.array([word.decode() for word in arrays["family"]])
    except UnicodeError:
        raise DatasetError(f"{path}: family: expected UTF-8, found other bytes") from None
    return arrays, attributes


def is_whole(path: Path, ids: np.ndarray, seed: int) -> bool:
    """Return whether a shard of these ids and this seed is there and undamaged; say so if it must be made again."""
    if not path.exists():
        return False
    try:
        found, attributes = read(path)
    except DatasetError as error:
        print(f"warning: a damaged shard is made again: {error}", file=sys.stderr)
        return False
    if np.array_equal(found["id"], ids) and int(attributes["seed"]) == seed:
        return True
    print(f"warning: {path} is of other ids or another seed, and is made again", file=sys.stderr)
    return False


def _to_disk(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    if name != "family":
        return array.astype(FIELDS[name].dtype)
    words = [str(word).encode() for word in array]
    for word in words:
        if not 0 < len(word) <= _NAME_LENGTH or b"\0" in word:
            raise DatasetError(f"{path}: family: expected names of 1 to {_NAME_LENGTH} bytes, found {word!r}")
    return np.array(words, dtype=FIELDS[name].dtype)


def _image(arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> bytes:
    """Return the bytes of an HDF5 file made in memory: a full disk or a signal then meets plain Python."""
    with h5py.File("shard", "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
        for key, value in attributes.items():
            _set(file, key, value)
        for name, array in arrays.items():
            kind = h5py.string_dtype("utf-8", _NAME_LENGTH) if name == "family" else array.dtype
            chunks = (min(len(array), _CHUNK), *array.shape[1:])
            stored = file.create_dataset(
                name, data=array.astype(kind), chunks=chunks, fletcher32=True, track_times=False
            )
            _set(stored, "unit", FIELDS[name].unit)
        file.flush()
        return file.id.get_file_image()


def _set(node: Any, key: str, value: Any) -> None:
    """Set an attribute; text with a fixed length: HDF5 keeps other text in a heap without checksums."""
    if isinstance(value, str):
        data = np.array(value.encode(), dtype=h5py.string_dtype("utf-8", max(1, len(value.encode()))))
        node.attrs.create(key, data)
    else:
        node.attrs[key] = value


def attributes_of(path: Path, file: h5py.File) -> dict[str, Any]:
    """Return the root attributes that we know, if they are one number or text.

    Text of variable length is refused unread, since HDF5 may hang on a damaged heap. The others, of any
    kind and size, are not asked for.
    """
    found: dict[str, Any] = {}
    for key in ATTRIBUTES:
        if key not in file.attrs:
            continue
        held = file.attrs.get_id(key)
        if h5py.check_vlen_dtype(held.dtype) is not None:
            raise DatasetError(
                f"{path}: attribute {key}: expected a number or text of fixed length, found another type"
            )
        if held.dtype.kind in "biufS" and held.shape == () and held.dtype.itemsize <= _LONGEST:
            value = file.attrs[key]
            found[key] = value.decode() if isinstance(value, bytes) else value
    return found


def _load(path: Path, file: h5py.File, name: str) -> np.ndarray:
    """Read one field, out of this very file only."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
        raise DatasetError(f"{path}: {name}: expected a dataset of that name, found none")
    stored, expected = file[name], np.dtype(FIELDS[name].dtype)
    if stored.dtype != expected:
        raise DatasetError(f"{path}: {name}: expected type {expected.str}, found {stored.dtype.str}")
    if stored.is_virtual or stored.external:
        raise DatasetError(f"{path}: {name}: expected data in this file, found a reference to another")
    made = stored.id.get_create_plist()
    if any(made.get_filter(k)[0] not in _FILTERS for k in range(made.get_nfilters())):
        raise DatasetError(f"{path}: {name}: expected data without compression, found a filter that may make any size")
    most, chunk = path.stat().st_size, math.prod(stored.chunks or ())
    if max(math.prod(stored.shape), chunk) * expected.itemsize > most:
        raise DatasetError(
            f"{path}: {name}: expected data, found {list(stored.shape)} numbers in a file of {most} bytes"
        )
    try:
        return stored[...]
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"{path}: {name}: expected undamaged data, found: {error}") from None


def _check(path: Path, arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> None:
    _check_attributes(path, attributes)
    centers = arrays["centers"]
    n, N = centers.shape[:2] if centers.ndim == 3 else (-1, -1)
    for name, array in arrays.items():
        _check_array(f"{path}: {name}", FIELDS[name], array, n, N)
    if centers.min() < 0 or centers.max() > attributes["box"]:
        span = f"{centers.min():.6g} … {centers.max():.6g}"
        raise DatasetError(f"{path}: centers: expected positions from 0 to box = {attributes['box']}, found {span}")
    for name in ("axes", "converged", "converged_kmc"):
        if name in arrays and arrays[name].max() > 1:
            raise DatasetError(f"{path}: {name}: expected 0 or 1, found {arrays[name].max()}")


def _check_attributes(path: Path, attributes: dict[str, Any]) -> None:
    """Check the attributes, schema and version first: only then do the others mean anything."""
    for name, expected in (("schema", SCHEMA), ("version", VERSION)):
        found = attributes.get(name)
        if not np.array_equal(found, expected):  # type: ignore[arg-type]
            raise DatasetError(f"{path}: attribute {name}: expected {expected!r}, found {reprlib.repr(found)}")
    for name in ("box", "diameter", "sites_per_voxel", "d_reference"):
        found = attributes.get(name, 1.0 if name == "d_reference" else None)
        if not is_between(found, 0, math.inf):
            raise DatasetError(f"{path}: attribute {name}: expected a positive number, found {reprlib.repr(found)}")
    if attributes["diameter"] > attributes["box"] or attributes["box"] > LONGEST:
        found = f"{attributes['diameter']} in {attributes['box']}"
        raise DatasetError(f"{path}: attribute diameter: expected spheres that fit into the box, found {found}")
    for name in ("sites_per_voxel", "seed"):
        if not checks.is_whole(attributes.get(name), 0):
            raise DatasetError(
                f"{path}: attribute {name}: expected a whole number, found {reprlib.repr(attributes.get(name))}"
            )
    config_of(path, attributes)
    if str(attributes.get("method")) not in METHODS:
        found = attributes.get("method")
        raise DatasetError(
            f"{path}: attribute method: expected one of {', '.join(METHODS)}, found {reprlib.repr(found)}"
        )


def config_of(path: Path, attributes: dict[str, Any]) -> dict[str, Any]:
    """Return what made a shard, as its attribute `config` has it; nothing if there is none."""
    try:
        return dict(json.loads(attributes.get("config", "{}")))
    except (ValueError, TypeError, RecursionError) as error:
        raise DatasetError(f"{path}: attribute config: expected values by name as JSON, found {error}") from None


def _check_array(where: str, field: Field, array: np.ndarray, n: int, N: int) -> None:
    expected = (n, *(N if size == "N" else size for size in field.tail))
    if array.shape != expected or array.size == 0:
        sizes = ", ".join(["n ≥ 1" if n < 1 else str(n), *map(str, field.tail)])
        raise DatasetError(f"{where}: expected shape [{sizes}], found {list(array.shape)}")
    if array.dtype.kind == "f":
        bad = np.isinf(array) if field.nan else ~np.isfinite(array)
        if bad.any():
            at = np.argwhere(bad)[0].tolist()
            raise DatasetError(f"{where}: expected finite numbers, found {array[tuple(at)]} at {at}")
