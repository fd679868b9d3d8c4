"""What chains go by: a function of the structures, or something that knows the structures and is told of moves.

Legend: C chains, N particles.
"""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class IncrementalScore(Protocol):
    """A score that keeps of each chain what makes the next one cheap: only one sphere moves a step.

    `state` is its own affair; `anneal` hands it on and looks at nothing in it. It asks for a new one at the start of
    each cycle, so that a chain is the same whether or not it was stopped there, and errors do not add up for longer.
    """

    def start(self, centers: Tensor) -> tuple[Tensor, Any]:
        """Return the scores [C] of structures float32 [C, N, 3], and the state of these chains."""

    def propose(self, state: Any, sphere: Tensor, position: Tensor, trial: Tensor) -> tuple[Tensor, Any]:
        """Return what the scores [C] would be, and the state, if each chain moved one sphere; `state` must stay valid.

        Parameters
        ----------
        state
            As `start` or `accept` gave it.
        sphere : int64 [C]
            The sphere that moves.
        position : float32 [C, 3]
            Where to. A move that would make spheres overlap is not proposed: the sphere is there already, and the
            chain's score is not looked at.
        trial : float32 [C, N, 3]
            The structures after the move.
        """

    def accept(self, state: Any, trial_state: Any, accepted: Tensor) -> Any:
        """Return the state of chains that moved where `accepted`, bool [C], is true and else did not."""


Score = Callable[[Tensor], Tensor] | IncrementalScore


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A function of structures that does the same work whatever they are: the same operations, on the same shapes.

    The host need not look at a number on the way, so a GPU can record the work and repeat it. As an IncrementalScore it
    keeps nothing.

    Attributes
    ----------
    score : callable
        Centres float32 [C, N, 3] to scores [C]: NaN where there is too little room for a structure.
    room : hashable
        What makes one such function differ from the next.
    complete : bool
        Whether there is room for any structure.
    """

    score: Callable[[Tensor], Tensor]
    room: Hashable = None
    complete: bool = True

    def start(self, centers: Tensor) -> tuple[Tensor, None]:
        """Return the scores of all structures."""
        return checked(self.score(centers), len(centers)), None

    def propose(self, state: None, sphere: Tensor, position: Tensor, trial: Tensor) -> tuple[Tensor, None]:  # noqa: ARG002
        """Return the scores of structures after a move."""
        return self.start(trial)

    def accept(self, state: None, trial_state: None, accepted: Tensor) -> None:
        """Keep nothing."""


@dataclasses.dataclass(frozen=True)
class Each:
    """A function of structures that may be asked for any of them, in any number: each has its score, alone or not.

    Where spheres would overlap, annealing then saves the evaluation, on a CPU; on a GPU the host would have to wait
    to know where.

    Attributes
    ----------
    score : callable
    fixed : callable, optional
        Makes the same function as work of fixed size, with room for structures like those given and a margin, a
        factor: then annealing on a GPU is recorded.
    """

    score: Callable[[Tensor], Any]
    fixed: Callable[[Tensor, float], Fixed] | None = None

    def __call__(self, centers: Tensor) -> Any:
        """Return the scores of structures."""
        return self.score(centers)


@dataclasses.dataclass(frozen=True)
class Whole:
    """A plain function of all structures as an incremental score; its state is structures and scores."""

    score: Callable[[Tensor], Tensor]

    def start(self, centers: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the scores of all structures."""
        value = checked(self.score(centers), len(centers))
        return value, (centers, value)

    def propose(
        self, state: tuple[Tensor, Tensor], sphere: Tensor, position: Tensor, trial: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the scores of structures after a move."""
        centers, known = state
        if trial.is_cuda or not isinstance(self.score, Each):
            return self.start(trial)
        here = centers.gather(1, sphere[:, None, None].expand(-1, 1, 3))[:, 0]
        moved = (here != position).any(1).nonzero()[:, 0]
        if len(moved) == len(trial):
            return self.start(trial)
        value = known
        if len(moved):
            value = known.index_copy(0, moved, checked(self.score(trial[moved]), len(moved)))
        return value, (trial, value)

    def accept(
        self, state: tuple[Tensor, Tensor], trial_state: tuple[Tensor, Tensor], accepted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return structures and scores after the moves that were accepted."""
        (centers, known), (trial, value) = state, trial_state
        return torch.where(accepted[:, None, None], trial, centers), torch.where(accepted, value, known)


def incremental(score: Score) -> IncrementalScore:
    """Return a score as an incremental one."""
    return score if isinstance(score, IncrementalScore) else Whole(score)


def checked(value: object, count: int) -> Tensor:
    """Return the scores of `count` chains as float64 [C].

    Raises
    ------
    ValueError
        Unless they are one number a chain.
    """
    if not isinstance(value, Tensor) or value.shape != (count,) or value.is_complex():
        found = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"score must return one number a chain, a tensor of shape [{count}], got {found}")
    return value.double()


def check_finite(finite: Tensor) -> None:
    """Raise ValueError for chains [C] whose scores were not finite."""
    if not bool(finite.all()):
        broken = (~finite).nonzero()[:, 0].tolist()
        raise ValueError(f"score returned NaN or infinity for chains {broken[:8]}; it must be finite everywhere")
