"""Whole numbers are whole numbers, of whatever integer type; centres may be numpy arrays."""

import numpy as np
import pytest
import torch

import gpuion
from gpuion import descriptors
from gpuion.checks import check_whole, is_between, is_whole

BOX, SIGMA = 20.0, 5.0
CENTERS = torch.tensor([[[2.0, 3.0, 4.0], [10.0, 12.0, 9.0], [15.0, 3.0, 16.0]]])
CELL = {"box": BOX, "diameter": SIGMA}


def two_classes():
    labels = torch.randint(0, 2, (2, 6, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return gpuion.Medium(labels, torch.tensor([1.0, 0.5]), torch.zeros(2))


def walk(**kwargs):
    return gpuion.walk(two_classes(), **{"walkers": 10, "time": 4.0, **kwargs}).slopes


def place(**kwargs):
    arguments = {"n_structures": 2, "n_particles": 3, **CELL, **kwargs}
    return gpuion.place("random", **arguments)


def change(**kwargs):
    return gpuion.change_loading(CENTERS, **{"n_particles": 2, **CELL, **kwargs})


def solve(**kwargs):
    return gpuion.homogenize(two_classes(), **kwargs).tensor


def differentiate(**kwargs):
    return gpuion.effective_diffusivity(torch.zeros(1, 3, 3, 3), **kwargs)


def flow(**kwargs):
    return gpuion.currents(two_classes(), 0, **kwargs)


def pairs(**kwargs):
    return gpuion.pair_distribution(CENTERS, box=BOX, **kwargs)


def draw(**kwargs):
    return gpuion.voxelize(CENTERS, **CELL, **{"voxels": 20, **kwargs})


def label(**kwargs):
    return gpuion.electrolyte(CENTERS, **CELL, **kwargs).labels


NUMBERS = [
    (walk, "walkers", 40), (walk, "seed", 5), (place, "n_structures", 3), (place, "n_particles", 2), (place, "seed", 5),
    (change, "n_particles", 5), (change, "seed", 5), (solve, "max_iterations", 3), (flow, "max_iterations", 90),
    (differentiate, "max_iterations", 90), (pairs, "r_max", 38), (draw, "voxels", 10), (label, "sites_per_voxel", 2),
]  # fmt: skip


@pytest.mark.parametrize(("call", "name", "value"), NUMBERS)
def test_integers_of_numpy_are_integers(call, name, value):
    expected = call(**{name: value})
    for kind in (np.int64, np.uint8, torch.tensor):
        assert torch.equal(call(**{name: kind(value)}), expected)


@pytest.mark.parametrize(("call", "name", "value"), NUMBERS)
def test_fractions_and_truths_are_none(call, name, value):
    for wrong in (value + 0.5, float(value), True, np.True_, torch.tensor(True), str(value), None):
        with pytest.raises(ValueError, match=f"{name.replace('sites_per_voxel', 'sites per voxel')} must be a whole"):
            call(**{name: wrong})


@pytest.mark.parametrize(("call", "count"), [(walk, 2), (place, 2), (change, 1)])
def test_ids_are_integers_of_any_type(call, count):
    expected = call(ids=list(range(7, 7 + count)))
    for ids in (range(7, 7 + count), np.arange(7, 7 + count, dtype=np.uint32), torch.arange(7, 7 + count).int()):
        assert torch.equal(call(ids=ids), expected)
    for ids in ([7.5] * count, np.full(count, 7.0), [True] * count, torch.full((count,), 7j)):
        with pytest.raises(ValueError, match="ids must be integers, got torch"):
            call(ids=ids)
    for ids in ([-1] * count, [2**32] * count):
        with pytest.raises(ValueError, match=r"ids must lie in \[0, 2³²\), got"):
            call(ids=ids)
    with pytest.raises(ValueError, match=f"ids must be {count} integers"):
        call(ids=[1, 2, 3])


def test_axes_are_integers_of_any_type():
    expected = solve(axes=(0, 2))
    for axes in (np.array([2, 0]), [np.int64(0), 2], torch.tensor([0, 2])):
        torch.testing.assert_close(solve(axes=axes), expected, rtol=0, atol=0, equal_nan=True)
    for axes in (np.array([0.0]), [True], [0, 1.0]):
        with pytest.raises(ValueError, match="axes must be one to three different ones of 0, 1 and 2"):
            solve(axes=axes)


def test_centres_may_be_arrays():
    array = CENTERS.numpy()
    for function, kwargs in (
        (gpuion.electrolyte, CELL), (gpuion.voxelize, {**CELL, "voxels": 20}), (gpuion.separate, CELL),
        (gpuion.change_loading, {**CELL, "n_particles": 2}), (gpuion.pair_distribution, {"box": BOX}),
        (descriptors.nearest_distance, {"box": BOX}), (descriptors.clusters, {"box": BOX, "cutoff": 9.0}),
        (descriptors.percolates, {"box": BOX, "cutoff": 9.0}), (descriptors.neighbors, {"box": BOX, "cutoff": 9.0}),
    ):  # fmt: skip
        here, there = function(array, **kwargs), function(CENTERS, **kwargs)
        if isinstance(here, gpuion.Medium):
            here, there = here.labels, there.labels
        here, there = (x[0] if isinstance(x, tuple) else x for x in (here, there))
        assert torch.equal(here, there), function
    here, there = (gpuion.describe(x, box=BOX, cutoff=9.0) for x in (array, CENTERS))
    assert torch.equal(here.sizes, there.sizes)
    here, there = (gpuion.smooth_medium(x, **CELL) for x in (array, CENTERS))
    assert torch.equal(here.potential, there.potential)


def test_what_is_whole():
    assert check_whole("n", np.uint8(3), 3) == 3
    assert type(check_whole("n", np.int64(3), 0)) is int
    assert not is_whole(2, 3)
    assert not is_whole(3.0, 0)
    with pytest.raises(ValueError, match="n must be a whole number, 3 or more, got 2"):
        check_whole("n", 2, 3)


def test_what_lies_between():
    for value in (0.5, np.float32(0.5), torch.tensor(0.5), np.array(0.5)):
        assert is_between(value, 0, 1)
        assert not is_between(value, 0.5, 1)
    for value in (None, "0.5", True, np.True_, torch.tensor(True), float("nan"), [0.5, 0.5], torch.ones(2) / 2, 0.5j):
        assert not is_between(value, 0, 1)


@pytest.mark.parametrize("kind", [torch.uint16, torch.uint32, torch.uint64, torch.int8])
def test_labels_are_integers_of_any_size(kind):
    medium = two_classes()
    same = gpuion.Medium(medium.labels.to(kind), medium.diffusivity, medium.potential)
    assert torch.equal(same.labels, medium.labels)
    with pytest.raises(ValueError, match="labels run over 0 … 100"):
        gpuion.Medium((medium.labels * 100).to(kind), medium.diffusivity, medium.potential)
