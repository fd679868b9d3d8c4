"""Placing: exact constraints in float64, statistics against a slow RSA written here, and clear failure."""

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuion
from gpuion import insertion, packing
from gpuion.kernels.reference import Stream, philox, uniform

SIGMA = gpuion.sphere_diameter(91, 75.0, 0.1)


def separations(centers, box):
    """Nearest-image distances [B, N, N] in float64, infinite on the diagonal."""
    c = centers.double()
    delta = c[:, :, None] - c[:, None]
    delta -= box * torch.round(delta / box)
    return delta.square().sum(-1).sqrt() + torch.diag(torch.full((c.shape[1],), math.inf, dtype=torch.float64))


def place(family, n=8, **kwargs):
    return gpuion.place(family, **{"n_structures": n, "n_particles": 91, "box": 75.0, "diameter": SIGMA, **kwargs})


def test_diameter_of_the_paper():
    assert pytest.approx(9.6024, abs=5e-5) == SIGMA
    assert 91 * math.pi * SIGMA**3 / (6 * 75**3) == pytest.approx(0.1, rel=1e-12)


FAMILIES = [
    ("random", {}),
    ("chained", {"distance": (SIGMA, 11.0)}),
    ("chained", {"distance": (12.5, 13.5)}),
    ("chained", {"distance": (20.0, 30.0)}),
    ("gapped", {"gap": 26.0, "axes": (2,)}),
    ("gapped", {"gap": 22.0, "axes": (0, 1, 2)}),
    ("gapped", {"gap": 20.0, "axes": (0, 1), "distance": (12.5, 13.5)}),
]


@pytest.mark.parametrize(("family", "kwargs"), FAMILIES)
def test_no_overlap_and_inside_the_box(family, kwargs):
    centers = place(family, **kwargs)
    assert centers.dtype == torch.float32
    assert centers.shape == (8, 91, 3)
    assert bool(((centers >= 0) & (centers.double() < 75.0)).all())
    assert float(separations(centers, 75.0).min()) >= SIGMA


# Of version 0.1.0 when it placed one structure at a time: what is placed for a seed and an id never changes.
DIGESTS = ["2bf0baa70551d49b", "947c07121dddc647", "fce807aaaf3ca3a9", "84f78d6cdddcb10b"]
DIGESTS += ["2adbf6c3154fd0c3", "5666b0eef8999f10", "7b9bff5cb9cb312f"]


@pytest.mark.parametrize("k", range(7))
def test_structures_are_those_of_the_first_version(k):
    family, kwargs = FAMILIES[k]
    assert hashlib.sha256(place(family, **kwargs).numpy().tobytes()).hexdigest()[:16] == DIGESTS[k]


def mixed(n_particles, box, narrow):
    """Rules of one structure of each family, gaps divided by `narrow`."""
    rows = [packing._check_family(family, 1, box, SIGMA, *options(kwargs, narrow)) for family, kwargs in FAMILIES]
    distance, gap, axes = (torch.cat(column) for column in zip(*rows, strict=True))
    return insertion.Rules(
        n_particles=n_particles, box=box, diameter=SIGMA, seed=5, distance=distance.nan_to_num(0.0), gap=gap, axes=axes
    )


def options(kwargs, narrow):
    gap = kwargs.get("gap")
    return kwargs.get("distance"), gap and gap / narrow, kwargs.get("axes")


MIXED_IDS = torch.tensor([3, 0, 77, 5, 2**32 - 1, 6, 7])


@pytest.mark.parametrize("tested", [2**12, 2**9, 1])
def test_the_gpu_path_is_the_cpu_path_bit_for_bit(tested, monkeypatch):
    # The batched tensor program, run here on CPU tensors, is what a GPU runs; the scalar loop is its oracle. Gaps are
    # so wide that a few draws do: a million of them take minutes as tensors on a CPU.
    rules = mixed(9 if tested < 2**12 else 15, 45.0, narrow=2)
    slabs = torch.stack([uniform(word) for word in philox(5, 0, 0, MIXED_IDS, Stream.SLAB)[:3]], -1) * 45.0
    pairs, apart = [], insertion._apart

    def watched(points, centers, *more):
        pairs.append(points.shape[0] * points.shape[1] * (centers.shape[1] + insertion._PER_DRAW))
        return apart(points, centers, *more)

    monkeypatch.setattr(insertion, "_TESTED", tested)
    monkeypatch.setattr(insertion, "_apart", watched)
    centers, placed = insertion.fill_batch(MIXED_IDS, slabs, rules)
    assert bool((placed == rules.n_particles).all())
    assert max(pairs) <= max(tested, rules.n_particles + insertion._PER_DRAW)
    assert max(pairs) > tested / 2
    assert torch.equal(centers, packing.fill(MIXED_IDS, rules)[0])


@pytest.mark.parametrize("hi", [0.0, 1.3])
def test_cells_find_every_overlap_that_a_test_of_all_spheres_finds(hi):
    ids, zeros = torch.tensor([4, 9]), torch.zeros(2, dtype=torch.float64)
    rules = insertion.Rules(
        n_particles=300, box=60.0, diameter=gpuion.sphere_diameter(300, 60.0, 0.25), seed=3, gap=zeros,
        distance=torch.tensor([[1.0, hi] if hi else [0.0, 0.0]] * 2, dtype=torch.float64) * 7.4,
        axes=torch.zeros(2, 3, dtype=torch.bool),
    )  # fmt: skip
    centers, placed = insertion.fill_batch(ids, torch.zeros(2, 3, dtype=torch.float64), rules)
    assert placed.tolist() == [300, 300]
    assert torch.equal(packing.fill(ids, rules)[0], centers)


def test_a_hundred_thousand_spheres_find_room_and_too_many_are_refused():
    centers = gpuion.place("random", n_structures=1, n_particles=100_000, box=500.0, volume_fraction=0.3)
    assert tuple(centers.shape) == (1, 100_000, 3)
    with pytest.raises(ValueError, match="ask for less"):
        gpuion.place("random", n_structures=1, n_particles=10**12, box=1e6, volume_fraction=0.01)


def test_a_mixed_batch_holds_the_structures_of_each_family():
    rules = mixed(91, 75.0, narrow=1)
    centers, _ = packing.fill(MIXED_IDS, rules)
    for b, (family, kwargs) in enumerate(FAMILIES):
        assert torch.equal(centers[b : b + 1], place(family, 1, ids=MIXED_IDS[b : b + 1], seed=5, **kwargs))


def test_each_structure_may_have_its_own_numbers():
    gap, axes = torch.tensor([14.0, 20.0, 17.0]), torch.eye(3, dtype=torch.bool)
    distance = torch.tensor([[12.5, 13.5], [math.nan, math.nan], [11.0, 12.5]])
    together = place("gapped", 3, gap=gap, axes=axes, distance=distance)
    for b in range(3):
        own = None if b == 1 else distance[b].tolist()
        assert torch.equal(together[b : b + 1], place("gapped", 1, ids=[b], gap=float(gap[b]), axes=(b,), distance=own))
    ranges = [[12.5, 13.5], [20.0, 30.0]]
    pair = place("chained", 2, distance=ranges)
    assert torch.equal(pair[1:], place("chained", 1, ids=[1], distance=ranges[1]))


@pytest.mark.parametrize(("family", "kwargs"), FAMILIES)
def test_a_structure_depends_on_seed_and_id_alone(family, kwargs):
    batch = place(family, **kwargs)
    alone = place(family, 1, ids=[5], **kwargs)
    assert torch.equal(batch[5:6], alone)
    assert not torch.equal(batch[5:6], place(family, 1, ids=[5], seed=1, **kwargs))
    assert not torch.equal(batch[5], batch[6])


@pytest.mark.parametrize("low_high", [(SIGMA, 11.0), (13.5, 14.5), (20.0, 30.0)])
def test_chained_spheres_have_an_earlier_one_in_range(low_high):
    distance = separations(place("chained", 16, distance=low_high), 75.0)
    in_range = ((distance >= low_high[0]) & (distance <= low_high[1])).tril(-1)
    assert bool(in_range.any(-1)[:, 1:].all())


def test_chained_distances_are_uniform_in_the_shell():
    # The second of two spheres far below contact pressure: r³ is uniform in [lo³, hi³].
    low, high = 12.0, 20.0
    pair = gpuion.place("chained", n_structures=4000, n_particles=2, box=60.0, diameter=5.0, distance=(low, high))
    delta = (pair[:, 1] - pair[:, 0]).double()
    delta -= 60 * torch.round(delta / 60)
    r = delta.norm(dim=-1)
    cube = (r**3 - low**3) / (high**3 - low**3)
    # A uniform mean over n draws has σ = 1/√(12 n); direction cosines have mean 0, σ = 1/√(3 n). Four σ.
    assert abs(float(cube.mean()) - 0.5) < 4 / math.sqrt(12 * 4000)
    assert float((delta / r[:, None]).mean(0).abs().max()) < 4 / math.sqrt(3 * 4000)
    assert abs(float((delta[:, 2] / r).square().mean()) - 1 / 3) < 4 * math.sqrt(4 / 45 / 4000)


def test_the_first_64_draws_keep_to_the_previous_sphere():
    # Spheres of a thin chain in a wide box: nearly every one finds its place next to the one before it.
    centers = gpuion.place("chained", n_structures=50, n_particles=20, box=120.0, diameter=5.0, distance=(8.0, 9.0))
    distance = separations(centers, 120.0)
    previous = torch.diagonal(distance, -1, 1, 2)
    assert float(((previous >= 8) & (previous <= 9)).double().mean()) > 0.97


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("distance", [None, (12.5, 13.5)])
def test_slabs_are_empty(axes, distance):
    centers = place("gapped", 8, gap=16.0, axes=axes, distance=distance).double()
    for axis in range(3):
        along = centers[:, :, axis].sort(-1).values
        widest = torch.diff(torch.cat([along, along[:, :1] + 75.0], -1), dim=-1).max(-1).values - SIGMA
        if axis in axes:
            assert float(widest.min()) >= 16.0
        elif distance is None:
            assert float(widest.max()) < 16.0  # 91 spheres leave no such gap by chance


def test_positions_are_uniform():
    # Each coordinate of plain RSA is uniform by symmetry. χ² over 25 bins has mean 24, σ = √48 for independent draws;
    # exclusion makes counts more even than that, so four σ above is generous.
    centers = place("random", 200)
    for axis in range(3):
        counts = np.histogram(centers[..., axis].numpy(), bins=25, range=(0, 75))[0]
        expected = counts.sum() / 25
        assert ((counts - expected) ** 2 / expected).sum() < 24 + 4 * math.sqrt(48)


def slow_rsa(rng, n, box, diameter):
    """Plain RSA as a textbook has it."""
    centers = []
    while len(centers) < n:
        trial = rng.uniform(0, box, 3)
        for other in centers:
            delta = trial - other
            delta -= box * np.round(delta / box)
            if delta @ delta < diameter**2:
                break
        else:
            centers.append(trial)
    return np.array(centers)


def pair_counts(centers, box, edges):
    distance = separations(torch.as_tensor(centers), box)
    pairs = distance[:, *torch.triu_indices(distance.shape[1], distance.shape[1], 1)]
    return torch.stack([torch.histogram(row, edges)[0] for row in pairs])


def test_pair_distances_agree_with_a_slow_rsa():
    n, box, diameter, count = 40, 30.0, 5.0, 150
    rng = np.random.default_rng(1)
    edges = torch.tensor([5.0, 5.5, 6, 7, 8, 9, 10, 12, 14], dtype=torch.float64)
    slow = pair_counts(np.array([slow_rsa(rng, n, box, diameter) for _ in range(count)]), box, edges)
    fast = pair_counts(
        gpuion.place("random", n_structures=count, n_particles=n, box=box, diameter=diameter), box, edges
    )
    error = torch.sqrt((slow.var(0) + fast.var(0)) / count)  # standard error of the difference, from the structures
    # Eight bins, four σ: chance of a false alarm 5e-4.
    assert bool(((slow.mean(0) - fast.mean(0)).abs() < 4 * error).all())


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 40),
    box=st.floats(8.0, 90.0),
    fraction=st.floats(0.001, 0.25),
    seed=st.integers(0, 2**64 - 1),
)
def test_any_request_below_saturation_is_met_or_refused(n, box, fraction, seed):
    diameter = gpuion.sphere_diameter(n, box, fraction)
    try:
        centers = gpuion.place("random", n_structures=2, n_particles=n, box=box, diameter=diameter, seed=seed)
    except gpuion.PackingError:
        assert fraction > 0.2  # below that even a few spheres in a small box find room
        return
    assert bool((centers.double() < box).all())
    if n > 1:
        assert float(separations(centers, box).min()) >= diameter


@pytest.mark.parametrize(
    ("family", "kwargs", "message"),
    [
        ("random", {"diameter": None, "volume_fraction": 0.4}, "saturates"),
        ("random", {"n_particles": 0}, "n_particles"),
        ("random", {"box": -1.0}, "box"),
        ("random", {"volume_fraction": 0.1}, "either"),
        ("random", {"diameter": math.nan}, "diameter"),
        ("random", {"distance": (11, 12)}, "chained"),
        ("random", {"gap": 10.0, "axes": (0,)}, "gapped"),
        ("random", {"ids": [1, 2]}, "ids"),
        ("random", {"ids": range(-1, 7)}, "ids"),
        ("random", {"seed": -1}, "seed"),
        ("chained", {}, "distance"),
        ("chained", {"distance": (9.0, 11.0)}, "diameter"),
        ("chained", {"distance": (12.0, 11.0)}, "lo < hi"),
        ("chained", {"distance": (65.0, 70.0)}, "apart"),
        ("gapped", {"gap": 20.0}, "axes"),
        ("gapped", {"gap": 20.0, "axes": (0, 0)}, "axes"),
        ("gapped", {"gap": 20.0, "axes": (3,)}, "axes"),
        ("gapped", {"gap": 66.0, "axes": (0,)}, "no room"),
        ("gapped", {"gap": -1.0, "axes": (0,)}, "positive"),
        ("gapped", {"gap": [20.0] * 7 + [0.0], "axes": (0,)}, "positive"),
        ("gapped", {"gap": [20.0] * 7 + [70.0], "axes": (0,)}, "70.0 leaves no room"),
        ("gapped", {"gap": [20.0] * 3, "axes": (0,)}, r"gap must have shape \[\] or \[8\]"),
        ("gapped", {"gap": 20.0, "axes": torch.ones(7, 3, dtype=torch.bool)}, "axes must be bool"),
        ("gapped", {"gap": 20.0, "axes": torch.ones(9, 3, dtype=torch.bool)}, "axes must be bool"),
        ("gapped", {"gap": 20.0, "axes": torch.zeros(8, 3, dtype=torch.bool)}, "axes must be bool"),
        ("gapped", {"gap": math.nan, "axes": (0,)}, "positive"),
        ("chained", {"distance": [(12.0, 13.0)] * 6 + [(12.0, 11.0), (15.0, 14.0)]}, "lo < hi, got 12, 11"),
        ("chained", {"distance": [(12.0, 13.0)] * 7 + [(math.nan, math.nan)]}, "lo < hi"),
        ("chained", {"distance": 12.0}, "distance must have shape"),
        ("hexagonal", {}, "family"),
    ],
)
def test_impossible_requests_are_refused_before_work_starts(family, kwargs, message):
    with pytest.raises(ValueError, match=message):
        place(family, **kwargs)


def test_a_jam_says_how_far_it_got():
    with pytest.raises(gpuion.PackingError, match=r"holds \d\d of 91 spheres .* draws"):
        place("gapped", 2, gap=26.0, axes=(0, 1, 2))


def test_an_empty_batch_is_empty():
    assert place("random", 0).shape == (0, 91, 3)
    with pytest.raises(ValueError, match="n_structures"):
        place("random", -1)
