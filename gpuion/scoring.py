"""What annealing goes by: a trained model, or the exact solver.

Legend: C chains, N particles.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpuion.contacts import lengths, nearest, room_for
from gpuion.dataset import Dataset
from gpuion.labeling import label
from gpuion.models import Model
from gpuion.objectives import Objective, aim
from gpuion.predictor import Predictor
from gpuion.resistors import CUTOFF, ResistorNetwork
from gpuion.scores import Each, Fixed, Score
from gpuion.surrogate import Surrogate
from gpuion.voxels import images, voxelize

if TYPE_CHECKING:
    from gpuion.incremental import ImageScore
    from gpuion.incremental_network import NetworkScore

_TOGETHER = 256  # structures that a GPU solves circuits of at once: some GB of matrices


def surrogate_score(
    net: Model, like: Dataset, batch: int, *, per_axis: bool = False, doubt: bool = False
) -> Each:  # fmt: skip
    """Return a score centers [C, N, 3] → D* [C] of a model, or [C, 3] along the axes.

    A structure's D* has the same bits wherever it stands: a network on images is always given whole batches, of one
    size, and on a CPU a model on centres one structure at a time.

    Parameters
    ----------
    net : Model
        One that is `per_axis` if that is asked for.
    like : Dataset
        Its cell.
    batch : int
        Structures at once.
    per_axis : bool
    doubt : bool
        Whether the score is a pair: D*, and its standard deviation.
    """
    if doubt:
        return Each(_sure_score(net, like, batch, per_axis))
    if isinstance(net, Predictor):
        fixed = _fixed_circuits(net, like, per_axis) if isinstance(net, ResistorNetwork) else None
        return Each(_centers_score(net, like, batch, per_axis), fixed)
    return _image_score(net, like, batch)


def _image_score(net: Surrogate, like: Dataset, batch: int) -> Each:
    voxels = _voxels(net, like)

    def of(draw: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def score(centers: Tensor) -> Tensor:
            filled = torch.cat([centers, centers[:1].expand(-len(centers) % batch, -1, -1)])
            return torch.cat([net(draw(some)) for some in filled.split(batch)])[: len(centers)]

        return score

    def unchecked(centers: Tensor) -> Tensor:
        return images(centers.double(), like.box, like.diameter, voxels)

    score = of(lambda centers: voxelize(centers, box=like.box, diameter=like.diameter, voxels=voxels))
    return Each(score, lambda *_: Fixed(of(unchecked)))


def _fixed_circuits(net: ResistorNetwork, like: Dataset, per_axis: bool) -> Callable[[Tensor, float], Fixed]:
    def fixed(centers: Tensor, margin: float) -> Fixed:
        room = room_for(lengths(nearest(centers.double(), like.box)), CUTOFF, margin)
        diffusivity = net.within(room, like.box)

        def score(centers: Tensor) -> Tensor:
            found = torch.cat([diffusivity(some) for some in centers.split(_TOGETHER)])
            return found if per_axis else found.mean(-1)

        return Fixed(score, room, complete=room.is_complete(centers.shape[1]))

    return fixed


def _voxels(net: Surrogate, like: Dataset) -> int:
    """Return voxels along the edge of a cell, as large as those that the network was trained on."""
    return round(net.meta["voxels"] * like.box / net.meta["box"])


def _centers_score(net: Predictor, like: Dataset, batch: int, per_axis: bool) -> Callable[[Tensor], Tensor]:
    @torch.no_grad()
    def score(centers: Tensor) -> Tensor:
        some = centers.split(batch if centers.is_cuda else 1)
        with net.alone():
            found = torch.cat([net(*net.prepare(c, like.box, like.diameter)) for c in some])
        return found.mean(-1) if net.per_axis and not per_axis else found

    return score


def _sure_score(net: Model, like: Dataset, batch: int, per_axis: bool) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def score(centers: Tensor) -> tuple[Tensor, Tensor]:
        found = net.predict(centers, box=like.box, diameter=like.diameter, batch=batch)
        if not per_axis:
            return found.d_star, found.d_star * found.spread
        assert found.d_star_axes is not None
        return found.d_star_axes, found.d_star_axes * found.spread[:, None]  # axes are about as sure as their mean

    return score


def exact_score(like: Dataset, tolerance: float, *, per_axis: bool = False) -> Each:
    """Return a score of the exact solver, centers [C, N, 3] → D* [C] or [C, 3]: a second for a handful."""

    def score(centers: Tensor) -> Tensor:
        setting = {name: getattr(like, name) for name in ("box", "diameter", "sites_per_voxel", "model")}
        D = label(centers, **setting, tolerance=tolerance).diffusivity
        return (D if per_axis else D.mean(-1)).to(centers.device) / like.d_reference

    return Each(score)


def score_of(net: Model | None, like: Dataset, goal: Objective, batch: int, tolerance: float) -> Score:
    """Return what chains go by: an objective by a model, or where there is none by the exact solver.

    On a CPU the periodic network and the network of resistors are told of moves: several times as quick, and within
    1e-5 of `surrogate_score`. The network of resistors is not where caution asks how sure it is: eight chains of 91
    spheres then take ten times as long (a step 75 ms of processor time instead of 7.3).
    """
    if net is None:
        return aim(exact_score(like, tolerance, per_axis=goal.per_axis), goal)
    moves = _move_score(net, like, goal)
    return aim(moves or surrogate_score(net, like, batch, per_axis=goal.per_axis, doubt=goal.caution > 0), goal)


def chain_bytes(net: Model | None, like: Dataset, goals: Iterable[Objective]) -> int:
    """Return how many bytes the hungriest score of `score_of` keeps of a chain of the cell of `like`."""
    found = (_move_score(net, like, goal) for goal in goals if net is not None)
    return max((score.chain_bytes(like.centers.shape[1]) for score in found if score), default=0)


def _move_score(net: Model, like: Dataset, goal: Objective) -> "ImageScore | NetworkScore | None":
    """Return the score of a model that is told of moves, if there is one."""
    on_cpu = next(iter(net.parameters()), torch.empty(0)).device.type == "cpu"
    if on_cpu and isinstance(net, Surrogate) and net.arguments["boundary"] == "periodic":
        from gpuion.incremental import image_score

        return image_score(net, box=like.box, diameter=like.diameter, voxels=_voxels(net, like))
    if on_cpu and isinstance(net, ResistorNetwork) and not goal.caution:
        from gpuion.incremental_network import network_score

        return network_score(net, box=like.box, per_axis=goal.per_axis)
    return None
