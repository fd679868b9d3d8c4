"""Ladders of temperatures: their spacing, the rates it foresees, and the pilot run it goes by."""

import math

import pytest
import torch
from test_annealing import toy
from two_spheres import SCORES, boltzmann, tempered

from gpuion.ladders import log_swap_rate, needed, pilot, spaced


def test_a_ladder_of_harmonic_modes_has_equal_ratios():
    """μ = n T / 2 and s = T √(n/2), exact by the equipartition of n modes; the grid has 1000 points a thousandfold."""
    T = torch.logspace(0, -3, 4000, dtype=torch.float64)
    found, rate = spaced(T, 3 * T, 3**0.5 * T, 7)
    assert found[[0, -1]].tolist() == pytest.approx([1e-3, 1.0])
    assert torch.allclose(
        found, torch.logspace(-3, 0, 7, dtype=torch.float64), rtol=0.05
    )  # 6 intervals, ln 10 / 333 each
    mean, spread = 3 * found, 3**0.5 * found
    each = log_swap_rate(1 / found, mean, spread).exp().diagonal(1)
    assert torch.allclose(each, each.new_full((6,), rate), rtol=0.05)
    assert needed(T, 3 * T, 3**0.5 * T, rate - 0.01) == 7
    assert needed(T, 3 * T, 3**0.5 * T, rate + 0.02) == 8


def test_a_ladder_whose_replicas_hardly_meet_is_even_and_says_how_many_would():
    """20 000 modes: ratios are equal as for three, and rates below what a number holds, e⁻⁷⁴⁵, are none."""
    T, n = torch.logspace(0, -3, 4000, dtype=torch.float64), 20_000
    found, rate = spaced(T, n / 2 * T, (n / 2) ** 0.5 * T, 4)
    assert torch.allclose(found, torch.logspace(-3, 0, 4, dtype=torch.float64), rtol=0.05)
    assert rate == 0
    # erfc(Δβ s / 2) = 0.2 at Δβ s = 1.81, where Δβ s = 100 Δ ln T of 6.9; the grid's step is 0.0069.
    assert needed(T, n / 2 * T, (n / 2) ** 0.5 * T) == pytest.approx(6.9 / 0.0138 + 1, rel=0.01)


def test_rates_of_normal_energies_are_what_they_say():
    """Sampled: 400 000 pairs each, 4.5 sigma; in equilibrium, μ = −β s², the rate is erfc(Δβ s / 2)."""
    n, random = 400_000, torch.Generator().manual_seed(1)
    beta = torch.tensor([9.0, 6.0, 1.0], dtype=torch.float64)
    mean, spread = (torch.tensor(x, dtype=torch.float64) for x in ([-1.0, -0.9, -0.2], [0.1, 0.3, 0.2]))
    rate = log_swap_rate(beta, mean, spread).exp()
    for a, b in ((0, 1), (1, 2), (0, 2)):
        E = [torch.randn(n, dtype=torch.float64, generator=random) * spread[k] + mean[k] for k in (a, b)]
        met = ((beta[a] - beta[b]) * (E[0] - E[1])).exp().clamp(max=1)
        assert abs(float(met.mean() - rate[a, b])) < 4.5 * float(met.std()) / math.sqrt(n)
    s = torch.full((3,), 0.3, dtype=torch.float64)
    expected = torch.special.erfc((beta[:, None] - beta).triu() * 0.3 / 2)
    assert torch.allclose(log_swap_rate(beta, -beta * 0.09, s).exp().triu(), expected.triu(), rtol=1e-12)


def test_the_ladder_is_the_one_whose_rarest_exchange_is_the_most_frequent():
    """Of all ladders of four on a coarse grid none has a higher least rate than the one found, but for the grid."""
    T = torch.logspace(0, -1, 200, dtype=torch.float64)
    mean, spread = -0.3 / T.sqrt(), 0.1 + 0.2 * (T * 5).sin().abs()
    _, rate = spaced(T, mean, spread, 4)
    some = torch.arange(0, 200, 3).flip(0)
    rates = log_swap_rate(1 / T[some], mean[some], spread[some]).exp()
    last = len(some) - 1
    best = max(
        min(float(rates[0, i]), float(rates[i, j]), float(rates[j, last]))
        for i in range(1, last) for j in range(i + 1, last)
    )  # fmt: skip
    assert best - 0.005 <= rate <= best + 0.03


def test_a_ladder_with_nothing_to_go_by_has_equal_ratios():
    T = torch.logspace(0, -2, 5, dtype=torch.float64)
    found, rate = spaced(T, 0 * T, 0 * T, 3)
    assert found.tolist() == pytest.approx([0.01, 0.1, 1.0], rel=0.01)  # 1000 points a hundredfold
    assert rate == 1
    with pytest.raises(ValueError, match="2 replicas"):
        spaced(T, T, T, 1)


@pytest.mark.usefixtures("single_thread")
@pytest.mark.parametrize("maximize", [True, False])
def test_a_pilot_measures_energies_and_its_ladder_exchanges_as_foreseen(maximize):
    """Mean and spread over all states are known: the pilot's are of 128 chains' last 300 of 600 steps.

    With a correlation of some 10 steps these are 128 · 15 samples or more: 2% of the spread, times 4.5. Within a chain
    1 / 15 of the variance is missing, that of its mean.
    """
    start = torch.tensor([[0.25, 0.25, 0.25], [1.25, 1.25, 1.25]]).expand(128, 2, 3)
    setting = {"box": 3.0, "diameter": 1.0, "maximize": maximize}
    sign = 1 if maximize else -1
    T, mean, spread = pilot(toy, start, low=0.3, high=2.0, steps=600, seed=1, **setting)
    p = torch.stack([boltzmann(t, sign) for t in T])
    exact = (p @ SCORES.square() - (p @ SCORES) ** 2).sqrt()
    assert T[[0, -1]].tolist() == pytest.approx([2.0, 0.3])
    assert torch.allclose(spread, exact, rtol=0.09 + 0.03)
    assert float(((mean + sign * (p @ SCORES)) / exact).abs().max()) < 4.5 / math.sqrt(512)
    heat, rate = spaced(T, mean, spread, 3)
    shares = tempered(400, 300, heat=heat, every=3, maximize=maximize).swaps.view(400, 3)[:, :2].mean(0)
    # Energies are not quite normal here: both pairs exchange as often as each other and as foreseen to 0.1.
    assert float((shares - rate).abs().max()) < 0.1


@pytest.mark.usefixtures("single_thread")
def test_how_far_chains_lie_apart_is_no_spread_of_their_energies():
    """Each chain's score has a part that no move changes: its fraction of a voxel; 10² are off by 1e-14."""
    start = torch.tensor([[0.25, 0.25, 0.25], [1.25, 1.25, 1.25]]).repeat(8, 1, 1)
    apart = start + torch.arange(8)[:, None, None] / 16
    setting = {"box": 3.0, "diameter": 0.9, "low": 0.3, "high": 2.0, "steps": 40, "seed": 1}
    _, mean, spread = pilot(lambda x: toy(x.floor() + 0.25), start, **setting)
    _, shifted, same = pilot(lambda x: toy(x.floor() + 0.25) + 100 * x[:, 0, 0].frac(), apart, **setting)
    assert torch.allclose(same, spread, rtol=1e-9)
    assert torch.allclose(shifted - shifted[0], mean - mean[0], rtol=1e-9, atol=1e-9)
