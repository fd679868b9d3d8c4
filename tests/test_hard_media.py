"""Media that fool a solver: weak links between strong clusters, mazes, axes that nothing leads along."""

import math

import pytest
import torch

import gpuion
from gpuion import Medium, homogenize

WEAK_LINK = """
101221221 133131311 300123123
"""


def weak_link():
    """Return clusters joined by links weaker by 2e-8 than their bonds; class 2 is blocked."""
    rows = [[int(digit) for digit in row] for row in WEAK_LINK.split()]
    labels = torch.tensor(rows, dtype=torch.uint8)[None, :, :, None]
    diffusivity = [1.0, 3.780867051468992e-07, 2.675376314667095e-05, 4.186225631370115e-07]
    return Medium(labels, diffusivity, [-3.5111770253310426, 0.0, math.inf, -0.3339424015764072])


def test_a_weak_link_that_float32_does_not_see_is_found():
    medium = weak_link()
    found, sure = homogenize(medium), homogenize(medium, tolerance=1e-9)
    assert sure.converged.all()
    off = (found.diffusivity - sure.diffusivity).abs() / sure.scale
    assert (off <= 1e-4).all(), off  # it was 3.9e-2 beside an estimate of 0


def maze(edge, seed):
    """Return a spanning tree of corridors one site wide, labels 0 and 1, and a line along each axis; 2 is shut."""
    draw = torch.Generator().manual_seed(seed)
    n = edge // 2
    labels = torch.full((edge, edge, edge), 2, dtype=torch.uint8)
    visited, stack = torch.zeros(n, n, n, dtype=torch.bool), [(0, 0, 0)]
    visited[0, 0, 0] = True
    while stack:
        cell = stack[-1]
        labels[tuple(2 * c for c in cell)] = 0
        steps = []
        for axis in range(3):
            for sign in (-1, 1):
                other = list(cell)
                other[axis] = (other[axis] + sign) % n
                if not visited[tuple(other)]:
                    steps.append((axis, sign, tuple(other)))
        if not steps:
            stack.pop()
            continue
        axis, sign, other = steps[int(torch.randint(len(steps), (), generator=draw))]
        wall = [2 * c for c in cell]
        wall[axis] = (wall[axis] + sign) % edge
        labels[tuple(wall)] = 0
        visited[other] = True
        stack.append(other)
    slow = torch.rand(edge, edge, edge, generator=draw) < 0.5
    labels[slow & (labels == 0)] = 1
    for axis in range(3):  # a tree leads nowhere: open one line each way
        line = [0, 0, 0]
        line[axis] = slice(None)
        labels[tuple(line)] = torch.where(labels[tuple(line)] == 2, 0, labels[tuple(line)])
    return labels


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3])
def test_errors_in_mazes_are_hardly_ever_beyond_their_estimates(tolerance):
    # The hardest media known. Of 72 values 3, 0 and 0 are beyond the tolerance, 11, 0 and 0 beyond their estimates, by
    # 2.1 times at most; where a plateau may last a tenth of the iterations for 0.4, 6 are at 1e-2, by up to 2.1 times.
    medium = Medium(torch.stack([maze(12, seed) for seed in range(24)]), [1.0, 0.02, 1.0], [0.0, 0.0, math.inf])
    found, sure = homogenize(medium, tolerance=tolerance), homogenize(medium, tolerance=1e-9)
    assert found.converged.all()
    off = (found.diffusivity - sure.diffusivity).abs() / sure.scale
    assert (off > tolerance).sum() <= 4
    assert (off > found.error).sum() <= {1e-1: 14, 1e-2: 2, 1e-3: 1}[tolerance]
    assert (off <= {1e-1: 2.5, 1e-2: 1.5, 1e-3: 1.5}[tolerance] * found.error).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edge", "seeds", "bounds"),
    [  # measured: 15, 4, 0 of 216 by up to 2.07, 2.49, 0.21 times; 19, 0, 0 of 72 by up to 1.92, 0.57, 0.19 times
        (12, range(24, 96), [(1e-1, 18, 2.5), (1e-2, 6, 3.0), (1e-3, 1, 1.2)]),
        (16, range(24), [(1e-1, 23, 2.5), (1e-2, 2, 1.5), (1e-3, 1, 1.2)]),
    ],
)
def test_errors_in_more_mazes_may_be_three_times_their_estimates(edge, seeds, bounds):
    medium = Medium(torch.stack([maze(edge, seed) for seed in seeds]), [1.0, 0.02, 1.0], [0.0, 0.0, math.inf])
    sure = homogenize(medium, tolerance=1e-9)
    for tolerance, often, times in bounds:
        found = homogenize(medium, tolerance=tolerance)
        off = (found.diffusivity - sure.diffusivity).abs() / sure.scale
        assert (off > found.error).sum() <= often
        assert (off <= times * found.error).all()


@pytest.mark.parametrize("seed", range(4))
def test_nothing_passes_where_no_cluster_leads(seed):
    labels = (torch.rand(2, 10, 9, 8, generator=torch.Generator().manual_seed(seed)) < 0.8).to(torch.uint8)
    labels[:, 0, 0, 0] = 0
    labels[1, :, 4, 3] = 0  # a line along x of the second structure alone
    medium = Medium(labels, [1.0, 1.0], [0.0, math.inf])
    found = homogenize(medium)
    leads = torch.tensor([[False, False, False], [True, False, False]])
    assert found.converged.all()
    assert ((found.diffusivity > 1e-9) == leads).all()
    assert (found.diffusivity[~leads] == 0).all()
    assert (found.error[~leads] == 0).all()
    tau = gpuion.tortuosity(medium)
    assert torch.equal(torch.isinf(tau), ~leads)


def test_a_step_in_a_closed_wall_lets_nothing_through():
    labels = torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
    labels[:, 2, :4] = labels[:, 3, 4:] = 1
    labels[:, 2:4, 3] = labels[:, 2:4, 4] = labels[:, 2:4, 7] = labels[:, 2:4, 0] = 1
    found = homogenize(Medium(labels, [1.0, 1.0], [0.0, math.inf]))
    assert float(found.diffusivity[0, 0]) == 0
    assert (found.diffusivity[0, 1:] > 0.1).all()
