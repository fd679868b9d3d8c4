"""What a GPU computes, beside what a CPU does: learning and annealing."""

import pytest
import torch
from cells import overlap, spheres

import gpuion
from gpuion import models, training
from gpuion.distributed import World
from gpuion.scoring import surrogate_score
from gpuion.training import Plan, Samples


def trained(device, samples, boundary):
    torch.manual_seed(0)
    net = gpuion.Surrogate(boundary, voxels=samples.voxels, widths=(4, 4), hidden=8)
    net.calibrate(samples.target)
    net, samples = net.to(device), samples.to(device)
    plan = Plan(epochs=2, batch=4, learning_rate=1e-3, seed=3)
    world = World(rank=0, size=1, device=torch.device(device))
    optimizer = training.optimizer_for(net, plan)
    losses = [training.train_epoch(net, optimizer, samples, epoch=e, plan=plan, world=world) for e in range(2)]
    return losses, training.predict(net, samples).cpu()


@pytest.mark.parametrize("boundary", ["periodic", "tiled", "zero"])
def test_an_epoch_of_training_agrees(real, boundary, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # it would round to ten bits
    n, V = (24, 30) if real else (7, 15)
    draw = torch.Generator().manual_seed(0)
    samples = Samples(
        centers=torch.rand(n, 3, 3, generator=draw) * V, target=torch.rand(n, generator=draw) + 0.2,
        id=torch.arange(n) * 7, box=float(V), diameter=4.0, voxels=V,
    )  # fmt: skip
    (here, predicted), (there, likewise) = (trained(device, samples, boundary) for device in ("cpu", "cuda"))
    # Roundings of 1e-7 grow to 1e-5 in a gradient that nearly cancels; Adam's first steps are of the gradient's sign,
    # 1e-3 each, so that one weight of a hundred that goes the other way moves D* by some 1e-5.
    assert there == pytest.approx(here, rel=1e-3)
    assert torch.allclose(likewise, predicted, rtol=1e-3)


@pytest.mark.parametrize("name", ["nearest", "pairs", "graph", "network"])
def test_an_epoch_on_centres_agrees(real, name):
    n, N = (24, 27) if real else (6, 8)
    axes = torch.rand(n, 3, generator=torch.Generator().manual_seed(0)) + 0.2
    samples = Samples(
        centers=gpuion.place("random", n_structures=n, n_particles=N, box=50.0, diameter=9.6, seed=0),
        target=axes.mean(1), axes=axes, id=torch.arange(n), box=50.0, diameter=9.6, voxels=50,
    )  # fmt: skip
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        net = models.create(name, hidden=8).to(device)
        ready = training.prepared(net, samples.to(device))
        training.calibrate(net, ready)
        plan = Plan(epochs=2, batch=4, learning_rate=1e-3, seed=3)
        world = World(rank=0, size=1, device=torch.device(device))
        optimizer = training.optimizer_for(net, plan)
        losses = [training.train_epoch(net, optimizer, ready, epoch=e, plan=plan, world=world) for e in range(2)]
        found.append((losses, training.predict(net, ready).cpu()))
    (here, predicted), (there, likewise) = found
    # As above; solves in float32 of order one add some 1e-6.
    assert there == pytest.approx(here, rel=2e-3)
    assert torch.allclose(likewise, predicted, rtol=2e-3)


def test_annealing_repeats_itself_and_keeps_spheres_apart(real, cell):
    box, centers = cell["box"], spheres(cell, 4)
    torch.manual_seed(0)
    net = gpuion.Surrogate(widths=(4, 4), hidden=4).to("cuda").eval()
    net.meta = {"voxels": round(box), "box": box}
    like = gpuion.Dataset(
        centers=centers, diffusivity=torch.ones(4, 3), standard_error=torch.ones(4, 3), id=torch.arange(4), family=None,
        distance=torch.ones(4, 2), gap=torch.ones(4), axes=torch.ones(4, 3), box=box, diameter=cell["diameter"],
        sites_per_voxel=1, method="exact",
    )  # fmt: skip
    setting = {"box": box, "diameter": cell["diameter"], "cycles": 2, "steps": 200 if real else 20, "samples": 10}
    first, second = (
        gpuion.anneal(surrogate_score(net, like, 4), centers.to("cuda"), temperature=1e-4, **setting) for _ in range(2)
    )
    assert first.visited.is_cuda
    for name, value in vars(first).items():
        assert torch.equal(value, getattr(second, name)), name
    assert float(first.acceptance.mean()) > 0
    assert not overlap(first.visited.flatten(0, 1), box, cell["diameter"])
    assert not overlap(first.best_centers, box, cell["diameter"])


@pytest.mark.parametrize("replicas", [1, 3])
def test_annealing_on_whole_numbers_takes_the_same_path(cell, replicas):
    def score(centers):  # a sum of integers, the same on any device
        return centers.double().floor().remainder(5).sum((1, 2))

    setting = {"box": cell["box"], "diameter": cell["diameter"], "cycles": 2, "steps": 70, "replicas": replicas}
    setting["temperature"] = torch.tensor([0.7, 1.0, 1.6])  # of each chain; three in a row may exchange theirs
    centers = spheres(cell, 3)
    here, there = (gpuion.anneal(score, c, **setting) for c in (centers, centers.to("cuda")))
    for name, value in vars(here).items():
        assert torch.equal(value, getattr(there, name).cpu()), name
