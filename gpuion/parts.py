"""Training, validation and test parts of one or more data sets.

Each folder is split by itself: as its `split.json` says, else 60/20/20 with seed 0. The first one's test part is the
test set; the others' training and validation parts join in, their test parts stand apart. Structures whose label did
not settle take no part, after the split: whether one settled does not change where the others are.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gpuion.dataset import Dataset
from gpuion.errors import DatasetError
from gpuion.splits import NAME, PARTS, SEED, positions, split
from gpuion.training import Samples


def divide(paths: Sequence[str], sets: Sequence[Dataset], voxels: int) -> dict[str, Samples]:
    """Return training, validation and test structures, and each further folder's own test part.

    Raises
    ------
    DatasetError
        If a folder has other cells, another lattice or transport model than the first, numbers that are not finite,
        or too few labels that settled.
    """
    first, chosen = sets[0], dict[str, list[tuple[Dataset, Tensor]]](train=[], validation=[], test=[])
    for path, data in zip(paths, sets, strict=True):
        _check(path, data, paths[0], first)
        index_of = split(len(data), SEED) if data.part is None else positions(data.part)
        for name, index in zip(PARTS, index_of, strict=True):
            key = name if data is first or name != "test" else f"test of {path}"
            kept = index[data.settled[index]]
            if not len(kept):
                raise DatasetError(
                    f"{path}: expected settled labels in each part of its split, found none in {name}; add structures, "
                    f"or divide it anew: remove its {NAME}, then python -m gpuion.dataset split"
                )
            chosen.setdefault(key, []).append((data, kept))
    return {
        name: Samples(
            centers=torch.cat([data.centers[at] for data, at in pieces]),
            target=torch.cat([data.mean_diffusivity[at] for data, at in pieces]).div(first.d_reference).float(),
            axes=torch.cat([data.diffusivity[at] for data, at in pieces]).div(first.d_reference).float(),
            id=torch.cat([data.id[at] for data, at in pieces]),
            box=first.box, diameter=first.diameter, voxels=voxels,
        )
        for name, pieces in chosen.items()
    }  # fmt: skip


def _check(path: str, data: Dataset, home: str, first: Dataset) -> None:
    names = ("N", "box", "diameter", "sites_per_voxel")
    there, here = ([d.centers.shape[1], d.box, d.diameter, d.sites_per_voxel] for d in (data, first))
    if any(not math.isclose(found, expected, rel_tol=1e-6) for found, expected in zip(there, here, strict=True)):
        found, expected = (", ".join(f"{k} = {v}" for k, v in zip(names, x, strict=True)) for x in (there, here))
        raise DatasetError(f"{path}: expected {expected} as in {home}, found {found}")
    if data.model != first.model:
        raise DatasetError(f"{path}: transport model: expected {first.model} as in {home}, found {data.model}")
    if not torch.isfinite(data.diffusivity).all():
        bad = data.id[~torch.isfinite(data.diffusivity).all(-1)].tolist()
        raise DatasetError(f"{path}: diffusivity: expected finite numbers, found others at ids {bad[:5]}")
    if len(data) < 5:
        raise DatasetError(f"{path}: expected 5 structures or more to split 60/20/20, found {len(data)}")
