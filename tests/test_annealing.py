"""Chains of hard spheres: the right distribution, no overlaps, the same alone, in a batch and resumed."""

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuion.steps
from gpuion.annealing import AnnealResult, anneal


def wave(centers):
    """A deterministic float64 score, elementwise but for a sum over spheres in a fixed order."""
    parts = torch.cos(centers.double()[..., 0] * 0.7) + torch.sin(centers.double()[..., 1] * 0.3) * 0.5
    parts = parts + torch.cos(centers.double()[..., 2] * 0.2)
    total = torch.zeros(len(centers), dtype=torch.float64, device=centers.device)
    for i in range(centers.shape[1]):
        total = total + parts[:, i] * (i + 1)
    return total / 10


def lattice_start(C, N, box, spacing, offset=0.3):
    """Spheres on a simple cubic grid, each chain shifted a little."""
    side = int(box // spacing)
    grid = torch.cartesian_prod(*[torch.arange(side).float() * spacing] * 3)[:N]
    shift = torch.arange(C)[:, None, None] * 0.37 + offset
    return torch.remainder(grid + shift, box).float()


def run(centers, *, score=wave, box=12.0, diameter=2.2, cycles=2, steps=60, temperature=0.05, **options):
    return anneal(
        score, centers, box=box, diameter=diameter, cycles=cycles, steps=steps, temperature=temperature, **options
    )


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def smallest_distance(centers, box):
    """All pairs, float64, by brute force."""
    apart = (centers[..., :, None, :].double() - centers[..., None, :, :].double()).abs()
    square = torch.minimum(apart, box - apart).square().sum(-1)
    return square.masked_fill(torch.eye(centers.shape[-2], dtype=torch.bool), math.inf).min().sqrt()


TABLE = torch.tensor([[0.0, 0.9, 0.4], [0.3, 0.0, 1.1], [0.7, 0.2, 0.0]], dtype=torch.float64)


def toy(centers):
    """A score of two spheres on the sites of a 3³ box that tells spheres and axes apart."""
    site = centers.long()
    first = TABLE[0][site[:, 0, 0]] + TABLE[1][site[:, 0, 1]]
    return first + TABLE[2][site[:, 1, 2]] + TABLE[site[:, 0, 2], site[:, 1, 0]]


@pytest.mark.usefixtures("single_thread")
@pytest.mark.parametrize("maximize", [True, False])
def test_a_chain_at_fixed_temperature_samples_the_boltzmann_distribution(maximize):
    """Chi-square over all 27 · 26 states of two spheres; 15 000 chains, each read once.

    A coordinate takes part in a sixth of the steps, and an unbiased step on three sites shrinks what is left
    of its start by cos 120° = −1/2: 1 − 3/2 · 1/6 = 3/4 a step, so 100 steps leave e^-29 of it, and still far
    less than the 1/√15 000 of the test at a temperature at which scores spread over 3.9 T. Chi-square with k
    degrees has mean k and deviation √(2k): 4.5 sigma, at 21 counts a state on average. It does not see a temperature
    that is off by some percent; the mean score does, to 4.5 sigma, too: of each chain's last five of 20 structures,
    from step 80 on, one number is made, and chains are independent. Then at most 4e-4 of a start is left.
    """
    C, T = 15_000, 0.8
    start = torch.tensor([[0.25, 0.25, 0.25], [1.25, 1.25, 1.25]]).expand(C, 2, 3)
    result = run(
        start, score=toy, box=3.0, diameter=1.0, cycles=1, steps=100, temperature=T, samples=20,
        maximize=maximize, seed=5,
    )  # fmt: skip
    sites = list(itertools.product(range(3), repeat=6))
    states = torch.tensor(sites).reshape(-1, 2, 3).float() + 0.25
    allowed = (states[:, 0] != states[:, 1]).any(-1)
    weight = torch.where(allowed, ((1 if maximize else -1) * toy(states) / T).exp(), 0.0)
    expected = C * weight / weight.sum()
    place = result.centers.long().reshape(C, 6) @ torch.tensor([3**k for k in reversed(range(6))])
    counts = place.bincount(minlength=len(sites)).double()
    assert int(counts[~allowed].sum()) == 0
    chi = ((counts - expected).square() / expected)[allowed].sum()
    k = int(allowed.sum()) - 1
    assert k == 701
    assert abs(chi - k) < 4.5 * math.sqrt(2 * k)
    late = result.visited_score[:, -5:].mean(1)
    exact = (weight * toy(states)).sum() / weight.sum()
    assert abs(late.mean() - exact) < 4.5 * late.std() / math.sqrt(C)


@given(
    seed=st.integers(0, 2**40),
    box=st.sampled_from([6, 7, 11]),
    diameter=st.floats(0.9, 2.9),
    maximize=st.booleans(),
    offset=st.floats(-20, 20),
)
@settings(max_examples=25, deadline=None)
def test_spheres_never_overlap_and_keep_their_fractions(seed, box, diameter, maximize, offset):
    N = min(9, int(box // (diameter + 1e-3)) ** 3)
    start = lattice_start(3, N, box, diameter + 1e-3, offset)
    result = run(start, box=float(box), diameter=diameter, temperature=1.0, seed=seed, maximize=maximize, samples=60)
    for structures in (result.visited, result.centers, result.best_centers):
        assert structures.dtype == torch.float32
        assert float(structures.min()) >= 0
        assert float(structures.max()) < box
        if N > 1:
            assert float(smallest_distance(structures, box)) >= diameter * (1 - 1e-12)
    # float32 below 16 is spaced by 2⁻²⁰: so near its start plus whole voxels is a coordinate, however far off
    drift = torch.remainder(result.visited.double() - start[:, None].double() + 0.5, 1) - 0.5
    assert float(drift.abs().max()) <= 2**-20


def test_a_coordinate_that_rounds_up_to_the_box_stays_below_it():
    """0.99999994 + 74 is 75 in float32; the centre must stay in [0, 75) and come back to its first value."""
    edge = math.nextafter(1, 0)
    start = torch.tensor([[[edge, 1.0, 1.0]]], dtype=torch.float32).expand(8, 1, 3)
    start = torch.where(start == 1, 0.99999994, start)
    result = run(start, score=lambda c: c[:, 0, 0] * 0, box=75.0, diameter=2.0, steps=2000, samples=2000)
    assert float(result.visited.max()) < 75
    assert float(result.visited.max()) == float(torch.nextafter(torch.tensor(75.0), torch.tensor(0.0)))
    home = result.visited[result.visited < 1]
    assert torch.equal(home, torch.full_like(home, 0.99999994))


def test_one_step_moves_at_most_one_sphere_by_one_voxel():
    start = lattice_start(5, 8, 12, 3)
    result = run(start, cycles=1, steps=300, samples=300, temperature=1e3)
    path = torch.cat([start[:, None], result.visited], 1).double()
    moved = torch.remainder(path.diff(dim=1) + 6, 12) - 6
    whole = moved.round()
    assert float((moved - whole).abs().max()) < 2**-19
    assert set(whole.unique().tolist()) == {-1.0, 0.0, 1.0}
    steps = whole.abs().sum((-1, -2))
    assert set(steps.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(steps.mean(1), result.acceptance[:, 0])
    # Every sphere goes both ways along every axis; to miss one of 48 in 1500 proposals has a chance of e^-27.
    assert bool(((whole == 1).any(1).any(0) & (whole == -1).any(1).any(0)).all())


@pytest.mark.parametrize("maximize", [True, False])
def test_a_chain_is_the_same_alone_and_in_any_batch(maximize):
    start = lattice_start(6, 8, 12, 3)
    ids = torch.tensor([3, 1, 40, 7, 2**32 - 1, 0])
    batch = run(start, ids=ids, seed=11, maximize=maximize)
    for c in (0, 2, 4):
        alone = run(start[c : c + 1], ids=ids[c : c + 1], seed=11, maximize=maximize)
        assert equal(alone, AnnealResult(**{k: v[c : c + 1] for k, v in vars(batch).items()}))
    backwards = run(start.flip(0), ids=ids.flip(0), seed=11, maximize=maximize)
    assert equal(batch, AnnealResult(**{k: v.flip(0) for k, v in vars(backwards).items()}))
    assert not equal(batch, run(start, ids=ids, seed=12, maximize=maximize))


def test_one_and_two_threads_agree():
    start = lattice_start(40, 8, 12, 3)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(run(start))
    finally:
        torch.set_num_threads(threads)
    assert equal(*results)


def test_draws_do_not_depend_on_how_many_are_made_together(monkeypatch):
    start = lattice_start(3, 8, 12, 3)
    first = run(start, samples=7)
    monkeypatch.setattr(gpuion.steps, "_DRAWN", 17)
    assert equal(run(start, samples=7), first)
    assert torch.equal(run(start, samples=3).trace, first.trace)


@pytest.mark.parametrize("maximize", [True, False])
def test_the_result_is_what_it_says(maximize):
    start = lattice_start(4, 8, 12, 3)
    result = run(start, cycles=5, steps=40, samples=40, maximize=maximize)
    sign = 1 if maximize else -1
    assert result.visited.shape == (4, 200, 8, 3)
    for c in range(4):
        assert torch.equal(wave(result.visited[c]), result.visited_score[c])
    assert torch.equal(result.trace, result.visited_score[:, 39::40])
    best = (sign * torch.cat([wave(start)[:, None], result.visited_score], 1)).cummax(1).values * sign
    assert torch.equal(result.best_trace, best[:, 40::40])
    assert torch.equal(result.best_score, best[:, -1])
    assert torch.equal(wave(result.best_centers), result.best_score)
    assert result.visited_cycle.tolist() == [k for k in range(5) for _ in range(40)]
    assert bool((sign * (result.best_score - wave(start)) > 0.3).all())


def test_annealing_cools():
    """At 1e-9 of the score's scale no loss is accepted; at 1e9 of it every free move is."""
    start = lattice_start(4, 2, 12, 6)
    cold = run(start, steps=200, samples=200, temperature=1e-9)
    assert bool((cold.visited_score.diff(dim=1) >= 0).all())
    hot = run(start, steps=200, temperature=1e9, diameter=0.1)
    assert float(hot.acceptance.min()) == 1.0
    frozen = run(start, cycles=3, steps=200, temperature=1e9, cooling=1e-9, diameter=0.1)
    assert bool((frozen.acceptance[:, 0] > frozen.acceptance[:, 2]).all())


def test_a_single_sphere_and_a_single_chain_work():
    result = run(torch.tensor([[[0.5, 0.5, 0.5]]]), box=1.0, diameter=1.0, steps=20)
    assert torch.equal(result.centers, torch.tensor([[[0.5, 0.5, 0.5]]]))
    assert result.acceptance.shape == (1, 2)


def test_start_structures_are_wrapped():
    start = lattice_start(2, 8, 12, 3)
    assert torch.equal(
        run(start + 12).best_centers, run(run(start + 12).fraction.double() + start.floor()).best_centers
    )
    assert float(run(torch.full((1, 1, 3), -1e-12)).centers.max()) < 12


GOOD = {"cycles": 1, "steps": 4}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cycles": 0}, "cycles and steps"),
        ({"steps": 0}, "cycles and steps"),
        ({"cycles": 2**20, "steps": 2**20}, "2³²"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"cooling": 0.0}, "cooling"),
        ({"cooling": 1.5}, "cooling"),
        ({"samples": -1}, "samples"),
        ({"box": 12.5}, "whole number of voxels"),
        ({"diameter": 0.0}, "diameter"),
        ({"diameter": 4.0}, "overlap in the start structure of chain 0"),
        ({"ids": torch.tensor([0, -1])}, "ids"),
        ({"ids": torch.tensor([0])}, "ids"),
        ({"ids": torch.tensor([0, 2**32])}, "ids"),
        ({"score": lambda c: c[:, 0]}, "one number a chain"),
        ({"score": lambda c: c[:1, 0, 0]}, "one number a chain"),
        ({"score": lambda _: 1.0}, "one number a chain"),
        ({"score": lambda c: c[:, 0, 0] * math.nan}, "NaN"),
        ({"score": lambda c: c[:, 0, 0] / 0}, "NaN"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        run(lattice_start(2, 8, 12, 3), **{"samples": 1, **GOOD, **change})


@pytest.mark.parametrize(
    "centers",
    [torch.zeros(shape) for shape in ((2, 3), (0, 2, 3), (2, 0, 3), (1, 2, 2))] + [torch.full((1, 1, 3), math.nan)],
)
def test_malformed_centers_are_refused(centers):
    with pytest.raises(ValueError, match="centers"):
        run(centers, samples=1, **GOOD)


def test_a_score_that_turns_nan_on_the_way_is_refused():
    start = lattice_start(2, 8, 12, 3)
    first = wave(start)
    with pytest.raises(ValueError, match="NaN"):
        run(start, score=lambda c: torch.where((wave(c) == first), wave(c), math.nan))


def test_a_state_of_another_run_is_refused():
    start = lattice_start(2, 8, 12, 3)
    state = run(start)
    with pytest.raises(ValueError, match="other chain ids or start"):
        run(start + 0.1, state=state, cycles=3)
    with pytest.raises(ValueError, match="other chain ids or start"):
        run(start, state=state, cycles=3, ids=torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="does not fit"):
        run(start, state=state, cycles=1)
    for samples in (3, 30):
        with pytest.raises(ValueError, match="does not fit"):
            run(start, state=state, cycles=3, samples=samples)
    for change, says in (
        ({"steps": 61}, "none of steps = 61"), ({"maximize": False}, "other way than maximize = False"),
        ({"diameter": 3.5}, "diameter 3.5 overlap in the state"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            run(start, **{"state": state, "cycles": 3, **change})
    with pytest.raises(ValueError, match="other way than maximize = True"):
        run(start, state=run(start, cycles=1, maximize=False))


def test_the_state_is_frozen():
    state = run(lattice_start(1, 2, 12, 6), **GOOD, samples=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.score = state.score + 1
