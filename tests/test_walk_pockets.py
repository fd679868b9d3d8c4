"""Weight in closed pockets, exactly, and what the walk makes of it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuion
from gpuion.kernels.pockets import pockets


def medium(labels, diffusivity=(1.0, 1.0), potential=(0.0, math.inf)):
    return gpuion.Medium(torch.as_tensor(labels), torch.tensor(diffusivity), torch.tensor(potential))


def flood(conducts):
    """Go everywhere from every site, counting cells; return whether each site's cluster leads out, [X, Y, Z, 3]."""
    shape, out = np.array(conducts.shape), np.zeros((*conducts.shape, 3), bool)
    visited = np.zeros(conducts.shape, bool)
    for seed in zip(*conducts.nonzero(), strict=True):
        if visited[seed]:
            continue
        cells, stack, leads = {seed: np.zeros(3, int)}, [seed], np.zeros(3, bool)
        while stack:
            site = stack.pop()
            for step in np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)]):
                cell, new = np.divmod(np.array(site) + step, shape)
                new, cell = tuple(new), cells[site] + cell
                if conducts[new] and new not in cells:
                    cells[new] = cell
                    stack.append(new)
                elif conducts[new]:
                    leads |= cells[new] != cell
        for site in cells:
            visited[site], out[site] = True, leads
    return out


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 6)] * 3), st.floats(0.15, 0.9), st.integers(0, 2**31))
def test_pockets_are_those_of_a_flood(shape, share, seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=(2, *shape), p=[share, 0.5 * (1 - share), 0.5 * (1 - share)]).astype(np.uint8)
    labels[:, 0, 0, 0] = 0
    weight = np.array([[1.0, 0.25, 0.0]] * 2)  # class 1 holds ions that cannot move
    ours = pockets(torch.from_numpy(labels), torch.tensor([True, False, False]), torch.from_numpy(weight))
    for b in range(2):
        out = flood(labels[b] == 0)
        pi = weight[b, labels[b]]
        assert float(ours[0][b]) == pytest.approx(1 - pi[out.any(-1)].sum() / pi.sum(), abs=1e-12)
        assert ours[1][b].tolist() == out.any((0, 1, 2)).tolist()


def test_a_spiral_leads_along_two_axes_at_once():
    # A staircase of unit steps in the x-y plane closes on itself one cell further along x and y.
    labels = torch.ones(1, 4, 4, 3, dtype=torch.uint8)
    for i in range(4):
        labels[0, i, i, 1] = labels[0, (i + 1) % 4, i, 1] = 0
    run = gpuion.walk(medium(labels), walkers=100, time=5.0)
    assert run.trapped.tolist() == [0.0]
    assert (run.standard_error[0] > 0).tolist() == [True, True, False]
    assert gpuion.homogenize(medium(labels)).diffusivity[0].gt(1e-3).tolist() == [True, True, False]


def test_weight_in_pockets_is_reported_and_counts_in_both_answers():
    # A channel along z, and shut rooms of two sites that hold more weight than it: e per site against 1.
    labels = torch.full((1, 9, 9, 6), 2, dtype=torch.uint8)
    labels[0, 0:4, 0:4] = 0
    labels[0, 5:8:2, 5:8:2, 1:3] = 1
    rooms, channel = 8 * math.e, 96
    m = medium(labels, (1.0, 1.0, 1.0), (0.0, -1.0, math.inf))
    run, exact = gpuion.walk(m, walkers=3000, time=60.0, seed=3), gpuion.homogenize(m, tolerance=1e-6).diffusivity
    assert float(run.trapped) == pytest.approx(rooms / (rooms + channel), rel=1e-12)
    assert float(exact[0, 2]) == pytest.approx(channel / (rooms + channel), rel=1e-5)
    assert run.converged.tolist() == [True]
    assert abs(float((run.diffusivity - exact)[0, 2])) < 4 * float(run.standard_error[0, 2])
    # Ions in the rooms move and get nowhere: x and y are shut, exactly.
    assert run.diffusivity[0, :2].tolist() == run.standard_error[0, :2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("time", [40.0, "auto"])
def test_where_all_is_trapped_nothing_diffuses(time):
    labels = torch.ones(1, 6, 6, 6, dtype=torch.uint8)
    labels[0, 1:4, 1:4, 2:5] = 0
    run = gpuion.walk(medium(labels), walkers=50, time=time)
    assert run.trapped.tolist() == [1.0]
    assert int(run.hops) > 0
    assert run.diffusivity.tolist() == [[0.0] * 3]
    assert run.converged.tolist() == [True]
    # The walkers agree: beyond the room's relaxation time their slopes are zero within errors.
    assert float((run.slopes[0, -1].abs() / run.slope_errors[0, -1]).max()) < 4


def test_an_open_medium_has_no_pockets():
    run = gpuion.walk(gpuion.Medium(torch.zeros(1, 3, 1, 2, dtype=torch.uint8), [1.0], [0.0]), walkers=10, time=2.0)
    assert run.trapped.tolist() == [0.0]


def test_ions_that_cannot_move_are_trapped():
    labels = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    labels[0, :2] = 1
    run = gpuion.walk(medium(labels, (1.0, 0.0), (0.0, 0.0)), walkers=40, time=10.0)
    assert run.trapped.tolist() == [0.5]
    assert run.diffusivity[0, 0] == 0
