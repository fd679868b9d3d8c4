"""Errors of trained models on labelled structures: on the whole, by family, and where they are largest.

    python -m gpuion.evaluate runs/network/surrogate.pt --data data/study
    python -m gpuion.evaluate runs/*/surrogate.pt --data data/phi-0.05 data/phi-0.15 --part all --out errors.json

D* is in the unit of what each checkpoint was trained on. A part of a data set is what its split.json says, else what
train.py makes of it. Models that read sphere centres take any number of spheres and any cell that is large enough, and
so does the periodic network of images; tiled and zero take the one edge that they were trained on.

Legend: n structures, N particles. Lengths in voxels, errors relative to the truth in per cent.
"""

if __name__ == "__main__":  # before torch, which takes seconds to load: a stop meanwhile is one line, too
    from gpuion.errors import expect_stops

    expect_stops()

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpuion import files, memory, model_panels, plots, splits, training
from gpuion.config import Parser
from gpuion.dataset import Dataset, open_dataset
from gpuion.distributed import pick_device
from gpuion.error_tables import show
from gpuion.errors import CheckpointError, DatasetError, run_script
from gpuion.measures import measured, shift_sensitivity, turn_sensitivity
from gpuion.medium import whole
from gpuion.models import Model
from gpuion.prediction import SAME
from gpuion.predictor import Predictor
from gpuion.training import Samples

_PAIRS = 2**22  # of spheres at once: a model of contacts takes some hundred bytes for each


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What a model makes of n structures.

    Attributes
    ----------
    id : int64 [n]
    kind : numpy array of str [n]
        Family, and of gapped structures the number of axes with a slab.
    true, predicted : float64 [n]
        D*.
    label : float64 [n]
        What the label says of its own error, of D.
    spread : float64 [n]
        Standard deviation of log D*, NaN of a model that does not know its own.
    quantiles : float64 [100]
        Of errors over `spread`, see `Prediction`.
    """

    id: Tensor
    kind: np.ndarray
    true: Tensor
    predicted: Tensor
    label: Tensor
    spread: Tensor
    quantiles: Tensor

    @property
    def error(self) -> Tensor:
        """Relative error, predicted over true − 1, float64 [n]."""
        return self.predicted / self.true - 1

    def of(self, kept: np.ndarray) -> "Found":
        """Return those of a mask."""
        at = torch.from_numpy(kept)
        tensors = {name: getattr(self, name)[at] for name in ("id", "true", "predicted", "label", "spread")}
        return Found(kind=self.kind[kept], quantiles=self.quantiles, **tensors)


def main() -> None:
    """Read the command line, predict, print, write."""
    given = _given()
    if given.pictures:
        plots.require()
    device = pick_device(given.device)
    nets = [(path, training.load_surrogate(path, device)) for path in given.checkpoint]
    if device == "cpu" and not all(isinstance(net, Predictor) for _, net in nets):
        memory.keep()
    sets = [(path, part_of(path, given.part)) for path in given.data]
    for path, net in nets:
        for source, data in sets:
            check(net, data, path, source)
    results = [describe(path, net, sets, given.part, given.worst, symmetry=given.symmetry) for path, net in nets]
    print(show(results))
    if given.out:
        files.write_json(given.out, {"part": given.part, "results": results, **files.provenance()})
    if given.pictures:
        model_panels.write(given.pictures, results, [path.parent for path in given.checkpoint])


def _given() -> argparse.Namespace:
    parser = Parser(prog="python -m gpuion.evaluate", description=__doc__)
    paths = parser.add_argument_group("files")
    paths.add_argument("checkpoint", type=Path, nargs="+", help="surrogate.pt of train.py")
    paths.add_argument("--data", type=Path, nargs="+", required=True, help="data sets, folders or shards")
    paths.add_argument("--out", type=Path, help="file for all of it as JSON")
    paths.add_argument("--pictures", type=Path, help="folder for pictures of errors and of what training met")
    structures = parser.add_argument_group("structures")
    parts = ("test", "validation", "train", "all")
    structures.add_argument("--part", choices=parts, default="test", help="the part of each data set to take")
    errors = parser.add_argument_group("errors")
    errors.add_argument("--worst", type=int, default=10, help="how many of the largest to list")
    errors.add_argument("--symmetry", action="store_true", help="shift, turn and mirror whole cells, too")
    parser.add_argument_group("the run").add_argument("--device", default="auto", help="auto, cpu or cuda")
    return parser.parse_args()


def part_of(source: Path, part: str) -> Dataset:
    """Return the structures of a part of a data set whose labels settled, or of all of it.

    Raises
    ------
    DatasetError
        If there is no data set, or nothing of it is left.
    """
    data = open_dataset(source)
    kept = data.settled.clone()
    if part != "all":
        held = splits.named(splits.split(len(data), splits.SEED)) if data.part is None else data.part
        kept &= torch.from_numpy(held == part)
    if not bool(kept.any()):
        raise DatasetError(f"{source}: expected settled labels in its part {part}, found none; try --part all")
    return data.subset(kept)


def check(net: Model, data: Dataset, checkpoint: Path, source: Path) -> None:
    """Say why a model cannot predict a data set, before any work.

    Raises
    ------
    CheckpointError
        For a cell, or spheres, that the model does not take.
    """
    trained, cell = f"{checkpoint} ({name_of(net)})", f"{source} has"
    for key in ("d_reference", "box", "diameter", "voxels"):
        if not isinstance(net.meta.get(key), int | float):
            raise CheckpointError(f"{checkpoint} does not say its {key}; train it again with train.py")
    if isinstance(net, Predictor):
        expected, found = net.meta["diameter"], data.diameter
        if abs(found / expected - 1) > SAME:
            raise CheckpointError(
                f"{trained} reads centres of spheres of diameter {expected:.6g}, {cell} {found:.6g}; it cannot know "
                "what another diameter does. Models of images (periodic, tiled, zero) see it"
            )
        try:
            net.prepare(data.centers[:1], data.box, data.diameter)
        except ValueError as error:
            raise CheckpointError(f"{trained} cannot take {source}: {error}") from None
        return
    if net.arguments["boundary"] != "periodic" and not math.isclose(data.box, net.meta["box"], rel_tol=1e-6):
        raise CheckpointError(
            f"{trained} takes cells of edge {net.meta['box']:g} alone, {cell} {data.box:g}; models that take others: "
            "periodic, and those on centres (nearest, pairs, ridge, graph, network)"
        )
    voxels, pool = _voxels(net, data), net.arguments["pool"]
    if net.arguments["boundary"] == "periodic" and (voxels % pool or voxels // pool < 3):
        raise CheckpointError(
            f"{trained} pools {pool} voxels first, which must cut an edge into three windows or more, {cell} "
            f"{voxels}; models on centres (nearest, pairs, ridge, graph, network) take any"
        )


def _voxels(net: Model, data: Dataset) -> int:
    """Return the voxels along the edge of a data set's images, as large as those the model was trained on."""
    return whole(data.box * net.meta["voxels"] / net.meta["box"], 1, "voxels")


def samples_of(net: Model, data: Dataset) -> Samples:
    """Return structures as a model takes them, with their D* in its unit."""
    return Samples(
        centers=data.centers, target=(data.mean_diffusivity / float(net.meta["d_reference"])).float(), id=data.id,
        box=data.box, diameter=data.diameter, voxels=_voxels(net, data),
    ).to(net.output_shift.device)  # fmt: skip


@torch.no_grad()
def predict(net: Model, data: Dataset) -> Found:
    """Return D* by a model of all structures of a data set, and what is known of them."""
    parts = []
    for some in torch.arange(len(data)).split(max(1, _PAIRS // data.centers.shape[1] ** 2)):
        samples = samples_of(net, data.subset(some))
        parts.append(torch.stack(training.estimate(net, training.prepared(net, samples))).cpu())
    predicted, spread = torch.cat(parts, 1)
    D = data.mean_diffusivity
    return Found(
        id=data.id, kind=kinds(data), true=D / float(net.meta["d_reference"]), predicted=predicted, spread=spread,
        label=data.standard_error.mean(1) / D, quantiles=net.quantiles.double().cpu(),
    )  # fmt: skip


def kinds(data: Dataset) -> np.ndarray:
    """Return what family each structure is of, str [n]; gapped ones by the number of axes with a slab."""
    axes = data.axes.sum(1).tolist()
    names = [f"gapped on {n}" if family == "gapped" else family for family, n in zip(data.family, axes, strict=True)]
    return np.array(names)


def measures(found: Found) -> dict[str, float]:
    """Return number, all that `gpuion.measures.measured` does, mean and worst relative error, the labels' own."""
    error = 100 * found.error
    return {
        "structures": len(error),
        **measured(found.true, found.predicted, found.spread, found.quantiles),
        "mean_error": float(error.mean()),
        "worst_error": float(error[error.abs().argmax()]),
        "label_error": float(100 * found.label.mean()),
        "label_error_most": float(100 * found.label.max()),
    }


def describe(
    path: Path, net: Model, sets: Sequence[tuple[Path, Dataset]], part: str, worst: int, *, symmetry: bool = False
) -> dict[str, Any]:
    """Return all that is known of a model and its errors on some data sets, as JSON values."""
    config = net.meta.get("config", {})
    known = {name: config.get(name) for name in ("data", "epochs", "batch", "learning_rate", "weight_decay", "seed")}
    rows = []
    for source, data in sets:
        found = predict(net, data)
        order = found.error.abs().argsort(descending=True, stable=True)[:worst].tolist()
        rows.append({
            "data": str(source), "part": part, "sites_per_voxel": data.sites_per_voxel, **measures(found),
            "families": {kind: measures(found.of(found.kind == kind)) for kind in sorted(set(found.kind))},
            "worst": [
                {"id": int(found.id[i]), "family": str(found.kind[i]), "true": float(found.true[i]),
                 "predicted": float(found.predicted[i])}
                for i in order
            ],
            "true": found.true.tolist(), "predicted": found.predicted.tolist(),
        })  # fmt: skip
        if symmetry:
            samples = samples_of(net, data)
            rows[-1] |= shift_sensitivity(net, samples) | turn_sensitivity(net, samples)
    return {
        "checkpoint": str(path), "model": name_of(net), "parameters": sum(p.numel() for p in net.parameters()),
        "trained_on": net.meta.get("structures", {}).get("train"), "d_reference": net.meta["d_reference"],
        "sites_per_voxel": net.meta.get("sites_per_voxel"), "config": known, "results": rows,
    }  # fmt: skip


def name_of(net: Model) -> str:
    """Return what `train.py --model` calls a model."""
    return str(net.arguments.get("model") or net.arguments["boundary"])


if __name__ == "__main__":
    run_script(main)
