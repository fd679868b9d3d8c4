"""Simulated annealing of many structures at once, towards the highest or the lowest score.

Legend: C chains, N particles, S visited structures a chain. Lengths are in voxels.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpuion.chains import AnnealResult
from gpuion.checks import check_call, check_cell, check_flag, check_kind, check_seed
from gpuion.medium import check_centers
from gpuion.moves import check_apart, check_ids, check_settings, first_overlap, position, split
from gpuion.recorded import Recorded
from gpuion.scores import Each, IncrementalScore, Score, Whole, check_finite, checked, incremental
from gpuion.steps import Chains, Rules, march, moves
from gpuion.tempering import Ladder, first_rungs, ladder, share


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
        An earlier result of the same call to go on from. It does not hold all that made it: give the same score, box,
        seed, temperatures, cooling and `every` again. Refused are other chain ids, start structures and `samples`, and,
        where it shows in the state, another direction, number of steps, `replicas` or a larger diameter.
    progress, save : callable, optional
        Called with the number of proposals made, some times a cycle; called with the state after each cycle.

    Returns
    -------
    AnnealResult
        On the device of `centers`.

    Raises
    ------
    ValueError
        For malformed or overlapping centres, settings out of range, a state that shows that it is of another run,
        or a score that is not one finite number a chain.

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
    rules = Rules(
        score=incremental(score), space=space, sign=1.0 if maximize else -1.0, steps=steps,
        samples=min(samples, steps), seed=seed, progress=progress, ids=ids,
        rungs=ladder(temperature, ids, replicas, every),
    )  # fmt: skip
    go = Recorded(score.fixed) if cell.is_cuda and isinstance(score, Each) and score.fixed else march
    with torch.no_grad():
        state = _start(rules, cell) if state is None else _check_state(state, rules, cycles)
        for cycle in range(state.cycles, cycles):
            state = _cycle(rules, state, rules.rungs.cooled(cooling**cycle), go)
            if save is not None:
                save(state)
    return state


def _cycle(rules: Rules, state: AnnealResult, rungs: Ladder, go: Callable[..., Chains]) -> AnnealResult:
    """Return the state after one more cycle at the temperatures `rungs`."""
    steps, parts = range(state.cycles * rules.steps, (state.cycles + 1) * rules.steps), max(rules.samples, 1)
    score, memory = _begin(rules, state)
    rung = state.rung[:, -1] if state.cycles else first_rungs(state.ids, rungs.replicas)
    chains = Chains(
        cell=state.cell, centers=state.centers, score=score, memory=memory, best_centers=state.best_centers,
        best_score=state.best_score, accepted=torch.zeros_like(state.ids),
        finite=torch.ones_like(state.ids, dtype=torch.bool), heat=rungs.heat(rung), rung=rung,
        swapped=torch.zeros_like(state.ids),
    )  # fmt: skip
    visited, scores = [state.visited], [state.visited_score]
    drawn = moves(rules, steps)
    for part in range(parts):
        count = (part + 1) * rules.steps // parts - part * rules.steps // parts
        chains = go(rules, chains, itertools.islice(drawn, count), rungs)
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


def _begin(rules: Rules, state: AnnealResult) -> tuple[Tensor, Any]:
    """Return the scores and what the score keeps of the chains, made anew: a stop between cycles changes nothing."""
    if isinstance(rules.score, Whole):
        return state.score, (state.centers, state.score)
    value, memory = rules.score.start(state.centers)
    return checked(value, len(state.ids)), memory


def _start(rules: Rules, cell: Tensor) -> AnnealResult:
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


def _check_state(state: AnnealResult, rules: Rules, cycles: int) -> AnnealResult:
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
    _check_traces(state, rules)
    return state


def _check_traces(state: AnnealResult, rules: Rules) -> None:
    """Raise ValueError where what chains did shows other steps, another direction or a smaller diameter."""
    accepted = state.acceptance * rules.steps
    if bool(((accepted - accepted.round()).abs() > 1e-6).any()):  # a share is one rounding off, of 2³² steps 5e-7
        raise ValueError(
            f"the state to go on from accepted shares of moves that none of steps = {rules.steps} can be; "
            "give the number of steps a cycle that it was made with"
        )
    # Later cycles begin with a score made anew, which may lie beyond the best one by its rounding.
    behind = rules.sign * (state.best_trace - state.trace)[:, :1]
    if bool((behind < 0).any()) or bool((rules.sign * state.best_trace.diff(dim=1) < 0).any()):
        raise ValueError(
            f"the state to go on from was annealed the other way than maximize = {rules.sign > 0}; "
            "give the direction that it was made with"
        )
    found = first_overlap(state.centers, rules.space)
    if found:
        raise ValueError(
            f"spheres of diameter {rules.space.diameter} overlap in the state to go on from (chain "
            f"{int(state.ids[found[0]])}, sphere {found[1]}); give the diameter that it was made with"
        )
