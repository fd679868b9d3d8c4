"""What annealed chains have found so far, and the files from which they go on.

Legend: C chains, N particles, S visited structures a chain.

A state is one file that each cycle replaces, and beside it one file a cycle with the structures visited then, which
are by far the most: at the size of the paper 2 MB a cycle, 218 MB in the end.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpuion import files
from gpuion.errors import CheckpointError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnealResult:
    """What chains found, and all it takes to let them go on.

    Attributes
    ----------
    best_centers : float32 [C, N, 3]
        The best structure that each chain met, in [0, box).
    best_score : float64 [C]
        Its score.
    trace, best_trace : float64 [C, cycles]
        Score of the current and of the best structure at the end of each cycle.
    acceptance : float64 [C, cycles]
        Share of a cycle's proposals that were accepted.
    rung : int64 [C, cycles]
        Of chains that exchange temperatures, which of its group's each was at as a cycle ended, counted from 0.
    swaps : float64 [C, cycles]
        In place r of a group, the share of a cycle's attempts in which its temperatures r and r + 1 changed hands.
    visited : float32 [C, S, N, 3]
        Current structures at regular steps, S = cycles · samples.
    visited_score : float64 [C, S]
        Their scores.
    centers, score : float32 [C, N, 3], float64 [C]
        The current structures and their scores.
    ids : int64 [C]
        The chains' ids.
    fraction, cell : float32, int64 [C, N, 3]
        The parts of a coordinate that a move keeps and that it changes; a centre is their sum.
    """

    best_centers: Tensor
    best_score: Tensor
    trace: Tensor
    best_trace: Tensor
    acceptance: Tensor
    rung: Tensor
    swaps: Tensor
    visited: Tensor
    visited_score: Tensor
    centers: Tensor
    score: Tensor
    ids: Tensor
    fraction: Tensor
    cell: Tensor

    @property
    def cycles(self) -> int:
        """The number of cycles done."""
        return self.trace.shape[1]

    @property
    def visited_cycle(self) -> Tensor:
        """The cycle, counted from 0, in which each visited structure was met, int64 [S]."""
        samples = self.visited.shape[1] // max(self.cycles, 1)
        return torch.arange(self.cycles, device=self.trace.device).repeat_interleave(samples)


_VISITED = ("visited", "visited_score")


def save_state(path: Path, state: AnnealResult, first: int = 0) -> None:
    """Write a state: the structures visited in cycles from `first` on, each cycle's file atomically, then the rest.

    `first` = state.cycles − 1 writes what the last cycle added to an earlier state of that path.
    """
    samples = state.visited.shape[1] // max(state.cycles, 1)
    for cycle in range(first, state.cycles if samples else 0):
        span = slice(cycle * samples, (cycle + 1) * samples)
        part = {name: getattr(state, name)[:, span].clone() for name in _VISITED}  # a view would bring all along
        files.save_tensors(_visited_path(path, cycle), part | {"ids": state.ids})
    rest = {name: value for name, value in vars(state).items() if name not in _VISITED}
    files.save_tensors(path, rest | {"samples": samples})


def load_state(path: Path, device: torch.device | str = "cpu") -> AnnealResult:
    """Read a state that `save_state` wrote.

    Raises
    ------
    CheckpointError
        If a file is missing, damaged or not of this state.
    """
    remedy = f"remove {path} to start these chains over"
    try:
        rest = dict(files.load_tensors(path, device))
        samples, cycles = int(rest.pop("samples")), int(rest["trace"].shape[1])
        parts = [_load_visited(_visited_path(path, k), rest, k, device) for k in range(cycles if samples else 0)]
        C, N, _ = rest["centers"].shape
        none = {"visited": rest["centers"].new_empty(C, 0, N, 3), "visited_score": rest["score"].new_empty(C, 0)}
        joined = {name: torch.cat([none[name], *(part[name] for part in parts)], 1) for name in _VISITED}
        return _checked(AnnealResult(**rest, **joined))
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {remedy}") from None
    except (OSError, RuntimeError, TypeError, LookupError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a state of anneal.py ({type(error).__name__}); {remedy}") from None


def _checked(state: AnnealResult) -> AnnealResult:
    """Return a state whose fields are as `AnnealResult` says, or raise ValueError."""
    C, N, _ = state.centers.shape
    S, cycles = state.visited.shape[1], state.cycles
    single, double, whole = torch.float32, torch.float64, torch.int64
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    expected |= dict.fromkeys(("best_centers", "centers", "fraction"), (single, (C, N, 3)))
    expected |= dict.fromkeys(("best_score", "score"), (double, (C,)))
    expected |= dict.fromkeys(("trace", "best_trace", "acceptance", "swaps"), (double, (C, cycles)))
    expected |= {"rung": (whole, (C, cycles)), "ids": (whole, (C,)), "cell": (whole, (C, N, 3))}
    expected |= {"visited": (single, (C, S, N, 3)), "visited_score": (double, (C, S))}
    for name, kind in expected.items():
        x = getattr(state, name)
        if (x.dtype, tuple(x.shape)) != kind or not bool(x.isfinite().all()):
            raise ValueError(f"{name} is {x.dtype} {list(x.shape)}")
    return state


def load_states(paths: Iterable[Path]) -> AnnealResult:
    """Return the chains of several files as one state on the CPU, in the order of their ids."""
    parts = [load_state(path) for path in paths]
    order = torch.cat([part.ids for part in parts]).argsort(stable=True)
    return AnnealResult(**{name: torch.cat([getattr(p, name) for p in parts])[order] for name in vars(parts[0])})


def _visited_path(path: Path, cycle: int) -> Path:
    return path.with_name(f"{path.stem}.{cycle:05d}.visited")


def _load_visited(path: Path, rest: dict[str, Any], cycle: int, device: torch.device | str) -> dict[str, Tensor]:
    """Return the structures visited in a cycle, if these are of this state: a cycle's last one is in the trace."""
    try:
        part = files.load_tensors(path, device)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    if not (
        torch.equal(part["ids"], rest["ids"]) and torch.equal(part["visited_score"][:, -1], rest["trace"][:, cycle])
    ):
        raise CheckpointError(f"{path} is of another state")
    return part
