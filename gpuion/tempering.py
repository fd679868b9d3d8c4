"""Replica exchange: chains at several temperatures that now and then exchange these, so that cold ones are not stuck.

Legend: C chains, R replicas of a group, G = C / R groups, P neighbouring pairs of temperatures.

R chains in a row are a group; temperature r = 0 … R − 1 of it is at one of its chains at a time. It is temperatures
that change hands, not structures: a chain keeps its sphere moves and what its score knows of it.
"""

import dataclasses
import reprlib

import torch
from torch import Tensor

from gpuion.checks import check_tensor, is_whole
from gpuion.kernels.reference import Stream, philox, uniform


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ladder:
    """The temperatures of each group, float64 [G, R], and the number of steps from exchange to exchange."""

    temperatures: Tensor
    every: int

    @property
    def replicas(self) -> int:
        """R, 1 for chains that exchange nothing."""
        return self.temperatures.shape[1]

    def is_due(self, step: int) -> bool:
        """Return whether an exchange follows a step."""
        return self.replicas > 1 and (step + 1) % self.every == 0

    def cooled(self, factor: float) -> "Ladder":
        """Return the ladder with all temperatures times a factor."""
        return dataclasses.replace(self, temperatures=self.temperatures * factor)

    def heat(self, rung: Tensor) -> Tensor:
        """Return the temperatures [C] of chains at the rungs int64 [C]."""
        return self.temperatures.gather(1, rung.view(-1, self.replicas)).flatten()


def ladder(temperature: float | Tensor, ids: Tensor, replicas: int, every: int) -> Ladder:
    """Return the ladder of chains with ids [C] in groups of `replicas`.

    Parameters
    ----------
    temperature : float, or float [C] or [R]
        Of all chains, of each, or of the replicas of each group.
    ids : int64 [C]
    replicas, every : int

    Raises
    ------
    ValueError
        If chains and replicas, or chains and temperatures, do not go together.
    """
    C = len(ids)
    if not is_whole(replicas, 1) or not is_whole(every, 1) or C % replicas:
        given = f"{reprlib.repr(replicas)}, {reprlib.repr(every)}"
        raise ValueError(f"replicas must be at least 1 and divide the {C} chains, and every be at least 1, got {given}")
    replicas, every = int(replicas), int(every)
    heat = check_tensor("temperature", temperature).detach().to(ids.device, torch.float64)
    if heat.shape == (replicas,):
        heat = heat.repeat(C // replicas)
    if heat.shape not in {(), (C,)}:
        raise ValueError(
            f"temperature must be one number, {C} of them, one a chain, or {replicas}, one a replica; got shape "
            f"{list(heat.shape)}"
        )
    return Ladder(temperatures=heat.expand(C).view(-1, replicas), every=every)


def first_rungs(ids: Tensor, replicas: int) -> Tensor:
    """Return where chains [C] begin: each group's in the order of its temperatures, int64 [C]."""
    return torch.arange(len(ids), device=ids.device) % replicas


def exchange(energy: Tensor, rung: Tensor, turn: int, ids: Tensor, rungs: Ladder, seed: int) -> tuple[Tensor, Tensor]:
    """Let neighbouring temperatures change hands: p = min(1, exp((1/T_a − 1/T_b) (E_a − E_b))).

    The pairs (0, 1), (2, 3), … and (1, 2), (3, 4), … take turns. Each turn leaves the product of the Boltzmann
    distributions of all temperatures as it is.

    Parameters
    ----------
    energy : float64 [C]
        E of the chains: the score, or its negative where it is to rise.
    rung : int64 [C]
        Which temperature of its group a chain is at.
    turn : int
        The number of the exchange; with the seed and the id of a group's first chain it makes the draws.
    ids : int64 [C]
    rungs : Ladder
    seed : int

    Returns
    -------
    rung : int64 [C]
        After the exchange.
    swapped : int64 [C]
        1 in place r of a group where its temperatures r and r + 1 changed hands.

    References
    ----------
    Geyer, Computing Science and Statistics 23 (1991) 156; Hukushima and Nemoto, J. Phys. Soc. Jpn. 65 (1996) 1604.
    """
    R = rungs.replicas
    swapped = torch.zeros_like(rung).view(-1, R)
    first = turn % 2 if R > 2 else 0
    low = torch.arange(first, R - 1, 2, device=rung.device)  # [P]
    holder = rung.view(-1, R).argsort(1)  # of a group, the chain at each temperature
    E = energy.view(-1, R).gather(1, holder)
    beta = 1 / rungs.temperatures
    gain = (beta[:, low] - beta[:, low + 1]) * (E[:, low] - E[:, low + 1])
    words = philox(seed, turn, low, ids.view(-1, R)[:, :1], Stream.EXCHANGE)
    accept = (uniform(words[0]) + uniform(words[1]) * 2.0**-32).log() <= gain
    swapped[:, low] = accept.long()
    after = holder.clone()
    after[:, low] = torch.where(accept, holder[:, low + 1], holder[:, low])
    after[:, low + 1] = torch.where(accept, holder[:, low], holder[:, low + 1])
    return after.argsort(1).flatten(), swapped.flatten()


def share(swapped: Tensor, steps: range, rungs: Ladder) -> Tensor:
    """Return the share of the attempts within some steps in which temperatures changed hands, float64 [C].

    `swapped` [C] counts them, in place r of a group those between r and r + 1.
    """
    turns = range(steps.start // rungs.every, steps.stop // rungs.every)
    R = rungs.replicas
    tried = [sum(R == 2 or turn % 2 == r % 2 for turn in turns) for r in range(R - 1)] + [0]
    return (swapped.view(-1, R) / swapped.new_tensor(tried).double().clamp_min(1)).flatten()
