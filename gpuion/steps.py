"""A step of simulated annealing: a sphere of each chain moves, or does not; temperatures change hands.

Legend: C chains, N particles, T steps drawn at once.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from gpuion.kernels.reference import Stream, philox, pick, uniform
from gpuion.moves import Space, overlaps, position
from gpuion.scores import IncrementalScore, checked
from gpuion.tempering import Ladder, exchange

_DRAWN = 64  # steps drawn together; one by one, a step of 16 chains takes 1.3 ms instead of 0.5 on a CPU


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chains:
    """Where the chains stand within a cycle."""

    cell: Tensor
    centers: Tensor
    score: Tensor
    memory: Any  # the score's own
    best_centers: Tensor
    best_score: Tensor
    accepted: Tensor
    finite: Tensor
    heat: Tensor
    rung: Tensor
    swapped: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """What does not change from cycle to cycle."""

    score: IncrementalScore
    space: Space
    ids: Tensor
    rungs: Ladder
    sign: float
    steps: int
    samples: int
    seed: int
    progress: Callable[[int], None] | None


Move = tuple[int, Tensor, Tensor, Tensor]
"""A step's number, and of each chain the sphere and its shift, int64 [C, 1, 3] each, and log u, float64 [C]."""


def moves(rules: Rules, steps: range) -> Iterator[Move]:
    """Yield what is drawn for each step."""
    N = rules.space.fraction.shape[1]
    C, device = len(rules.ids), rules.ids.device
    axes = torch.eye(3, dtype=torch.int64, device=device)
    shifts = torch.cat([axes, -axes])
    for first in range(steps.start, steps.stop, _DRAWN):
        some = range(first, min(first + _DRAWN, steps.stop))
        number = torch.arange(some.start, some.stop, device=device)[:, None]  # [T, 1]
        words = philox(rules.seed, number, 0, rules.ids, Stream.MOVE)  # four of [T, C]
        spheres = pick(words[0], N)[:, :, None, None].expand(-1, C, 1, 3)
        shift = shifts[pick(words[1], 6)][:, :, None]
        log_draws = (uniform(words[2]) + uniform(words[3]) * 2.0**-32).log()
        yield from zip(some, spheres, shift, log_draws, strict=True)


def march(rules: Rules, chains: Chains, some: Iterable[Move], rungs: Ladder) -> Chains:
    """Return the chains after some steps."""
    for step, *drawn in some:
        chains = propose(rules, chains, *drawn)
        if rungs.is_due(step):
            chains = swap(rules, chains, rungs, step)
    return chains


def propose(rules: Rules, now: Chains, sphere: Tensor, shift: Tensor, log_draw: Tensor) -> Chains:
    """Propose to move one sphere [C, 1, 3] by a shift [C, 1, 3]; accept where log u ≤ gain / T."""
    moved = torch.remainder(now.cell.gather(1, sphere) + shift, int(rules.space.box))
    there = position(rules.space.fraction.gather(1, sphere), moved, rules.space)
    free = ~overlaps(now.centers, sphere[..., 0], there, rules.space)
    there = torch.where(free[:, None, None], there, now.centers.gather(1, sphere))
    trial = now.centers.scatter(1, sphere, there)
    value, memory = rules.score.propose(now.memory, sphere[:, 0, 0], there[:, 0], trial)
    score = checked(value, len(trial))
    gain = rules.sign * (score - now.score)
    accept = (gain >= now.heat * log_draw) & free
    better = accept & (rules.sign * (score - now.best_score) > 0)
    at, best = accept[:, None, None], better[:, None, None]
    centers = torch.where(at, trial, now.centers)
    return Chains(
        cell=torch.where(at, now.cell.scatter(1, sphere, moved), now.cell),
        centers=centers,
        score=torch.where(accept, score, now.score),
        memory=rules.score.accept(now.memory, memory, accept),
        best_centers=torch.where(best, centers, now.best_centers),
        best_score=torch.where(better, score, now.best_score),
        accepted=now.accepted + accept,
        finite=now.finite & (score.isfinite() | ~free),
        heat=now.heat,
        rung=now.rung,
        swapped=now.swapped,
    )


def swap(rules: Rules, now: Chains, rungs: Ladder, step: int) -> Chains:
    """Let temperatures change hands after a step."""
    turn = step // rungs.every
    rung, swapped = exchange(-rules.sign * now.score, now.rung, turn, rules.ids, rungs, rules.seed)
    return dataclasses.replace(now, heat=rungs.heat(rung), rung=rung, swapped=now.swapped + swapped)
