import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuion
from gpuion import descriptors
from gpuion.descriptors import clusters, describe, nearest_distance, neighbors, percolates

CASES = [(0, 7, 9.0), (1, 13, 7.2), (2, 13, 7.9), (3, 21, 6.2), (4, 5, 9.9)]  # near the percolation threshold


def structures(seed, B, N, box=20.0):
    return box * torch.rand(B, N, 3, generator=torch.Generator().manual_seed(seed))


def replica(x, box, copies):
    """One structure's spheres and their cells in an open block of copies³ boxes."""
    cells = np.array(list(itertools.product(range(copies), repeat=3)))
    points = (x[None] + box * cells[:, None]).reshape(-1, 3)
    return points, np.repeat(cells, len(x), 0), np.tile(np.arange(len(x)), len(cells))


def union_find(points, cutoff, period=np.inf):
    parent = list(range(len(points)))

    def find(i):
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, p in enumerate(points):
        apart = np.abs(points[i + 1 :] - p)
        for j in np.nonzero((np.minimum(apart, period - apart) ** 2).sum(-1) < cutoff**2)[0] + i + 1:
            parent[find(int(j))] = find(i)
    return np.array([find(i) for i in range(len(points))])


def brute(x, box, cutoff, copies=5):
    """Cluster partition and wrapped axes of one structure, from the replica alone."""
    points, cells, sphere = replica(x.double().numpy(), box, copies)
    root = union_find(points, cutoff)
    together = np.eye(len(x), dtype=bool)
    wraps = np.zeros(3, bool)
    for r in np.unique(root):
        inside = root == r
        together[np.ix_(sphere[inside], sphere[inside])] = True
        for i in np.unique(sphere[inside]):
            mine = cells[inside & (sphere == i)]
            wraps |= (mine != mine[0]).any(0)
    return together, wraps


def wound(x, box, cutoff):
    """Cluster partition and wrapped axes of one structure from its 3 × 3 × 3 replica, itself closed around 3 boxes.

    A loop around the box leads to the next copy of its sphere: the two are one cluster of the replica. Only a loop that
    turns three times around an axis, and around the others, too, would come back to the same copy.
    """
    points, cells, _ = replica(np.mod(x.double().numpy(), box), box, 3)
    root = union_find(points, cutoff, 3 * box).reshape(27, len(x))
    together = (root[:, None, :, None] == root[None, :, None, :]).any((0, 1))
    cells = cells.reshape(27, len(x), 3)[:, 0]
    same = (root[:, None] == root[None]).any(-1)  # two copies hold the same cluster's same sphere
    return together, (same[..., None] & (cells[:, None] != cells)).any((0, 1))


def check_against(oracle, x, box, cutoff):
    label, wraps = clusters(x, box=box, cutoff=cutoff), percolates(x, box=box, cutoff=cutoff)
    found = describe(x, box=box, cutoff=cutoff)
    for b in range(len(x)):
        together, expected = oracle(x[b], box, cutoff)
        np.testing.assert_array_equal((label[b][:, None] == label[b]).numpy(), together)
        assert wraps[b].tolist() == found.percolates[b].tolist() == expected.tolist()
        sizes = sorted({tuple(row.nonzero()[0].tolist()) for row in together}, key=len, reverse=True)
        assert found.sizes[b].tolist() == [*map(len, sizes)] + [0] * (x.shape[1] - len(sizes))
        assert int(found.clusters[b]) == len(sizes)
        assert float(found.largest[b]) == len(sizes[0]) / x.shape[1]
        assert int(found.axes[b]) == sum(expected)
    return wraps


FAMILIES = {"random": {}, "chained": {"distance": (12.5, 13.5)}, "gapped": {"gap": 16.0, "axes": (1,)}}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("N", "box", "B"), [(27, 50.0, 6), (91, 75.0, 2)])
def test_placed_structures_are_those_of_a_3x3x3_replica(family, N, box, B):
    diameter = gpuion.sphere_diameter(N, box, 0.1)
    x = gpuion.place(family, n_structures=B, n_particles=N, box=box, diameter=diameter, seed=5, **FAMILIES[family])
    outcomes = torch.cat(
        [check_against(wound, x, box, cutoff) for cutoff in ((12.9, 14.0, 15.1) if N < 50 else (14.0,))]
    )
    if family == "gapped":
        assert not outcomes[:, 1].any()  # a slab of 16 between surfaces keeps centres 25 apart
    elif N < 50:
        assert outcomes.any()
        assert not outcomes.all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 15)] * 3), min_size=1, max_size=12),
    st.sampled_from([1.1, 2.5, 3.2, 4.0, 5.1, 6.5, 8.0]),
)
def test_spheres_on_a_grid_are_those_of_a_3x3x3_replica(points, cutoff):
    # Coordinates 0, 1, … of a box of 16: half the box, the cutoff and coincidence are all met exactly.
    check_against(wound, torch.tensor([points], dtype=torch.float64), 16.0, cutoff)


@pytest.mark.parametrize(("seed", "N", "cutoff"), CASES)
def test_both_replicas_agree(seed, N, cutoff):
    for x in structures(seed, 3, N):
        for of_open, of_closed in zip(brute(x, 20.0, cutoff), wound(x, 20.0, cutoff), strict=True):
            np.testing.assert_array_equal(of_open, of_closed)


@pytest.mark.parametrize(("seed", "N", "cutoff"), CASES)
def test_clusters_and_percolation_are_those_of_a_replica(seed, N, cutoff):
    x = structures(seed, 6, N)
    label, wraps = clusters(x, box=20.0, cutoff=cutoff), percolates(x, box=20.0, cutoff=cutoff)
    assert label.dtype == torch.int64
    assert wraps.shape == (6, 3)
    for b in range(6):
        together, expected = brute(x[b], 20.0, cutoff)
        np.testing.assert_array_equal((label[b][:, None] == label[b]).numpy(), together)
        assert wraps[b].tolist() == expected.tolist()
        for k in label[b].unique():
            assert int(k) == int((label[b] == k).nonzero()[0])  # the smallest index names the cluster


def test_the_random_cases_hold_all_outcomes():
    found = torch.cat([percolates(structures(s, 6, N), box=20.0, cutoff=c) for s, N, c in CASES])
    assert found.sum(-1).unique().tolist() == [0, 1, 2, 3]


def line(direction, count, box=20.0):
    steps = torch.arange(count, dtype=torch.float64)[:, None] / count
    return (steps * box * torch.tensor(direction, dtype=torch.float64) + 3.0)[None]


@pytest.mark.parametrize(
    ("direction", "count", "expected"),
    [
        ((1, 0, 0), 4, (True, False, False)),
        ((0, 1, 0), 3, (False, True, False)),
        ((1, 1, 0), 5, (True, True, False)),  # closes only after one turn in x and in y
        ((2, 0, 1), 8, (True, False, True)),  # two turns in x for one in z
        ((1, -1, 1), 6, (True, True, True)),
    ],
)
def test_a_closed_line_wraps_along_its_direction(direction, count, expected):
    spacing = 20.0 * float(np.linalg.norm(direction)) / count
    x = line(direction, count)
    assert tuple(percolates(x, box=20.0, cutoff=spacing + 1e-6)[0].tolist()) == expected
    assert not percolates(x, box=20.0, cutoff=spacing - 1e-6).any()
    assert clusters(x, box=20.0, cutoff=spacing + 1e-6).unique().tolist() == [0]


def test_an_open_line_across_the_boundary_does_not_wrap():
    x = line((1, 0, 0), 5)[:, :4] + 9.0
    assert not percolates(x, box=20.0, cutoff=4.5).any()
    assert clusters(x, box=20.0, cutoff=4.5).unique().tolist() == [0]


def test_spheres_half_a_box_apart_are_bound_one_way_only():
    x = torch.tensor([[[0.0, 5.0, 5.0], [10.0, 5.0, 5.0]]])
    assert not percolates(x, box=20.0, cutoff=10.0).any()
    assert clusters(x, box=20.0, cutoff=10.0).tolist() == [[0, 1]]  # not closer than the cutoff
    x[0, 1, 0] = 9.5
    assert not percolates(x, box=20.0, cutoff=10.0).any()
    assert clusters(x, box=20.0, cutoff=10.0).tolist() == [[0, 0]]


def test_results_do_not_depend_on_image_shift_or_batch():
    x = structures(7, 5, 13).double()
    moved = x + torch.tensor([20.0, -40.0, 0.0]) + torch.tensor([3.25, 7.5, -1.125])
    for function in (clusters, percolates):
        whole = function(x, box=20.0, cutoff=6.0)
        assert torch.equal(whole, function(moved, box=20.0, cutoff=6.0))
        assert torch.equal(whole[2:3], function(x[2:3], box=20.0, cutoff=6.0))
    distance = nearest_distance(x, box=20.0)
    # Two float64 subtractions of numbers up to 60: 3 · 60 · 2⁻⁵³ < 1e-13.
    torch.testing.assert_close(distance, nearest_distance(moved, box=20.0), rtol=0, atol=1e-13)


def test_nearest_distance_is_that_of_all_images():
    x = structures(11, 3, 9)
    found = nearest_distance(x, box=20.0)
    assert found.dtype == torch.float64
    for b in range(3):
        points, cells, sphere = replica(x[b].double().numpy(), 20.0, 3)
        middle = (cells == 1).all(-1)
        apart = np.sqrt(((points[middle][:, None] - points[None]) ** 2).sum(-1))
        apart[np.arange(9), np.nonzero(middle)[0]] = np.inf
        assert sphere[middle].tolist() == list(range(9))
        np.testing.assert_allclose(found[b], apart.min(-1), rtol=0, atol=1e-13)  # as above


def test_a_description_is_the_same_in_any_batch(monkeypatch):
    x = structures(7, 9, 13)
    whole = describe(x, box=20.0, cutoff=7.0)
    assert torch.equal(whole.nearest, nearest_distance(x, box=20.0).mean(-1))
    monkeypatch.setattr(descriptors, "_CHUNK", 2 * 13**2 + 1)  # two structures at a time
    for some, part in ((x, slice(None)), (x[4:5], slice(4, 5))):
        found = describe(some, box=20.0, cutoff=7.0)
        for name in ("nearest", "sizes", "percolates", "clusters", "largest", "axes"):
            assert torch.equal(getattr(found, name), getattr(whole, name)[part])
    with pytest.raises(ValueError, match="box / 2"):
        describe(x, box=20.0)  # 14 is more than half this box


def test_a_sphere_alone_sees_its_own_image():
    assert nearest_distance(torch.zeros(2, 1, 3), box=20.0).tolist() == [[20.0], [20.0]]
    assert clusters(torch.zeros(2, 1, 3), box=20.0, cutoff=5.0).tolist() == [[0], [0]]


def test_neighbors_are_symmetric_and_point_at_each_other():
    adjacent, vector = neighbors(structures(5, 4, 11), box=20.0, cutoff=7.0)
    assert torch.equal(adjacent, adjacent.mT)
    assert torch.equal(vector, -vector.transpose(1, 2))
    assert not adjacent.diagonal(dim1=1, dim2=2).any()
    assert torch.equal(adjacent, (vector.norm(dim=-1) < 7.0) & ~torch.eye(11, dtype=torch.bool))


@pytest.mark.parametrize(
    ("centers", "box", "cutoff", "words"),
    [
        (torch.zeros(3, 3), 20.0, 5.0, r"\[B, N, 3\]"),
        (torch.zeros(1, 3, 3, dtype=torch.int64), 20.0, 5.0, "floats"),
        (torch.full((1, 3, 3), torch.nan), 20.0, 5.0, "finite"),
        (torch.zeros(1, 3, 3), -1.0, 5.0, "box|cutoff"),
        (torch.zeros(1, 3, 3), 20.0, 0.0, "cutoff"),
    ],
)
def test_what_cannot_be_used_is_refused(centers, box, cutoff, words):
    for function in (clusters, percolates, neighbors):
        with pytest.raises(ValueError, match=words):
            function(centers, box=box, cutoff=cutoff)


def test_percolation_needs_a_cutoff_of_half_a_box():
    with pytest.raises(ValueError, match="box / 2"):
        percolates(torch.zeros(1, 2, 3), box=20.0, cutoff=10.1)


def test_an_empty_batch_has_an_empty_answer():
    none = torch.zeros(0, 3, 3)
    assert gpuion.pair_distribution(none, box=40.0).shape == (0, 39)
    found = gpuion.describe(none, box=40.0)
    assert (found.nearest.shape, found.sizes.shape, found.percolates.shape) == ((0,), (0, 3), (0, 3))
    with pytest.raises(ValueError, match="with N ≥ 1"):
        gpuion.describe(none[:, :0], box=40.0)
