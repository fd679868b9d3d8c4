"""Overlapping spheres moved apart: none overlap in the end, none moves without need, and a batch changes nothing."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuion
from gpuion import separate, separation

BOX = 20.0


def least(centers, box):
    """Return the smallest distance of two spheres of each structure, float64 [B], over the 27 nearest images."""
    x = centers.double()
    gap = x[:, :, None] - x[:, None]
    images = torch.tensor(list(itertools.product((-1, 0, 1), repeat=3))).double() * box
    gap = (gap - box * (gap / box).floor())[..., None, :] + images
    distance = gap.norm(dim=-1).amin(-1)
    return (distance + torch.eye(x.shape[1]) * 10 * box).flatten(1).amin(1)


def crowd(n_structures, N, seed, box=BOX, dtype=torch.float64):
    return (torch.rand(n_structures, N, 3, generator=torch.Generator().manual_seed(seed)) * box).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5])
def test_no_overlaps_are_left(fraction, dtype):
    diameter = gpuion.sphere_diameter(40, BOX, fraction)
    start = crowd(3, 40, 1, dtype=dtype)
    assert (least(start, BOX) < diameter / 2).all()
    found = separate(start, box=BOX, diameter=diameter)
    assert found.dtype == dtype
    # `least` rounds differently: terms of 60 in float64, 60 · 4 · 1.1e-16.
    assert (least(found, BOX) >= diameter - 3e-14).all()
    assert ((found >= 0) & (found < BOX)).all()
    assert not found.requires_grad


def test_a_pair_moves_along_its_line_by_equal_parts():
    pair = torch.tensor([[[19.5, 5.0, 5.0], [0.5, 5.0, 5.0], [10.0, 15.0, 12.0]]])
    found = separate(pair, box=BOX, diameter=3.0)
    # Across the face of the box: they lack 2 and get 2.003.
    expected = torch.tensor([[[18.4985, 5.0, 5.0], [1.5015, 5.0, 5.0], [10.0, 15.0, 12.0]]])
    torch.testing.assert_close(found, expected, rtol=0, atol=4e-6)  # float32 near 20 has steps of 2e-6
    assert torch.equal(found[:, 2], pair[:, 2])


def test_what_has_no_overlaps_is_returned_as_it_is():
    centers = gpuion.place("random", n_structures=3, n_particles=27, box=50.0, volume_fraction=0.1, seed=2)
    diameter = gpuion.sphere_diameter(27, 50.0, 0.1)
    assert torch.equal(separate(centers, box=50.0, diameter=diameter), centers)
    elsewhere = centers.double() - 100.0
    assert torch.equal(separate(elsewhere, box=50.0, diameter=diameter), elsewhere)


def test_a_structure_is_the_same_alone_and_in_a_batch(monkeypatch):
    diameter = gpuion.sphere_diameter(30, BOX, 0.4)
    start = crowd(7, 30, 3)
    start[4] = separate(start[4:5], box=BOX, diameter=diameter)[0]  # one is done at once, others take long
    together = separate(start, box=BOX, diameter=diameter)
    for b in range(7):
        assert torch.equal(separate(start[b : b + 1], box=BOX, diameter=diameter)[0], together[b])
    monkeypatch.setattr(separation, "_PAIRS", 2 * 30**2)
    assert torch.equal(separate(start, box=BOX, diameter=diameter), together)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(separate(start, box=BOX, diameter=diameter), together)
    finally:
        torch.set_num_threads(threads)


def test_centres_that_coincide_part():
    found = separate(torch.full((2, 12, 3), 3.0), box=BOX, diameter=4.0)
    assert (least(found, BOX) >= 4.0 - 3e-14).all()
    assert torch.equal(found[0], found[1])


def test_single_spheres_and_empty_batches_stay():
    lone = torch.tensor([[[25.0, -3.0, 1.0]], [[0.0, 0.0, 0.0]]])
    assert torch.equal(separate(lone, box=BOX, diameter=BOX), lone)
    assert separate(lone[:0], box=BOX, diameter=1.0).shape == (0, 1, 3)
    assert separate(torch.zeros(2, 0, 3), box=BOX, diameter=1.0).shape == (2, 0, 3)


def test_gradients_and_the_input_are_left_alone():
    start = crowd(1, 5, 0).requires_grad_()
    before = start.detach().clone()
    assert not separate(start, box=BOX, diameter=6.0).requires_grad
    assert torch.equal(start.detach(), before)


def test_more_than_close_packing_is_refused():
    with pytest.raises(ValueError, match=r"fill 0\.900 of a box of 20, more than close packing \(0\.7405\)"):
        separate(crowd(1, 50, 0), box=BOX, diameter=gpuion.sphere_diameter(50, BOX, 0.9))
    for wrong, message in (
        (torch.zeros(3, 3), "shape"),
        (torch.full((1, 2, 3), math.nan), "finite"),
        (torch.zeros(1, 2, 3, dtype=torch.int64), "floats"),
    ):
        with pytest.raises(ValueError, match=message):
            separate(wrong, box=BOX, diameter=1.0)
    with pytest.raises(ValueError, match="diameter"):
        separate(crowd(1, 2, 0), box=BOX, diameter=21.0)


def test_what_does_not_fit_is_a_packing_error(monkeypatch):
    monkeypatch.setattr(separation, "_SWEEPS", 50)
    # Two spheres are at most √3/2 L = 17.3205 apart: the first structure just fits, the second never gets there.
    with pytest.raises(gpuion.PackingError, match=r"structure 1 of 2: 2 of 2 spheres .* still overlap after 50 sweeps"):
        separate(torch.tensor([[[0.0, 0, 0], [10, 10, 10]], [[1.0, 1, 1], [9, 9, 9]]]), box=BOX, diameter=17.32)
    with pytest.raises(gpuion.PackingError, match=r"volume fraction 0\.720"):
        separate(crowd(1, 60, 0), box=BOX, diameter=gpuion.sphere_diameter(60, BOX, 0.72))


@settings(max_examples=40, deadline=None)
@given(
    N=st.integers(1, 12),
    fraction=st.floats(0.01, 0.35),
    seed=st.integers(0, 10**6),
    box=st.sampled_from([1e-3, 7.0, 1e4]),
)
def test_any_crowd_at_moderate_density(N, fraction, seed, box):
    diameter = gpuion.sphere_diameter(N, box, fraction)
    found = separate(crowd(1, N, seed, box), box=box, diameter=diameter)
    assert (least(found, box) >= diameter * (1 - 1e-14) - 3e-15 * box).all()
