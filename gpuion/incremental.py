"""The periodic image network as a score that is told of moves: on a CPU, a sphere's move changes little of its layers.

Legend: C chains, N particles, V voxels along an edge, G cells.

Counts of voxels, the layers' numbers, sums of channels and the image's Fourier modes are kept. All of these are
functions of the structure, bit for bit, whatever the way to it: integers, or numbers made anew by the same operations.
So no errors add up, and there is nothing to refresh. Only a proposal's score remembers its move, by 1e-8 of itself: its
modes are not rounded.
"""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpuion.incremental_network import numbers
from gpuion.kernels import cells, spheres, trials
from gpuion.kernels.rows import share
from gpuion.layers import CubeBody
from gpuion.surrogate import Surrogate


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Chains:
    """What is known of some chains, what their last proposals were, and room for each thread."""

    memory: trials.Memory
    move: trials.Move
    room: tuple[Any, ...]
    pool: ThreadPoolExecutor | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageScore:
    """D* of the periodic `Surrogate` on a CPU as an `IncrementalScore`; made by `image_score`.

    A score has the same bits alone, in a batch, and on any number of threads. `accept` changes the state that it is
    given; a trial state holds until the next `propose`.
    """

    network: trials.Network

    def start(self, centers: Tensor) -> tuple[Tensor, _Chains]:
        """Return the scores float64 [C] of structures [C, N, 3] without overlaps, and what to go on from."""
        network, C, T = self.network, len(centers), torch.get_num_threads()
        size, channels = self._sizes()
        memory = trials.Memory(
            centers.double().numpy().copy(), np.zeros((C, spheres.size(network.modes)), np.int32),
            np.zeros((C, size), np.float32), np.zeros((C, channels), np.int64), np.zeros(C),
        )  # fmt: skip
        move = trials.Move(
            np.zeros(C, np.int64), np.zeros((C, 3)), np.zeros((C, 4), np.int64), np.zeros((C, size), np.float32),
            np.zeros((C, channels), np.int64), np.zeros(C),
        )  # fmt: skip
        widest = math.ceil(2 * network.radius / network.spacing) + 3
        shells = np.zeros((T, len(network.head.scale) - channels + 1))
        room = spheres.benches(network.modes, widest, T), cells.desks(network.layers, T), shells
        pool = ThreadPoolExecutor(T) if T > 1 else None
        share(lambda t: trials.start(network, memory, move, *room, t), pool, T)
        return torch.from_numpy(memory.score.copy()), _Chains(memory=memory, move=move, room=room, pool=pool)

    def chain_bytes(self, particles: int) -> int:
        """Return how many bytes a state holds of a chain of so many spheres."""
        size, channels = self._sizes()
        return 24 * particles + 4 * spheres.size(self.network.modes) + 8 * size + 16 * channels + 80

    def _sizes(self) -> tuple[int, int]:
        """Return how many numbers the layers hold, and sums of channels."""
        layers = self.network.layers
        return int(layers.first[-1]), int(layers.channels[1:].sum())

    def propose(self, state: _Chains, sphere: Tensor, position: Tensor, trial: Tensor) -> tuple[Tensor, _Chains]:  # noqa: ARG002
        """Return the scores float64 [C] if each chain moved a sphere [C] to a position [C, 3]."""
        state.move.sphere[:] = sphere.numpy()
        state.move.position[:] = position.numpy()
        known = self.network, state.memory, state.move, *state.room
        share(lambda t: trials.propose(*known, t), state.pool, len(state.room[-1]))
        return torch.from_numpy(state.move.score.copy()), state

    def accept(self, state: _Chains, trial_state: _Chains, accepted: Tensor) -> _Chains:
        """Return the state of chains that moved where `accepted`, bool [C], is true."""
        assert state is trial_state
        known = self.network, state.memory, state.move, *state.room
        share(lambda t: trials.commit(*known, accepted.numpy(), t), state.pool, len(state.room[-1]))
        return state


def image_score(net: Surrogate, *, box: float, diameter: float, voxels: int) -> ImageScore:
    """Return the score of a trained network, of the weights that it has now, for images of so many voxels.

    Parameters
    ----------
    net : Surrogate
        A periodic one; read as in evaluation mode.
    box, diameter : float
        Edge of the cell and diameter of the spheres.
    voxels : int
        V.

    Raises
    ------
    ValueError
        For another network, or a number of voxels that it does not take.
    """
    body = net.body
    if not isinstance(body, CubeBody):
        raise ValueError(  # noqa: TRY004, a wrong setting
            f"only the periodic network is scored by moves, got {net.arguments['boundary']!r}"
        )
    body.check(voxels)

    top, weights = body.spectrum.shells(voxels, torch.zeros((), dtype=torch.float64))
    number = 2 * top + 1
    weights = weights.view(number, number, top + 1, -1)[: top + 1, : top + 1]
    convolutions = [(numbers(layer.weight), numbers(layer.bias)) for layer in body.convolutions]
    norm = body.norm
    scale = numbers(norm.weight) / np.sqrt(numbers(norm.running_var) + norm.eps)
    last = [numbers(x).reshape(-1) for x in (net.output.weight, net.output.bias, net.output_scale, net.output_shift)]
    network = trials.Network(
        modes=spheres.modes(voxels, weights.numpy(), voxels**3),
        layers=cells.layers(voxels // body.pool, body.pool, *zip(*convolutions, strict=True)),
        head=trials.Head(
            scale, numbers(norm.bias) - numbers(norm.running_mean) * scale, numbers(net.hidden.weight),
            numbers(net.hidden.bias), np.concatenate(last),
        ),
        box=float(box), radius=diameter / 2, spacing=box / voxels,
    )  # fmt: skip
    return ImageScore(network=network)
