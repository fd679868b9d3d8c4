"""D* of structures and how sure a model is of it, the same bits alone and in a batch.

Legend: B structures, N particles.
"""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from gpuion.checks import check_cell, check_room, check_whole
from gpuion.doubt import LEVELS, reach
from gpuion.medium import check_centers
from gpuion.threads import one_thread

SAME = 1e-3
"""Relative difference of diameters that count as one: 27 spheres in 50 voxels and 91 in 75 differ by half of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says of structures.

    Attributes
    ----------
    d_star : float64 [B]
        D*, the mean of the axes.
    spread : float64 [B]
        Standard deviation of log D*: 0.01 is an error of 1%. NaN of a model that does not know its own.
    quantiles : float64 [100]
        Of |error of log D*| over `spread` on the model's validation part, at 1 … 100%; for `interval`.
    d_star_axes : float64 [B, 3], optional
        D* along x, y and z, of a model that knows them.
    """

    d_star: Tensor
    spread: Tensor
    quantiles: Tensor
    d_star_axes: Tensor | None = None

    def interval(self, coverage: float = 0.95) -> tuple[Tensor, Tensor]:
        """Return the ends of the intervals that hold D* with this probability, float64 [B] each.

        D* exp(± q σ), where q is that quantile of |error| / σ on the model's validation part.

        Raises
        ------
        ValueError
            For a coverage that is not between 0 and 1.
        """
        width = (reach(self.quantiles, coverage) * self.spread).exp()
        return self.d_star / width, self.d_star * width


class Predicting(nn.Module):
    """What models of all kinds share: from sphere centres to D*.

    `is_small` says whether a model's operations are too small for threads of a CPU to share: they would wait for each
    other at every one, on a busy machine for long. `fillings` are the least and the most spheres in a volume that a
    model knows, over those it learnt from, if that is known. `is_forced` lets `predict` take other spheres
    nevertheless.
    """

    is_small = False
    is_forced = False
    fillings: tuple[float, float] | None = None
    meta: dict[str, Any]

    def alone(self) -> AbstractContextManager[None]:
        """Return a context in which a small model takes one thread of a CPU, and its bits depend on no number."""
        return one_thread(self.is_small and next(self.buffers()).device.type == "cpu")

    @torch.no_grad()
    def predict(self, centers: Tensor, *, box: float, diameter: float, batch: int = 8) -> Prediction:
        """Return D* of structures and the standard deviation of its logarithm.

        A structure's numbers have the same bits wherever it stands on a CPU, where models on centres get one structure
        at a time and models on images whole batches of one size; on a GPU they agree to rounding. The model is put into
        evaluation mode.

        Parameters
        ----------
        centers : float [B, N, 3]
            Sphere centres, voxels, on the model's device.
        box, diameter : float
            Edge of the periodic cell and diameter of the spheres, voxels.
        batch : int
            Structures at once.

        Returns
        -------
        Prediction
            Its `spread` is NaN of models on images, and before a training is over: see `gpuion.doubt`.

        Raises
        ------
        ValueError
            For malformed centres, a cell that the model cannot take, spheres of another diameter than those it
            learnt from, many more or fewer of them in a volume than it knows, some that overlap, or a batch below 1.
        """
        batch = check_whole("batch", batch, 1)
        check_room(batch, f"{batch} structures at once")
        centers, (box, diameter) = check_centers(centers, box, diameter), check_cell(box, diameter)
        if not len(centers):
            return self._nothing(centers)
        if not self.is_forced:
            self.check_spheres(centers, box, diameter)
        self.eval()
        with self.alone():
            parts = [self.estimate(*given) for given in self.inputs(centers, box, diameter, batch)]
        found, spread = (torch.cat(each)[: len(centers)].double() for each in zip(*parts, strict=True))
        known = self.quantiles.double()
        if found.ndim == 1:
            return Prediction(d_star=found, spread=spread, quantiles=known)
        # The mean in the model's own precision, as everywhere else.
        mean = torch.cat([axes.mean(-1) for axes, _ in parts])[: len(centers)].double()
        return Prediction(d_star=mean, spread=spread, quantiles=known, d_star_axes=found)

    def _nothing(self, centers: Tensor) -> Prediction:
        """Return what is predicted of no structures."""
        none = centers.new_zeros(0)
        axes = centers.new_zeros(0, 3) if getattr(self, "per_axis", False) else None
        return Prediction(d_star=none, spread=none, quantiles=self.quantiles.double(), d_star_axes=axes)

    def check_spheres(self, centers: Tensor, box: float, diameter: float) -> None:
        """Raise ValueError for spheres, or for a number of them in a volume, that say nothing to a trained model."""
        particles = centers.shape[1]
        learnt = {name: self.meta.get(name) for name in ("diameter", "box", "n_particles")}
        theirs, edge, many = learnt.values()
        if theirs is not None and abs(diameter / theirs - 1) > SAME:
            raise ValueError(
                f"this model learnt from spheres of diameter {theirs:.7g} and cannot know what another does, got "
                f"{diameter:.7g}; train one on such spheres, or solve with homogenize"
            )
        if self.fillings is None or edge is None or many is None:
            return
        low, high = (share * many / edge**3 for share in self.fillings)
        if not low <= particles / box**3 <= high:
            raise ValueError(
                f"this model knows {low * box**3:.4g} to {high * box**3:.4g} spheres in a cell of {box:g} voxels (it "
                f"learnt from {many} in {edge:g}), got {particles}; train one on such cells, or solve with homogenize"
            )

    @property
    def quantiles(self) -> Tensor:
        """Quantiles of errors over their standard deviation, see `Prediction`; NaN if not known."""
        return torch.full((LEVELS,), math.nan)

    def estimate(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return D* as the model does, [B] or [B, 3], and the standard deviation of log D*, [B]: NaN if not known."""
        found = self(*inputs)
        return found, found.new_full((len(found),), math.nan)

    def inputs(self, centers: Tensor, box: float, diameter: float, batch: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield what `estimate` takes of structures, some at a time; the last ones may be filled up."""
        raise NotImplementedError
