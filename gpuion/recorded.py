"""Annealing steps as a CUDA graph: recorded once, then repeated without Python between the operations.

Legend: C chains, N particles, T steps whose draws are loaded at once.

A step on a GPU is some hundreds of small operations, and to launch them one by one takes the host longer than they take
the GPU. A recorded step is one launch. It reads and writes the same memory each time: the chains, and draws of T steps
with a count of those done. A network of resistors has room for a fixed number of contacts there, which depends on the
structures at the beginning of a cycle; where it does not do, the steps since the last look are made again with more.
"""

import dataclasses
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence

import torch
from torch import Tensor

from gpuion.scores import Fixed
from gpuion.steps import Chains, Move, Rules, march, propose, swap
from gpuion.tempering import Ladder

_LOADED = 64  # T
_MARGIN = 1.25  # room over what the structures need as a cycle begins
_MOST = 16  # times the room as a cycle begins, at most: what does not fit then is no matter of room


class Recorded:
    """Takes steps as `gpuion.steps.march` does; recorded, where the score's work is of fixed size.

    Parameters
    ----------
    fixed : callable
        As of `gpuion.scores.Each`.
    """

    def __init__(self, fixed: Callable[[Tensor, float], Fixed]) -> None:
        self._fixed = fixed
        self._tape: _Tape | None = None
        self._refused = False

    def __call__(self, rules: Rules, chains: Chains, some: Iterable[Move], rungs: Ladder) -> Chains:
        """Return the chains after some steps; the first of a cycle decides about room."""
        some = list(some)
        if some[0][0] % rules.steps == 0:
            self._first, self._margin = chains.centers, _MARGIN
            self._score = self._fixed(self._first, self._margin)
        while True:
            after = self._go(dataclasses.replace(rules, score=self._score), chains, some, rungs)
            if self._score.complete or self._margin > _MOST or bool(after.finite.all()):
                return after
            self._margin *= 2
            self._score = self._fixed(self._first, self._margin)

    def _go(self, rules: Rules, chains: Chains, some: Sequence[Move], rungs: Ladder) -> Chains:
        """Take the steps with the room that the score has."""
        if not self._refused and (self._tape is None or self._tape.room != self._score.room):
            self._tape = None  # its memory first
            try:
                self._tape = _Tape(rules, chains, some[0], self._score.room)
            except RuntimeError as error:
                self._refused = True
                text = f"annealing goes on step by step, as these steps could not be recorded: {error}"
                warnings.warn(text, stacklevel=2)
        if self._tape is None:
            return march(rules, dataclasses.replace(chains, memory=None), some, rungs)
        return self._tape.play(chains, some, rungs)


class _Tape:
    """A recorded step and the memory that it works in."""

    def __init__(self, rules: Rules, chains: Chains, move: Move, room: Hashable) -> None:
        names = [field.name for field in dataclasses.fields(Chains) if field.name != "memory"]
        self.rules, self.room = rules, room
        self._state = {name: getattr(chains, name).clone() for name in names}
        self._draws = [x.new_zeros((_LOADED, *x.shape)) for x in move[1:]]
        self._done = torch.zeros(1, dtype=torch.int64, device=chains.cell.device)

        def step(*tensors: Tensor) -> None:
            *draws, done = tensors[len(names) :]
            now = Chains(memory=None, **dict(zip(names, tensors, strict=False)))
            after = propose(rules, now, *(x.index_select(0, done)[0] for x in draws))
            for name, x in zip(names, tensors, strict=False):
                x.copy_(getattr(after, name))
            done += 1

        self._repeat = record(step, [*self._state.values(), *self._draws, self._done])

    def play(self, chains: Chains, some: Sequence[Move], rungs: Ladder) -> Chains:
        """Return the chains after some steps."""
        for name, x in self._state.items():
            x.copy_(getattr(chains, name))
        for first in range(0, len(some), _LOADED):
            part = some[first : first + _LOADED]
            self._load(part)
            for step, *_ in part:
                self._repeat()
                if rungs.is_due(step):
                    after = swap(self.rules, self._now(), rungs, step)
                    for name in ("heat", "rung", "swapped"):
                        self._state[name].copy_(getattr(after, name))
        return dataclasses.replace(self._now(), **{name: x.clone() for name, x in self._state.items()})

    def _load(self, some: Sequence[Move]) -> None:
        """Put the draws of T steps or fewer where the recorded step looks for them."""
        _, *drawn = zip(*some, strict=True)
        for room, each in zip(self._draws, drawn, strict=True):
            room[: len(some)] = torch.stack(each)
        self._done.zero_()

    def _now(self) -> Chains:
        return Chains(memory=None, **self._state)


def record(function: Callable[..., None], tensors: Sequence[Tensor]) -> Callable[[], None]:
    """Return what repeats a function that changes CUDA tensors in place, which stay as they are now.

    Raises
    ------
    RuntimeError
        If the host has to wait for the device somewhere in it.
    """
    with torch.cuda.device(tensors[0].device):
        before = [x.clone() for x in tensors]
        side, here, mode = torch.cuda.Stream(), torch.cuda.current_stream(), torch.cuda.get_sync_debug_mode()
        side.wait_stream(here)
        try:
            with torch.cuda.stream(side):  # that of the graph, too: libraries set up for each stream
                function(*tensors)
                torch.cuda.set_sync_debug_mode("error")  # a graph that fails on the way leaves torch 2.11 unable to
                function(*tensors)  # record another
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                function(*tensors)
        finally:
            torch.cuda.set_stream(here)  # torch leaves it where it was if recording fails
        for x, value in zip(tensors, before, strict=True):
            x.copy_(value)
    return graph.replay
