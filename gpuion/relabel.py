"""Which of the structures that annealing met are worth an exact label, and that label.

Legend: C chains, G groups of them, S visited structures a chain, M structures to choose from, n chosen ones,
N particles.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gpuion import files, work
from gpuion.annealing import AnnealResult
from gpuion.dataset import Dataset, write_shard
from gpuion.distributed import World
from gpuion.kernels.reference import Stream, philox
from gpuion.labeling import Labels, label
from gpuion.models import Model
from gpuion.objectives import Objective
from gpuion.scoring import surrogate_score
from gpuion.shards import is_whole

_BINS = 32  # of pick_uniform
_SHARD = 16  # structures
_BATCH = 4  # structures solved together, and lost if a run is killed meanwhile


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """Structures chosen from an annealing: the chains' best ones first, in the order of the chains.

    `centers` float32 [n, N, 3], `predicted` score float64 [n] (NaN where no surrogate made it), `chain` id and
    `cycle` (from 0) int64 [n], `family` str [n]: annealed-max, annealed-min, or annealed- and another objective.
    """

    family: np.ndarray
    centers: Tensor
    predicted: Tensor
    chain: Tensor
    cycle: Tensor


def select(
    result: AnnealResult,
    count: int,
    *,
    limit: float,
    maximize: bool,
    seed: int = 0,
    replicas: int = 1,
    family: str = "",
) -> Selection:
    """Return the chains' best structures, or those of groups of chains, and up to `count` others that they visited.

    Those visited are spread evenly over the scores beyond `limit`. Where fewer lie there, the most extreme of
    the rest follow. A structure that a chain recorded twice in a row, or that is its best one, counts once.

    Parameters
    ----------
    result : AnnealResult
        What the chains met.
    count : int
        Visited structures to choose.
    limit : float
        The highest known score, or the lowest one if not `maximize`.
    maximize : bool
        The direction of the annealing.
    seed : int
        Seed of the choice.
    replicas : int
        Chains a group.
    family : str
        What the families' name ends with; max or min if not given.
    """
    sign = 1.0 if maximize else -1.0
    chain, slot = _candidates(result).nonzero(as_tuple=True)
    gain = sign * result.visited_score[chain, slot]
    low = sign * limit
    high = max(float(gain.max()), low) if len(gain) else low
    picked = pick_uniform(gain, count, low=low, high=high, seed=seed)
    rest = torch.ones_like(gain, dtype=torch.bool)
    rest[picked] = False
    order = torch.where(rest, gain, -torch.inf).argsort(descending=True, stable=True)
    missing = min(count, len(gain)) - len(picked)
    picked = torch.cat([picked, order[:missing]])
    chain, slot = chain[picked], slot[picked]
    best = winners(result, replicas, maximize=maximize)
    reached = (result.best_trace == result.best_score[:, None]).int().argmax(1)[best]
    return Selection(
        family=np.full(len(best) + len(picked), f"annealed-{family or ('max' if maximize else 'min')}"),
        centers=torch.cat([result.best_centers[best], result.visited[chain, slot]]),
        predicted=torch.cat([result.best_score[best], result.visited_score[chain, slot]]),
        chain=torch.cat([result.ids[best], result.ids[chain]]),
        cycle=torch.cat([reached, result.visited_cycle[slot]]),
    )


def beyond(result: AnnealResult, limit: float, *, maximize: bool) -> tuple[int, int]:
    """Return how many visited structures lie beyond `limit`, and how many there are, each counted as in `select`."""
    score = result.visited_score[_candidates(result)]
    return int((score > limit if maximize else score < limit).sum()), len(score)


def winners(result: AnnealResult, replicas: int, *, maximize: bool) -> Tensor:
    """Return which chain of each group met the best structure, int64 [G]."""
    score = result.best_score.view(-1, replicas)
    first = torch.arange(0, len(result.ids), replicas, device=score.device)
    return first + (score if maximize else -score).argmax(1)


def join(parts: Sequence[Selection]) -> Selection:
    """Return several selections as one, on the CPU."""
    tensors = ("centers", "predicted", "chain", "cycle")
    return Selection(
        family=np.concatenate([part.family for part in parts]),
        **{name: torch.cat([getattr(part, name).cpu() for part in parts]) for name in tensors},
    )


def foreseen(
    chosen: Selection, net: Model | None, goal: Objective, like: Dataset, batch: int, device: torch.device
) -> Selection:  # fmt: skip
    """Return a selection whose predictions are D*: NaN without a model, and for the objectives that are not D* anew."""
    if net is None:
        return dataclasses.replace(chosen, predicted=torch.full_like(chosen.predicted, torch.nan))
    if goal.name == "mean" and not goal.caution:
        return chosen
    D = surrogate_score(net, like, batch)(chosen.centers.to(device))
    return dataclasses.replace(chosen, predicted=D.double().cpu())


def relabel(
    chosen: Selection, index: Tensor, path: Path, progress: Callable[[int, int], object], *, like: Dataset,
    tolerance: float, mark: str, device: torch.device | str = "cpu",
) -> Dataset:  # fmt: skip
    """Return structures of a selection with exact diffusivities; ids are their positions in the selection.

    Parameters
    ----------
    chosen : Selection
        On the CPU.
    index : int64 [n]
        Which of its structures to label.
    path, progress, mark
        As for `gpuion.work.label_shard`: what was solved is kept beside the shard, a few structures at a time.
    like : Dataset
        The original data: its box, diameter, sites per voxel, transport model and unit of D* hold here too.
    tolerance : float
        Relative error of each D_aa.
    device : torch.device or str
        Where to solve.
    """
    centers, n = chosen.centers[index], len(index)
    setting = {name: getattr(like, name) for name in ("box", "diameter", "sites_per_voxel", "model")}

    def solve(some: Tensor, _ids: Tensor) -> Labels:
        return label(some, **setting, method="exact", tolerance=tolerance)

    labels = work.label_shard(path, centers.to(device), index, _BATCH, solve, progress, mark=mark)
    return Dataset(
        centers=centers, diffusivity=labels.diffusivity, standard_error=labels.standard_error,
        converged=labels.converged, id=index, family=chosen.family[index.numpy()],
        distance=torch.full((n, 2), torch.nan, dtype=torch.float64),
        gap=torch.full((n,), torch.nan, dtype=torch.float64), axes=torch.zeros(n, 3, dtype=torch.bool),
        predicted=chosen.predicted[index], chain=chosen.chain[index], cycle=chosen.cycle[index],
        method="exact", d_reference=like.d_reference, **setting,
    )  # fmt: skip


def write_labels(
    chosen: Selection, folder: Path, world: World, *, like: Dataset, tolerance: float, seed: int,
    config: dict[str, Any],
) -> int:  # fmt: skip
    """Write the shards of a selection, each rank its share of what is not there yet; return how many it solved."""
    parts, mark, made = torch.arange(len(chosen.chain)).split(_SHARD), files.fingerprint(config), [0]
    ours, quiet = range(world.rank, len(parts), world.size), None if world.is_main else True
    for k in tqdm(ours, desc="label", unit=" shards", disable=quiet):
        path = folder / f"shard-{k:05d}.h5"
        if not is_whole(path, parts[k].numpy(), seed):
            found = relabel(chosen, parts[k], path, lambda new, _: made.append(new), like=like, device=world.device,
                            tolerance=tolerance, mark=mark)  # fmt: skip
            write_shard(path, found, seed=seed, config=config)
        work.drop(path)
    return sum(made)


def compare(found: Dataset, known: float, *, maximize: bool) -> dict[str, float]:
    """Return what annealing one way found: the best predicted D*, its exact value, and the best exact D*.

    `ratio` is the best exact D* over `known`, the original data's extreme. Where no surrogate predicted anything
    there is no `predicted`, and `exact` is the best exact D*.
    """
    most = torch.argmax if maximize else torch.argmin
    best = float(found.d_star[most(found.d_star)])
    numbers = {"exact": best, "best": best, "data": known, "ratio": best / known}
    foreseen = with_prediction(found)
    if foreseen is None or foreseen.predicted is None:
        return numbers
    top = int(most(foreseen.predicted))
    return {"predicted": float(foreseen.predicted[top]), **numbers, "exact": float(foreseen.d_star[top])}


def with_prediction(data: Dataset) -> Dataset | None:
    """Return the structures whose D* a surrogate predicted, None if there are none."""
    known = None if data.predicted is None else ~data.predicted.isnan()
    return None if known is None or not bool(known.any()) else data.subset(known)


def _candidates(result: AnnealResult) -> Tensor:
    """Return which visited structures are new to their chain, bool [C, S]."""
    new = (result.visited != result.best_centers[:, None]).flatten(2).any(-1)
    new[:, 1:] &= (result.visited[:, 1:] != result.visited[:, :-1]).flatten(2).any(-1)
    return new


def pick_uniform(scores: Tensor, count: int, *, low: float, high: float, seed: int = 0) -> Tensor:
    """Return the indices of `count` scores spread as evenly over [low, high] as the scores allow.

    The span is cut into 32 bins, and each gives one random member in turn until `count` are taken. If fewer
    lie within [low, high], all of those are returned.

    Parameters
    ----------
    scores : float [M]
    count : int
    low, high : float
    seed : int

    Returns
    -------
    int64 [≤ count]
        Ascending indices into `scores`.

    Raises
    ------
    ValueError
        If count is negative or low exceeds high.
    """
    if count < 0 or not low <= high:
        raise ValueError(f"pick_uniform needs count ≥ 0 and low ≤ high, got {count}, {low}, {high}")
    inside = ((scores >= low) & (scores <= high)).nonzero()[:, 0]
    number = torch.arange(len(scores), device=scores.device)
    inside = inside[philox(seed, number, 0, 0, Stream.CHOICE)[0][inside].argsort(stable=True)]
    width = max((high - low) / _BINS, 1e-300)
    bins = ((scores[inside].double() - low) / width).long().clamp(max=_BINS - 1)
    order, sizes = bins.argsort(stable=True), bins.bincount(minlength=_BINS)
    turn = torch.empty_like(bins)  # how many of its bin come before it
    turn[order] = torch.arange(len(bins), device=bins.device) - (sizes.cumsum(0) - sizes)[bins[order]]
    return inside[turn.argsort(stable=True)[:count]].sort().values
