"""Walks against exact numbers and against homogenisation; the same in any batch, unit and on a GPU."""

import math

import pytest
import torch
from walk_media import agree, laminate, two_phase, uniform_medium

import gpuion

# Family, its parameters, the structure's number, walkers, time: numbers whose slowest axis settles within seconds.
ELECTROLYTES = [
    ("random", {}, 22, 1000, 6000.0),
    ("chained", {"distance": (12.5, 13.5)}, 8, 1000, 6000.0),
    ("gapped", {"gap": 7.0, "axes": (0,)}, 15, 500, 36_000.0),
]


def test_uniform_medium_diffuses_at_its_own_rate():
    run = gpuion.walk(uniform_medium(diffusivity=0.7), walkers=4000, time=120.0)
    assert bool(run.converged.all())
    agree(run, torch.full((1, 3), 0.7, dtype=torch.float64))
    # Every bond is the fastest, so every attempt but 2⁻²⁰ of them is a hop.
    assert float(run.hops / run.attempts) > 0.99999
    # The slope over (t/2, t) of ~8 separate time origins: between one origin's error and twice the best possible.
    assert float(run.mean_error / run.mean) < 3 * math.sqrt(2 / (3 * 4000))


def test_laminate_has_its_exact_diffusivity():
    pi, D = torch.tensor([1.0] * 5 + [math.e] * 7).double(), torch.tensor([1.0] * 5 + [0.25] * 7).double()
    bonds = (D * D.roll(-1)).sqrt() * (pi * pi.roll(-1)).sqrt()
    along, across = (D * pi).sum() / pi.sum(), 12 * 12 / (1 / bonds).sum() / pi.sum()
    run = gpuion.walk(laminate(), walkers=3000, time=1200.0, seed=2)
    assert bool(run.converged.all())
    agree(run, torch.stack([along, along, across])[None])


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


@pytest.mark.parametrize("unit", [1e-130, 1e-60, 1e-18, 1e7, 1e120])
def test_a_walk_is_the_same_in_any_unit(unit):
    medium = two_phase(3, blocked=True)
    scaled = gpuion.Medium(medium.labels, medium.diffusivity * unit, medium.potential)
    here, there = (gpuion.walk(m, walkers=100, time=t) for m, t in ((medium, 120.0), (scaled, 120.0 / unit)))
    # Round-off in √D moves one threshold of 2³² in 2²⁴ by one at most: no decision of these 10⁵ hangs on that.
    assert torch.equal(here.hops, there.hops)
    torch.testing.assert_close(here.slopes, there.slopes / unit, rtol=1e-12, atol=0)
    assert here.converged.tolist() == there.converged.tolist() == [True]


@pytest.mark.gpu
def test_a_gpu_walks_the_same_walks():
    medium = two_phase(5, shape=(2, 9, 8, 7), blocked=True)
    cpu = gpuion.walk(medium, walkers=300, time=50.0, seed=1)
    gpu = gpuion.walk(medium.to("cuda"), walkers=300, time=50.0, seed=1)
    assert torch.equal(cpu.hops, gpu.hops.cpu())
    # Paths are equal; averages over them may be summed in another order in float64.
    assert torch.allclose(cpu.slopes, gpu.slopes.cpu(), rtol=1e-12)
