"""What a data set holds, in words: families and their parameters, labels, parts, where it comes from.

Legend: n structures.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from torch import Tensor

from gpuion import splits
from gpuion.dataset import Dataset, open_dataset
from gpuion.labeling import beyond
from gpuion.shards import attributes_of, config_of


def info(source: Path) -> None:
    """Print what a data set holds."""
    data = open_dataset(source)
    print(f"{len(data)} structures of {data.centers.shape[1]} spheres, diameter {data.diameter:.6g}, box {data.box:g}")
    print(f"labels: {data.method}, {data.sites_per_voxel} sites a voxel; D of D* = 1 is {data.d_reference:.6g}")
    if not data.settled.all():
        print(f"{int((~data.settled).sum())} labels did not settle")
    if data.z_score is not None:
        far, settled, chance = beyond(data.z_score)
        print(f"walk and exact solve more than 4σ apart: {int(far.sum())} of {settled} settled (chance: {chance:.2g})")
    print(_parts(source, data))
    for family in sorted(set(data.family)):
        some = data.subset(data.family == family)
        D = some.mean_diffusivity
        print(
            f"{family:<14}{len(D):>6}   D from {float(D.min()):.4f} to {float(D.max()):.4f}, mean {float(D.mean()):.4f}"
            + _parameters(some)
        )
    shards = sorted(source.glob("shard-*.h5")) if source.is_dir() else [source]
    print("\n".join(_origin(shards)))


def _parts(source: Path, data: Dataset) -> str:
    if data.part is None:
        return "parts: not fixed; train.py takes 60/20/20 of a folder with seed 0"
    held = splits.read(source, data)
    how = ", ".join(f"{name} {value}" for name, value in held[1].items()) if held else ""
    return f"parts: {', '.join(f'{name} {int((data.part == name).sum())}' for name in splits.PARTS)} ({how})"


def _parameters(some: Dataset) -> str:
    """Return the ranges of distances, the widths and the axes of the structures of a family."""
    words = []
    chained = some.distance[~some.distance.isnan().any(-1)]
    if len(chained):
        lo, hi = float(chained[:, 0].min()), float(chained[:, 1].max())
        ranges = len(np.unique(chained.numpy(), axis=0))
        words.append(f"distances {lo:.4g} to {hi:.4g} in {ranges} range{'s' * (ranges > 1)}")
    gap: Tensor = some.gap[~some.gap.isnan()]
    if len(gap):
        counts = np.bincount(some.axes.sum(-1).numpy(), minlength=4)[1:]
        words.append(f"slabs of {float(gap.min()):.4g} to {float(gap.max()):.4g}, on 1, 2, 3 axes: {counts.tolist()}")
    return "".join(f"; {word}" for word in words)


def _origin(paths: list[Path]) -> list[str]:
    """Return lines about what made the shards, each different answer once."""
    held: list[dict[str, Any]] = []
    for shard in paths:
        with h5py.File(shard, "r") as file:
            held.append(attributes_of(shard, file))
    configs = [config_of(path, attributes) for path, attributes in zip(paths, held, strict=True)]
    lines = []
    for name in ("tolerance", "walkers", "time", "rtol"):
        found = list(dict.fromkeys(str(config[name]) for config in configs if name in config))
        if found and (name == "tolerance" or any(c.get("method") in {"kmc", "both"} for c in configs)):
            lines.append(f"{name}: {', '.join(found)}")
    lines = ["; ".join(lines)] if lines else []
    for name in ("seed", "commit", "machine", "versions"):
        found = list(dict.fromkeys(str(attributes[name]) for attributes in held if name in attributes))
        lines += [f"{name}: {' | '.join(found)}"] if found else []
    return lines
