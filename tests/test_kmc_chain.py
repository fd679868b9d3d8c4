"""The chain of attempts before it settles, against its matrix and an event-by-event walk written here."""

import math

import numpy as np
import pytest
import torch
from walk_media import two_phase

import gpuion
from gpuion import hops


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


def test_pairs_of_classes_that_occur():
    labels = torch.randint(0, 9, (3, 2, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    labels[1] = 5
    for given in (labels, labels.transpose(1, 3)):
        ahead = torch.stack([given.roll(-1, axis) for axis in (1, 2, 3)])
        number = torch.arange(3)[:, None, None, None].expand_as(ahead)
        expected = torch.stack([number, given.expand_as(ahead), ahead], -1).reshape(-1, 3)
        assert hops._beside(given, 9).nonzero().tolist() == expected.unique(dim=0).tolist()
