"""Annealing: proposals a second by a network on the whole structure, and by what a move changes.

Legend: C chains, N particles.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from measure import Limit, Row, Setting, clock, in_turn

import gpuion
from gpuion.scores import IncrementalScore, Whole
from gpuion.scoring import surrogate_score

_CELLS = {False: (91, 75.0, 75), True: (8, 35.0, 35)}  # spheres, box and voxels, by whether it is to be tiny
_PAPER = 10 * 125_000  # proposals of ten runs upwards
_BY_MOVES = 16  # most chains beside a GPU's: to begin by moves, a core takes some 20 ms a chain
_MOST = 4e9  # bytes that the states of many chains may take


def anneal(setting: Setting) -> Iterator[Row]:
    """Proposals a second against chains, whole structures against moves, both decided and made: images and circuits."""
    N, box, voxels = _CELLS[setting.tiny]
    diameter = gpuion.sphere_diameter(91, 75.0, 0.1)
    for C in (1, 2) if setting.tiny else (1, 8, 32, 128):
        centers = gpuion.place("random", n_structures=C, n_particles=N, box=box, diameter=diameter, device="cpu")
        for model, (plain, moves) in _scores(centers, box, diameter, voxels).items():
            rounds = 1 if setting.tiny else max(2, 64 // C)
            tasks = [_steps(score, centers, box, diameter, rounds) for score in (moves, plain)]
            ours, theirs = in_turn(*tasks, repeats=setting.repeats)
            count = C * rounds
            rate = sorted(count / s for s in ours)[len(ours) // 2]
            slow = sorted(count / s for s in theirs)[len(theirs) // 2]
            yield Row(
                what=f"{model}, {C} chains of {N} spheres", unit="proposals/s", samples=[count / s for s in ours],
                peer="the network on whole structures", peer_samples=[count / s for s in theirs],
                limit=Limit(value=10 * slow, what="the aim, ten times the network on whole structures"),
                facts={
                    "estimated_hours_of_the_papers_ten_runs_upwards": {
                        "by moves": _PAPER / rate / 3600, "whole": _PAPER / slow / 3600
                    }
                },
            )  # fmt: skip
    yield from _many(setting, N, box, diameter, voxels)


def _many(setting: Setting, N: int, box: float, diameter: float, voxels: int) -> Iterator[Row]:
    """Proposals a second by moves alone, of many chains: copies of a few structures, which then part."""
    few = gpuion.place("random", n_structures=8, n_particles=N, box=box, diameter=diameter, device="cpu")
    scores = _scores(few, box, diameter, voxels)
    for C in (16,) if setting.tiny else (512, 4096):
        for model, (_, moves) in scores.items():
            if C * moves.chain_bytes(N) > _MOST:
                continue
            task = _steps(moves, few.repeat(C // 8, 1, 1), box, diameter, 1)
            (seconds,) = in_turn(task, repeats=min(3, setting.repeats))
            yield Row(
                what=f"{model}, {C} chains of {N} spheres", unit="proposals/s", samples=[C / s for s in seconds],
                facts={"bytes_of_the_chains": C * moves.chain_bytes(N)},
            )  # fmt: skip


def chains(setting: Setting) -> Iterator[Row]:
    """Proposals a second of gpuion.anneal over 1 to 4096 chains: whole structures on the device, moves on a CPU."""
    N, box, voxels = _CELLS[setting.tiny]
    diameter = gpuion.sphere_diameter(91, 75.0, 0.1)
    counts = (1, 2) if setting.tiny else (1, 16, 256, 4096)
    for model in ("periodic", "network"):
        for C in counts:
            here = gpuion.place("random", n_structures=C, n_particles=N, box=box, diameter=diameter)
            there, like = here.to(setting.device), _cell(box, diameter)
            net = _networks(here, box, diameter, voxels)[model]
            steps = 2 if setting.tiny else max(16, 256 // C)
            run = functools.partial(
                gpuion.anneal, box=box, diameter=diameter, cycles=1, steps=steps, samples=1, temperature=1e-3
            )
            moves = _moves(model, net, box, diameter, voxels)
            score = surrogate_score(net.to(setting.device), like, min(C, 256))
            tasks = [functools.partial(run, score, there)]
            if C <= _BY_MOVES:
                tasks.append(functools.partial(run, moves, here))
            repeats = 2 if setting.tiny else 3
            seconds = in_turn(*tasks, repeats=repeats)
            whole = functools.partial(torch.no_grad()(score), there)
            alone = C / min(clock(whole) for _ in range(repeats))
            yield Row(
                what=f"{model}, {C} chains of {N} spheres, {steps} steps", unit="proposals/s",
                samples=[C * steps / s for s in seconds[0]], peer="by moves on a CPU" if len(seconds) > 1 else "",
                peer_samples=[C * steps / s for s in seconds[1]] if len(seconds) > 1 else [],
                limit=Limit(value=alone, what="the network alone, measured", estimate=False),
            )  # fmt: skip


def _cell(box: float, diameter: float) -> Any:
    """Return what a score reads of a dataset."""
    return type("Cell", (), {"box": box, "diameter": diameter})


def _networks(centers: torch.Tensor, box: float, diameter: float, voxels: int) -> dict[str, Any]:
    """Return networks on images and on circuits, of random weights: they cost what others do."""
    from gpuion.resistors import ResistorNetwork

    torch.manual_seed(0)
    image, circuit = gpuion.Surrogate().eval(), ResistorNetwork().eval()
    targets = torch.linspace(0.05, 1, 8)
    image.calibrate(targets)
    circuit.calibrate(targets, circuit.prepare(centers[:8], box, diameter))
    image.meta = {"box": box, "voxels": voxels}
    return {"periodic": image, "network": circuit}


def _moves(model: str, net: Any, box: float, diameter: float, voxels: int) -> IncrementalScore:
    """Return a network's score that is told of moves."""
    from gpuion.incremental import image_score
    from gpuion.incremental_network import network_score

    if model == "network":
        return network_score(net, box=box)
    return image_score(net, box=box, diameter=diameter, voxels=voxels)


def _scores(centers: torch.Tensor, box: float, diameter: float, voxels: int) -> dict[str, tuple[Any, Any]]:
    """Return each model's scores: of whole structures, and of moves."""
    found = {}
    for name, net in _networks(centers, box, diameter, voxels).items():
        moves = _moves(name, net, box, diameter, voxels)
        whole = torch.no_grad()(surrogate_score(net, _cell(box, diameter), min(8, len(centers))).score)
        expected, got = whole(centers).double(), moves.start(centers)[0]
        if not torch.allclose(expected, got, rtol=1e-4, atol=0):
            raise ValueError(f"{name}: scores of moves are not those of whole structures")
        found[name] = Whole(whole), moves
    return found


def _steps(score: Any, centers: torch.Tensor, box: float, diameter: float, rounds: int) -> Callable[[], None]:
    """Return a task of so many proposals a chain; about a third is accepted, as in the middle of an annealing."""
    state = score.start(centers)[1]
    here, draw = centers, torch.Generator().manual_seed(1)
    C, N, _ = centers.shape
    chain = torch.arange(C)

    def task() -> None:
        nonlocal state, here
        for _ in range(rounds):
            sphere = torch.randint(N, (C,), generator=draw)
            axis, sign = (torch.randint(k, (C,), generator=draw) for k in (3, 2))
            trial = here.clone()
            trial[chain, sphere, axis] = torch.remainder(trial[chain, sphere, axis] + 2 * sign - 1, box)
            apart = (trial - trial[chain, sphere][:, None]).abs()
            square = torch.minimum(apart, box - apart).square().sum(-1)
            square[chain, sphere] = torch.inf
            free = square.amin(1) >= diameter**2
            _, trial_state = score.propose(state, sphere, trial[chain, sphere], trial)
            accepted = free & (torch.rand(C, generator=draw) < 1 / 3)
            state = score.accept(state, trial_state, accepted)
            here = torch.where(accepted[:, None, None], trial, here)

    return task
