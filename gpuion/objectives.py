"""What annealing is after: a number made of a structure's D*, to be raised or lowered.

Legend: C chains, N particles, n labelled structures.

    mean      D* = (D_x + D_y + D_z) / 3, raised or lowered
    target    |D* − t|, lowered
    x, y, z   D along that axis less the mean of the two others, raised
    even      (largest − smallest) / mean of D_x, D_y, D_z, lowered

D_x, D_y and D_z are in the unit of D*.
"""

import dataclasses
import math
import reprlib
import typing
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpuion.checks import check_call, check_flag, is_between
from gpuion.dataset import Dataset
from gpuion.errors import ConfigError
from gpuion.medium import TransportModel
from gpuion.scores import Each, Fixed, IncrementalScore, Score

DIRECTIONS = {"mean": ("max", "min"), "target": ("min",), "x": ("max",), "y": ("max",), "z": ("max",), "even": ("min",)}
_AXES = ("x", "y", "z")
_LEAST = 1e-9  # of D*: what lets nothing through is not divided by


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """A number made of D*, called with D* [C], or [C, 3] along the axes, and its standard deviation where it is known.

    Attributes
    ----------
    name : {"mean", "target", "x", "y", "z", "even"}
    maximize : bool
        Whether it is to rise.
    target : float
        t, of `target`.
    caution : float
        Standard deviations by which a value counts as worse than it is said to be: less where it is to rise, more
        where it is to fall. Axes are taken to err together, the way that harms most.
    """

    name: str = "mean"
    maximize: bool = True
    target: float | None = None
    caution: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in DIRECTIONS:
            raise ValueError(f"name must be one of {', '.join(DIRECTIONS)}, got {reprlib.repr(self.name)}")
        check_flag("maximize", self.maximize)
        if self.target is not None and not is_between(self.target, -math.inf, math.inf):
            raise ValueError(f"target must be a D*, a number, got {reprlib.repr(self.target)}")
        if (self.target is None) == (self.name == "target"):
            raise ValueError(f"a target goes with the name 'target' alone, got {self.target} with {self.name!r}")
        if not (is_between(self.caution, 0, math.inf) or is_between(self.caution, -1e-300, 1e-300)):
            raise ValueError(f"caution must be 0 or more standard deviations, got {reprlib.repr(self.caution)}")
        object.__setattr__(self, "caution", float(self.caution))
        if self.target is not None:
            object.__setattr__(self, "target", float(self.target))

    def __call__(self, D: Tensor, spread: Tensor | None = None) -> Tensor:
        """Return the objective of each structure, [C]; gradients pass through."""
        for name, x in (("D", D), ("spread", spread)):
            if x is None and name == "spread":
                continue
            if not isinstance(x, Tensor) or not self._fits(x) or len(x) != len(D):
                shape = "[C, 3]" if self.per_axis else "[C] or [C, 3]"
                given = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
                raise ValueError(f"{name} must be a dense tensor of floats {shape}, got {given}")
        value = self.value(D)
        if spread is None or not self.caution:
            return value
        return value + (-1 if self.maximize else 1) * self.caution * self.doubt(D, spread)

    def _fits(self, x: Tensor) -> bool:
        if not x.is_floating_point() or x.is_meta or x.layout is not torch.strided:
            return False
        return (x.ndim == 2 and x.shape[1] == 3) or (x.ndim == 1 and not self.per_axis)

    @property
    def per_axis(self) -> bool:
        """Whether it takes D along each axis."""
        return self.name not in {"mean", "target"}

    @property
    def direction(self) -> str:
        """Whether it is to rise, "max", or to fall, "min"."""
        return "max" if self.maximize else "min"

    @property
    def family(self) -> str:
        """What the family of structures found by it is called, after `annealed-`."""
        return self.direction if self.name == "mean" else self.name

    def value(self, D: Tensor) -> Tensor:
        """Return the objective of D*, [C]."""
        if not self.per_axis:
            mean = D.mean(-1) if D.ndim == 2 else D
            return mean if self.name == "mean" else (mean.double() - typing.cast(float, self.target)).abs()
        D = D.double()
        if self.name == "even":
            return (D.amax(-1) - D.amin(-1)) / D.mean(-1).clamp_min(_LEAST)
        along = D[:, _AXES.index(self.name)]
        return 1.5 * along - D.sum(-1) / 2

    def doubt(self, D: Tensor, spread: Tensor) -> Tensor:
        """Return the standard deviation of the objective, [C], of D* and its standard deviation."""
        if not self.per_axis:
            return spread.mean(-1) if spread.ndim == 2 else spread
        D, spread = D.double(), spread.double()
        if self.name == "even":
            ends = [spread.gather(-1, end[:, None])[:, 0] for end in (D.argmax(-1), D.argmin(-1))]
            return (ends[0] + ends[1]) / D.mean(-1).clamp_min(_LEAST)
        return spread[:, _AXES.index(self.name)] / 2 + spread.sum(-1) / 2


def goals(name: str, asked: str, target: float | None, caution: float) -> dict[str, Objective]:
    """Return the objective of each way to go, "max" or "min": of that which was asked for, or with "both" of all.

    Raises
    ------
    ConfigError
        For an unknown objective, a direction that it has not, a target with another objective or none with `target`, a
        caution below 0.
    """
    if name not in DIRECTIONS:
        raise ConfigError(f"objective must be one of {', '.join(DIRECTIONS)}, got {name!r}")
    if asked not in {"both", *DIRECTIONS[name]}:
        word = {"max": "--maximize", "min": "--minimize"}.get(asked, f"direction {asked!r}")
        raise ConfigError(f"{word} does not go with objective {name!r}; leave it out")
    if (target is not None) != (name == "target"):
        raise ConfigError(f"a target is for objective 'target', and needed there; got {target} with {name!r}")
    if not (caution >= 0 and math.isfinite(caution)):
        raise ConfigError(f"caution must be 0 or more standard deviations, got {caution}")
    ways = DIRECTIONS[name] if asked == "both" else (asked,)
    return {d: Objective(name=name, maximize=d == "max", target=target, caution=caution) for d in ways}


def check_target(target: float | None, model: TransportModel, d_reference: float) -> None:
    """Raise ConfigError for a D* that no structure can have: none conducts better than its best medium."""
    most = max(model.bulk_diffusivity, model.shell_diffusivity) / d_reference
    if target is not None and not 0 < target < most:
        raise ConfigError(
            f"target must be a D* between 0 and {most:.4g}, that of the solvent or corona alone, got {target}"
        )


def attained(objective: Objective, data: Dataset) -> Tensor:
    """Return the objective of labelled structures by their labels, float64 [n]; no caution."""
    D = data.diffusivity / data.d_reference if objective.per_axis else data.d_star
    return objective.value(D)


def aim(score: Any, objective: Callable[..., Tensor]) -> Score:
    """Return the score that `anneal` takes, made of one of D*.

    Parameters
    ----------
    score : callable or IncrementalScore
        Its values are D* [C] or along the axes [C, 3], or a pair: these and their standard deviations.
    objective : callable
        Maps D*, and their standard deviations if the score gives them, to [C]: an `Objective`, or one of your own.
    """
    check_call("objective", objective)
    if isinstance(score, IncrementalScore):
        return _Aimed(score, objective)
    check_call("score", score)
    aimed = _Applied(score, objective)
    if not isinstance(score, Each):
        return aimed
    fixed = score.fixed

    def aimed_fixed(centers: Tensor, margin: float) -> Fixed:
        assert fixed is not None
        found = fixed(centers, margin)
        return dataclasses.replace(found, score=_Applied(found.score, objective))

    return Each(aimed, aimed_fixed if fixed else None)


def _apply(objective: Callable[..., Tensor], found: Any) -> Tensor:
    return objective(*found) if isinstance(found, tuple) else objective(found)


@dataclasses.dataclass(frozen=True)
class _Applied:
    """An objective of what a function of the structures gives."""

    score: Callable[[Tensor], Any]
    objective: Callable[..., Tensor]

    def __call__(self, centers: Tensor) -> Tensor:
        return _apply(self.objective, self.score(centers))


@dataclasses.dataclass(frozen=True)
class _Aimed:
    """An objective of what a score gives that is told of moves."""

    score: Any
    objective: Callable[..., Tensor]

    def start(self, centers: Tensor) -> tuple[Tensor, Any]:
        found, state = self.score.start(centers)
        return _apply(self.objective, found), state

    def propose(self, state: Any, sphere: Tensor, position: Tensor, trial: Tensor) -> tuple[Tensor, Any]:
        found, trial_state = self.score.propose(state, sphere, position, trial)
        return _apply(self.objective, found), trial_state

    def accept(self, state: Any, trial_state: Any, accepted: Tensor) -> Any:
        return self.score.accept(state, trial_state, accepted)
