"""The file dataset.json of a folder of shards: the sign that it is complete, and the unit of D*."""

import math
import reprlib
from pathlib import Path
from typing import TYPE_CHECKING

from gpuion import files, shards
from gpuion.errors import DatasetError

if TYPE_CHECKING:
    from gpuion.dataset import Dataset

NAME = "dataset.json"


def write(folder: Path, data: "Dataset", d_reference: float) -> None:
    """Write what a data set is, with the D of D* = 1."""
    summary = {
        "schema": shards.SCHEMA,
        "version": shards.VERSION,
        "d_reference": d_reference,
        "n_structures": len(data),
        "n_particles": data.centers.shape[1],
        "box": data.box,
        "diameter": data.diameter,
        "sites_per_voxel": data.sites_per_voxel,
        "method": data.method,
    }
    files.write_json(folder / NAME, summary)


def read(folder: Path) -> tuple[float, int]:
    """Return the D of D* = 1 and the number of structures, or raise DatasetError."""
    path = folder / NAME
    try:
        summary = files.read_json(path)
        schema, version = summary["schema"], summary["version"]
        reference, count = float(summary["d_reference"]), int(summary["n_structures"])
    except DatasetError:
        raise
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DatasetError(f"{path}: expected a dataset's summary, found: {type(error).__name__} {error}") from None
    if (schema, version) != (shards.SCHEMA, shards.VERSION):
        expected = f"{shards.SCHEMA} version {shards.VERSION}"
        raise DatasetError(f"{path}: schema: expected {expected}, found {reprlib.repr((schema, version))}")
    if not (math.isfinite(reference) and reference > 0):
        raise DatasetError(f"{path}: d_reference: expected a positive number, found {reference}")
    return reference, count
