"""Where annealing starts, what it must beat, and whether a surrogate is one for the data at hand.

Legend: C chains, N particles. Labels that did not settle neither start a chain nor set a mark.
"""

from typing import Any

import torch
from torch import Tensor

from gpuion.dataset import Dataset
from gpuion.errors import CheckpointError, ConfigError, DatasetError
from gpuion.packing import place

_FRESH = 2**31  # added to a chain's id for the id of its start structure, which then is none of the data's


def check_fit(meta: dict[str, Any], data: Dataset, checkpoint: str, *, force: bool = False) -> None:
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


def starts(data: Dataset, ids: Tensor, kind: str, *, maximize: bool, seed: int) -> Tensor:
    """Return the structures that chains start from, float32 [C, N, 3], on the device of `ids`.

    Parameters
    ----------
    data : Dataset
        Its cell is the chains'.
    ids : int64 [C]
        The chains' ids.
    kind : {"random", "data"}
        Fresh random structures, or of the data the best one for ids 0 and 1, the second best for 2 and 3, …
    maximize : bool
        Whether the best is the highest.
    seed : int
        Seed of fresh structures.
    """
    if kind == "data":
        known = data.subset(data.settled)
        order = known.d_star.argsort(descending=maximize, stable=True)
        return known.centers[order[ids.cpu() // 2]].to(ids.device)
    return place(
        "random", n_structures=len(ids), n_particles=data.centers.shape[1], box=data.box,
        diameter=data.diameter, seed=seed, ids=ids + _FRESH, device=ids.device,
    )  # fmt: skip


def extreme(data: Dataset, *, maximize: bool) -> float:
    """Return the highest or lowest D* that settled."""
    known = data.d_star[data.settled]
    return float(torch.max(known) if maximize else torch.min(known))
