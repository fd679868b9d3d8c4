"""Chains that exchange temperatures: each temperature's own distribution, the same alone, in a batch and resumed."""

import itertools
import math

import pytest
import torch
from test_annealing import equal, lattice_start, run
from test_scores import Told, plain
from two_spheres import HEAT, SCORES, STATES, boltzmann, off, tempered

from gpuion.annealing import AnnealResult
from gpuion.chains import load_state, save_state
from gpuion.tempering import exchange, ladder, share

NUMBER = torch.full((3**6,), -1).scatter(
    0, (STATES.long().flatten(1) * torch.tensor([3**k for k in range(6)])).sum(1), torch.arange(len(STATES))
)


def number(centers):
    """Which of the 702 states structures are."""
    return NUMBER[(centers.long().flatten(1) * torch.tensor([3**k for k in range(6)])).sum(1)]


def remembered(heat, steps, maximize):
    """How much of its start, at most, a chain at one temperature has kept after some steps: |λ₂|^steps, exact.

    The kernel is symmetrised by √π, so its eigenvalues are real.
    """
    sites = STATES.long()
    kernel = torch.zeros(len(sites), len(sites), dtype=torch.float64)
    sign = 1 if maximize else -1
    for sphere, axis, step in itertools.product(range(2), range(3), (1, -1)):
        there = sites.clone()
        there[:, sphere, axis] = (there[:, sphere, axis] + step) % 3
        at = number(there.float())
        p = ((sign * (SCORES[at] - SCORES)) / heat).exp().clamp(max=1) / 12
        free = (at >= 0).nonzero()[:, 0]
        kernel[free, at[free]] += p[free]
    kernel.diagonal().add_(1 - kernel.sum(1))
    root = boltzmann(heat, sign).sqrt()
    values = torch.linalg.eigvalsh(root[:, None] * kernel / root)
    return float(values[[0, -2]].abs().max()) ** steps


def chi_square(states, weight):
    """(X² − mean) / deviation of a sample; X² of n draws has the variance 2 k + (Σ 1/p − K² − 2 k) / n, k = K − 1."""
    n, K = len(states), len(weight)
    expected = n * weight
    chi = ((states.bincount(minlength=K) - expected).square() / expected).sum()
    variance = 2 * (K - 1) + ((1 / weight).sum() - K**2 - 2 * (K - 1)) / n
    return float((chi - (K - 1)) / variance.sqrt())


@pytest.mark.usefixtures("single_thread")
@pytest.mark.parametrize("maximize", [True, False])
def test_each_temperature_samples_its_own_boltzmann_distribution(maximize):
    """5000 groups of three replicas, exchanging every second step, each read once, after 160 steps: 4.5 sigma.

    Even a chain that exchanges nothing has then kept less than 1% of a standard error, 1/√5000, of its start at the
    lowest temperature. A temperature that is off by 5% shows in the mean score: of a group's 16 structures at a rung,
    one each fifth step from step 85 on, one number is made, and groups are independent: 4.5 sigma, too. At step 85
    a chain that exchanges nothing has kept 1% of its start at the lowest temperature, and less at each later one.
    """
    G, steps, sign = 5000, 160, 1 if maximize else -1
    assert remembered(HEAT[0], steps, maximize) < 0.01 / math.sqrt(G)
    result = tempered(G, 5, cycles=steps // 5, every=2, maximize=maximize, seed=7)
    states, rung = number(result.centers), result.rung[:, -1]
    for r in range(3):
        assert int((rung == r).sum()) == G
        assert abs(chi_square(states[rung == r], boltzmann(HEAT[r], sign))) < 4.5
    late = torch.empty(G, 3, 16, dtype=torch.float64)
    late.scatter_(1, result.rung.view(G, 3, -1)[..., -16:], result.trace.view(G, 3, -1)[..., -16:])
    for r in range(3):
        assert abs(off(late[:, r].mean(1), HEAT[r], sign)) < 4.5
    # A group's replicas are independent: their joint scores have the product's mean, to 4.5 sigma.
    by_rung = torch.empty(G, 3, dtype=torch.float64).scatter_(1, rung.view(G, 3), SCORES[states].view(G, 3))
    for a, b in ((0, 1), (1, 2), (0, 2)):
        x, y = ((by_rung[:, r] - boltzmann(HEAT[r], sign) @ SCORES) for r in (a, b))
        assert abs(float((x * y).mean() / (x.square().mean() * y.square().mean() / G).sqrt())) < 4.5


@pytest.mark.usefixtures("single_thread")
def test_exchange_alone_keeps_the_product_distribution_and_its_rate_is_exact():
    """One exchange of 200 000 groups drawn from the exact distributions; shares and histograms to 4.5 sigma."""
    G = 200_000
    random = torch.Generator().manual_seed(3)
    weights = torch.stack([boltzmann(T, -1) for T in HEAT])
    states = torch.multinomial(weights, G, replacement=True, generator=random).T.flatten()
    ids = torch.arange(3 * G)
    steps = ladder(HEAT, ids, 3, 1)
    rung = torch.arange(3).repeat(G)
    for turn, r in ((0, 0), (1, 1)):
        after, swapped = exchange(SCORES[states], rung, turn, ids, steps, 5)
        gain = (1 / HEAT[r] - 1 / HEAT[r + 1]) * (SCORES[:, None] - SCORES)
        rate = float((weights[r][:, None] * weights[r + 1] * gain.exp().clamp(max=1)).sum())
        share = swapped.view(G, 3)[:, r].double().mean()
        assert 0.3 < rate < 0.9
        assert abs(float(share) - rate) < 4.5 * math.sqrt(rate * (1 - rate) / G)
        for q in range(3):
            assert abs(chi_square(states[after == q], weights[q])) < 4.5


def test_a_group_is_the_same_alone_and_in_any_batch():
    start = lattice_start(12, 8, 12, 3)
    ids = torch.tensor([9, 2, 31, 4, 5, 60, 7, 8, 90, 1, 3, 6])
    setting = {"temperature": torch.tensor([0.05, 0.1, 0.3]), "replicas": 3, "every": 4, "seed": 11, "cooling": 0.8}
    batch = run(start, ids=ids, **setting)
    assert bool((batch.swaps.view(4, 3, 2)[:, :2] > 0).any(0).all())
    assert not bool(batch.swaps.view(4, 3, 2)[:, 2].any())
    assert bool((batch.rung[:, 0] != torch.arange(12) % 3).any())
    for g in (0, 2):
        part = slice(3 * g, 3 * g + 3)
        alone = run(start[part], ids=ids[part], **setting)
        assert equal(alone, AnnealResult(**{k: v[part] for k, v in vars(batch).items()}))
    assert not equal(batch, run(start, ids=ids, **{**setting, "every": 5}))


def test_a_stopped_exchange_goes_on_to_the_same_result(tmp_path):
    start = lattice_start(6, 8, 12, 3)
    setting = {"temperature": torch.tensor([0.01, 0.05, 0.3]), "replicas": 3, "every": 7, "cycles": 4}
    kept = []
    whole = run(start, save=kept.append, **setting)
    save_state(tmp_path / "state.pt", kept[1])
    assert equal(run(start, state=load_state(tmp_path / "state.pt"), **setting), whole)
    with pytest.raises(ValueError, match="other groups of chains than replicas = 2"):
        run(start, state=kept[1], **{**setting, "replicas": 2, "temperature": 0.1})


def test_a_score_that_is_told_of_moves_makes_the_same_exchanges():
    start = lattice_start(6, 8, 12, 3)
    setting = {"temperature": torch.tensor([0.01, 0.3]), "replicas": 2, "every": 5, "diameter": 2.6}
    assert equal(run(start, score=Told(), **setting), run(start, score=plain, **setting))


def test_equal_temperatures_always_change_hands():
    result = run(lattice_start(4, 8, 12, 3), temperature=0.05, replicas=4, every=3, steps=61)
    assert torch.equal(result.swaps, torch.tensor([[1.0, 1.0]] * 3 + [[0.0, 0.0]], dtype=torch.float64))


def test_a_cycle_begins_at_the_temperatures_at_which_the_last_one_ended():
    """Two equal temperatures change hands at each exchange, here at the end of each cycle."""
    result = run(lattice_start(2, 8, 12, 3), temperature=0.05, replicas=2, every=6, steps=6, cycles=4)
    assert result.rung.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]]


def test_turns_pairs_and_groups_have_draws_of_their_own():
    """With p = 1/2 for all, any two exchanges agree half of the time: of 4000 groups to 4.5 sigma."""
    G, T = 4000, torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    ids = torch.arange(4 * G)
    steps = ladder(T, ids, 4, 1)
    rung = torch.arange(4).repeat(G)
    half = math.log(2) / (1 / T[0] - 1 / T[1])
    energy = torch.tensor([0.0, half, 0.0, math.log(2) / (1 / T[2] - 1 / T[3])]).repeat(G)
    first, second = (exchange(energy, rung, turn, ids, steps, 1)[1].view(G, 4) for turn in (0, 2))
    other = exchange(energy, rung, 0, ids, steps, 2)[1].view(G, 4)
    pairs = [
        (first[:, 0], second[:, 0]), (first[:, 0], first[:, 2]), (first[:, 0], other[:, 0]),
        (first[1:, 0], first[:-1, 0]),
    ]  # fmt: skip
    for a, b in pairs:
        assert abs(float((a == b).double().mean()) - 0.5) < 4.5 * 0.5 / math.sqrt(len(a))


def test_chains_without_exchange_are_as_before():
    start = lattice_start(4, 8, 12, 3)
    plain = run(start, temperature=0.05)
    heat = torch.full((4,), 0.05, dtype=torch.float64)
    assert equal(run(start, temperature=heat), plain)
    assert not bool(plain.rung.any())
    assert not bool(plain.swaps.any())
    mixed = run(start, temperature=torch.tensor([0.05, 0.2, 0.05, 0.2], dtype=torch.float64))
    assert torch.equal(mixed.trace[::2], plain.trace[::2])
    assert not torch.equal(mixed.trace[1::2], plain.trace[1::2])


def test_shares_count_the_attempts_of_each_pair():
    """Steps 5 … 24 with an exchange after each third: after 5, 8, …, 23; turns 1 … 7 go to the pairs 1, 0, 1, 0, …"""
    steps = ladder(1.0, torch.arange(3), 3, 3)
    assert share(torch.tensor([3, 2, 0]), range(5, 25), steps).tolist() == [1.0, 0.5, 0.0]
    pair = ladder(1.0, torch.arange(2), 2, 3)
    assert share(torch.tensor([7, 0]), range(5, 25), pair).tolist() == [1.0, 0.0]
    assert [step for step in range(5, 25) if pair.is_due(step)] == [5, 8, 11, 14, 17, 20, 23]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"replicas": 0}, "divide the 4 chains"),
        ({"replicas": 3}, "divide the 4 chains"),
        ({"replicas": 2, "every": 0}, "every be at least 1"),
        ({"replicas": 2, "temperature": torch.tensor([0.1, 0.2, 0.3])}, "one a replica"),
        ({"replicas": 2, "temperature": torch.tensor([0.1, 0.0])}, "temperature must be positive"),
        ({"temperature": torch.tensor([0.1, 0.2, 0.3, math.nan])}, "temperature must be positive"),
    ],
)
def test_bad_groups_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        run(lattice_start(4, 8, 12, 3), steps=4, **change)
