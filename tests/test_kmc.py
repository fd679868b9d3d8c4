"""Walks against exact numbers, against an event-by-event walk written here, and against homogenisation."""

import math

import numpy as np
import pytest
import torch

import gpuion
from gpuion import hops


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


def hop_rates(medium):
    """Return π [n] and the rates k(x→y) of the six directions [6, n] with the sites they lead to, site by site."""
    labels, h = medium.labels[0].numpy(), medium.spacing
    D, U = medium.diffusivity.numpy()[labels], medium.potential.numpy()[labels]
    rates, there = [], []
    site = np.arange(labels.size).reshape(labels.shape)
    for axis in range(3):
        for step in (1, -1):
            D_y, U_y, y = (np.roll(x, -step, axis) for x in (D, U, site))
            both = np.isfinite(U) & np.isfinite(U_y)
            climb = np.where(both, U_y, 0.0) - np.where(both, U, 0.0)
            rates.append(np.where(both, np.sqrt(D * D_y) / h**2 * np.exp(-climb / 2), 0.0).ravel())
            there.append(y.ravel())
    return np.exp(-U.ravel()) / np.exp(-U).sum(), np.array(rates), np.array(there)


def null_event_squares(medium, ticks):
    """Return the exact E[d²] per axis, in sites², of the null-event chain after 0 … `ticks` ticks, [ticks + 1, 3].

    E[(Σ d_i)²] = n ⟨d²⟩ + 2 Σ_{i<j} E[d_i d_j], and as the chain is reversible E[d_i d_j] = −⟨v, P^{j−i−1} v⟩ with
    v(x) the mean hop out of x in one tick.
    """
    pi, rates, there = hop_rates(medium)
    chance = rates / (6 * rates[:, pi > 0].max())
    n = len(pi)
    P = np.zeros((n, n))
    for p, y in zip(chance, there, strict=True):
        P[np.arange(n), y] += p
    P[np.arange(n), np.arange(n)] += 1 - P.sum(1)
    v, square = (chance[0::2] - chance[1::2]).T, ((chance[0::2] + chance[1::2]) @ pi)
    memory, ahead = [], v
    for _ in range(ticks):
        memory.append(pi @ (v * ahead))
        ahead = P @ ahead
    falls = np.cumsum(np.cumsum([np.zeros(3), np.zeros(3), *memory[: ticks - 1]], 0), 0)
    return np.arange(ticks + 1)[:, None] * square - 2 * falls


def event_by_event(medium, walkers, times, seed):
    """Each ion alone, exponential waiting times, float64: squared displacements in sites² [walkers, times, 3]."""
    rng = np.random.default_rng(seed)
    pi, rates, there = hop_rates(medium)
    result = np.zeros((walkers, len(times), 3))
    for walker in range(walkers):
        x = rng.choice(len(pi), p=pi)
        clock, travelled, record = 0.0, np.zeros(3), 0
        while record < len(times):
            out = rates[:, x].sum()
            clock += rng.exponential(1 / out) if out > 0 else math.inf
            while record < len(times) and clock > times[record]:
                result[walker, record] = travelled**2
                record += 1
            if clock < math.inf:
                direction = rng.choice(6, p=rates[:, x] / out)
                x = there[direction, x]
                travelled[direction // 2] += 1 - 2 * (direction % 2)
    return result


@pytest.mark.parametrize("blocked", [False, True])
def test_event_by_event_walks_meet_the_exact_squares(blocked):
    # Seen at Poisson times, the null-event chain is the walk in continuous time (uniformisation): its exact squares,
    # weighted by the Poisson distribution of the number of ticks, are those of an event-by-event walk.
    medium = two_phase(3, blocked=blocked)
    pi, rates, _ = hop_rates(medium)
    squares = null_event_squares(medium, 100)
    means = np.array([6, 12, 24])  # ticks; more than 100 have a probability below 1e-27
    weights = [[math.exp(n * math.log(mean) - mean - math.lgamma(n + 1)) for n in range(101)] for mean in means]
    expected = np.array(weights) @ squares
    found = event_by_event(medium, 10_000, means / (6 * rates[:, pi > 0].max()), seed=5)
    for ours, exact in ((found, expected), (found.sum(-1), expected.sum(-1))):
        z = (ours.mean(0) - exact) / (ours.std(0) / math.sqrt(10_000))
        assert np.abs(z).max() < 4  # twelve values, one in 1300 by chance


@pytest.mark.parametrize("blocked", [False, True])
def test_slopes_before_they_settle_are_those_of_the_chain(blocked):
    medium = two_phase(3, blocked=blocked)
    pi, rates, _ = hop_rates(medium)
    tick = 1 / (6 * rates[:, pi > 0].max())
    run = gpuion.walk(medium, walkers=60_000, time=255 * tick, seed=1)  # rounded up to four ticks a checkpoint
    # The fastest hop has a chance of 1 − 2⁻²⁰, not 1: 1e-6 of a slope.
    lags = np.round(run.lags[0].numpy() / tick).astype(int)
    assert lags.tolist() == [8, 16, 32, 64, 128]
    squares = null_event_squares(medium, lags[-1])
    expected = (squares[lags] - squares[lags // 2]) / (lags - lags // 2)[:, None] / (2 * tick)
    z = (run.slopes[0].numpy() - expected) / run.slope_errors[0].numpy()
    assert np.abs(z).max() < 4  # 15 values, one in 1000 by chance
    assert (run.slope_errors[0, 0].numpy() < 0.002 * expected[0]).all()  # so 1% too many hops would be seen


def test_walkers_start_from_the_stationary_distribution():
    medium = two_phase(1, blocked=True)
    start = hops.starts(medium, 200_000, 7, torch.tensor([2]))
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


def test_pairs_of_classes_that_occur():
    labels = torch.randint(0, 9, (3, 2, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    labels[1] = 5
    for given in (labels, labels.transpose(1, 3)):
        ahead = torch.stack([given.roll(-1, axis) for axis in (1, 2, 3)])
        number = torch.arange(3)[:, None, None, None].expand_as(ahead)
        expected = torch.stack([number, given.expand_as(ahead), ahead], -1).reshape(-1, 3)
        assert hops._beside(given, 9).nonzero().tolist() == expected.unique(dim=0).tolist()


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
    ("gapped", {"gap": 7.0, "axes": (0,)}, 15, 500, 36_000.0),
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
    # A wall across x: 0.166 along it, 1 across. Twelve walks too short to settle along x, and for both other axes long
    # enough: the mean of the axes looks settled in nearly all of them.
    labels = torch.zeros(12, 20, 6, 6, dtype=torch.uint8)
    labels[:, 0] = 1
    short = gpuion.Medium(labels, torch.ones(2), torch.tensor([0.0, 8.0]))
    exact = gpuion.homogenize(short[:1], tolerance=1e-6).diffusivity
    run = gpuion.walk(short, walkers=200, time=300.0)
    z = ((run.diffusivity - exact) / run.standard_error)[run.converged]  # [n, 3]
    n = len(z)
    # Four sigma of the mean of n normal numbers, and of their mean square by Wilson and Hilferty, good for few, too.
    # A rule on the mean of the axes claims 11 of the 12 and breaks both bounds along x.
    assert n == 0 or float(z.mean(0).abs().max()) < 4 / math.sqrt(n)
    assert n == 0 or float(z.square().mean(0).max()) < (1 - 2 / (9 * n) + 4 * math.sqrt(2 / (9 * n))) ** 3
    long = gpuion.walk(short[:1], walkers=400, time=6000.0)
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
        ({"time": 1e300}, "shorter"),
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


@pytest.mark.parametrize("unit", [1e-130, 1e-60, 1e-18, 1e7, 1e120])
def test_a_walk_is_the_same_in_any_unit(unit):
    medium = two_phase(3, blocked=True)
    scaled = gpuion.Medium(medium.labels, medium.diffusivity * unit, medium.potential)
    here, there = (gpuion.walk(m, walkers=100, time=t) for m, t in ((medium, 120.0), (scaled, 120.0 / unit)))
    # Round-off in √D moves one threshold of 2³² in 2²⁴ by one at most: no decision of these 10⁵ hangs on that.
    assert torch.equal(here.hops, there.hops)
    torch.testing.assert_close(here.slopes, there.slopes / unit, rtol=1e-12, atol=0)
    assert here.converged.tolist() == there.converged.tolist() == [True]


@pytest.mark.parametrize("unit", [1e-160, 1e160])
def test_a_unit_that_numbers_cannot_hold_is_refused(unit):
    medium = two_phase(3)
    scaled = gpuion.Medium(medium.labels, medium.diffusivity * unit, medium.potential)
    with pytest.raises(ValueError, match=r"structure 0: its fastest rate, .* another unit"):
        gpuion.walk(scaled, walkers=40, time=50.0)


@pytest.mark.gpu
def test_a_gpu_walks_the_same_walks():
    medium = two_phase(5, shape=(2, 9, 8, 7), blocked=True)
    cpu = gpuion.walk(medium, walkers=300, time=50.0, seed=1)
    gpu = gpuion.walk(medium.to("cuda"), walkers=300, time=50.0, seed=1)
    assert torch.equal(cpu.hops, gpu.hops.cpu())
    # Paths are equal; averages over them may be summed in another order in float64.
    assert torch.allclose(cpu.slopes, gpu.slopes.cpu(), rtol=1e-12)
