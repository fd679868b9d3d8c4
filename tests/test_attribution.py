"""Gradients in the sphere centres: of models and of the medium, against differences of D."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_models import BOX, DIAMETER, folder, model, placed

import gpuion
from gpuion import training
from gpuion.attribution import agreement, exact_pull, pull, saliency
from gpuion.models import create

pytestmark = pytest.mark.usefixtures("single_thread")

CELL = {"box": BOX, "diameter": DIAMETER}


def image_net():
    """Return a periodic network with features of mean 0 and deviation 1 here, as after training."""
    torch.manual_seed(0)
    net = create("periodic", widths=(4, 4), hidden=8)
    image = gpuion.voxelize(placed(4), voxels=50, **CELL)
    with torch.no_grad():
        net.output.weight.mul_(10)
        for _ in range(50):
            net.train()(image)
    return net.eval()


@pytest.mark.parametrize("name", ["graph", "network"])
def test_a_models_gradient_is_that_of_its_differences(name):
    net, x = model(name).double(), placed(2).double()

    @torch.no_grad()
    def logarithm(x):
        D = net(*net.prepare(x, BOX, DIAMETER))
        return (D.mean(1) if net.per_axis else D).log()

    gradient = pull(net, x, **CELL)
    assert gradient.shape == x.shape
    assert gradient.dtype is torch.float64
    draw = torch.Generator().manual_seed(1)
    for _ in range(3):
        way = torch.randn(x.shape, generator=draw, dtype=torch.float64)
        step = 3e-3
        found = (logarithm(x + step * way) - logarithm(x - step * way)) / (2 * step)
        expected = (gradient * way).sum((1, 2))
        # Vectors are float32, 1e-6 of a voxel each of some 100, in a difference of 6e-3: 2e-3 of a sphere's gradient;
        # third derivatives add step² times their size, of order one per voxel³ and sphere.
        scale = gradient.norm(dim=(1, 2))
        assert float(((found - expected).abs() / scale).max()) < 5e-3


@pytest.mark.parametrize("name", ["graph", "network"])
def test_structures_of_a_batch_do_not_see_each_other_and_a_shift_costs_nothing(name):
    net, x = model(name).double(), placed(3)
    together = pull(net, x, **CELL)
    alone = torch.cat([pull(net, one[None], **CELL) for one in x])
    # Padding must leave no NaN and no trace; float32 vectors.
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-6)
    assert float(together.sum(1).abs().max()) < 1e-4 * float(together.norm(dim=(1, 2)).min())


def test_what_training_prepares_is_the_same_with_gradients():
    net, x = model("network"), placed(3)
    plain = net.prepare(x, BOX, DIAMETER)
    tracked = net.prepare(x.clone().requires_grad_(), BOX, DIAMETER)
    assert all(torch.equal(a, b) for a, b in zip(plain, tracked, strict=True))
    assert torch.equal(net(*plain), net(*tracked))


def test_an_image_models_gradient_is_that_of_its_differences():
    net, x = image_net().double(), placed(1).double()
    bare = gpuion.TransportModel(affinity=0.0, crowded_affinity=0.0)

    @torch.no_grad()
    def logarithm(x):
        return net(1 - (-gpuion.smooth_medium(x, model=bare, **CELL).potential).exp()[:, None]).log()

    gradient = pull(net, x, **CELL)
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    step = 1e-4  # all float64; an edge is 0.25 wide, so third derivatives are 100 and 100 · 1e-8 is left
    found = (logarithm(x + step * way) - logarithm(x - step * way)) / (2 * step)
    assert float(found) == pytest.approx(float((gradient * way).sum()), rel=1e-4)


def test_saliency_is_the_gradient_in_the_voxels():
    net, x = image_net().double(), placed(2)
    found = saliency(net, x, voxels=50, **CELL)
    assert found.shape == (2, 50, 50, 50)
    image = gpuion.voxelize(x, voxels=50, **CELL).double()
    draw = torch.Generator().manual_seed(3)
    way = torch.randn(image.shape, generator=draw, dtype=torch.float64)
    step = 1e-5
    with torch.no_grad():
        change = (net(image + step * way).log() - net(image - step * way).log()) / (2 * step)
    # Float64; relu's kinks are met by some 1e-5 of the cells.
    assert torch.allclose(change, (found * way[:, 0]).sum((1, 2, 3)), rtol=1e-3)


def test_the_mediums_gradient_is_that_of_its_differences():
    x = gpuion.place("random", n_structures=1, n_particles=2, box=16.0, diameter=6.0, seed=1).double()
    cell = {"box": 16.0, "diameter": 6.0}
    gradient = exact_pull(x, tolerance=1e-6, **cell)

    def logarithm(x):
        medium = gpuion.smooth_medium(x, **cell)
        D = gpuion.effective_diffusivity(medium.potential, medium.log_diffusivity, tolerance=1e-8)
        return float(D.diagonal(dim1=1, dim2=2).mean(1).log())

    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    step = 1e-4
    found = (logarithm(x + step * way) - logarithm(x - step * way)) / (2 * step)
    # D to 1e-8 over a difference of 2e-4: 5e-5 of a gradient of order 0.1; no site passes the kink at ρ = 1.
    assert found == pytest.approx(float((gradient * way).sum()), rel=1e-3)


def test_agreement_by_hand():
    true = torch.tensor([[[1.0, 0, 0], [0, 2, 0], [0, 0, 3]]])
    same, turned, half = true, true.roll(1, 2), true * 0.5
    assert agreement(true, same)[0].tolist() == pytest.approx([1, 1, 1])
    assert agreement(true, turned)[0].tolist() == pytest.approx([0, 1, 1])  # right lengths, wrong directions
    assert agreement(true, -half)[0].tolist() == pytest.approx([-1, 1, 0.5])
    other = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0, 0, 4]]])
    cosine = (1 + 2 + 12) / (14 * 18) ** 0.5
    r = np.corrcoef([1, 2, 3], [1, 1, 4])[0, 1]
    assert agreement(true, other)[0].tolist() == pytest.approx([cosine, r, (18 / 14) ** 0.5])


def test_models_of_counts_and_mistaken_calls_are_refused():
    for name in ("nearest", "pairs", "ridge"):
        with pytest.raises(ValueError, match=f"{name} has no gradient in the centres"):
            pull(model(name), placed(1), **CELL)
    with pytest.raises(ValueError, match="reads sphere centres, not images"):
        saliency(model("graph"), placed(1), voxels=50, **CELL)


def test_the_example_prints_and_draws(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    x = placed(12, N=4)
    data = folder(tmp_path / "data", 12, centers=x, family=np.array(["random", "chained"] * 6))
    checkpoint, picture = tmp_path / "surrogate.pt", tmp_path / "arrows.png"
    training.save_checkpoint(checkpoint, model("network"), {"d_reference": 0.5})
    path = Path(__file__).parent.parent / "examples" / "attribution.py"
    words = ["attribution.py", data, checkpoint, "--count", 1, "--picture", picture]
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    runpy.run_path(str(path))
    shown = capsys.readouterr().out
    assert shown.count("network") >= 2
    assert picture.read_bytes().startswith(b"\x89PNG")
