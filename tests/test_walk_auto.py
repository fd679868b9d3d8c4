"""Walks that go on until they know enough: the same walk as one of that length, honest at their limit, alone or not."""

import contextlib
import math
from types import SimpleNamespace

import pytest
import torch

import gpuion
from gpuion import automatic, hops, kmc


def two_phase(shape=(1, 6, 6, 6), seed=3):
    labels = torch.randint(0, 3, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return gpuion.Medium(labels, torch.tensor([1.0, 0.4, 1.0]), torch.tensor([0.0, -1.5, math.inf]))


def percolating(seed, size=16, open_share=0.34):
    """Sites open at random, a little above the threshold of 0.3116, where the way through is long and thin."""
    labels = torch.rand(1, size, size, size, generator=torch.Generator().manual_seed(seed)) > open_share
    return gpuion.Medium(labels.to(torch.uint8), torch.ones(2), torch.tensor([0.0, math.inf]))


def test_a_walk_ends_when_it_knows_enough():
    medium = two_phase()
    exact = gpuion.homogenize(medium, tolerance=1e-6).diffusivity
    rough = gpuion.walk(medium, walkers=60, time="auto", rtol=0.1, seed=5)
    fine = gpuion.walk(medium, walkers=60, time="auto", rtol=0.02, seed=5)
    for run, rtol in ((rough, 0.1), (fine, 0.02)):
        assert run.converged.tolist() == [True]
        assert float(run.mean_error) <= rtol * float(run.mean)
        assert float(((run.diffusivity - exact) / run.standard_error).abs().max()) < 4
    assert int(fine.attempts) > int(rough.attempts)
    # What it says of its cost: attempts are those of all walkers through all the time, at six k_max a unit of it.
    assert float(fine.attempts) == pytest.approx(float(fine.walkers * fine.time * 6 * hops.rates(medium).fastest))


def test_a_walk_that_grew_is_the_walk_of_its_length_and_walkers():
    medium = two_phase()
    grown = gpuion.walk(medium, walkers=40, time="auto", rtol=0.04, seed=2)
    assert int(grown.walkers) > 40
    whole = gpuion.walk(medium, walkers=int(grown.walkers), time=float(grown.time) * (1 - 1e-12), seed=2)
    for name in ("slopes", "diffusivity", "mean_error", "hops", "attempts", "time"):
        assert torch.equal(getattr(grown, name), getattr(whole, name)), name


def test_each_structure_stops_for_itself():
    batch = two_phase(shape=(4, 5, 6, 7), seed=1)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        runs = gpuion.walk(batch, walkers=50, time="auto", rtol=0.05, seed=9, ids=[7, 5, 6, 3])
        assert len(set(runs.attempts.tolist())) > 1
        torch.set_num_threads(1)
        for b, number in enumerate([7, 5, 6, 3]):
            alone = gpuion.walk(batch[b : b + 1], walkers=50, time="auto", rtol=0.05, seed=9, ids=[number])
            for name in ("diffusivity", "mean_error", "slopes", "hops", "attempts", "trapped"):
                assert torch.equal(getattr(runs, name)[b : b + 1], getattr(alone, name)), name
    finally:
        torch.set_num_threads(threads)


def test_structures_are_walked_a_few_at_a_time(monkeypatch):
    batch = two_phase(shape=(3, 5, 6, 7), seed=1)
    together = gpuion.walk(batch, walkers=50, time="auto", rtol=0.08)
    monkeypatch.setattr(kmc, "_AT_ONCE", 1)
    assert torch.equal(together.slopes, gpuion.walk(batch, walkers=50, time="auto", rtol=0.08).slopes)


@pytest.mark.parametrize(("limit", "why"), [(2e5, "still falling|relaxation"), (1e7, "known to")])
def test_a_limit_is_kept_and_named(limit, why):
    medium = percolating(1) if limit < 1e6 else two_phase()
    run = gpuion.walk(medium, walkers=100, time="auto", rtol=0.001, max_attempts=limit)
    assert run.converged.tolist() == [False]
    assert int(run.attempts) <= limit
    assert any(reason in run.reason[0] for reason in why.split("|"))
    assert "max_attempts" in run.reason[0]


def test_a_limit_holds_from_the_start():
    medium = two_phase(shape=(2, 6, 6, 7))
    with pytest.raises(ValueError, match=r"structure 0: 3 walkers make (\d+) attempts to begin with") as refusal:
        gpuion.walk(medium, walkers=3, time="auto", max_attempts=1)
    least = int(str(refusal.value).split()[5])
    with pytest.raises(ValueError, match=f"make {least} attempts"):
        gpuion.walk(medium, walkers=3, time="auto", max_attempts=least - 1)
    for limit in (least, 2 * least, 12.3 * least, 400 * least, 4000 * least):
        run = gpuion.walk(medium, walkers=3, time="auto", max_attempts=limit, rtol=0.3)
        assert (run.attempts <= limit).all()
    assert run.converged.all()
    rough = gpuion.walk(two_phase(), walkers=101, time="auto", rtol=0.9)
    fine = {"rtol": 0.9 * float(rough.mean_error / rough.mean), "max_attempts": 1.5 * int(rough.attempts)}
    run = gpuion.walk(two_phase(), walkers=101, time="auto", **fine)  # half of 101 more would be 51
    assert int(run.attempts) <= fine["max_attempts"]
    assert gpuion.walk(medium, walkers=3, time=5.0, max_attempts=1).walkers.tolist() == [3, 3]  # not of auto walks


def test_a_walk_begins_with_eight_relaxation_times_of_its_longest_edge():
    labels, each = torch.zeros(1, 2, 100, 3, dtype=torch.uint8), 6 * 8 * (100 / (2 * math.pi)) ** 2  # six k_max a time
    for unit in (1e-9, 1.0, 1e9):
        medium = gpuion.Medium(labels, torch.tensor([unit]), torch.zeros(1))
        with pytest.raises(ValueError, match=f"2 walkers make {2 * 256 * math.ceil(each / 256)} attempts to begin"):
            gpuion.walk(medium, walkers=2, time="auto", max_attempts=1)


@pytest.mark.parametrize(("length", "message"), [(42_000, "attempts to begin"), (42_100, "more than 2³¹ attempts")])
def test_a_walker_makes_fewer_than_two_billion_attempts(length, message):
    # 48 (L / 2π)² is 2³¹ at a length of 42 027 sites.
    line = gpuion.Medium(torch.zeros(1, 1, 1, length, dtype=torch.uint8), torch.ones(1), torch.zeros(1))
    with pytest.raises(ValueError, match=message):
        gpuion.walk(line, walkers=2, time="auto", max_attempts=1)


def test_a_structure_of_more_sites_than_32_bits_with_a_sign_count_is_refused():
    for edge, large in ((2047, False), (2048, True)):
        medium = SimpleNamespace(labels=torch.empty(1, edge, 1024, 1024, dtype=torch.uint8, device="meta"))
        with pytest.raises(ValueError, match="at most 2³¹ − 1") if large else contextlib.nullcontext():
            kmc._check(medium, 1.0, 0.02, 1e10)


@pytest.mark.parametrize("seed", range(6))
def test_a_short_walk_near_the_percolation_threshold_does_not_pass_for_settled(seed):
    medium = percolating(seed)
    solution = gpuion.homogenize(medium, tolerance=1e-3)
    run = gpuion.walk(medium, walkers=300, time=60.0, seed=seed)
    assert 0.2 < float(run.trapped) < 0.5
    assert solution.converged.tolist() == [True]
    assert float(run.mean) > 1.5 * float(solution.diffusivity.mean())  # what it would have got wrong
    assert run.converged.tolist() == [False]
    assert "more time" in run.reason[0]


def test_a_medium_without_structures():
    for time in (5.0, "auto"):
        run = gpuion.walk(two_phase(shape=(0, 3, 3, 3)), walkers=40, time=time)
        assert run.diffusivity.shape == (0, 3)
        assert run.reason == ()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        *[({"time": time}, "time must be") for time in ("long", "5", None, True, -1.0, 0, math.nan, math.inf, [1.0])],
        *[({"rtol": rtol}, "rtol is") for rtol in (0.0, 1.0, None, "0.1", math.nan)],
        *[({"max_attempts": limit}, "max_attempts must be") for limit in (0, -1, None, "1e9", math.nan)],
        *[({"walkers": count}, "walkers must be") for count in (40.5, 1, None, "40")],
    ],
)
def test_nonsense_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        gpuion.walk(two_phase(), **{"walkers": 10, "time": "auto", **kwargs})


def test_a_walk_that_is_read_at_its_last_windows_goes_on_before_others_join():
    # Walks whose D is read at lags of 1/4 and 1/2 of their time, errors twice what is wanted; one that knows enough.
    two = torch.tensor([0.25, 0.5, 0.5], dtype=torch.float64)
    result = SimpleNamespace(
        mean=torch.ones(3), mean_error=torch.tensor([0.04, 0.04, 0.01]), reason=("",) * 3,
        attempts=torch.full((3,), 6400), lag=two[:, None].expand(3, 3), time=torch.ones(3),
        standard_error=torch.full((3, 3), 0.04),
    )  # fmt: skip
    walks = SimpleNamespace(index=torch.arange(3), start=torch.zeros(3, 64))
    plan = automatic.next_steps(result, walks, automatic.Goal(rtol=0.02, max_attempts=10**9))
    assert plan == [3.0, automatic.LONGER, automatic.STOP]  # four times the walkers halve an error
    result.standard_error = torch.zeros(3, 3)  # an axis on which nothing moves says nothing of that
    assert automatic.next_steps(result, walks, automatic.Goal(rtol=0.02, max_attempts=10**9))[1] == 3.0
