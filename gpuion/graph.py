"""A message-passing network on the spheres of a periodic cell, blind to shifts, turns and mirrors.

Legend: B structures, N particles, K neighbours of a sphere at most, E of all spheres together, R bumps, C channels.
"""

import math

import torch
from torch import Tensor, nn

from gpuion.contacts import bumps, lengths, vectors
from gpuion.predictor import Predictor, Standard, layers

_CUTOFF = 20.0  # of a neighbour, voxels


class GraphNetwork(Predictor):
    """Messages between neighbouring spheres, summed as numbers, vectors and tensors; log D* of their mean.

    In each round sphere i gets m_ij from each neighbour j, a function of both spheres' states and of their distance,
    and from Σ m, |Σ m n| and |Σ m (n nᵀ − 1/3)|, n = r_ij / |r_ij|, makes its next state: vector and tensor know the
    angles between neighbours. The mean over spheres takes any number of them, and any cell.

    Parameters
    ----------
    hidden : int
        Channels of a sphere's state.
    rounds : int
        How often spheres hear of each other.

    Raises
    ------
    ValueError
        For no channels or no rounds.
    """

    lengths: Tensor

    def __init__(self, *, hidden: int = 32, rounds: int = 3) -> None:
        if min(hidden, rounds) < 1:
            raise ValueError(f"hidden and rounds must be ≥ 1, got {hidden} and {rounds}")
        super().__init__({"model": "graph", "hidden": hidden, "rounds": rounds}, hidden * rounds)
        self.register_buffer("lengths", torch.arange(9.5, 20.5, 0.75), persistent=False)
        self.rounds = nn.ModuleList(_Round(hidden, len(self.lengths), first=k == 0) for k in range(rounds))
        self.standard = Standard(1)
        # Means over many spheres differ little between structures: without this the readout hardly sees them. Scales of
        # the network as it begins: normalised by batches of 16, it was ten times worse on other structures.
        self.pooled = Standard(hidden * rounds, 1e-2)
        self.readout = layers(hidden * rounds + 1, hidden, 1)

    def prepare(self, centers: Tensor, box: float, diameter: float) -> tuple[Tensor, ...]:
        """Return neighbours [B, N, K], nearest first, vectors to them [B, N, K, 3], 0 for none, volume fraction [B, 1].

        Raises
        ------
        ValueError
            For malformed centres, or a cell in which two spheres could be neighbours through two images.
        """
        vector = vectors(centers, box)
        if box < 2 * _CUTOFF:
            raise ValueError(f"neighbours reach {_CUTOFF} voxels, so box must be {2 * _CUTOFF:g} or more, got {box}")
        distance = lengths(vector)
        K = int((distance < _CUTOFF).sum(2).max())
        order = distance.argsort(dim=2, stable=True)[..., :K]
        near = distance.gather(2, order) < _CUTOFF
        along = vector.gather(2, order[..., None].expand(-1, -1, -1, 3))
        share = centers.shape[1] * math.pi / 6 * (diameter / box) ** 3
        return (
            torch.where(near, order, 0).int(), torch.where(near[..., None], along, 0),
            centers.new_full((len(centers), 1), share),
        )  # fmt: skip

    def normalize(self, *inputs: Tensor) -> None:
        """Fix the scales of the inputs, and of the means as the network begins."""
        neighbor, vector, share = inputs
        self.standard.fit(share)
        self.pooled.fit(self._means(neighbor, vector))

    def features(self, *inputs: Tensor) -> Tensor:
        """Return the means over spheres of their states, [B, rounds C]."""
        return self.pooled(self._means(*inputs[:2]))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return D* [B]."""
        neighbor, vector, share = inputs
        means = self.pooled(self._means(neighbor, vector))
        value = self.readout(torch.cat([means, self.standard(share)], -1))[:, 0]
        return (value * self.output_scale + self.output_shift).exp()

    def _means(self, neighbor: Tensor, vector: Tensor) -> Tensor:
        """Return the means over spheres of their states after each round, [B, rounds C]."""
        dtype = self.lengths.dtype
        B, N, K = neighbor.shape
        # Layers see real neighbours alone, in the study a quarter of K. Training takes half the time: 1.8, not 3.6 ms.
        (place,) = torch.where(vector.any(-1).flatten())
        along = vector.reshape(-1, 3)[place].to(dtype)
        sender = neighbor.reshape(-1)[place] + place // (N * K) * N
        distance = along.square().sum(-1).sqrt()
        unit = along / distance[:, None]
        fade = (1 + torch.cos(math.pi * (distance / _CUTOFF).clamp(max=1))) / 2
        bump = bumps(distance, self.lengths, 1.5)
        tensor = unit[:, :, None] * unit[:, None, :] - torch.eye(3, dtype=dtype, device=unit.device) / 3
        angular = torch.cat([torch.ones_like(unit[:, :1]), unit, tensor.flatten(-2)], -1) * fade[:, None]
        angular = _spread(angular, place, B * N * K).view(B * N, K, 13)
        state, means = None, []
        for step in self.rounds:
            state = step(state, sender, place, bump, angular)
            means.append(state.view(B, N, -1).mean(1))
        return torch.cat(means, -1)


class _Round(nn.Module):
    """One round of messages."""

    def __init__(self, hidden: int, lengths: int, *, first: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(lengths, hidden)
        self.heard = None if first else nn.Linear(hidden, hidden)
        self.own = None if first else nn.Linear(hidden, hidden, bias=False)
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        width = 3 * hidden + (0 if first else hidden)
        self.norm = nn.LayerNorm(width)
        self.update = layers(width, hidden, hidden)

    def forward(self, state: Tensor | None, sender: Tensor, place: Tensor, bump: Tensor, angular: Tensor) -> Tensor:
        """Return the next states [S, C] of all spheres, S = B N.

        The E neighbours that there are have `sender` [E], the other sphere, and `place` [E] among the S K that there
        could be; `angular` [S, K, 13] is 0 where there is none.
        """
        x = self.gate(bump)
        S, K, _ = angular.shape
        if state is not None and self.heard is not None and self.own is not None:
            x = x + self.heard(state)[sender] + self.own(state)[place // K]
        message = _spread(self.message(x), place, S * K).view(S, K, x.shape[1])
        moments = angular.mT @ message / 4  # [S, 13, C]; some four neighbours are near
        number, vector, tensor = moments.split([1, 3, 9], 1)
        parts = [number[:, 0], _length(vector), _length(tensor)]
        if state is None:
            return self.update(self.norm(torch.cat(parts, -1)))
        return state + self.update(self.norm(torch.cat([*parts, state], -1)))


def _spread(x: Tensor, place: Tensor, places: int) -> Tensor:
    """Return rows [E, C] at their places, 0 at all others, [places, C]."""
    return x.new_zeros(places, x.shape[1]).index_copy(0, place, x)


def _length(x: Tensor) -> Tensor:
    return (x.square().sum(1) + 1e-4).sqrt()
