"""What else takes tensors on a GPU gives there what it gives on a CPU: gradients, currents, predictions, data sets."""

import pytest
import torch

import gpuion
from gpuion import ascent, attribution, fitting, ladders, objectives, training
from gpuion.distributed import World
from gpuion.models import MODELS, create
from gpuion.scoring import score_of, surrogate_score
from gpuion.training import Plan, Samples

CELL = {"box": 15.0, "diameter": 6.0}
ROOMY = {"box": 40.0, "diameter": 9.6}


def small(count=2, device="cpu", seed=0):
    return gpuion.place("random", n_structures=count, n_particles=3, **CELL, seed=seed).to(device)


def medium(device):
    return gpuion.electrolyte(small(device=device), **CELL)


def smooth(device):
    return gpuion.smooth_medium(small(device=device).double(), **CELL)


# Each with its tolerance, relative to the largest value. Exact solves are to 1e-6 in D on either device, of which a
# few hundred times as much may be left in fields, and iterations stop on each where they do: 2e-3 in gradients.
FUNCTIONS = {
    "currents": (2e-3, lambda device: gpuion.currents(medium(device), 1, tolerance=1e-6)),
    "tortuosity": (4e-6, lambda device: gpuion.tortuosity(medium(device), tolerance=1e-6)),
    "one axis": (4e-6, lambda device: gpuion.homogenize(medium(device), tolerance=1e-6, axes=(2,)).tensor[:, 2, 2]),
    "refine": (2e-4, lambda device: gpuion.refine(small(device=device), **CELL, tolerance=1e-6).diffusivity),
    "smooth": (1e-12, lambda device: smooth(device).log_diffusivity),
    "pull": (2e-3, lambda device: attribution.exact_pull(small(device=device), **CELL, tolerance=1e-6)),
    "loading": (0, lambda device: gpuion.change_loading(small(device=device), 5, **CELL, seed=1)),
    "fewer": (0, lambda device: gpuion.change_loading(small(device=device), 2, **CELL, seed=1)),
    "separate": (1e-9, lambda device: gpuion.separate(small(device=device).double() * 0.8, **CELL)),
    "tile": (0, lambda device: gpuion.tile(gpuion.voxelize(small(device=device), **CELL, voxels=15), 2)),
    "nearest": (1e-12, lambda device: gpuion.describe(small(device=device), box=15.0, cutoff=7.0).nearest),
}


def _effective(device):
    fields = smooth(device)
    return gpuion.effective_diffusivity(fields.potential, fields.log_diffusivity, tolerance=1e-6)


FUNCTIONS["fields"] = (4e-6, _effective)


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_agrees(name):
    tolerance, function = FUNCTIONS[name]
    here, there = function("cpu"), function("cuda")
    assert there.is_cuda
    assert here.isfinite().any()
    apart = (there.cpu() - here).nan_to_num().abs().max()
    assert float(apart) <= tolerance * float(here.nan_to_num().abs().max())


def roomy(device, n=6):
    centers = gpuion.place("random", n_structures=n, n_particles=8, **ROOMY).to(device)
    axes = 0.2 + torch.rand(n, 3, generator=torch.Generator().manual_seed(0)).to(device)
    return Samples(
        centers=centers, target=axes.mean(1), axes=axes, id=torch.arange(n, device=device), **ROOMY, voxels=20
    )  # fmt: skip


def trained(model, device):
    """Return a model after an epoch, with its doubts where it has some, and what it says."""
    torch.manual_seed(0)
    net, world = create(model, voxels=20, widths=(4, 4)).to(device), World(rank=0, size=1, device=torch.device(device))
    samples = training.prepared(net, roomy(device))
    if model == "ridge":
        net.solve(samples.target, samples.inputs)
    else:
        training.calibrate(net, samples)
        plan = Plan(epochs=5, batch=3, learning_rate=1e-3)
        training.train_epoch(net, training.optimizer_for(net, plan), samples, epoch=0, plan=plan, world=world)
    fitting.doubt(net, {"train": samples, "validation": samples}, world)
    net.meta = {"voxels": 20, "box": 40.0}
    return net


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("model", MODELS)
def test_every_model_learns_and_predicts(model, tmp_path):
    found = {}
    for device in ("cpu", "cuda"):
        net = trained(model, device)
        said = found[device] = net.predict(roomy(device).centers, **ROOMY)
        training.save_checkpoint(tmp_path / "net.pt", net, {**net.meta, "diameter": 9.6})
        again = training.load_surrogate(tmp_path / "net.pt", device)
        same = training.predict(again, training.prepared(again, roomy(device)))
        assert torch.allclose(same.cpu(), said.d_star.cpu(), rtol=1e-4)
    # As in test_gpu_models: Adam's first steps have the gradient's sign.
    assert torch.allclose(found["cuda"].d_star.cpu(), found["cpu"].d_star, rtol=2e-3)
    low, high = found["cuda"].interval(0.9)
    assert low.is_cuda
    if model in {"nearest", "pairs", "ridge", "graph", "network"}:
        assert bool((low < high).all())


def data(device):
    samples = roomy(device)
    n, nan = len(samples), torch.full((6, 2), torch.nan)
    return gpuion.Dataset(
        centers=samples.centers, diffusivity=samples.axes.double(), standard_error=torch.ones(n, 3, device=device),
        id=samples.id, family=torch.arange(n).numpy().astype(str), distance=nan.to(device), gap=nan[:, 0].to(device),
        axes=torch.zeros(n, 3, dtype=torch.bool, device=device), sites_per_voxel=1, method="exact", d_reference=1.0,
        **ROOMY,
    )  # fmt: skip


@pytest.mark.usefixtures("real")
def test_a_data_set_on_the_device(tmp_path):
    here, there = data("cpu"), data("cuda")
    assert here.fingerprint == there.fingerprint
    assert there.subset(there.d_star > 0.5).centers.is_cuda
    assert len(there.subset(torch.tensor([1, 2], device="cuda"))) == 2
    gpuion.dataset.write_shard(tmp_path / "shard-00000.h5", there, seed=0)
    read = gpuion.open_dataset(tmp_path, "cuda")
    assert read.centers.is_cuda
    assert torch.equal(read.centers.cpu(), here.centers)
    assert bool(read.settled.all())


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("name", [*objectives.DIRECTIONS, "cautious"])
def test_chains_go_by_every_objective(name):
    net, like = trained("network", "cuda"), data("cpu")
    caution = 2.0 if name == "cautious" else 0.0
    name = "mean" if name == "cautious" else name
    goal = next(iter(objectives.goals(name, "both", 0.5 if name == "target" else None, caution).values()))
    score = score_of(net, like, goal, 4, 1e-2)
    found = gpuion.anneal(
        score, like.centers[:4].to("cuda"), **ROOMY, cycles=2, steps=12, samples=3, replicas=2, every=3,
        temperature=torch.tensor([0.1, 0.2]), maximize=goal.maximize,
    )  # fmt: skip
    assert found.visited.is_cuda
    assert bool(found.score.isfinite().all())
    led = ascent.ascend(ascent.gradient(net, like, goal), like.centers[:1].to("cuda"), goal, **ROOMY, steps=2)
    assert led.is_cuda


@pytest.mark.usefixtures("real")
def test_ladders_and_pulls_of_models():
    net, like = trained("network", "cuda"), data("cuda")
    score = surrogate_score(net, like, 4)
    pilot = ladders.pilot(score, like.centers[:2], **ROOMY, low=1e-3, high=1e-1, steps=4)
    assert bool(torch.stack(pilot).isfinite().all())
    assert attribution.pull(net, like.centers[:2], **ROOMY).is_cuda
    image = trained("periodic", "cuda")
    assert attribution.saliency(image, like.centers[:2], **ROOMY, voxels=20).is_cuda
    assert attribution.pull(image, like.centers[:2], **ROOMY).is_cuda
