"""Which of the structures that chains met are chosen for an exact label."""

import dataclasses

import numpy as np
import pytest
import torch
from test_annealing import lattice_start, run, wave

from gpuion.dataset import Dataset
from gpuion.relabel import beyond, compare, pick_uniform, select, with_prediction


@pytest.mark.parametrize("maximize", [True, False])
def test_the_selection_is_what_it_says(maximize):
    result = run(lattice_start(3, 8, 12, 3), steps=30, samples=30, maximize=maximize, ids=torch.tensor([4, 2, 9]))
    sign = 1 if maximize else -1
    limit = float(result.visited_score.median())
    few = select(result, 10, limit=limit, maximize=maximize)
    assert few.centers.shape == (13, 8, 3)
    assert torch.equal(few.centers[:3], result.best_centers)
    assert few.chain[:3].tolist() == [4, 2, 9]
    assert bool((sign * (few.predicted[3:] - limit) >= 0).all())
    for selection in (few, select(result, 1000, limit=limit, maximize=maximize)):
        assert torch.equal(wave(selection.centers), selection.predicted)
        flat = selection.centers.flatten(1)
        assert all(not torch.equal(flat[3 + k], flat[c]) for k in range(len(flat) - 3) for c in range(3))
        for centers, chain, cycle in list(zip(selection.centers, selection.chain, selection.cycle, strict=True))[3:]:
            c = [4, 2, 9].index(int(chain))
            assert bool((result.visited[c, result.visited_cycle == cycle] == centers).flatten(1).all(1).any())
    beyond = select(result, 10, limit=sign * 1e9, maximize=maximize)
    kept = sign * select(result, 1000, limit=limit, maximize=maximize).predicted[3:]
    assert torch.equal(sign * beyond.predicted[3:], kept.sort(descending=True).values[:10])
    assert len(select(result, 0, limit=limit, maximize=maximize).chain) == 3


def test_a_selection_without_visited_structures_is_the_best_ones():
    result = run(lattice_start(3, 8, 12, 3), samples=0)
    assert torch.equal(select(result, 10, limit=0.0, maximize=True).centers, result.best_centers)


def test_picks_are_uniform_in_score():
    """3200 of 100 000 scores crowded at 0: 100 a bin to within the one that the last, partial round adds."""
    u = torch.rand(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = u.pow(3)  # the last tenth of [0, 1] holds 3.5%, a bin of 1/32 about 1%: 1000 scores
    chosen = pick_uniform(scores, 3200, low=0.0, high=1.0, seed=1)
    assert chosen.unique().numel() == 3200
    assert torch.equal(chosen, chosen.sort().values)
    assert set((scores[chosen] * 32).long().bincount().tolist()) == {100}
    assert not torch.equal(chosen, pick_uniform(scores, 3200, low=0.0, high=1.0, seed=2))


def test_picks_take_all_when_there_are_too_few_and_stay_in_range():
    scores = torch.tensor([0.1, 0.9, 1.5, 1.2, 1.0, 3.0])
    assert pick_uniform(scores, 10, low=1.0, high=2.0).tolist() == [2, 3, 4]
    assert pick_uniform(scores, 10, low=5.0, high=6.0).tolist() == []
    assert pick_uniform(scores, 0, low=0.0, high=6.0).tolist() == []
    assert pick_uniform(torch.ones(4), 3, low=1.0, high=1.0).shape == (3,)
    with pytest.raises(ValueError, match="low ≤ high"):
        pick_uniform(scores, 1, low=1.0, high=0.0)


@pytest.mark.parametrize(("maximize", "named"), [(True, [1.2, 0.8, 1.1]), (False, [0.7, 0.8, 0.6])])
def test_what_no_network_predicted_is_not_compared(maximize, named):
    D = torch.tensor([0.6, 0.8, 1.1], dtype=torch.float64)
    nan = torch.full((3,), torch.nan, dtype=torch.float64)
    found = Dataset(
        centers=torch.zeros(3, 1, 3), diffusivity=D[:, None].expand(3, 3), standard_error=torch.zeros(3, 3),
        id=torch.arange(3), family=np.full(3, "annealed-max"), distance=nan[:, None].expand(3, 2), gap=nan,
        axes=torch.zeros(3, 3) > 0, box=10.0, diameter=1.0, sites_per_voxel=1, method="exact", d_reference=1.0,
        predicted=nan,
    )  # fmt: skip
    assert with_prediction(found) is None
    best = named[2]
    expected = {"exact": best, "best": best, "data": 0.5, "ratio": best / 0.5}
    assert compare(found, 0.5, maximize=maximize) == pytest.approx(expected, rel=1e-15)
    some = dataclasses.replace(found, predicted=torch.tensor([torch.nan, named[0], torch.nan], dtype=torch.float64))
    expected |= {"predicted": named[0], "exact": named[1]}
    assert compare(some, 0.5, maximize=maximize) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("maximize", [True, False])
def test_those_beyond_are_counted_as_they_are_chosen(maximize):
    result = run(lattice_start(3, 8, 12, 3), steps=30, samples=30, maximize=maximize)
    limit = float(result.visited_score.median())
    some, number = beyond(result, limit, maximize=maximize)
    everything = select(result, 10**6, limit=limit, maximize=maximize).predicted[3:]
    assert number == len(everything)
    assert some == int((everything > limit if maximize else everything < limit).sum())
    assert 0 < some < number
