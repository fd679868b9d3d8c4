"""Where annealing starts, what it must beat, and whether a surrogate is one for the data and the objective at hand.

Legend: C chains, N particles. Labels that did not settle neither start a chain nor set a mark.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpuion import files
from gpuion.ascent import ascend, gradient
from gpuion.dataset import Dataset
from gpuion.errors import CheckpointError, ConfigError, DatasetError
from gpuion.models import Model
from gpuion.moves import first_overlap, position, split
from gpuion.objectives import Objective, attained, check_target
from gpuion.packing import place
from gpuion.prediction import Predicting

_FRESH = 2**31  # added to a chain's id for the id of its start structure, which then is none of the data's


def check_fit(meta: dict[str, Any], data: Dataset, checkpoint: str | Path, *, force: bool = False) -> None:
    """Raise CheckpointError for a surrogate of other structures than the data's, unless forced."""
    here = {"box": data.box, "diameter": data.diameter, "d_reference": data.d_reference}
    for name, value in {**here, "n_particles": data.centers.shape[1]}.items():
        if abs(meta[name] - value) > 1e-6 * value and not force:
            raise CheckpointError(
                f"{checkpoint} was trained with {name} = {meta[name]:.7g}, the data has {value:.7g}; "
                "train on this data, or go on nevertheless with --force"
            )


def check_starts(data: Dataset, chains: int = 0) -> None:
    """Refuse data of which no label settled, and more chains than structures to start from."""
    known = int(data.settled.sum())
    if not known:
        raise DatasetError("none of the data's labels settled; make them again")
    if chains > known:
        raise ConfigError(f"chains = {chains} exceeds the {known} structures of the data to start from")


def check_apart(data: Dataset, goals: Iterable[Objective], chains: int) -> None:
    """Raise DatasetError where one of the best structures of the data, a chain each, has overlaps."""
    for objective in goals:
        best = _best(data, objective, torch.arange(chains))
        space, cell = split(best.centers, data.box, data.diameter)
        found = first_overlap(position(space.fraction, cell, space), space)
        if found:
            structure, sphere = found
            raise DatasetError(
                f"spheres of diameter {data.diameter:.7g} overlap in structure {int(best.id[structure])} of the data "
                f"(family {best.family[structure]}, sphere {sphere}), from which a chain would start; chains start "
                "from structures without overlaps: leave it out of --data, or use --start random"
            )


def check_goals(goals: Mapping[str, Objective], data: Dataset, net: Any) -> None:
    """Raise ConfigError for objectives out of range, or for which a model, None for the exact solver, does not do."""
    for objective in goals.values():
        check_target(objective.target, data.model, data.d_reference)
        _check_model(net, data, objective)


def _check_model(net: Any, data: Dataset, objective: Objective) -> None:
    if objective.caution and net is None:
        raise ConfigError("caution is for a surrogate: the exact solver is sure; leave it out with --score exact")
    if net is not None and objective.per_axis and not getattr(net, "per_axis", False):
        raise ConfigError(
            f"objective {objective.name!r} takes D along each axis, and this surrogate predicts their mean; train one "
            "with --model network, or use --score exact"
        )
    if objective.caution and not _is_sure(net, data):
        raise ConfigError("caution takes a surrogate that knows how sure it is, and this one does not; leave it out")


def _is_sure(net: Any, data: Dataset) -> bool:
    """Return whether a model gives its spread, by what it says of one structure."""
    if not isinstance(net, Predicting):
        return False
    one = data.centers[:1].to(next(net.buffers()).device)
    found = net.predict(one, box=data.box, diameter=data.diameter, batch=1)
    return bool(found.spread.isfinite().all())


def starts(
    data: Dataset, ids: Tensor, kind: str, *, maximize: bool, seed: int, objective: Objective | None = None,
    net: Model | None = None,
) -> Tensor:  # fmt: skip
    """Return the structures that chains start from, float32 [C, N, 3], on the device of `ids`.

    Parameters
    ----------
    data : Dataset
        Its cell is the chains'.
    ids : int64 [C]
        The chains' ids.
    kind : {"random", "data", "ascent"}
        Fresh random structures; of the data the best one for ids 0 and 1, the second best for 2 and 3, …; or fresh
        ones led along the gradient of D*, by `net` where it has one.
    maximize : bool
        Whether the best is the highest.
    seed : int
        Seed of fresh structures.
    objective : Objective, optional
        Of what; of the mean D* if not given.
    net : Model, optional
    """
    objective = objective or Objective(maximize=maximize)
    if kind == "data":
        return _best(data, dataclasses.replace(objective, maximize=maximize), ids.cpu() // 2).centers.to(ids.device)
    fresh = place(
        "random", n_structures=len(ids), n_particles=data.centers.shape[1], box=data.box,
        diameter=data.diameter, seed=seed, ids=ids + _FRESH, device=ids.device,
    )  # fmt: skip
    if kind == "random":
        return fresh
    return ascend(gradient(net, data, objective), fresh, objective, box=data.box, diameter=data.diameter)


def _best(data: Dataset, objective: Objective, places: Tensor) -> Dataset:
    """Return the structures in some places of the order from the best one on, by labels that settled."""
    known = data.subset(data.settled)
    return known.subset(attained(objective, known).argsort(descending=objective.maximize, stable=True)[places])


def starts_of(
    path: Path, data: Dataset, ids: Tensor, kind: str, objective: Objective, *, seed: int, net: Model | None
) -> Tensor:  # fmt: skip
    """Return the structures that chains start from; those of an ascent are kept in a file, as they take a while."""
    if path.exists():
        return _kept(path, data, ids)
    found = starts(data, ids, kind, maximize=objective.maximize, seed=seed, objective=objective, net=net)
    if kind == "ascent":
        files.save_tensors(path, {"centers": found, "ids": ids})
    return found


def _kept(path: Path, data: Dataset, ids: Tensor) -> Tensor:
    """Return the structures of a file of `starts_of`, if they are of these chains."""
    held = files.load_tensors(path, ids.device)
    centers, theirs = (held.get(name) if isinstance(held, dict) else None for name in ("centers", "ids"))
    if not (
        isinstance(centers, Tensor) and isinstance(theirs, Tensor) and torch.equal(theirs, ids)
        and centers.dtype is torch.float32 and centers.shape == (len(ids), *data.centers.shape[1:])
        and bool(((centers >= 0) & (centers < data.box)).all())
    ):  # fmt: skip
        raise CheckpointError(f"{path} holds no start structures of these chains; remove it to make them again")
    return centers


def extreme(data: Dataset, *, maximize: bool, objective: Objective | None = None) -> float:
    """Return the highest or lowest objective, D* if none is given, of labels that settled: what annealing must beat."""
    known = attained(objective or Objective(), data)[data.settled]
    return float(torch.max(known) if maximize else torch.min(known))
