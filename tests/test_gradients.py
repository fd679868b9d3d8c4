"""Gradients of the homogenised diffusivity against finite differences, and the smooth electrolyte they are for."""

import math
import runpy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuion
from gpuion import ConvergenceError, effective_diffusivity, smooth, smooth_medium

INF = math.inf
TIGHT = 1e-12  # of D; a solution's error is the root of that, 1e-6, and so is the gradient's
# Four points 1e-4 apart leave (1e-4 / 0.25)⁴ = 3e-14 of third derivatives (lengths of 0.25) and 1e-12 / 1e-4 = 1e-8 of
# the solve. Measured in twelve arrangements: 6e-12 … 1.3e-7, and 9e-7 where a slope is 2e-3 of gradient × direction.
STEP, AGREE = 1e-4, 1e-6


def slope(f, step=STEP):
    """Return df/da at a = 0 from four points."""
    return (8 * (f(step) - f(-step)) - (f(2 * step) - f(-2 * step))) / (12 * step)


def random_fields(shape, seed):
    """Return a rough potential with blocked sites, ln D, and weights for the nine components of D."""
    generator = torch.Generator().manual_seed(seed)
    U, log_D, weights = (
        torch.randn(size, generator=generator, dtype=torch.float64) for size in (shape, shape, (shape[0], 3, 3))
    )
    blocked = torch.rand(shape, generator=generator) < 0.2
    blocked[:, 0, 0, 0] = False
    return (1.5 * U).masked_fill(blocked, INF), log_D, weights


@pytest.mark.parametrize("shape", [(2, 5, 4, 6), (1, 1, 2, 7), (1, 3, 1, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_gradients_in_fields_are_finite_differences(shape, seed):
    U, log_D, weights = random_fields(shape, seed)
    if seed == 2:
        log_D[0, 0, 0, 1 % shape[3]] = -INF  # holds ions, lets none go
    x, y = U.clone().requires_grad_(), log_D.clone().requires_grad_()
    (effective_diffusivity(x, y, tolerance=TIGHT) * weights).sum().backward()
    assert (x.grad[U == INF] == 0).all()
    assert (y.grad[U == INF] == 0).all()
    for direction in range(2):
        a, b = (torch.randn(shape, generator=torch.Generator().manual_seed(9 + direction + k)) for k in (0, 50))

        def moved(t, a=a, b=b):
            return (effective_diffusivity(U + t * a, log_D + t * b, tolerance=TIGHT) * weights).sum().item()

        expected = (x.grad * a).sum() + torch.where(log_D > -INF, y.grad * b, 0.0).sum()
        assert float(expected) == pytest.approx(slope(moved), rel=AGREE, abs=1e-9)


def test_gradient_sums_are_those_of_scaling_and_shifting():
    U, log_D, _ = random_fields((2, 6, 5, 4), 7)
    x, y = U.requires_grad_(), log_D.requires_grad_()
    D = effective_diffusivity(x, y, tolerance=TIGHT)
    for a, b in ((0, 0), (1, 2)):
        dU, dlogD = torch.autograd.grad(D[:, a, b].sum(), (x, y), retain_graph=True)
        # E = u·A u + … holds for the solution to its error of 1e-6.
        torch.testing.assert_close(dlogD.sum((1, 2, 3)), D[:, a, b].detach(), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(dU.sum((1, 2, 3)), torch.zeros(2).double(), rtol=0, atol=1e-8)


def test_gradient_of_a_laminate_is_that_of_its_formula():
    layers = torch.tensor([0.3, 2.0, 1.0, 0.1, 5.0], dtype=torch.float64, requires_grad=True)
    U = torch.tensor([0.0, -2.0, 1.0, 0.5, -1.0], dtype=torch.float64, requires_grad=True)
    D = effective_diffusivity(U.view(1, 1, 5, 1).expand(1, 3, 5, 2), diffusivity=layers.view(1, 1, 5, 1))
    s, weight = (layers * torch.exp(-U)).sqrt(), torch.exp(-U).sum()
    across = 25 / (1 / (s * s.roll(1))).sum() / weight
    along = s.square().sum() / weight
    for got, expected in ((D[0, 1, 1], across), (D[0, 0, 0], along), (D[0, 2, 2], along)):
        assert float(got.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
        for a, b in zip(
            torch.autograd.grad(got, (layers, U), retain_graph=True),
            torch.autograd.grad(expected, (layers, U), retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)  # round-off: the start is the solution


def test_fields_of_a_labelled_medium_have_its_tensor():
    labels = torch.randint(0, 4, (3, 6, 7, 5), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    medium = gpuion.Medium(labels, [1.0, 0.0, 1e4, 1.0], [0.0, 1.0, -3.0, INF])
    expected = gpuion.homogenize(medium, tolerance=1e-9)
    U, D = medium.potential[labels.long()], medium.diffusivity[labels.long()]
    got = effective_diffusivity(U, diffusivity=D, tolerance=1e-9)
    torch.testing.assert_close(got, expected.tensor, rtol=0, atol=4e-9 * float(expected.diffusivity.max()))
    single = effective_diffusivity(U.float(), diffusivity=D.float(), tolerance=1e-3)
    assert single.dtype == torch.float64
    torch.testing.assert_close(single, expected.tensor, rtol=0, atol=2e-3 * float(expected.diffusivity.max()))


def test_immobile_sites_get_no_nan_and_float32_fields_float32_gradients():
    D = torch.rand(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    D[0, 1:, 1, 1] = 0
    D.requires_grad_()
    U = torch.zeros(1, 4, 4, 4, requires_grad=True)
    effective_diffusivity(U, diffusivity=D).sum().backward()
    assert D.grad.dtype == U.grad.dtype == torch.float32
    assert torch.isfinite(D.grad).all()
    assert torch.isfinite(U.grad).all()
    assert (D.grad[D == 0] == 0).all()
    assert (U.grad[D == 0] > 0).all()  # less weight where nothing moves


def test_a_structure_is_the_same_alone_and_in_a_batch(monkeypatch):
    U, log_D, _ = random_fields((3, 5, 6, 7), 3)
    results = []
    for chunk in (2**18, 2**10, 1):  # all three, two and one at a time
        monkeypatch.setattr("gpuion.gradients._ON_CPU", chunk)
        x = U.clone().requires_grad_()
        D = effective_diffusivity(x, log_D)
        D.diagonal(dim1=1, dim2=2).sum().backward()
        results.append((D.detach(), x.grad))
    for D, grad in results[1:]:
        assert torch.equal(D, results[0][0])
        assert torch.equal(grad, results[0][1])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"log_diffusivity": torch.zeros(1, 2, 2, 2), "diffusivity": torch.ones(1, 2, 2, 2)}, "not both"),
        ({"diffusivity": -torch.ones(1, 2, 2, 2)}, "negative"),
        ({"diffusivity": torch.full((1, 2, 2, 2), INF)}, "finite"),
        ({"log_diffusivity": torch.full((1, 2, 2, 2), math.nan)}, "finite"),
        ({"potential": torch.zeros(2, 2, 2)}, r"\[B, X, Y, Z\]"),
        ({"potential": torch.zeros(1, 2, 2, 2, dtype=torch.int64)}, "floats"),
        ({"potential": torch.full((1, 2, 2, 2), -INF)}, "not NaN or -inf"),
        ({"potential": torch.full((1, 2, 2, 2), INF)}, "structure 0 of 1 has no open site"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
    ],
)
def test_nonsense_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        effective_diffusivity(**{"potential": torch.zeros(1, 2, 2, 2), **kwargs})


def test_a_missed_tolerance_is_an_error():
    U, log_D, _ = random_fields((2, 6, 6, 6), 0)
    U[0], log_D[0] = 0.0, 0.0  # solved at the start
    with pytest.raises(ConvergenceError, match=r"structure 1 of 2 has a relative error of .* after 4 iterations"):
        effective_diffusivity(U, log_D, tolerance=1e-6, max_iterations=4)


def test_no_second_derivatives_are_made_up():
    x = torch.zeros(1, 2, 2, 2, requires_grad=True)
    D = effective_diffusivity(x)
    (first,) = torch.autograd.grad(D[0, 0, 0], x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        first.sum().backward()


BOX, SIGMA = 16.0, 7.0


def placed(n_structures=1, n_particles=2, seed=0, **options):
    family = "chained" if "distance" in options else "random"
    return gpuion.place(
        family, n_structures=n_structures, n_particles=n_particles, box=BOX, diameter=SIGMA, seed=seed, **options
    ).double()


@pytest.mark.parametrize(("seed", "core_width"), [(1, 0.25), (2, 0.1), (3, 1.0)])
def test_gradients_in_centres_are_finite_differences(seed, core_width):
    centers = placed(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(3, 3, generator=generator, dtype=torch.float64)

    def mixed(x):
        medium = smooth_medium(x, box=BOX, diameter=SIGMA, core_width=core_width)
        return (effective_diffusivity(medium.potential, medium.log_diffusivity, tolerance=TIGHT) * weights).sum()

    x = centers.clone().requires_grad_()
    mixed(x).backward()
    # Kinks at ρ = 1 are crossed by a hundredth of a site on the way; none here.
    direction = torch.randn(centers.shape, generator=generator, dtype=torch.float64)
    expected = slope(lambda t: mixed(centers + t * direction).item())
    assert float((x.grad * direction).sum()) == pytest.approx(expected, rel=AGREE)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), spacing=st.sampled_from([1, 2]), box=st.sampled_from([7.0, 12.0]))
def test_smooth_fields_are_the_sum_over_all_images(seed, spacing, box):
    model, w, n = gpuion.TransportModel(), 0.4, 2
    x = torch.rand(1, n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * box
    medium = smooth_medium(x, box=box, diameter=6.0, sites_per_voxel=spacing, core_width=w)
    assert medium.spacing == 1 / spacing
    site = (torch.arange(round(box * spacing)) + 0.5) / spacing
    lattice = torch.cartesian_prod(site, site, site).double()
    steps = torch.cartesian_prod(*[torch.arange(-2.0, 3.0, dtype=torch.float64) * box] * 3)
    d = torch.cdist(lattice, (x[0, :, None] + steps).reshape(-1, 3)) - 3.0
    density = torch.sigmoid((model.reach - d) / model.width).sum(1).clamp(max=model.max_density)
    core = torch.nn.functional.logsigmoid(d / w).sum(1)
    # Each of the 250 images lacks at most 1.1e-7 of ρ and ln s; U is 8 times as steep.
    torch.testing.assert_close(medium.potential.flatten(), model.potential(density) - core, rtol=0, atol=3e-4)
    torch.testing.assert_close(
        medium.log_diffusivity.flatten(), model.diffusivity(density).log() + core, rtol=0, atol=3e-4
    )
    assert medium.potential.isfinite().all()


def test_smooth_fields_do_not_depend_on_chunks_or_batch(monkeypatch):
    centers = placed(n_structures=3)
    grads, fields = [], []
    for chunk in (10**9, 1):
        monkeypatch.setattr(smooth, "_CHUNK", chunk)
        x = centers.clone().requires_grad_()
        medium = smooth_medium(x, box=BOX, diameter=SIGMA)
        (medium.potential.square().sum() + medium.log_diffusivity.square().sum()).backward()
        grads.append(x.grad)
        fields.append(medium.potential.detach())
    assert torch.equal(*fields)
    assert torch.equal(*grads)
    alone = smooth_medium(centers[1:2], box=BOX, diameter=SIGMA)
    assert torch.equal(fields[0][1:2], alone.potential)


def test_a_sphere_centred_on_a_site_has_a_gradient():
    x = torch.full((1, 1, 3), 4.5, requires_grad=True)
    medium = smooth_medium(x, box=9.0, diameter=4.0)
    medium.potential.sum().backward()
    # The arrangement is its own mirror image, so nothing changes to first order: 6e3 summands of up to 50.
    torch.testing.assert_close(x.grad, torch.zeros_like(x), rtol=0, atol=1e-4)


def test_narrow_cores_approach_the_labelled_medium():
    centers = torch.cat([placed(seed=1), placed(seed=1, distance=(9.0, 11.0))])
    labelled = gpuion.homogenize(gpuion.electrolyte(centers, box=BOX, diameter=SIGMA), tolerance=1e-4).diffusivity
    worst = []
    for width in (1.0, 0.25, 0.05):
        medium = smooth_medium(centers, box=BOX, diameter=SIGMA, core_width=width)
        D = effective_diffusivity(medium.potential, medium.log_diffusivity, tolerance=1e-4)
        worst.append(float((D.diagonal(dim1=1, dim2=2) / labelled - 1).abs().max()))
    assert worst[0] > worst[1] > worst[2]
    assert worst[2] < 0.01  # what remains is the rounding of ρ to 255 classes and sites within 0.05 of a surface


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"core_width": 0.0}, "core_width"), ({"box": 16.5}, "whole number"), ({"diameter": 0.0}, "diam")],
)
def test_smooth_medium_refuses_nonsense(kwargs, message):
    with pytest.raises(ValueError, match=message):
        smooth_medium(placed(), **{"box": BOX, "diameter": SIGMA, **kwargs})


def test_empty_batch_is_empty():
    x = torch.empty(0, 3, 3, requires_grad=True)
    medium = smooth_medium(x, box=8.0, diameter=4.0)
    D = effective_diffusivity(medium.potential, medium.log_diffusivity)
    assert D.shape == (0, 3, 3)
    D.sum().backward()
    assert x.grad.shape == (0, 3, 3)


def test_the_uphill_example_goes_uphill(capsys, monkeypatch):
    path = Path(__file__).parent.parent / "examples" / "uphill.py"
    monkeypatch.setattr("sys.argv", ["uphill.py", "5"])
    spaces = runpy.run_path(str(path))
    found = [float(line.split("=")[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(found) == 5
    assert found[-1] > 1.3 * found[0]
    assert torch.equal(
        spaces["centers"], gpuion.separate(spaces["centers"], box=spaces["box"], diameter=spaces["diameter"])
    )
