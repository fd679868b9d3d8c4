"""What a GPU computes, beside what a CPU does. Without a GPU the same tests run at a tiny size on a pretended one."""

import importlib
import signal
import sys
from pathlib import Path

import pytest
import torch
from rehearsal import rehearse

import gpuion
from gpuion import descriptors, insertion, models, training
from gpuion.design import Design, arrange
from gpuion.distributed import World
from gpuion.labeling import label
from gpuion.scoring import surrogate_score
from gpuion.training import Plan, Samples

ROOT = Path(__file__).parent.parent
SIGMA = gpuion.sphere_diameter(91, 75.0, 0.1)

FAMILIES = [
    ("random", {}),
    ("chained", {"distance": (SIGMA, 11.0)}),
    ("chained", {"distance": (20.0, 30.0)}),
    ("gapped", {"gap": 13.0, "axes": (2,)}),
    ("gapped", {"gap": 11.0, "axes": (0, 1, 2)}),
    ("gapped", {"gap": 10.0, "axes": (0, 1), "distance": (12.5, 13.5)}),
]

TINY = """
[system]
particles = 2
box = 9.0
volume_fraction = 0.05
[simulate]
random = 2
chained = 2
gapped = 3
chained_ranges = [["contact", 4.5], [4.5, 6.0]]
gapped_widths = [[1.0, 2.0], [1.0, 2.0], [1.0, 1.5]]
shard = 4
tolerance = 1e-2
method = "both"
walkers = 20
time = 50.0
[train]
widths = [4, 4]
hidden = 4
epochs = 2
pool = 3
batch = 4
[anneal]
chains = 2
cycles = 2
steps = 6
samples = 2
relabel = 2
tolerance = 1e-2
"""


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.gpu), "rehearsal"])
def real(request):
    """Whether the GPU is a real one; sizes depend on it."""
    if request.param == "cuda":
        yield True
    else:
        with rehearse():
            yield False


@pytest.fixture
def cell(real):
    """Box, diameter and number of spheres."""
    return {"box": 75.0, "diameter": SIGMA, "n": 91} if real else {"box": 15.0, "diameter": 6.0, "n": 3}


def spheres(cell, count, device="cpu"):
    arguments = {"n_structures": count, "n_particles": cell["n"], "box": cell["box"], "diameter": cell["diameter"]}
    return gpuion.place("random", **arguments, device=device)


def overlap(centers, box, diameter):
    """Whether two spheres are nearer than a diameter; the coordinates' rounding to float32 is 1e-6 of it."""
    apart = (centers.double()[:, :, None] - centers.double()[:, None]).abs()
    distance = torch.minimum(apart, box - apart).square().sum(-1).sqrt()
    distance.diagonal(dim1=1, dim2=2).fill_(box)
    return bool((distance < diameter * (1 - 1e-6)).any())


def test_the_same_spheres_are_placed(real, monkeypatch):
    size = {"n_particles": 91, "box": 75.0} if real else {"n_particles": 8, "box": 45.0}
    if not real:
        monkeypatch.setattr(insertion, "_TESTED", 2**11)
    for family, options in FAMILIES:
        for seed in (0, 2**63 + 9):
            here, there = (
                gpuion.place(
                    family, n_structures=3, **size, diameter=SIGMA, seed=seed, ids=[2**32 - 1, 0, 7], device=device,
                    **options,
                )
                for device in ("cpu", "cuda")
            )  # fmt: skip
            assert there.is_cuda
            assert torch.equal(here, there.cpu())


def test_the_same_design_is_arranged(real, monkeypatch):
    if real:  # as the paper preset has it; 75 structures of all families, of which none jams
        ranges, widths = ((SIGMA * 1.01, 11.0), (11.0, 12.5), (20.0, 30.0)), ((14.0, 26.0), (14.0, 26.0), (14.0, 20.0))
        design = Design(
            particles=91, box=75.0, diameter=SIGMA, random=25, chained=25, gapped=25, ranges=ranges, widths=widths
        )
    else:  # 100 draws a sphere, so that some jam and are drawn again
        monkeypatch.setattr(insertion, "_TESTED", 2**11)
        for module in ("insertion", "packing"):
            monkeypatch.setattr(importlib.import_module(f"gpuion.{module}"), "MAX_DRAWS", 100)
        design = Design(
            particles=6, box=20.0, diameter=6.0, random=2, chained=3, gapped=4, ranges=(("contact", 8.0),),
            widths=((5.0, 8.0), (5.0, 6.0), (3.0, 4.0)),
        )  # fmt: skip
    numbers = list(range(len(design)))
    assert torch.equal(arrange(design, numbers), arrange(design, numbers, "cuda").cpu())


def test_the_same_sites_are_labelled(cell):
    # The exponentials of two libraries differ by 1e-16: a class changes where ρ is that near a boundary, which among
    # 1e7 sites has a chance of 1e-7 or so.
    centers = spheres(cell, 3)
    for refinement in (1, 2):
        here, there = (
            gpuion.electrolyte(c, box=cell["box"], diameter=cell["diameter"], sites_per_voxel=refinement).labels
            for c in (centers, centers.to("cuda"))
        )
        assert there.is_cuda
        assert torch.equal(here, there.cpu())


def test_the_same_images_are_drawn(cell):
    centers = spheres(cell, 5) * 3 - cell["box"]
    options = {"box": cell["box"], "diameter": cell["diameter"], "voxels": round(cell["box"])}
    image = gpuion.voxelize(centers.to("cuda"), **options)
    assert image.is_cuda
    assert torch.equal(image.cpu(), gpuion.voxelize(centers, **options))


def test_the_same_neighbours_are_found(cell):
    centers, box = spheres(cell, 4), cell["box"]
    options = {"box": box, "cutoff": min(14.0, box / 2)}
    for here, there in [
        (descriptors.clusters(centers, **options), descriptors.clusters(centers.to("cuda"), **options)),
        (descriptors.percolates(centers, **options), descriptors.percolates(centers.to("cuda"), **options)),
    ]:
        assert torch.equal(here, there.cpu())
    here, there = (descriptors.nearest_distance(c, box=box) for c in (centers, centers.to("cuda")))
    assert torch.allclose(here, there.cpu(), rtol=1e-14)  # a few float64 roundings
    here, there = (gpuion.describe(c, **options) for c in (centers, centers.to("cuda")))
    assert torch.equal(here.sizes, there.sizes.cpu())
    assert torch.equal(here.percolates, there.percolates.cpu())


def test_the_same_g_of_r_components_and_correlations_are_found(cell, tmp_path):
    centers, box = spheres(cell, 4), cell["box"]
    here, there = (gpuion.pair_distribution(c, box=box) for c in (centers, centers.to("cuda")))
    assert torch.allclose(here, there.cpu(), rtol=1e-14, atol=0)  # equal counts, a few float64 roundings
    found = gpuion.principal_components(there)
    # Two backward stable decompositions of a matrix of some 1: 1e-13; gaps of the shares of some 1e-2 divide that.
    assert torch.allclose(found.share.cpu(), gpuion.principal_components(here).share, atol=1e-11)
    assert torch.allclose(found.scores.cpu() @ found.components.cpu() + found.mean.cpu(), here, atol=1e-11)
    for ranks in (False, True):
        a, b = gpuion.correlation(here, here[:, -1], ranks=ranks), gpuion.correlation(there, there[:, -1], ranks=ranks)
        assert torch.allclose(a, b.cpu(), atol=1e-12, equal_nan=True)
    gpuion.write_xyz(tmp_path / "a.xyz", centers.to("cuda"), box=box, diameter=5.0, info={"D": there[:, 0]})
    medium = gpuion.electrolyte(centers[:1], box=box, diameter=cell["diameter"]).to("cuda")
    gpuion.write_medium(tmp_path / "a.vtkhdf", medium, axis=0, tolerance=1e-3)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("tolerance", [1e-3, 1e-7])
def test_the_exact_solve_agrees(real, tolerance):
    # Each is within the tolerance of the exact D, so that they are within twice that of one another.
    edge, n = (50, 27) if real else (8, 1)
    centers = gpuion.place("random", n_structures=2, n_particles=n, box=edge, diameter=9.6 if real else 5.0)
    medium = gpuion.electrolyte(centers, box=edge, diameter=9.6 if real else 5.0)
    here, there = (
        gpuion.homogenize(medium, tolerance=tolerance),
        gpuion.homogenize(medium.to("cuda"), tolerance=tolerance),
    )
    assert there.tensor.is_cuda
    assert bool(there.converged.all())
    assert float((there.diffusivity.cpu() / here.diffusivity - 1).abs().max()) <= 2 * tolerance
    alone = gpuion.homogenize(medium[1:2].to("cuda"), tolerance=tolerance)
    assert float((alone.diffusivity / there.diffusivity[1:2] - 1).abs().max()) <= 2 * tolerance


def test_labels_of_both_kinds_agree(real, cell):
    # Paths are the same hops; averages over them may be summed in another order in float64.
    centers = spheres(cell, 2)
    options = {"box": cell["box"], "diameter": cell["diameter"], "method": "both", "tolerance": 1e-3}
    options |= {"walkers": 2000 if real else 40, "time": 500.0 if real else 20.0, "seed": 2**64 - 1}
    here = label(centers, ids=torch.tensor([7, 2**32 - 1]), **options)
    there = label(centers.to("cuda"), ids=torch.tensor([7, 2**32 - 1]).to("cuda"), **options)
    assert torch.allclose(here.diffusivity, there.diffusivity, rtol=2e-3)
    assert torch.allclose(here.diffusivity_kmc, there.diffusivity_kmc, rtol=1e-12)
    assert torch.equal(here.converged_kmc, there.converged_kmc)


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


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a script's main function in this process, on the GPU unless told otherwise."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.syspath_prepend(str(ROOT))
    (tmp_path / "tiny.toml").write_text(TINY)

    def call(script, *flags):
        words = [f"{script}.py", "--config", tmp_path / "tiny.toml", "--device", "cuda", *flags]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        importlib.import_module(script).main()

    yield call
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.usefixtures("real")
def test_the_scripts_run_from_end_to_end(run, tmp_path):
    data, model, found = (tmp_path / name for name in ("data", "model", "found"))
    run("simulate", "--out", data)
    run("simulate", "--out", tmp_path / "cpu", "--device", "cpu")
    made, same = gpuion.open_dataset(data), gpuion.open_dataset(tmp_path / "cpu")
    assert torch.equal(made.centers, same.centers)
    assert torch.allclose(made.diffusivity, same.diffusivity, rtol=2e-2)  # a tolerance of 1e-2 each
    assert torch.allclose(made.diffusivity_kmc, same.diffusivity_kmc, rtol=1e-12)
    run("train", "--data", data, "--out", model)
    run("train", "--data", data, "--out", model)  # goes on from the last epoch: nothing is left to do
    run("anneal", "--data", data, "--checkpoint", model / "surrogate.pt", "--out", found)
    run("anneal", "--data", data, "--checkpoint", model / "surrogate.pt", "--out", found)
    annealed = gpuion.open_dataset(found)
    assert set(annealed.family) == {"annealed-max", "annealed-min"}
    assert not overlap(annealed.centers, annealed.box, annealed.diameter)
    assert bool(annealed.predicted.isfinite().all())


def peak(call):
    """Return the bytes that a call takes on the GPU beside what was there."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("tolerance", [1e-4, 1e-9])
def test_the_exact_solve_keeps_to_14_fields(real, tolerance):
    edge = 150 if real else 6
    labels = torch.randint(0, 3, (1, edge, edge, edge), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    medium = gpuion.Medium(labels, torch.tensor([1.0, 0.5, 1.0]), torch.tensor([0.0, -3.0, torch.inf])).to("cuda")
    field = 3 * edge**3 * (4 if tolerance >= 1e-6 else 8)
    gpuion.homogenize(medium, tolerance=0.5)  # plans of the FFT stay in memory
    assert peak(lambda: gpuion.homogenize(medium, tolerance=tolerance, max_iterations=8)) <= 14 * field


def test_placing_labelling_and_drawing_keep_to_their_bounds(real):
    count, cell = (
        (4096, {"box": 75.0, "diameter": SIGMA, "n": 91}) if real else (3, {"box": 30.0, "diameter": 4.0, "n": 3})
    )
    centers = []
    assert peak(lambda: centers.append(spheres(cell, count, "cuda"))) <= 2 * 48 * insertion._TESTED
    centers = centers[0][:16]
    size = {"box": cell["box"], "diameter": cell["diameter"]}
    labels = len(centers) * round(cell["box"]) ** 3
    # Labels, their copy as the medium's, one chunk's twice: 4 bytes a site; temporaries as the modules say.
    assert peak(lambda: gpuion.electrolyte(centers, **size)) <= 4 * labels + 2**28
    assert peak(lambda: gpuion.voxelize(centers, **size, voxels=round(cell["box"]))) <= 4 * labels + 2**28
