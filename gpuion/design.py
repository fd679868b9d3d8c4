"""The design of a data set: which structure, of which family, with which parameters, has which number.

Legend: B structures, N particles. Lengths in voxels.

The structures are numbered family by family: the random ones; the chained ones, spread evenly over the ranges
of distance to the parent; the gapped ones, a third each with slabs on one, two and three axes, of which one
half is placed plainly and one half chained. The families and their usual numbers (722, 5304, 2166) are those
of Kadulkar et al., J. Phys. Chem. B 2021; the paper's supporting information is not public, so the ranges and
widths are gpuion's own.
"""

import dataclasses
import itertools
import math
from typing import Any

import torch
from torch import Tensor

from gpuion.errors import PackingError
from gpuion.insertion import Rules
from gpuion.kernels.reference import Stream, philox, pick, uniform
from gpuion.packing import fill, jam, place

REDRAWS = 31
"""Further arrangements tried for a structure that jams; at worst (27 spheres, three slabs) one in four."""

_CONTACT = 1 + 1e-6  # relative; spheres chained "from contact" start this far apart
_CHOICE, _REDRAW = 0, 1  # sub-indices of Stream.FAMILY


@dataclasses.dataclass(frozen=True)
class Case:
    """Family and parameters of a structure, as `place` takes them."""

    family: str
    distance: tuple[float, float] | None = None
    gap: float | None = None
    axes: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """Numbers and parameters of the families.

    Attributes
    ----------
    particles, box, diameter
        N, edge of the periodic cube and sphere diameter σ, voxels.
    random, chained, gapped : int
        Structures of each family.
    ranges : tuple of (lo, hi)
        Ranges of a chained sphere's distance to its parent, voxels; lo may be "contact", just above σ.
    widths : three (lo, hi)
        Slab widths with one, two and three axes, voxels.
    seed : int

    Raises
    ------
    ValueError
        For counts below 0, malformed pairs, or what no arrangement of spheres can satisfy.
    """

    particles: int
    box: float
    diameter: float
    random: int
    chained: int
    gapped: int
    ranges: tuple[tuple[Any, float], ...]
    widths: tuple[tuple[float, float], ...]
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("random", "chained", "gapped"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.ranges or len(self.widths) != 3:
            raise ValueError(
                "a design needs a chained range or more, and three gapped widths: for one, two, three axes"
            )
        self._check(Case("random"))
        ranges = tuple(self._pair("chained_ranges", pair) for pair in self.ranges)
        widths = tuple(self._pair("gapped_widths", pair) for pair in self.widths)
        object.__setattr__(self, "ranges", ranges)
        object.__setattr__(self, "widths", widths)
        cases = [Case("chained", distance=pair) for pair in ranges]
        cases += [Case("gapped", gap=hi, axes=tuple(range(k + 1))) for k, (_, hi) in enumerate(widths)]
        for case in cases:
            self._check(case)

    def _pair(self, name: str, pair: object) -> tuple[float, float]:
        lo, hi = pair if isinstance(pair, list | tuple) and len(pair) == 2 else (None, None)
        lo = self.diameter * _CONTACT if lo == "contact" and name == "chained_ranges" else lo
        if not (isinstance(lo, int | float) and isinstance(hi, int | float) and lo <= hi):
            raise ValueError(
                f'{name} must be pairs of lengths [lo, hi], lo ≤ hi (chained lo or "contact"), got {pair!r}'
            )
        return float(lo), float(hi)

    def __len__(self) -> int:
        """Return the number of structures."""
        return self.random + self.chained + self.gapped

    @property
    def d_reference(self) -> float:
        """D of D* = 1: NaN, not known before all structures are solved."""
        return math.nan

    def centers(self, numbers: list[int], device: torch.device | str = "cpu") -> Tensor:
        """Return the centres of some structures, float32 [B, N, 3], as `arrange` does."""
        return arrange(self, numbers, device)

    def case(self, number: int) -> Case:
        """Return what structure `number` is, a function of the seed and the number."""
        if number < self.random:
            return Case("random")
        number -= self.random
        if number < self.chained:
            return Case("chained", distance=self.ranges[number * len(self.ranges) // self.chained])
        number -= self.chained
        slabs, is_chained = divmod(number * 6 // self.gapped, 2)
        words = philox(self.seed, 0, _CHOICE, number, Stream.FAMILY)
        lo, hi = self.widths[slabs]
        choices = list(itertools.combinations(range(3), slabs + 1))
        return Case(
            "gapped",
            distance=self.ranges[int(pick(words[0], len(self.ranges)))] if is_chained else None,
            gap=lo + (hi - lo) * float(uniform(words[1])),
            axes=choices[int(pick(words[2], len(choices)))],
        )

    def rules(self, cases: list[Case], seed: int) -> Rules:
        """Return the rules of structures of these cases."""
        ranges = [case.distance or (0.0, 0.0) for case in cases]
        return Rules(
            n_particles=self.particles, box=float(self.box), diameter=float(self.diameter), seed=seed,
            distance=torch.tensor(ranges, dtype=torch.float64).reshape(-1, 2),
            gap=torch.tensor([case.gap or 0.0 for case in cases], dtype=torch.float64),
            axes=torch.tensor([[axis in (case.axes or ()) for axis in range(3)] for case in cases]).reshape(-1, 3),
        )  # fmt: skip

    def _check(self, case: Case) -> None:
        """Raise ValueError for a case that no arrangement can satisfy."""
        place(
            case.family, n_structures=0, n_particles=self.particles, box=self.box, diameter=self.diameter,
            distance=case.distance, gap=case.gap, axes=case.axes, seed=self.seed,
        )  # fmt: skip


def choose(design: Design, count: int | None = None) -> list[int]:
    """Return the numbers of `count` structures, in which each family has its share of the design to within one.

    Any first part of their order is like that, so a smaller count is the start of a larger one. Within a
    family it is the order of frac(number / golden ratio), which spreads them evenly over its ranges.

    Raises
    ------
    ValueError
        For a count that the design does not have.
    """
    count = len(design) if count is None else count
    if not 1 <= count <= len(design):
        raise ValueError(f"structures must lie in 1 … {len(design)}, the size of the design, got {count}")
    order, first = [], 0
    for size in (design.random, design.chained, design.gapped):
        spread = sorted(range(size), key=lambda number: number * 0x9E3779B1 % 2**32)
        order += [((rank + 0.5) / size, first + number) for rank, number in enumerate(spread)]
        first += size
    return [number for _, number in sorted(order)[:count]]


def arrange(design: Design, numbers: list[int], device: torch.device | str = "cpu") -> Tensor:
    """Return the centres of some structures, float32 [B, N, 3], placed together whatever their cases.

    Those that jam are drawn again, up to 31 times, with a seed made of the design's seed and the attempt, so each is
    still a function of seed and number.

    Raises
    ------
    PackingError
        If a structure jams each time.
    """
    cases = [design.case(number) for number in numbers]
    centers = torch.empty(len(numbers), design.particles, 3, device=device)
    left = torch.arange(len(numbers))
    for attempt in range(REDRAWS + 1):
        high, low, *_ = (int(word) for word in philox(design.seed, attempt, _REDRAW, 0, Stream.FAMILY))
        rules = design.rules([cases[b] for b in left.tolist()], (high << 32 | low) if attempt else design.seed)
        ids = torch.tensor(numbers, dtype=torch.int64)[left]
        found, placed = fill(ids.to(device), rules)
        centers[left.to(device)] = found
        jammed = placed.cpu() < design.particles
        left, count = left[jammed], placed.cpu()[jammed]
        if not len(left):
            return centers
    problem = jam(numbers[left[0]], int(count[0]), design.particles)
    raise PackingError(f"{cases[left[0]]} jammed in {REDRAWS + 1} attempts; the last: {problem}")
