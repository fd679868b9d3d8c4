"""Structures as a model takes them: its inputs prepared once, or images of them.

Legend: n structures, N particles, B structures of a batch, V voxels along an edge.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from gpuion.models import Model
from gpuion.predictor import Predictor
from gpuion.voxels import voxelize

AT_ONCE = 32  # most structures a batch when only predicting
_KEPT = 4 * 2**30  # most bytes of prepared structures; more are prepared batch by batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """What a model learns from: centers float32 [n, N, 3], D* float32 [n], id int64 [n], and the cell.

    If known, `axes` float32 [n, 3] holds D* along x, y and z; `inputs` holds what a model prepared, see `prepared`.
    """

    centers: Tensor
    target: Tensor
    id: Tensor
    box: float
    diameter: float
    voxels: int
    axes: Tensor | None = None
    inputs: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        """Return the number of structures."""
        return len(self.centers)

    def to(self, device: torch.device | str) -> "Samples":
        """Return the same structures on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("centers", "target", "id")}
        axes = None if self.axes is None else self.axes.to(device)
        inputs = None if self.inputs is None else tuple(x.to(device) for x in self.inputs)
        return dataclasses.replace(self, **moved, axes=axes, inputs=inputs)


@torch.no_grad()
def prepared(net: Model, samples: Samples) -> Samples:
    """Return the structures with what the model makes of them once for all epochs; of image models as they are."""
    if not isinstance(net, Predictor) or not len(samples):
        return samples
    parts, size = [], 0
    with net.alone():
        for some in samples.centers.split(AT_ONCE):
            parts.append(net.prepare(some, samples.box, samples.diameter))
            size += sum(x.numel() * x.element_size() for x in parts[-1])
            if size > _KEPT:
                return samples
    return dataclasses.replace(samples, inputs=tuple(map(_padded, zip(*parts, strict=True))))


def _padded(parts: Sequence[Tensor]) -> Tensor:
    """Return tensors [b, …] as one, filled up with zeros to the longest of each dimension."""
    shape = [max(lengths) for lengths in zip(*(x.shape[1:] for x in parts), strict=True)]
    whole = parts[0].new_zeros(sum(map(len, parts)), *shape)
    at = 0
    for x in parts:
        whole[(slice(at, at + len(x)), *map(slice, x.shape[1:]))] = x
        at += len(x)
    return whole


def held(net: Predictor, samples: Samples, index: Tensor) -> tuple[Tensor, ...]:
    """Return what a model makes of some structures: kept, or made now."""
    if samples.inputs is not None:
        return tuple(x[index] for x in samples.inputs)
    return net.prepare(samples.centers[index], samples.box, samples.diameter)


def images(samples: Samples, centers: Tensor) -> Tensor:
    """Return images [B, 1, V, V, V] of structures whose centres these are."""
    return voxelize(centers, box=samples.box, diameter=samples.diameter, voxels=samples.voxels)
