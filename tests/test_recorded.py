"""A recorded step is the step: the same operations whatever the structures, none of which waits for a number."""

import math

import pytest
import torch
from rehearsal import rehearse
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.fx.experimental.proxy_tensor import make_fx

import gpuion
from gpuion import voxels
from gpuion.checkpoints import PRETRAINED
from gpuion.contacts import Room, lengths, room_for, vectors
from gpuion.moves import split
from gpuion.resistors import CUTOFF
from gpuion.scores import Each, Fixed
from gpuion.scoring import surrogate_score
from gpuion.steps import Chains, Rules, moves, propose
from gpuion.tempering import ladder

BOX, SIGMA = 50.0, 9.6024
LIKE = type("Cell", (), {"box": BOX, "diameter": SIGMA})
SETTING = {"box": BOX, "diameter": SIGMA, "cycles": 2, "steps": 70, "temperature": 1e-3}


def place(count, seed=0, particles=12):
    return gpuion.place(
        "random", n_structures=count, n_particles=particles, box=BOX, diameter=SIGMA, seed=seed
    )  # fmt: skip


def image_net():
    torch.manual_seed(0)
    net = gpuion.Surrogate(widths=(4, 4), hidden=4).eval()
    net.meta = {"voxels": round(BOX), "box": BOX}
    return net


def begin(score, centers):
    """Return the rules and chains of a first cycle."""
    space, cell = split(centers, BOX, SIGMA)
    ids = torch.arange(len(centers))
    rules = Rules(
        score=score, space=space, ids=ids, rungs=ladder(1e-3, ids, 1, 10), sign=1.0, steps=70, samples=1, seed=0,
        progress=None,
    )  # fmt: skip
    with torch.no_grad():
        value = score.start(centers)[0]
    chains = Chains(
        cell=cell, centers=centers, score=value, memory=None, best_centers=centers, best_score=value,
        accepted=torch.zeros_like(ids), finite=torch.ones_like(ids, dtype=torch.bool),
        heat=torch.full_like(value, 1e-3), rung=torch.zeros_like(ids), swapped=torch.zeros_like(ids),
    )  # fmt: skip
    return rules, chains


def held(chains):
    return {name: x for name, x in vars(chains).items() if name != "memory"}


@pytest.mark.parametrize("model", ["network", "periodic"])
def test_a_step_can_be_traced_without_a_number(model, monkeypatch):
    # Tracing on tensors without numbers fails wherever the host asks for one or a shape depends on one. What is traced
    # holds for other structures, other draws and as many steps as one likes, bit for bit.
    monkeypatch.setattr(voxels, "images", drawn)
    monkeypatch.setattr("gpuion.scoring.images", drawn)
    net = gpuion.load_surrogate(PRETRAINED) if model == "network" else image_net()
    score = surrogate_score(net, LIKE, 4).fixed(place(4), 2.0)
    rules, chains = begin(score, place(4))
    names = list(held(chains))

    @torch.no_grad()
    def step(*tensors):
        now = Chains(memory=None, **dict(zip(names, tensors, strict=False)))
        return list(held(propose(rules, now, *tensors[len(names) :])).values())

    drawn_moves = list(moves(rules, range(12)))
    trace = traced(step, [*held(chains).values(), *drawn_moves[0][1:]])
    _, other = begin(score, place(4, seed=7))
    ours = theirs = list(held(other).values())
    for _, *move in drawn_moves:
        ours, theirs = trace(*theirs, *move), step(*theirs, *move)
        for name, a, b in zip(names, ours, theirs, strict=True):
            assert torch.equal(a, b), name
    assert not torch.equal(theirs[names.index("centers")], other.centers)


def traced(function, tensors):
    """Return the operations that a function does on separate tensors of such shapes, whatever their numbers."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return make_fx(function)(*(mode.from_tensor(x.clone()) for x in tensors))


def drawn(centers, box, diameter, count):
    """Return images as a GPU draws them."""
    image = torch.zeros(len(centers), count, count, count)
    voxels.draw(image, centers, radius=diameter / 2, spacing=box / count)
    return image[:, None]


def test_a_tracing_finds_what_waits():
    for step in (lambda x: x[x > 0], lambda x: x * float(x.sum()), lambda x: x if x.sum() > 0 else -x):
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            traced(step, [torch.ones(3)])


def test_room_changes_roundings_only():
    net, centers = gpuion.load_surrogate(PRETRAINED), place(5, particles=20)
    with torch.no_grad():
        expected = torch.cat([net(*net.prepare(c[None], BOX, SIGMA)) for c in centers])
        for margin in (1.0, 1.25, 1e9):
            room = room_for(lengths(vectors(centers, BOX)), CUTOFF, margin)
            found = net.within(room, BOX)(centers)
            # As solves in batches do: circuits of order one in float32, some hundred additions of 6e-8.
            assert torch.allclose(found, expected, rtol=2e-5), margin
    assert room.is_complete(20)
    assert room == Room(contacts=190, slots=19)


def test_too_little_room_is_no_number():
    net, centers = gpuion.load_surrogate(PRETRAINED), place(6, particles=27)
    distance = lengths(vectors(centers, BOX))
    near = (distance < CUTOFF).sum(2)
    count, widest = near.sum(1) // 2, near.amax(1)
    for room in (Room(contacts=int(count.sort()[0][3]), slots=26), Room(contacts=351, slots=int(widest.max()) - 1)):
        full = (count > room.contacts) | (widest > room.slots)
        assert 0 < int(full.sum()) < 6
        assert torch.equal(room.is_full(distance, CUTOFF), full)
        with torch.no_grad():
            found = net.within(room, BOX)(centers)
        assert torch.equal(found.isnan().all(1), full)
        assert torch.equal(found.isnan().any(1), full)


def whole(centers):
    """A sum of integers, the same in any order."""
    return centers.double().floor().remainder(5).sum((1, 2))


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("samples", [1, 25])
def test_recorded_chains_take_the_same_path(replicas, samples):
    setting = SETTING | {"temperature": torch.tensor([0.7, 1.0, 1.6]), "replicas": replicas, "samples": samples}
    here = gpuion.anneal(whole, place(3), **setting)
    there = gpuion.anneal(Each(whole, lambda *_: Fixed(whole)), place(3).to("cuda"), **setting)
    for name, value in vars(here).items():
        assert torch.equal(value, getattr(there, name).cpu()), name


@pytest.mark.usefixtures("real")
def test_room_grows_and_steps_are_made_again():
    # Room for structures that score so much at most: a chain that climbs outgrows it again and again.
    made = []

    def fixed(centers, margin):
        top = float(whole(centers).max()) * margin / 1.25
        made.append(top)

        def score(x):
            value = whole(x)
            return value.masked_fill(value > top, math.nan)

        return Fixed(score, top, complete=top > 144)  # 36 coordinates of 4 at most

    setting = SETTING | {"temperature": 0.3, "samples": 5}
    here = gpuion.anneal(whole, place(3), **setting)
    there = gpuion.anneal(Each(whole, fixed), place(3).to("cuda"), **setting)
    for name, value in vars(here).items():
        assert torch.equal(value, getattr(there, name).cpu()), name
    assert len(made) >= 4
    assert made[1] == 2 * made[0]


@pytest.mark.usefixtures("real")
def test_what_cannot_be_recorded_goes_step_by_step():
    def waits(centers):
        return whole(centers) + float(whole(centers)[0]) * 0

    here = gpuion.anneal(whole, place(3), **SETTING)
    with pytest.warns(UserWarning, match="step by step") as said:
        there = gpuion.anneal(Each(waits, lambda *_: Fixed(waits)), place(3).to("cuda"), **SETTING)
    assert len(said) == 1
    assert torch.equal(here.visited, there.visited.cpu())


@pytest.mark.parametrize(
    ("model", "chains", "particles"), [("network", 4, 12), ("network", 1, 27), ("periodic", 4, 12)]
)
def test_networks_are_recorded(model, chains, particles, real, recwarn):
    net = gpuion.load_surrogate(PRETRAINED) if model == "network" else image_net()
    score, centers = surrogate_score(net.to("cuda"), LIKE, 4), place(chains, particles=particles).to("cuda")
    setting = SETTING | {"steps": 200 if real else 20, "samples": 4}
    first, again = (gpuion.anneal(score, centers, **setting) for _ in range(2))
    assert not recwarn.list
    for name, value in vars(first).items():
        assert torch.equal(value, getattr(again, name)), name
    # The scores are those of the network itself; float32 sums in another order.
    assert torch.allclose(first.score, score(first.centers).double(), rtol=2e-5 if model == "network" else 1e-4)
    assert float(first.acceptance.mean()) > 0


def test_a_rehearsed_recording_is_strict():
    with rehearse():
        x = torch.arange(4.0, device="cuda")
        for wait in (
            lambda x: x[x > 1],
            lambda x: x.nonzero(),
            lambda x: float(x.sum()),
            lambda x: x.cpu(),
            lambda x: x + torch.tensor([1.0], device="cuda"),
            lambda x: torch.linalg.cholesky(x.diag() + 1),
            lambda x: x if x.sum() > 0 else -x,
        ):
            with pytest.raises(RuntimeError, match="capturing"):
                gpuion.recorded.record(wait, [x])
        gpuion.recorded.record(lambda x: x.add_(1).sum(), [x])()
        assert x.tolist() == [1, 2, 3, 4]


def test_room_is_decided_as_a_cycle_begins():
    asked = []

    def fixed(centers, margin):
        asked.append((centers.clone(), margin))
        return Fixed(whole)

    with rehearse():
        state = gpuion.anneal(Each(whole, fixed), place(2).to("cuda"), **SETTING | {"samples": 7})
    assert [margin for _, margin in asked] == [1.25, 1.25]
    assert torch.equal(asked[1][0].cpu(), state.visited[:, 6].cpu())


def test_a_crowded_cell_is_recorded(real, recwarn):
    # Some 300 contacts, on a real GPU with room for more than 512: larger systems than libraries solve in one.
    score = surrogate_score(gpuion.load_surrogate(PRETRAINED).to("cuda"), LIKE, 4)
    wide = Each(score.score, lambda centers, margin: score.fixed(centers, margin * (3 if real else 1)))
    centers = place(9 if real else 1, particles=60 if real else 27).to("cuda")
    found = gpuion.anneal(wide, centers, **SETTING | {"steps": 40 if real else 5, "samples": 2})
    assert not recwarn.list
    assert torch.allclose(found.score, score(found.centers).double(), rtol=5e-5)


@pytest.mark.gpu
def test_a_failed_recording_leaves_nothing_behind(real):
    here = torch.cuda.current_stream()
    x = torch.arange(4.0, device="cuda")
    with pytest.raises(RuntimeError):
        gpuion.recorded.record(lambda x: x.add_(float(x.sum())), [x])
    assert torch.cuda.current_stream() == here
    gpuion.recorded.record(lambda x: x.add_(1), [x])()
    assert real
    assert x[1:].sub(x[:-1]).tolist() == [1, 1, 1]
