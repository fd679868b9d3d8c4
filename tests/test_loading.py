"""Other volume fractions from the same arrangements."""

import math

import pytest
import torch

import gpuion
from gpuion import PackingError, insertion

CELL = {"box": 75.0, "diameter": gpuion.sphere_diameter(91, 75.0, 0.1)}


@pytest.fixture(scope="module")
def chained():
    return gpuion.place("chained", n_structures=5, n_particles=91, **CELL, distance=(12.5, 13.5), seed=3)


def least_distance(centers, box):
    """Return the smallest distance between two spheres of each structure, images included, float64 [B]."""
    apart = centers.double()[:, :, None] - centers.double()[:, None]
    apart = (apart - box * (apart / box).round()).square().sum(-1).sqrt()
    apart.diagonal(dim1=1, dim2=2).fill_(math.inf)
    return apart.flatten(1).min(-1).values


def positions(old, new):
    """Return where each sphere of a new structure stands in the old one; fails if it is not there."""
    same = (new[:, None] == old[None]).all(-1)
    assert (same.sum(-1) == 1).all()
    return same.int().argmax(-1)


def test_thinned_structures_hold_some_of_their_spheres_in_order(chained):
    thin = gpuion.change_loading(chained, 46, **CELL, seed=1)
    assert thin.shape == (5, 46, 3)
    chosen = [positions(old, new) for old, new in zip(chained, thin, strict=True)]
    assert all((at.diff() > 0).all() for at in chosen)
    assert len({tuple(at.tolist()) for at in chosen}) == 5  # each its own


def test_each_sphere_stays_as_often_as_any_other():
    n, N, M = 20_000, 13, 5
    centers = torch.arange(float(N))[None, :, None].expand(n, N, 3)
    kept = gpuion.change_loading(centers.contiguous(), M, box=13.0, diameter=0.5, seed=5)[..., 0].long()
    count = torch.bincount(kept.flatten(), minlength=N).double()
    expected, variance = n * M / N, n * M / N * (1 - M / N)
    chi = ((count - expected) ** 2 / variance).sum() * (N - 1) / N  # chi² of N − 1 degrees: mean 12, sigma 4.9
    assert abs(float(chi) - (N - 1)) < 4 * math.sqrt(2 * (N - 1))
    pairs = torch.zeros(N, N, dtype=torch.float64)
    pairs.index_put_((kept[:, 0], kept[:, 1]), torch.ones(n, dtype=torch.float64), accumulate=True)
    assert pairs[0, 1] / n == pytest.approx(M * (M - 1) / (N * (N - 1)), abs=4 * math.sqrt(0.13 / n))


def test_added_spheres_overlap_nothing_and_leave_the_others_alone(chained):
    full = gpuion.change_loading(chained, 137, **CELL, seed=1)
    assert full.shape == (5, 137, 3)
    assert torch.equal(full[:, :91], chained)
    assert (least_distance(full, 75.0) >= CELL["diameter"]).all()
    assert ((full >= 0) & (full < 75)).all()


def test_added_spheres_lie_anywhere_that_is_free():
    # One sphere in the middle of a box: the second is uniform outside its exclusion sphere, so |x − L/2| on an axis has
    # the mean that 20 000 uniform points outside that sphere have; sigma of either mean is 2.9/√n at most.
    box, diameter, n = 10.0, 4.0, 20_000
    full = gpuion.change_loading(torch.full((n, 1, 3), 5.0), 2, box=box, diameter=diameter, seed=2)[:, 1].double()
    free = torch.rand(4 * n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * box
    free = free[(free - 5).norm(dim=-1) >= diameter]
    for axis in range(3):
        difference = (full[:, axis] - 5).abs().mean() - (free[:, axis] - 5).abs().mean()
        assert abs(float(difference)) < 4 * 1.5 * math.sqrt(1 / n + 1 / len(free))
        assert abs(float(full[:, axis].mean()) - 5) < 4 * 2.9 / math.sqrt(n)


def test_a_structure_goes_its_own_way_in_any_batch(chained):
    for count in (46, 137):
        batch = gpuion.change_loading(chained, count, **CELL, seed=7, ids=[4, 9, 2, 11, 6])
        alone = gpuion.change_loading(chained[3:4], count, **CELL, seed=7, ids=[11])
        assert torch.equal(batch[3:4], alone)
        assert not torch.equal(alone, gpuion.change_loading(chained[3:4], count, **CELL, seed=8, ids=[11]))
        assert not torch.equal(alone, gpuion.change_loading(chained[3:4], count, **CELL, seed=7, ids=[12]))


def test_the_same_number_of_spheres_changes_nothing(chained):
    assert torch.equal(gpuion.change_loading(chained, 91, **CELL), chained)
    assert gpuion.change_loading(chained[:0], 137, **CELL).shape == (0, 137, 3)


def test_filling_up_goes_on_where_placing_stopped():
    few = gpuion.place("random", n_structures=3, n_particles=40, **CELL, seed=4)
    more = gpuion.place("random", n_structures=3, n_particles=60, **CELL, seed=4)
    assert torch.equal(gpuion.change_loading(few, 60, **CELL, seed=4), more)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_particles": 0}, "n_particles"),
        ({"n_particles": 400}, "saturates"),
        ({"seed": -1}, "seed"),
        ({"ids": [1, 2]}, "ids must be 1 integers"),
        ({"centers": torch.zeros(1, 2, 3).double()}, "float32"),
        ({"centers": torch.full((1, 2, 3), 75.0)}, "remainder"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    given = {"centers": torch.zeros(1, 1, 3), "n_particles": 2, **CELL} | change
    with pytest.raises(ValueError, match=message):
        gpuion.change_loading(**given)


def test_a_full_box_says_so(monkeypatch):
    monkeypatch.setattr(insertion, "MAX_DRAWS", 20)
    with pytest.raises(PackingError, match=r"holds . of 9"):
        gpuion.change_loading(torch.full((1, 1, 3), 5.0), 9, box=10.0, diameter=4.2)
