"""Where a solve starts: layers of the medium in series.

Letters: C structures, X Y Z sites, n layers along an axis.
"""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from gpuion.threads import Team


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """The best u that varies along one axis only: drops 1 + δu [C, n], energies [C]."""

    flow: Tensor
    energy: Tensor
    voigt: Tensor


def profile(team: Team, s: Tensor, axis: int, residual: Tensor) -> Profile:
    """Return the start along an axis: layers in series; exact for laminates and shut slabs. Set what is left of b."""
    if s.is_cuda:
        layers = s.movedim(axis + 1, 1)  # [C, n, …]
        ahead = layers.roll(-1, 1)
        g = (layers * ahead).sum(-1).sum(-1)  # conductance of each layer, [C, n]
        flow = _in_series(g)
        w = flow[:, :, None, None]
        residual.movedim(axis + 1, 1).copy_(layers * (ahead * w - layers.roll(1, 1) * w.roll(1, 1)))
    else:
        from gpuion.kernels import profiles

        X = s.shape[1]
        sums = s.new_zeros(len(s), X, s.shape[axis + 1])  # plane by plane, whose sums are added in order
        for c in range(len(s)):
            team.each(X, profiles.conductances, s[c].numpy(), axis, sums[c].numpy())
        g = torch.from_numpy(np.add.accumulate(sums.numpy(), axis=1)[:, -1])
        flow = _in_series(g)
        for c in range(len(s)):
            team.each(X, profiles.residual, s[c].numpy(), axis, flow[c].numpy(), residual[c].numpy())
    return Profile(flow=flow, energy=(g * flow.square()).sum(1), voigt=g.sum(1))


def _in_series(g: Tensor) -> Tensor:
    """Return the drops of layers of conductances g [C, n] that carry one current, 1 on average, [C, n]."""
    least = g.amin(1, keepdim=True)
    flow = torch.where(g == least, 1.0, least / g)
    return flow * (g.shape[1] / flow.sum(1, keepdim=True))
