"""The network of resistors told of moves: D* of the whole forward pass, and states on which no move leaves a mark."""

import dataclasses
from collections import deque

import numba
import numpy as np
import pytest
import torch
from test_annealing import equal
from test_incremental import DIAMETER, structures, walk

import gpuion
from gpuion.incremental_network import network_score
from gpuion.kernels import rows
from gpuion.objectives import Objective
from gpuion.resistors import ResistorNetwork
from gpuion.scores import IncrementalScore
from gpuion.scoring import score_of

# Conductances come of layers in float32 (3 layers of 32 inputs, 6e-8 each: some 1e-6 of log g, of random sign over 20
# and more contacts), Kirchhoff's laws of float64. Prepared numbers are float32 on both sides.
CLOSE = 5e-6


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(centers, box, **options):
    """Return a network whose weights are larger than at first, so that all it looks at counts."""
    torch.manual_seed(5)
    net = ResistorNetwork(**options)
    with torch.no_grad():
        net.contact[-1].weight.normal_(0, 0.1)
    net.calibrate(torch.linspace(0.05, 1, len(centers)), net.prepare(centers, box, DIAMETER))
    return net.eval()


@torch.no_grad()
def whole(net, centers, box):
    parts = [net.double()(*net.prepare(c[None], box, DIAMETER)) for c in centers]
    return torch.cat(parts)


CASES = {
    "laptop": (3, 27, 50.0, {}),
    "study": (2, 91, 75.0, {}),
    "dilute": (2, 10, 60.0, {"hidden": 10, "channels": 3, "orders": 2}),  # odd widths, lone spheres
    "two": (2, 2, 40.0, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_along_a_walk_are_those_of_the_whole_network(case):
    C, N, box, options = CASES[case]
    centers = structures(C, N, box)
    centers = torch.remainder(centers - centers[:, :1] + 0.3, box)  # the sphere that moves most lies in a corner
    net = network(structures(6, N, box, seed=2), box, **options)
    score = network_score(net, box=box, per_axis=True)
    known, crossed, spread = score.start(centers)[0], 0, []
    assert torch.allclose(known, whole(net, centers, box), rtol=CLOSE, atol=0)
    for step, (value, trial, _, after, state) in enumerate(walk(Mean(score), centers, box, 40)):
        if step % 8 == 7:
            expected = whole(net, trial, box)
            assert torch.allclose(torch.from_numpy(state[0].proposed), expected, rtol=CLOSE, atol=0)
            assert torch.allclose(value, expected.mean(1), rtol=CLOSE, atol=0)
            spread.append(expected.mean(1) / known.mean())
        crossed += int(((after - centers).abs() > box / 2).any())
    assert crossed > 0
    assert float(torch.stack(spread).std(0).min()) > 5 * CLOSE
    fresh = score.start(after)[1]
    for name in fresh.known._fields:
        assert bool((getattr(state[0].known, name) == getattr(fresh.known, name)).all()), name
    assert bool((state[0].value == fresh.value).all())
    held = (*fresh.known, *fresh.trial, fresh.value, fresh.proposed)
    assert sum(x.nbytes for x in held) == C * score.chain_bytes(N)


@dataclasses.dataclass
class Mean:
    """The mean of a score along three axes."""

    score: object

    def start(self, centers):
        value, state = self.score.start(centers)
        return value.mean(1), (state,)

    def propose(self, state, sphere, position, trial):
        value, trial_state = self.score.propose(state[0], sphere, position, trial)
        return value.mean(1), (trial_state,)

    def accept(self, state, trial_state, accepted):
        return (self.score.accept(state[0], trial_state[0], accepted),)


def test_ten_thousand_steps_of_four_chains_on_two_threads_leave_no_trace():
    N, box = 5, 34.0
    centers = structures(4, N, box)
    net = network(structures(6, N, box, seed=2), box, hidden=10, channels=3, orders=2)
    score = network_score(net, box=box)
    torch.set_num_threads(2)
    for step, (value, trial, known, after, state) in enumerate(walk(score, centers, box, 10_000)):
        if step % 2500 == 2499:
            assert torch.allclose(value, whole(net, trial, box).mean(1), rtol=CLOSE, atol=0)
            again, fresh = score.start(after)
            assert torch.equal(again, known)
            for name in fresh.known._fields:
                assert bool((getattr(state.known, name) == getattr(fresh.known, name)).all()), name
    assert float((after != centers).double().mean()) > 0.9


@pytest.mark.slow
def test_ten_thousand_steps_leave_no_trace():
    centers = structures(1, 91, 75.0)
    net = network(structures(4, 91, 75.0, seed=2), 75.0)
    score = network_score(net, box=75.0)
    value, trial, known, after, state = deque(walk(score, centers, 75.0, 10_000), maxlen=1)[0]
    assert torch.allclose(value, whole(net, trial, 75.0).mean(1), rtol=CLOSE, atol=0)
    again, fresh = score.start(after)
    assert torch.equal(again, known)
    assert bool((state.known.conductance == fresh.known.conductance).all())


def test_alone_in_a_batch_on_two_threads_and_resumed():
    centers = structures(4, 27, 50.0)
    score = network_score(network(centers, 50.0), box=50.0)
    setting = {"box": 50.0, "diameter": DIAMETER, "cycles": 2, "steps": 20, "seed": 5, "temperature": 0.02}
    together = gpuion.anneal(score, centers, **setting)
    alone = gpuion.anneal(score, centers[3:4], ids=[3], **setting)
    torch.set_num_threads(2)
    assert equal(together, gpuion.anneal(score, centers, **setting))
    for name in ("best_score", "visited", "visited_score", "centers"):
        assert torch.equal(getattr(together, name)[3:4], getattr(alone, name))
    first = gpuion.anneal(score, centers, **{**setting, "cycles": 1})
    assert equal(together, gpuion.anneal(score, centers, state=first, **setting))
    assert float(together.acceptance.min()) > 0.1


def test_annealing_goes_by_it_along_axes_too():
    @dataclasses.dataclass
    class Like:
        box: float = 50.0
        diameter: float = DIAMETER

    centers = structures(3, 27, 50.0)
    net = network(centers, 50.0)
    expected = whole(net, centers, 50.0)
    net.float()
    for goal in (Objective(), Objective(name="x"), Objective(name="even", maximize=False)):
        score = score_of(net, Like(), goal, 8, 1e-3)
        assert isinstance(score, IncrementalScore)
        # Differences between axes of D, each off by CLOSE of itself, over what may be a tenth of D.
        assert torch.allclose(score.start(centers)[0], goal(expected), rtol=40 * CLOSE, atol=CLOSE)


@numba.njit
def _add_rows(table, weights, out):
    rows.add_rows(table, 0, weights, out)


def test_fma_rounds_once():
    a = np.float32(1 + 2**-12)
    assert _fma(a, a, np.float32(-1 - 2**-11)) == np.float32(2**-24)
    assert np.float32(a * a) - np.float32(1 + 2**-11) == 0


def _fma(a, b, c):
    out = np.array([c])
    table = np.zeros((4, 1), np.float32)
    table[0] = b
    _add_rows(table, np.array([a, 0, 0, 0], np.float32), out)
    return out[0]


def test_a_small_cell_is_refused():
    with pytest.raises(ValueError, match="box must be 33 or more"):
        network_score(ResistorNetwork(), box=30.0)


@numba.njit
def exponentials(x, out):
    for i in range(len(x)):
        out[i] = rows.exponential(x[i])


def test_an_exponential_is_the_nearest_float32_or_the_next():
    x = np.concatenate([np.linspace(-87, 87, 100_003), np.linspace(-1, 1, 100_003), [0.0]]).astype(np.float32)
    found, exact = np.empty_like(x), np.exp(x.astype(np.float64))
    exponentials(x, found)
    assert float((np.abs(found - exact) / np.spacing(exact.astype(np.float32))).max()) < 1
    assert found[-1] == 1
