"""Walks against exact numbers, against an event-by-event walk written here, and against homogenisation."""

import math

import numpy as np
import pytest
import torch

import gpuion
from gpuion import kmc


def uniform_medium(shape=(1, 9, 10, 11), spacing=0.5, diffusivity=1.0):
    labels = torch.zeros(shape, dtype=torch.uint8)
    return gpuion.Medium(labels, torch.tensor([diffusivity]), torch.tensor([3.0]), spacing)


def two_phase(seed, shape=(1, 6, 6, 6), blocked=False):
    """Two classes at random, and a blocked third one on request."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3 if blocked else 2, shape, dtype=torch.uint8, generator=generator)
    potential = torch.tensor([0.0, -1.5, math.inf if blocked else 0.0])
    return gpuion.Medium(labels, torch.tensor([1.0, 0.4, 1.0]), potential)


def agree(run, exact, sigmas=4):
    """Whether a walk lies within so many standard errors of exact diffusivities, and its errors mean something."""
    z = (run.diffusivity - exact).abs() / run.standard_error.clamp_min(1e-12)
    assert float(z.max()) < sigmas, (run.diffusivity, run.standard_error, exact)
    mean_z = (run.mean - exact.mean(-1)).abs() / run.mean_error
    assert float(mean_z.max()) < sigmas, (run.mean, run.mean_error, exact.mean(-1))


def test_uniform_medium_diffuses_at_its_own_rate():
    run = gpuion.walk(uniform_medium(diffusivity=0.7), walkers=4000, time=120.0)
    assert bool(run.converged.all())
    agree(run, torch.full((1, 3), 0.7, dtype=torch.float64))
    # Every bond is the fastest, so every attempt but 2⁻²⁰ of them is a hop.
    assert float(run.hops / run.attempts) > 0.99999
    # The slope over (t/2, t) of ~8 separate time origins: between one origin's error and twice the best possible.
    assert float(run.mean_error / run.mean) < 3 * math.sqrt(2 / (3 * 4000))


def event_by_event(medium, walkers, times, seed):
    """Each ion alone, exponential waiting times, float64: squared displacements [walkers, len(times), 3]."""
    rng = np.random.default_rng(seed)
    labels, h = medium.labels[0].numpy(), medium.spacing
    D, U = medium.diffusivity.numpy(), medium.potential.numpy()
    pi = np.exp(-U[labels]).ravel()
    moves = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    result = np.zeros((walkers, len(times), 3))
    for walker in range(walkers):
        site = np.array(np.unravel_index(rng.choice(pi.size, p=pi / pi.sum()), labels.shape))
        clock, travelled, record = 0.0, np.zeros(3), 0
        while record < len(times):
            here = labels[tuple(site)]
            there = labels[tuple(((site + moves) % labels.shape).T)]
            with np.errstate(over="ignore"):
                rates = np.sqrt(D[here] * D[there]) / h**2 * np.exp(-(U[there] - U[here]) / 2)
            clock += rng.exponential(1 / rates.sum()) if rates.sum() > 0 else math.inf
            while record < len(times) and clock > times[record]:
                result[walker, record] = (h * travelled) ** 2
                record += 1
            if clock == math.inf:
                break
            move = moves[rng.choice(6, p=rates / rates.sum())]
            site, travelled = (site + move) % labels.shape, travelled + move
    return result


@pytest.mark.parametrize("blocked", [False, True])
def test_mean_squared_displacements_are_those_of_an_event_by_event_walk(blocked):
    medium = two_phase(3, blocked=blocked)
    rates = kmc._rates(medium)
    tick = 1 / (6 * float(rates.fastest))
    start = kmc._starts(medium, 40_000, 1, torch.tensor([0]))
    quads = torch.tensor([3], dtype=torch.int32)
    from gpuion.kernels import scalar

    path, _ = scalar.walk(medium.labels, rates.leave, rates.enter, start, quads, torch.tensor([0]), 1, 2)
    ours = path[0].double().square().numpy()  # [2, W, 3]
    # A walker attempts 12 times a checkpoint: its clock is binomial, not Poisson, which shows in a squared
    # displacement only in second order: the null-event MSD after n ticks is that of the chain (1 + Q/6k)ⁿ, and
    # n dt = t agrees with exp(Qt) to O(k dt² n) ~ 1% here; so the errors below are widened by 2% of the value.
    theirs = event_by_event(medium, 3000, [12 * tick, 24 * tick], seed=5)
    for t in range(2):
        error = math.hypot(ours[t].sum(-1).std() / 200, theirs[:, t].sum(-1).std() / math.sqrt(3000))
        difference = ours[t].sum(-1).mean() - theirs[:, t].sum(-1).mean()
        assert abs(difference) < 4 * error + 0.02 * theirs[:, t].sum(-1).mean()


def test_walkers_start_from_the_stationary_distribution():
    medium = two_phase(1, blocked=True)
    start = kmc._starts(medium, 200_000, 7, torch.tensor([2]))
    counts = torch.bincount(start[0].long(), minlength=216).double()
    weight = torch.exp(-medium.potential)[medium.labels.long()].reshape(-1)
    expected = 200_000 * weight / weight.sum()
    assert float(counts[expected == 0].sum()) == 0
    is_open = expected > 0
    chi = ((counts - expected)[is_open] ** 2 / expected[is_open]).sum()
    freedom = int(is_open.sum()) - 1
    assert abs(float(chi) - freedom) < 4 * math.sqrt(2 * freedom)


def laminate():
    """Layers across z of two classes: D along and across follow from sums in parallel and in series."""
    labels = torch.zeros(1, 4, 4, 12, dtype=torch.uint8)
    labels[..., 5:] = 1
    return gpuion.Medium(labels, torch.tensor([1.0, 0.25]), torch.tensor([0.0, -1.0]))


def test_laminate_has_its_exact_diffusivity():
    pi, D = torch.tensor([1.0] * 5 + [math.e] * 7).double(), torch.tensor([1.0] * 5 + [0.25] * 7).double()
    bonds = (D * D.roll(-1)).sqrt() * (pi * pi.roll(-1)).sqrt()
    along, across = (D * pi).sum() / pi.sum(), 12 * 12 / (1 / bonds).sum() / pi.sum()
    run = gpuion.walk(laminate(), walkers=3000, time=1200.0, seed=2)
    assert bool(run.converged.all())
    agree(run, torch.stack([along, along, across])[None])


# Family, its parameters, the structure's number, walkers, time: numbers whose slowest axis settles within seconds.
ELECTROLYTES = [
    ("random", {}, 22, 1000, 6000.0),
    ("chained", {"distance": (12.5, 13.5)}, 8, 1000, 6000.0),
    ("gapped", {"gap": 7.0, "axes": (0,)}, 15, 500, 24_000.0),
]


@pytest.mark.parametrize(("family", "kwargs", "number", "walkers", "time"), ELECTROLYTES)
def test_walk_and_homogenisation_agree_on_electrolytes(family, kwargs, number, walkers, time):
    diameter = gpuion.sphere_diameter(4, 25.0, 0.1)
    cell = {"n_particles": 4, "box": 25.0, "diameter": diameter}
    centers = gpuion.place(family, n_structures=1, ids=[number], seed=3, **cell, **kwargs)
    medium = gpuion.electrolyte(centers, box=25.0, diameter=diameter)
    run = gpuion.walk(medium, walkers=walkers, time=time, seed=3)
    assert run.reason == ("",)
    agree(run, gpuion.homogenize(medium, tolerance=1e-4).diffusivity)
    assert float(run.mean_error / run.mean) < 0.05


def test_weight_in_closed_pockets_counts():
    # An open channel along x of half the cross-section, and open cells walled in on all sides.
    labels = torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
    labels[:, :, :4] = 1
    labels[:, ::2, 5, 1::2] = 1
    medium = gpuion.Medium(labels, torch.tensor([0.0, 1.0]), torch.tensor([math.inf, 0.0]))
    channel, pockets = 8 * 4 * 8, 16
    run = gpuion.walk(medium, walkers=3000, time=600.0)
    exact = gpuion.homogenize(medium, tolerance=1e-6).diffusivity
    assert float(exact[0, 0]) == pytest.approx(channel / (channel + pockets), rel=1e-5)
    assert bool(run.converged.all())
    agree(run, exact)


def test_a_medium_where_nothing_moves_has_zero_diffusivity():
    labels = torch.ones(1, 4, 4, 4, dtype=torch.uint8)
    labels[0, 1, 1, 1] = 0
    medium = gpuion.Medium(labels, torch.ones(2), torch.tensor([0.0, math.inf]))
    run = gpuion.walk(medium, walkers=10, time=10.0)
    assert torch.equal(run.diffusivity, torch.zeros(1, 3, dtype=torch.float64))
    assert bool(run.converged.all())


def test_a_short_walk_says_so():
    run = gpuion.walk(laminate(), walkers=500, time=5.0)
    assert run.converged.tolist() == [False]
    assert "relaxation time" in run.reason[0]


def test_few_walkers_say_so():
    run = gpuion.walk(uniform_medium(), walkers=2, time=60.0)
    assert run.converged.tolist() == [False]
    assert "more walkers" in run.reason[0]


def test_a_slope_that_still_falls_is_not_called_settled():
    # Large cells joined by rare leaks: fast inside, slow between, so the slope falls long after the cell is explored.
    labels = torch.zeros(1, 24, 24, 24, dtype=torch.uint8)
    for axis in range(3):
        labels.index_fill_(axis + 1, torch.tensor([0]), 1)
    labels[0, 0, 12, 12] = labels[0, 12, 0, 12] = labels[0, 12, 12, 0] = 0
    medium = gpuion.Medium(labels, torch.ones(2), torch.tensor([0.0, math.inf]))
    exact = float(gpuion.homogenize(medium, tolerance=1e-5).diffusivity.mean())
    run = gpuion.walk(medium, walkers=2000, time=1200.0)
    assert float(run.slopes[0, 0].mean()) > 2 * exact
    assert run.converged.tolist() == [False]


def test_a_slow_axis_beside_fast_ones_is_not_called_settled():
    # A weak wall across x: 0.17 along it, 1 across. A rule on the mean of the axes called most of these walks settled,
    # with errors of up to six sigma along x.
    labels = torch.zeros(1, 20, 6, 6, dtype=torch.uint8)
    labels[:, 0] = 1
    medium = gpuion.Medium(labels, torch.ones(2), torch.tensor([0.0, 8.0]))
    exact = gpuion.homogenize(medium, tolerance=1e-6).diffusivity
    for seed in range(6):
        run = gpuion.walk(medium, walkers=200, time=600.0, seed=seed)
        assert not bool(run.converged.all()) or float(((run.diffusivity - exact) / run.standard_error).abs().max()) < 4
    long = gpuion.walk(medium, walkers=400, time=6000.0)
    assert bool(long.converged.all())
    agree(long, exact)


def test_walks_depend_on_seed_and_id_alone():
    medium = two_phase(2, shape=(3, 5, 6, 7))
    batch = gpuion.walk(medium, walkers=50, time=20.0, seed=4, ids=[10, 11, 12])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = gpuion.walk(medium[1:2], walkers=50, time=20.0, seed=4, ids=[11])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(batch.slopes[1:2], alone.slopes)
    assert torch.equal(batch.hops[1:2], alone.hops)
    other = gpuion.walk(medium[1:2], walkers=50, time=20.0, seed=5, ids=[11])
    assert not torch.equal(other.slopes, alone.slopes)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"walkers": 1}, "walkers"),
        ({"time": 0.0}, "time"),
        ({"time": math.inf}, "time"),
        ({"time": 1e12}, "shorter"),
        ({"seed": -1}, "seed"),
        ({"ids": [0, 1]}, "ids"),
    ],
)
def test_walk_refuses_nonsense(kwargs, message):
    with pytest.raises(ValueError, match=message):
        gpuion.walk(uniform_medium(), **{"walkers": 10, "time": 10.0, **kwargs})


def test_walk_refuses_what_it_cannot_resolve():
    labels = torch.randint(0, 2, (1, 4, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    steep = gpuion.Medium(labels, torch.ones(2), torch.tensor([0.0, -30.0]))
    with pytest.raises(ValueError, match="homogenize"):
        gpuion.walk(steep, walkers=10, time=10.0)
    closed = gpuion.Medium(torch.zeros_like(labels), torch.ones(1), torch.tensor([math.inf]))
    with pytest.raises(ValueError, match="no open site"):
        gpuion.walk(closed, walkers=10, time=10.0)


@pytest.mark.gpu
def test_a_gpu_walks_the_same_walks():
    medium = two_phase(5, shape=(2, 9, 8, 7), blocked=True)
    cpu = gpuion.walk(medium, walkers=300, time=50.0, seed=1)
    gpu = gpuion.walk(medium.to("cuda"), walkers=300, time=50.0, seed=1)
    assert torch.equal(cpu.hops, gpu.hops.cpu())
    # Paths are equal; averages over them may be summed in another order in float64.
    assert torch.allclose(cpu.slopes, gpu.slopes.cpu(), rtol=1e-12)
