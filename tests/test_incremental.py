"""Scores told of moves are the network's own: along walks across the cell's faces, in any batch, at no drift at all."""

import dataclasses
from collections import deque

import pytest
import torch
from test_annealing import equal

import gpuion
from gpuion.incremental import image_score
from gpuion.scores import IncrementalScore
from gpuion.scoring import score_of

DIAMETER = 9.6024
# float64 sums of float32 numbers: an activation is off by some 1e-6 of itself (64 inputs, 6e-8 each, of random sign),
# their means over 1000 or more cells by less; powers by 1e-7. Weights turn these into 1e-6 of log D* at most.
CLOSE = 2e-6


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(centers, box, voxels, diameter=DIAMETER, **options):
    """Return a network with random weights, and statistics of these structures."""
    torch.manual_seed(3)
    net = gpuion.Surrogate(**options)
    image = gpuion.voxelize(centers, box=box, diameter=diameter, voxels=voxels)
    for _ in range(20):
        net.train()(image)
    with torch.no_grad():
        for layer in net.body.convolutions:
            layer.bias.add_(0.1 * torch.randn(len(layer.bias)))
    net.calibrate(torch.linspace(0.05, 1, 20))
    net.meta = {"box": box, "voxels": voxels}
    return net.eval()


def structures(C, N, box, diameter=DIAMETER, seed=0):
    return gpuion.place("random", n_structures=C, n_particles=N, box=box, diameter=diameter, seed=seed)


@torch.no_grad()
def whole(net, centers, box, voxels, diameter=DIAMETER):
    image = gpuion.voxelize(centers, box=box, diameter=diameter, voxels=voxels)
    return net.double()(image.double())


def proposals(centers, box, diameter, steps, seed):
    """Yield sphere, position and structure of random moves by a voxel that fit, half of sphere 0; send where it is."""
    draw = torch.Generator().manual_seed(seed)
    chain = torch.arange(len(centers))
    for _ in range(steps):
        sphere = torch.randint(centers.shape[1], (len(centers),), generator=draw)
        sphere *= torch.randint(2, (len(centers),), generator=draw)
        axis, sign = (torch.randint(k, (len(centers),), generator=draw) for k in (3, 2))
        trial = centers.clone()
        trial[chain, sphere, axis] = torch.remainder(trial[chain, sphere, axis] + 2 * sign - 1, box)
        apart = (trial - trial[chain, sphere][:, None]).abs().double()
        square = torch.minimum(apart, box - apart).square().sum(-1)
        square[chain, sphere] = torch.inf
        free = square.amin(1) >= diameter**2
        trial = torch.where(free[:, None, None], trial, centers)
        centers = yield sphere, trial[chain, sphere], trial


def walk(score, centers, box, steps, *, diameter=DIAMETER, chance=0.7, seed=0):
    """Yield the proposed structures and scores of a walk, and the state and structures after it."""
    known, state = score.start(centers)
    draw = torch.Generator().manual_seed(seed + 1)
    moves = proposals(centers, box, diameter, steps, seed)
    move = next(moves)
    for step in range(steps):
        sphere, position, trial = move
        value, trial_state = score.propose(state, sphere, position, trial)
        accepted = torch.rand(len(centers), generator=draw) < chance
        state = score.accept(state, trial_state, accepted)
        known = torch.where(accepted, value, known)
        centers = torch.where(accepted[:, None, None], trial, centers)
        yield value, trial, known, centers, state
        if step < steps - 1:
            move = moves.send(centers)


CASES = {
    "small": (3, 12, 20.0, 20, 5.0, {"pool": 4, "widths": (3, 5, 2)}),  # regions as large as the cell
    "laptop": (2, 27, 50.0, 50, DIAMETER, {}),
    "study": (2, 91, 75.0, 75, DIAMETER, {}),
    "fine": (2, 8, 25.0, 50, 6.0, {"widths": (4, 8)}),  # two voxels a move
}


@pytest.mark.parametrize("case", CASES)
def test_scores_along_a_walk_are_those_of_the_whole_network(case):
    C, N, box, voxels, diameter, options = CASES[case]
    centers = structures(C, N, box, diameter)
    centers = torch.remainder(centers - centers[:, :1] + 0.3, box)  # the sphere that moves most lies in a corner
    net = network(centers, box, voxels, diameter, **options)
    score = image_score(net, box=box, diameter=diameter, voxels=voxels)
    value, _ = score.start(centers)
    expected = whole(net, centers, box, voxels, diameter)
    assert torch.allclose(value, expected, rtol=CLOSE, atol=0)
    crossed, spread = 0, []
    for step, (value, trial, _, after, _) in enumerate(walk(score, centers, box, 60, diameter=diameter)):
        if step % 6 == 5:
            expected = whole(net, trial, box, voxels, diameter)
            assert torch.allclose(value, expected, rtol=CLOSE, atol=0)
            spread.append(expected / value.mean())
        crossed += int(((after - centers).abs() > box / 2).any())
    assert crossed > 0  # some sphere went through a face
    assert float(torch.stack(spread).std(0).min()) > 20 * CLOSE  # and the moves are felt


def test_nothing_but_the_structure_counts():
    """After any number of moves a state is the one that is made of its structure at once, bit for bit."""
    centers = structures(2, 27, 50.0)
    score = image_score(network(centers, 50.0, 50), box=50.0, diameter=DIAMETER, voxels=50)
    _, _, known, after, state = deque(walk(score, centers, 50.0, 300), maxlen=1)[0]
    assert not torch.equal(after, centers)
    again, fresh = score.start(after)
    for name in ("centers", "field", "cells", "sums"):
        assert bool((getattr(state.memory, name) == getattr(fresh.memory, name)).all()), name
    assert sum(x.nbytes for x in (*fresh.memory, *fresh.move)) == 2 * score.chain_bytes(27)
    # The score alone remembers the last move: powers are of modes in float32, 1e-7.
    assert torch.allclose(again, known, rtol=CLOSE, atol=0)


def test_ten_thousand_steps_of_four_chains_on_two_threads_leave_no_trace():
    _, N, box, voxels, diameter, options = CASES["small"]
    centers = structures(4, N, box, diameter)
    net = network(centers, box, voxels, diameter, **options)
    score = image_score(net, box=box, diameter=diameter, voxels=voxels)
    torch.set_num_threads(2)
    for step, (value, trial, known, after, state) in enumerate(walk(score, centers, box, 10_000, diameter=diameter)):
        if step % 2500 == 2499:
            assert torch.allclose(value, whole(net, trial, box, voxels, diameter), rtol=CLOSE, atol=0)
            assert torch.allclose(known, whole(net, after, box, voxels, diameter), rtol=CLOSE, atol=0)
            fresh = score.start(after)[1]
            for name in ("centers", "field", "cells", "sums"):
                assert bool((getattr(state.memory, name) == getattr(fresh.memory, name)).all()), name
    assert float((after != centers).double().mean()) > 0.9


@pytest.mark.slow
def test_ten_thousand_steps_leave_no_trace():
    centers = structures(1, 91, 75.0)
    net = network(centers.expand(4, -1, -1), 75.0, 75)
    score = image_score(net, box=75.0, diameter=DIAMETER, voxels=75)
    value, trial, _, after, state = deque(walk(score, centers, 75.0, 10_000), maxlen=1)[0]
    assert torch.allclose(value, whole(net, trial, 75.0, 75), rtol=CLOSE, atol=0)
    fresh = score.start(after)[1]
    for name in ("field", "cells", "sums"):
        assert bool((getattr(state.memory, name) == getattr(fresh.memory, name)).all()), name


def test_a_far_move_is_scored_and_none_costs_nothing():
    spheres = structures(2, 9, 50.0)
    centers, other = spheres[:, :8].clone(), spheres[:, 8]
    net = network(centers, 50.0, 50)
    score = image_score(net, box=50.0, diameter=DIAMETER, voxels=50)
    known, state = score.start(centers)
    sphere = torch.tensor([3, 5])
    value, trial_state = score.propose(state, sphere, centers[[0, 1], sphere], centers)
    assert torch.equal(value, known)
    trial = centers.clone()
    trial[[0, 1], sphere] = other
    value, trial_state = score.propose(state, sphere, other, trial)
    assert torch.allclose(value, whole(net, trial, 50.0, 50), rtol=CLOSE, atol=0)
    state = score.accept(state, trial_state, torch.tensor([True, True]))
    fresh = score.start(trial)[1]
    assert bool((state.memory.field == fresh.memory.field).all())
    assert bool((state.memory.cells == fresh.memory.cells).all())


def test_alone_in_a_batch_and_on_two_threads():
    centers = structures(5, 27, 50.0)
    score = image_score(network(centers, 50.0, 50), box=50.0, diameter=DIAMETER, voxels=50)
    setting = {"box": 50.0, "diameter": DIAMETER, "cycles": 2, "steps": 30, "seed": 5, "temperature": 0.02}
    together = gpuion.anneal(score, centers, **setting)
    alone = gpuion.anneal(score, centers[3:4], ids=[3], **setting)
    torch.set_num_threads(2)
    threads = gpuion.anneal(score, centers, **setting)
    assert equal(together, threads)
    for name in ("best_score", "visited", "visited_score", "centers"):
        assert torch.equal(getattr(together, name)[3:4], getattr(alone, name))
    first = gpuion.anneal(score, centers, **{**setting, "cycles": 1})
    assert equal(together, gpuion.anneal(score, centers, state=first, **setting))
    assert float(together.acceptance.min()) > 0.1


def test_annealing_goes_by_it_where_it_can():
    from gpuion.objectives import Objective

    @dataclasses.dataclass
    class Like:
        box: float = 50.0
        diameter: float = DIAMETER

    centers = structures(2, 27, 50.0)
    net = network(centers, 50.0, 50)
    score = score_of(net, Like(), Objective(), 8, 1e-3)
    assert isinstance(score, IncrementalScore)
    value = score.start(centers)[0]
    assert torch.allclose(value, whole(net, centers, 50.0, 50), rtol=CLOSE, atol=0)


def test_other_networks_and_sizes_are_refused():
    with pytest.raises(ValueError, match="only the periodic network"):
        image_score(gpuion.Surrogate("zero", voxels=16), box=50.0, diameter=DIAMETER, voxels=16)
    with pytest.raises(ValueError, match="16 voxels are not"):
        image_score(gpuion.Surrogate(), box=50.0, diameter=DIAMETER, voxels=16)
