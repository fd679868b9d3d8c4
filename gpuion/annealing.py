"""Simulated annealing of many structures at once, towards the highest or the lowest score.

Legend: C chains, N particles, T steps drawn at once, S visited structures a chain. Lengths are in voxels.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gpuion.chains import AnnealResult
from gpuion.checks import check_call, check_cell, check_flag, check_kind, check_seed
from gpuion.kernels.reference import Stream, philox, pick, uniform
from gpuion.medium import check_centers
from gpuion.moves import Space, check_apart, check_ids, check_settings, overlaps, position, split
from gpuion.scores import IncrementalScore, Score, Whole, check_finite, checked, incremental
from gpuion.tempering import Ladder, exchange, first_rungs, ladder, share

_DRAWN = 64  # steps drawn together; one by one, a step of 16 chains takes 1.3 ms instead of 0.5 on a CPU


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Chains:
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
class _Rules:
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


def anneal(
    score: Score, centers: Tensor, *, box: float, diameter: float, cycles: int, steps: int,
    maximize: bool = True, temperature: float | Tensor = 9.8e-3, cooling: float = 0.9, seed: int = 0,
    ids: Tensor | None = None, samples: int = 25, replicas: int = 1, every: int = 10,
    state: AnnealResult | None = None,
    progress: Callable[[int], None] | None = None, save: Callable[[AnnealResult], None] | None = None,
) -> AnnealResult:  # fmt: skip
    """Move hard spheres by simulated annealing: p = min(1, exp(± (s_new − s_old) / T_k)).

    T_k = cooling^(k−1) T_1 in cycle k. A step proposes to move one sphere of each chain by one voxel along
    an axis; a move that would make spheres overlap is refused. Coordinates keep their fractions, so a
    structure is a function of integers and rounding does not add up. Moves and draws depend on (seed, chain
    id, step) alone: a chain runs alike alone and in a batch, as far as `score` gives the same number in both.

    Parameters
    ----------
    score : callable or IncrementalScore
        Maps centres float32 [C, N, 3] to finite scores [C], for example a surrogate's D*; one made an `Each` is
        spared the structures that a move does not change. Or an object that is told of the moves.
    centers : float [C, N, 3]
        Structures to start from, voxels, without overlaps.
    box, diameter : float
        Edge of the periodic cube, a whole number of voxels, and sphere diameter.
    cycles, steps : int
        Cycles in all (those of `state` included), and proposals a cycle and chain.
    maximize : bool
        Towards higher scores; else towards lower ones.
    temperature : float, or float [C] or [replicas]
        T_1, in units of the score; of all chains, of each, or of the replicas of each group.
    cooling : float
        Factor on temperatures from cycle to cycle, at most 1.
    seed : int
        Seed of the moves.
    ids : int64 [C], optional
        Chain ids in [0, 2³²); 0 … C−1 if not given.
    samples : int
        Current structures to keep a cycle and chain, at regular steps, one a step at most; 12 N bytes each.
    replicas, every : int
        Chains in a row that exchange temperatures among them (`gpuion.tempering.exchange`), and after how many steps;
        with 1 none do. A group is the same alone and among others.
    state : AnnealResult, optional
        An earlier result of the same call to go on from.
    progress, save : callable, optional
        Called with the number of proposals made, some times a cycle; called with the state after each cycle.

    Returns
    -------
    AnnealResult
        On the device of `centers`.

    Raises
    ------
    ValueError
        For malformed or overlapping centres, settings out of range, a state of another run, or a score that
        is not one finite number a chain.

    Notes
    -----
    Kadulkar et al., J. Phys. Chem. B 125 (2021): T_1 = 9.8e-3, cooling 0.9, 2500 steps a cycle, 50 cycles to
    maximise and 100 to minimise.
    """
    cycles, steps, samples = check_settings(cycles, steps, samples, temperature, cooling)
    box, diameter = check_cell(box, diameter)
    maximize, cooling, seed = check_flag("maximize", maximize), float(cooling), check_seed(seed)
    for name, call in (("score", score), ("progress", progress), ("save", save)):
        if (call is not None or name == "score") and not isinstance(call, IncrementalScore):
            check_call(name, call)
    if state is not None:
        check_kind("state", state, AnnealResult)
    space, cell = split(check_centers(centers, box, diameter), box, diameter)
    ids = check_ids(ids, cell)
    rules = _Rules(
        score=incremental(score), space=space, sign=1.0 if maximize else -1.0, steps=steps,
        samples=min(samples, steps), seed=seed, progress=progress, ids=ids,
        rungs=ladder(temperature, ids, replicas, every),
    )  # fmt: skip
    with torch.no_grad():
        state = _start(rules, cell) if state is None else _check_state(state, rules, cycles)
        for cycle in range(state.cycles, cycles):
            state = _cycle(rules, state, rules.rungs.cooled(cooling**cycle))
            if save is not None:
                save(state)
    return state


def _cycle(rules: _Rules, state: AnnealResult, rungs: Ladder) -> AnnealResult:
    """Return the state after one more cycle at the temperatures `rungs`."""
    steps, parts = range(state.cycles * rules.steps, (state.cycles + 1) * rules.steps), max(rules.samples, 1)
    score, memory = _begin(rules, state)
    rung = state.rung[:, -1] if state.cycles else first_rungs(state.ids, rungs.replicas)
    chains = _Chains(
        cell=state.cell, centers=state.centers, score=score, memory=memory, best_centers=state.best_centers,
        best_score=state.best_score, accepted=torch.zeros_like(state.ids),
        finite=torch.ones_like(state.ids, dtype=torch.bool), heat=rungs.heat(rung), rung=rung,
        swapped=torch.zeros_like(state.ids),
    )  # fmt: skip
    visited, scores = [state.visited], [state.visited_score]
    moves = zip(steps, _moves(rules, steps), strict=True)
    for part in range(parts):
        count = (part + 1) * rules.steps // parts - part * rules.steps // parts
        for step, move in itertools.islice(moves, count):
            chains = _step(rules, chains, move)
            if rungs.is_due(step):
                chains = _exchange(rules, chains, rungs, step // rungs.every)
        check_finite(chains.finite)  # here, because looking at it makes the host wait for the device
        if rules.samples:
            visited.append(chains.centers[:, None])
            scores.append(chains.score[:, None])
        if rules.progress is not None:
            rules.progress(count * len(state.ids))
    return dataclasses.replace(
        state, best_centers=chains.best_centers, best_score=chains.best_score,
        trace=torch.cat([state.trace, chains.score[:, None]], 1),
        best_trace=torch.cat([state.best_trace, chains.best_score[:, None]], 1),
        acceptance=torch.cat([state.acceptance, chains.accepted[:, None].double() / rules.steps], 1),
        rung=torch.cat([state.rung, chains.rung[:, None]], 1),
        swaps=torch.cat([state.swaps, share(chains.swapped, steps, rungs)[:, None]], 1),
        visited=torch.cat(visited, 1), visited_score=torch.cat(scores, 1),
        centers=chains.centers, score=chains.score, cell=chains.cell,
    )  # fmt: skip


def _begin(rules: _Rules, state: AnnealResult) -> tuple[Tensor, Any]:
    """Return the scores and what the score keeps of the chains, made anew: a stop between cycles changes nothing."""
    if isinstance(rules.score, Whole):
        return state.score, (state.centers, state.score)
    value, memory = rules.score.start(state.centers)
    return checked(value, len(state.ids)), memory


def _step(rules: _Rules, now: _Chains, move: tuple[Tensor, Tensor, Tensor]) -> _Chains:
    """Propose to move one sphere [C, 1, 3] by a shift [C, 1, 3]; accept where log u ≤ gain / T."""
    sphere, shift, log_draw = move
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
    return _Chains(
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


def _exchange(rules: _Rules, now: _Chains, rungs: Ladder, turn: int) -> _Chains:
    """Let temperatures change hands."""
    rung, swapped = exchange(-rules.sign * now.score, now.rung, turn, rules.ids, rungs, rules.seed)
    return dataclasses.replace(now, heat=rungs.heat(rung), rung=rung, swapped=now.swapped + swapped)


def _moves(rules: _Rules, steps: range) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield for each step the sphere and its shift, int64 [C, 1, 3] each, and log u, float64 [C]."""
    N = rules.space.fraction.shape[1]
    C, device = len(rules.ids), rules.ids.device
    axes = torch.eye(3, dtype=torch.int64, device=device)
    shifts = torch.cat([axes, -axes])
    for first in range(steps.start, steps.stop, _DRAWN):
        number = torch.arange(first, min(first + _DRAWN, steps.stop), device=device)[:, None]  # [T, 1]
        words = philox(rules.seed, number, 0, rules.ids, Stream.MOVE)  # four of [T, C]
        spheres = pick(words[0], N)[:, :, None, None].expand(-1, C, 1, 3)
        shift = shifts[pick(words[1], 6)][:, :, None]
        log_draws = (uniform(words[2]) + uniform(words[3]) * 2.0**-32).log()
        yield from zip(spheres, shift, log_draws, strict=True)


def _start(rules: _Rules, cell: Tensor) -> AnnealResult:
    """Return the state before the first cycle."""
    C, N, _ = cell.shape
    centers = position(rules.space.fraction, cell, rules.space)
    check_apart(centers, rules.ids, rules.space)
    score = checked(rules.score.start(centers)[0], C)
    check_finite(score.isfinite())
    none = score.new_empty(C, 0)
    return AnnealResult(
        best_centers=centers, best_score=score, trace=none, best_trace=none, acceptance=none, swaps=none,
        rung=none.long(), visited=centers.new_empty(C, 0, N, 3), visited_score=none, centers=centers, score=score,
        ids=rules.ids,
        fraction=rules.space.fraction, cell=cell,
    )  # fmt: skip


def _check_state(state: AnnealResult, rules: _Rules, cycles: int) -> AnnealResult:
    """Return the state if it can be one of this run."""
    if not (torch.equal(state.ids, rules.ids) and torch.equal(state.fraction, rules.space.fraction)):
        raise ValueError("the state to go on from has other chain ids or start structures than those given")
    if state.cycles > cycles or state.visited.shape[1] != state.cycles * rules.samples:
        raise ValueError(
            f"the state to go on from has {state.cycles} cycles and {state.visited.shape[1]} visited "
            f"structures a chain; that does not fit cycles = {cycles}, samples = {rules.samples}"
        )
    R = rules.rungs.replicas
    if state.cycles and bool(
        (state.rung[:, -1].view(-1, R).sort(1).values != torch.arange(R, device=state.rung.device)).any()
    ):
        raise ValueError(f"the state to go on from has other groups of chains than replicas = {R} makes")
    return state
