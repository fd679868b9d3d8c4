"""What a walk says of itself: that it has not settled, and what it refuses to walk."""

import math

import pytest
import torch
from walk_media import agree, laminate, two_phase, uniform_medium

import gpuion


def test_a_short_walk_says_so():
    run = gpuion.walk(laminate(), walkers=500, time=5.0)
    assert run.converged.tolist() == [False]
    assert "relaxation time" in run.reason[0]


def test_few_walkers_say_so():
    run = gpuion.walk(uniform_medium(), walkers=2, time=60.0)
    assert run.converged.tolist() == [False]
    assert "more walkers" in run.reason[0]


def test_a_slope_that_still_falls_is_not_called_settled():
    # Large cells joined by rare leaks: fast inside, slow between, so the slope falls long after the cell is explored.
    labels = torch.zeros(1, 24, 24, 24, dtype=torch.uint8)
    for axis in range(3):
        labels.index_fill_(axis + 1, torch.tensor([0]), 1)
    labels[0, 0, 12, 12] = labels[0, 12, 0, 12] = labels[0, 12, 12, 0] = 0
    medium = gpuion.Medium(labels, torch.ones(2), torch.tensor([0.0, math.inf]))
    exact = float(gpuion.homogenize(medium, tolerance=1e-5).diffusivity.mean())
    run = gpuion.walk(medium, walkers=2000, time=1200.0)
    assert float(run.slopes[0, 0].mean()) > 2 * exact
    assert run.converged.tolist() == [False]


def test_a_slow_axis_beside_fast_ones_is_not_called_settled():
    # A wall across x: 0.166 along it, 1 across. Twelve walks too short to settle along x, and for both other axes long
    # enough: the mean of the axes looks settled in nearly all of them.
    labels = torch.zeros(12, 20, 6, 6, dtype=torch.uint8)
    labels[:, 0] = 1
    short = gpuion.Medium(labels, torch.ones(2), torch.tensor([0.0, 8.0]))
    exact = gpuion.homogenize(short[:1], tolerance=1e-6).diffusivity
    run = gpuion.walk(short, walkers=200, time=300.0)
    z = ((run.diffusivity - exact) / run.standard_error)[run.converged]  # [n, 3]
    n = len(z)
    # Four sigma of the mean of n normal numbers, and of their mean square by Wilson and Hilferty, good for few, too.
    # A rule on the mean of the axes claims 11 of the 12 and breaks both bounds along x.
    assert n == 0 or float(z.mean(0).abs().max()) < 4 / math.sqrt(n)
    assert n == 0 or float(z.square().mean(0).max()) < (1 - 2 / (9 * n) + 4 * math.sqrt(2 / (9 * n))) ** 3
    long = gpuion.walk(short[:1], walkers=400, time=6000.0)
    assert bool(long.converged.all())
    agree(long, exact)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"walkers": 1}, "walkers"),
        ({"time": 0.0}, "time"),
        ({"time": math.inf}, "time"),
        ({"time": 1e12}, "shorter"),
        ({"time": 1e300}, "shorter"),
        ({"seed": -1}, "seed"),
        ({"ids": [0, 1]}, "ids"),
    ],
)
def test_walk_refuses_nonsense(kwargs, message):
    with pytest.raises(ValueError, match=message):
        gpuion.walk(uniform_medium(), **{"walkers": 10, "time": 10.0, **kwargs})


def test_walk_refuses_what_it_cannot_resolve():
    labels = torch.randint(0, 2, (1, 4, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    steep = gpuion.Medium(labels, torch.ones(2), torch.tensor([0.0, -30.0]))
    with pytest.raises(ValueError, match="homogenize"):
        gpuion.walk(steep, walkers=10, time=10.0)
    closed = gpuion.Medium(torch.zeros_like(labels), torch.ones(1), torch.tensor([math.inf]))
    with pytest.raises(ValueError, match="no open site"):
        gpuion.walk(closed, walkers=10, time=10.0)


@pytest.mark.parametrize("unit", [1e-160, 1e160])
def test_a_unit_that_numbers_cannot_hold_is_refused(unit):
    medium = two_phase(3)
    scaled = gpuion.Medium(medium.labels, medium.diffusivity * unit, medium.potential)
    with pytest.raises(ValueError, match=r"structure 0: its fastest rate, .* another unit"):
        gpuion.walk(scaled, walkers=40, time=50.0)
