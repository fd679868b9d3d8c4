"""Solves for some axes alone: what they give is what a solve for all three gives there, and NaN elsewhere."""

import math

import pytest
import torch

import gpuion
from gpuion import Medium, currents, effective_diffusivity, homogenization, homogenize, tortuosity

INF = math.inf
SOME = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]


def noise(shape, classes, seed):
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def electrolyte():
    centers = gpuion.place("random", n_structures=2, n_particles=2, box=16.0, diameter=7.0, seed=4)
    return gpuion.electrolyte(centers, box=16.0, diameter=7.0)


def laminate():
    labels = torch.tensor([0, 1, 1, 2, 0], dtype=torch.uint8)[None, None, :, None].expand(1, 4, 5, 3).contiguous()
    return Medium(labels, [1.0, 0.1, 3.0], [0.0, -1.0, 1.0])


def slab():
    labels = noise((2, 5, 6, 7), 2, 2)
    labels[:, :, 3] = 2
    return Medium(labels, [1.0, 0.2, 1.0], [0.0, 0.5, INF])


def image():
    return Medium.from_image(noise((7, 6, 9), 3, 3).numpy() + 5, {5: 1.0, 6: 0.3, 7: None})


def maze():
    return Medium((noise((9, 6, 7, 8), 100, 5) > 60).to(torch.uint8), [1.0, 1.0], [0.0, INF])


MEDIA = [electrolyte, laminate, slab, image, maze]


@pytest.fixture(params=[False, True], ids=["multigrid", "spectral"])
def _way(request, monkeypatch):
    monkeypatch.setattr(homogenization, "_SPECTRAL", request.param)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("make", MEDIA, ids=lambda make: make.__name__)
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_some_axes_are_those_of_all_bit_for_bit(make, tolerance):
    medium = make()
    whole = homogenize(medium, tolerance=tolerance)
    assert whole.converged.all()
    slowest = torch.zeros_like(whole.iterations)
    for axes in SOME:
        part = homogenize(medium, tolerance=tolerance, axes=axes)
        asked = torch.zeros(3, dtype=torch.bool)
        asked[list(axes)] = True
        for name in ("diffusivity", "error", "scale"):
            values = getattr(part, name)
            assert torch.equal(values[:, asked], getattr(whole, name)[:, asked])
            assert values[:, ~asked].isnan().all()
        pairs = asked[:, None] & asked
        assert torch.equal(part.tensor[:, pairs], whole.tensor[:, pairs])
        assert part.tensor[:, ~pairs].isnan().all()
        assert part.converged.all()
        if len(axes) == 1:
            slowest = torch.maximum(slowest, part.iterations)
    assert torch.equal(slowest, whole.iterations)


def test_order_and_kind_of_the_axes_do_not_matter():
    medium = image()
    for axes in ([2, 0], torch.tensor([0, 2]).tolist(), (2, 0)):
        assert torch.equal(homogenize(medium, axes=axes).diffusivity[:, [0, 2]], homogenize(medium).diffusivity[:, ::2])


def test_an_axis_not_asked_for_does_not_spoil_converged():
    labels = noise((1, 1, 6, 6), 3, 3).expand(1, 4, 6, 6).contiguous()  # columns along x: exact at once along them
    medium = Medium(labels, [1.0, 0.01, 5.0], [0.0] * 3)
    along = homogenize(medium, tolerance=1e-6, max_iterations=1)
    assert not along.converged.any()
    for axis, done in enumerate((True, False, False)):
        assert bool(homogenize(medium, tolerance=1e-6, max_iterations=1, axes=(axis,)).converged) == done


@pytest.mark.parametrize("axes", [(), (3,), (-1,), (0, 0), (0, 1, 2, 0), 0, "x", (0.5,), None])
@pytest.mark.parametrize("solve", [homogenize, tortuosity])
def test_axes_that_are_none_are_refused(axes, solve):
    with pytest.raises(ValueError, match=r"axes must be one to three different ones of 0, 1 and 2.*got"):
        solve(image(), axes=axes)


def test_tortuosity_of_some_axes():
    for medium in (slab(), image()):
        whole = tortuosity(medium)
        for axes in SOME:
            part = tortuosity(medium, axes=axes)
            asked = list(axes)
            assert torch.equal(part[:, asked], whole[:, asked])
            assert part.isnan().sum() == len(part) * (3 - len(axes))
    assert (tortuosity(slab(), axes=(1,))[:, 1] == INF).all()


def test_a_current_solves_for_its_axis_alone(monkeypatch):
    asked = []
    solve = homogenization.solve_fields
    monkeypatch.setattr(
        "gpuion.gradients.solve_fields", lambda s, way, limits, axes: asked.append(axes) or solve(s, way, limits, axes)
    )
    medium = slab()
    tensor = homogenize(medium, tolerance=1e-10).tensor
    for axis in range(3):
        mean = currents(medium, axis, tolerance=1e-10).mean((2, 3, 4))
        # The mean current is D[:, axis] up to the root of the tolerance of D, 1e-5, times √(D_bb D_aa) < 1.
        torch.testing.assert_close(mean, tensor[:, :, axis], rtol=0, atol=2e-5)
    assert set(asked) == {(0,), (1,), (2,)}


def test_gradients_of_some_axes_are_those_of_all():
    generator = torch.Generator().manual_seed(0)
    U = torch.randn(2, 5, 4, 6, generator=generator, dtype=torch.float64)
    for axes in SOME:
        grads = []
        for chosen in ((0, 1, 2), axes):
            x = U.clone().requires_grad_()
            D = effective_diffusivity(x, tolerance=1e-8, axes=chosen)
            D[:, list(axes)][:, :, list(axes)].sum().backward()
            grads.append(x.grad)
        assert D.detach().isnan().sum() == 2 * (9 - len(axes) ** 2)
        # The same solutions, in sums of another order.
        torch.testing.assert_close(grads[1], grads[0], rtol=1e-11, atol=1e-14)
    with pytest.raises(ValueError, match="axes must be"):
        effective_diffusivity(U, axes=(1, 1))
