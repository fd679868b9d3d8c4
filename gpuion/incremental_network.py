"""The network of resistors as a score that is told of moves: on a CPU, a move leaves most conductances as they were.

Legend: C chains, N particles.

What spheres and contacts are like is kept, and found anew near the sphere that moved, by the same operations: a state
is a function of the structure, bit for bit, whatever the way to it. Kirchhoff's laws are solved anew each time, in
float64: currents, spheres and bath are eliminated in turn, and what is left is the power. Sums of few waves over the
spheres take the place of the products of every two.
"""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.polynomial.legendre import leg2poly
from torch import Tensor, nn

from gpuion.kernels import links, resistors
from gpuion.kernels.rows import share
from gpuion.kernels.waves import waves
from gpuion.kirchhoff import wave_numbers
from gpuion.resistors import AFFINE, ALPHA, CUTOFF, RADIUS, REACH, RING_WIDTH, THIRD_WIDTH, WEIGHT, ResistorNetwork


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Chains:
    """What is known of some chains and was of the last proposals, their D*, and room for each thread."""

    known: resistors.Links
    trial: resistors.Links
    value: np.ndarray
    proposed: np.ndarray
    room: resistors.Slate
    pool: ThreadPoolExecutor | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkScore:
    """D* of a `ResistorNetwork` on a CPU as an `IncrementalScore`; made by `network_score`.

    A score has the same bits alone, in a batch, and on any number of threads. `accept` changes the state that it is
    given; a trial state holds until the next `propose`.
    """

    network: tuple[Any, ...]
    per_axis: bool = False

    def start(self, centers: Tensor) -> tuple[Tensor, _Chains]:
        """Return the scores float64 [C], or [C, 3] along the axes, of structures [C, N, 3], and what to go on from."""
        C, N, _ = centers.shape
        res, place, _, contact, bath = self.network
        inputs, hidden, channels = len(contact.first), len(place.first_bias), len(place.third_bias)
        inputs = max(inputs, 2 * len(res.rings) + channels)

        def empty() -> resistors.Links:
            x = centers.double().remainder(res.box).numpy().copy()
            return resistors.Links(x, np.zeros((C, N, channels), np.float32), np.zeros((C, N, 4)), np.zeros((C, N, N)))

        T = torch.get_num_threads()
        room = links.slates(T, N, channels, inputs, hidden, bath.waves)
        state = _Chains(
            known=empty(), trial=empty(), value=np.zeros((C, 3)), proposed=np.zeros((C, 3)), room=room,
            pool=ThreadPoolExecutor(T) if T > 1 else None,
        )  # fmt: skip
        share(lambda t: links.start(self.network, state.known, room, state.value, t), state.pool, T)
        return self._score(state.value), state

    def chain_bytes(self, particles: int) -> int:
        """Return how many bytes a state holds of a chain of so many spheres."""
        channels = len(self.network[1].third_bias)
        return 2 * particles * (56 + 4 * channels + 8 * particles) + 48

    def propose(self, state: _Chains, sphere: Tensor, position: Tensor, trial: Tensor) -> tuple[Tensor, _Chains]:  # noqa: ARG002
        """Return the scores if each chain moved a sphere [C] to a position [C, 3]."""
        state.proposed[:] = state.value
        places = position.double().remainder(self.network[0].box).numpy()
        moves = state.known, state.trial, sphere.contiguous().numpy(), places
        share(
            lambda t: links.propose(self.network, *moves, state.room, state.proposed, t),
            state.pool, len(state.room.potentials),
        )  # fmt: skip
        return self._score(state.proposed), state

    def accept(self, state: _Chains, trial_state: _Chains, accepted: Tensor) -> _Chains:
        """Return the state of chains that moved where `accepted`, bool [C], is true."""
        assert state is trial_state
        moved = accepted.numpy()
        links.commit(state.known, state.trial, moved)
        state.value[moved] = state.proposed[moved]
        return state

    def _score(self, value: np.ndarray) -> Tensor:
        found = torch.from_numpy(value.copy())
        return found if self.per_axis else (found[:, 0] + found[:, 1] + found[:, 2]) / 3


def network_score(net: ResistorNetwork, *, box: float, per_axis: bool = False) -> NetworkScore:
    """Return the score of a trained network, of the weights that it has now, in a cell of edge `box`.

    Raises
    ------
    ValueError
        For a cell in which two spheres could touch through two images.
    """
    net.check(box)
    reach, beside = float(net.rings[-1]) + RING_WIDTH, float(net.thirds[-1]) + THIRD_WIDTH
    assert reach**2 >= beside**2 + CUTOFF**2 / 4, "a sphere beside a contact is near one of its ends"
    common = numbers(net.common)
    steps = wave_numbers(box, REACH).numpy()
    unit = 2 * math.pi / box
    seen = math.sqrt(2) * np.sinc(unit * np.linalg.norm(steps, axis=1) * RADIUS / math.pi)
    solvent = AFFINE * math.exp(common[2])
    res = resistors.Resistors(
        numbers(net.lengths), numbers(net.rings), numbers(net.thirds), RING_WIDTH, THIRD_WIDTH,
        numbers(net.around.mean), numbers(net.around.scale), numbers(net.beside.mean), numbers(net.beside.scale),
        numbers(net.slope), common, float(box), CUTOFF,
    )  # fmt: skip
    shell = leg2poly([0, *np.exp(numbers(net.orders))])
    bath = resistors.Bath(waves(steps, unit), seen, shell, solvent, solvent * ALPHA, WEIGHT)
    parts = tuple(_perceptron(part) for part in (net.place, net.sphere, net.contact))
    return NetworkScore(network=(res, *parts, bath), per_axis=per_axis)


def numbers(x: Any) -> np.ndarray:
    """Return a parameter as float64."""
    return np.asarray(x.detach().double().cpu().numpy())


def _perceptron(part: nn.Sequential) -> resistors.Perceptron:
    """Return the layers' weights, with inputs of weight 0 up to the next multiple of four."""
    found = []
    for layer in (part[0], part[2], part[4]):
        weight = numbers(layer.weight).astype(np.float32)
        weight = np.ascontiguousarray(np.pad(weight, ((0, 0), (0, -weight.shape[1] % 4))).T)
        found += [weight, numbers(layer.bias).astype(np.float32)]
    return resistors.Perceptron(*found)
