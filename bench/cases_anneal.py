"""Annealing: proposals a second by a network on the whole structure, and by what a move changes.

Legend: C chains, N particles.
"""

import functools
import time
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
_BATCHES = (8, 16, 32)  # whole structures at once
_MOST = 4e9  # bytes that the states of many chains may take


def anneal(setting: Setting) -> Iterator[Row]:
    """Proposals a second by a move's changes against whole structures in batches, over 1 to 512 chains, and 4096."""
    N, box, voxels = _CELLS[setting.tiny]
    diameter = gpuion.sphere_diameter(91, 75.0, 0.1)
    nets = _networks(_structures(8, N, box, diameter), box, diameter, voxels)
    for C in (1, 2) if setting.tiny else (1, 8, 32, 128, 512):
        centers = _structures(C, N, box, diameter)
        for model, net in nets.items():
            moves, peers = _moves(model, net, box, diameter, voxels), _wholes(model, net, box, diameter, C)
            _check_alike(model, moves, peers, centers[: min(C, 8)])
            size, seconds = _fastest(peers, centers)
            rounds = 1 if setting.tiny else max(2, 64 // C)
            slow_rounds = 1 if C > 32 else rounds
            ours, theirs = in_turn(
                _steps(moves, centers, box, diameter, rounds),
                _steps(Whole(peers[size]), centers, box, diameter, slow_rounds),
                repeats=setting.repeats if C <= 32 else min(2, setting.repeats), warm=C <= 128,
            )  # fmt: skip
            rate = sorted(C * rounds / s for s in ours)[len(ours) // 2]
            slow = sorted(C * slow_rounds / s for s in theirs)[len(theirs) // 2]
            yield Row(
                what=f"{model}, {C} chains of {N} spheres", unit="proposals/s",
                samples=[C * rounds / s for s in ours],
                peer=f"whole structures, {size} at once", peer_samples=[C * slow_rounds / s for s in theirs],
                limit=Limit(value=10 * slow, what="the aim, ten times the network on whole structures"),
                facts={
                    "seconds_of_whole_structures_by_batch": seconds,
                    "estimated_hours_of_the_papers_ten_runs_upwards": {
                        "by moves": _PAPER / rate / 3600, "whole": _PAPER / slow / 3600
                    },
                },
            )  # fmt: skip
    yield from _many(setting, nets, N, box, diameter, voxels)


def _structures(C: int, N: int, box: float, diameter: float) -> torch.Tensor:
    """Return random structures; many are copies of a few, which then part."""
    few = gpuion.place("random", n_structures=min(C, 128), n_particles=N, box=box, diameter=diameter, device="cpu")
    return few.repeat(-(-C // len(few)), 1, 1)[:C]


def _wholes(
    model: str, net: Any, box: float, diameter: float, C: int
) -> dict[int, Callable[[torch.Tensor], torch.Tensor]]:  # fmt: skip
    """Return a network's plain forward on C whole structures, by how many it takes at once."""
    sizes = sorted({min(size, C) for size in _BATCHES})
    if model == "periodic":
        like = _cell(box, diameter)
        return {size: torch.no_grad()(surrogate_score(net, like, size).score) for size in sizes}

    def of(size: int) -> Callable[[torch.Tensor], torch.Tensor]:
        @torch.no_grad()
        def score(centers: torch.Tensor) -> torch.Tensor:  # `surrogate_score` has one at once on a CPU, for equal bits
            return torch.cat([net(*net.prepare(some, box, diameter)).mean(-1) for some in centers.split(size)])

        return score

    return {size: of(size) for size in sizes}


def _fastest(
    peers: dict[int, Callable[[torch.Tensor], torch.Tensor]], centers: torch.Tensor
) -> tuple[int, dict[int, float]]:
    """Return the batch in which structures are scored the fastest, and the seconds of each; two rounds, the better."""
    some = centers[:128]
    tasks = [functools.partial(score, some) for score in peers.values()]
    seconds = dict(zip(peers, map(min, in_turn(*tasks, repeats=2)), strict=True))
    return min(seconds, key=lambda size: seconds[size]), seconds


def _check_alike(
    model: str, moves: IncrementalScore, peers: dict[int, Callable[[torch.Tensor], torch.Tensor]],
    centers: torch.Tensor,
) -> None:  # fmt: skip
    """Raise ValueError unless the scores of moves are those of whole structures in each batch."""
    found = moves.start(centers)[0]
    for size, score in peers.items():
        if not torch.allclose(score(centers).double(), found, rtol=1e-4, atol=0):
            raise ValueError(f"{model}: scores of moves are not those of whole structures, {size} at once")


def _many(
    setting: Setting, nets: dict[str, Any], N: int, box: float, diameter: float, voxels: int
) -> Iterator[Row]:  # fmt: skip
    """Proposals a second by moves alone, of more chains than whole structures are scored of."""
    C = 16 if setting.tiny else 4096
    for model, net in nets.items():
        moves: Any = _moves(model, net, box, diameter, voxels)
        if C * moves.chain_bytes(N) > _MOST:
            continue
        (seconds,) = in_turn(
            _steps(moves, _structures(C, N, box, diameter), box, diameter, 1), repeats=min(3, setting.repeats)
        )
        yield Row(
            what=f"{model}, {C} chains of {N} spheres", unit="proposals/s", samples=[C / s for s in seconds],
            facts={"bytes_of_the_chains": C * moves.chain_bytes(N)},
        )  # fmt: skip


def chains(setting: Setting) -> Iterator[Row]:
    """Proposals a second, 1 to 4096 chains (16 without a GPU): whole structures on the device; moves on a CPU."""
    N, box, voxels = _CELLS[setting.tiny]
    diameter = gpuion.sphere_diameter(91, 75.0, 0.1)
    counts = (1, 2) if setting.tiny else (1, 16) if setting.device == "cpu" else (1, 16, 256, 4096)
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
    yield from _graph(setting, N, box, diameter, voxels)


def _graph(setting: Setting, N: int, box: float, diameter: float, voxels: int) -> Iterator[Row]:
    """Proposals a second on a GPU with the step recorded as a CUDA graph, and launched operation by operation."""
    if setting.device == "cpu":
        return  # nothing is recorded there
    nets = _networks(_structures(8, N, box, diameter), box, diameter, voxels)
    for C in (2,) if setting.tiny else (16, 256, 4096):
        centers = _structures(C, N, box, diameter).to(setting.device)
        for model in ("network", "periodic"):
            score = surrogate_score(nets[model].to(setting.device), _cell(box, diameter), min(C, 256))
            steps = 2 if setting.tiny else max(4, 2048 // C)
            run = functools.partial(
                _second_half, centers=centers, box=box, diameter=diameter, cycles=1, steps=steps, temperature=1e-3
            )
            launched = functools.partial(lambda score, c: score.score(c), score)  # a plain function is not recorded
            pairs = [(run(score), run(launched)) for _ in range(2 if setting.tiny else 3)]
            count = C * (steps - steps // 2)
            yield Row(
                what=f"{model}, {C} chains, recorded", unit="proposals/s",
                samples=[count / ours for ours, _ in pairs], peer="launched step by step",
                peer_samples=[count / theirs for _, theirs in pairs],
                facts={"steps": steps - steps // 2, "left_out": "the first steps, in which the graph is recorded"},
            )  # fmt: skip


def _second_half(score: Any, **setting: Any) -> float:
    """Return the seconds of the second half of a cycle; `anneal` waits for the device before it tells of progress."""
    ticks: list[float] = []
    gpuion.anneal(score, samples=2, progress=lambda _: ticks.append(time.perf_counter()), **setting)
    return ticks[1] - ticks[0]


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
