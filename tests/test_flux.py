"""Currents against laminates, their own divergence and D; tortuosity factors against their definition."""

import math

import pytest
import torch

import gpuion
from gpuion import ConvergenceError, Medium, currents, homogenize, tortuosity

INF = math.inf


def random_medium(shape, seed=0, spacing=1.0):
    labels = torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Medium(labels, [1.0, 0.2, 5.0, 1.0], [0.0, -2.0, 1.0, INF], spacing)


def divergence(J):
    return sum(J[:, d] - J[:, d].roll(1, d + 1) for d in range(3))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("tolerance", [1e-3, 1e-8])
def test_current_is_divergence_free_and_its_mean_is_the_diffusivity(axis, tolerance):
    medium = random_medium((2, 6, 7, 8))
    J = currents(medium, axis, tolerance=tolerance)
    assert J.shape == (2, 3, 6, 7, 8)
    exact = homogenize(medium, tolerance=1e-10).tensor
    # ∇·J = A e with e the error of the solution: e·A e ≤ tolerance · D · V, and A's largest eigenvalue is at most 12
    # times the largest bond (Gershgorin: six bonds on the diagonal, six off it).
    weight = torch.exp(-medium.potential)[medium.labels.long()]
    s = (medium.diffusivity.sqrt() * torch.exp(-medium.potential / 2))[medium.labels.long()]
    bond = torch.stack([s * s.roll(-1, d + 1) for d in range(3)], 1).flatten(1).amax(1) / weight.mean((1, 2, 3))
    limit = 12 * bond * tolerance * exact[:, axis, axis]
    assert (divergence(J).square().mean((1, 2, 3)) <= limit).all()
    assert (J.square().mean((1, 2, 3, 4)) > 100 * divergence(J).square().mean((1, 2, 3))).all()
    # ⟨J_b⟩ − D_ba = ⟨g δe⟩_b ≤ √(⟨g⟩ e·Ae/V) (Cauchy), and ⟨g⟩ ≤ the largest bond.
    slack = (bond * tolerance * exact[:, axis, axis]).sqrt().max()
    torch.testing.assert_close(J.mean((2, 3, 4)), exact[:, axis], rtol=0, atol=float(slack))


@pytest.mark.parametrize("axis", range(3))
def test_currents_of_a_laminate_are_exact(axis):
    D, U = torch.tensor([1.0, 4.0, 0.5]).double(), torch.tensor([0.0, -1.0, 0.7]).double()
    layers = torch.tensor([0, 0, 1, 2, 1], dtype=torch.uint8)
    shape = [1, 2, 3, 2]
    shape[axis + 1] = 5
    view = [1, 1, 1, 1]
    view[axis + 1] = 5
    medium = Medium(layers.view(view).expand(shape).contiguous(), D, U)
    weight = torch.exp(-U)[layers.long()]
    sigma = D[layers.long()] * weight
    for force in range(3):
        J = currents(medium, force)
        expected = torch.zeros_like(J)
        if force == axis:  # in series: the same current through all layers
            expected[:, force] = 5 / (1 / (sigma * sigma.roll(1)).sqrt()).sum() / weight.mean()
        else:  # side by side: to each layer its own
            expected[:, force] = (sigma / weight.mean()).view(view)
        torch.testing.assert_close(J, expected, rtol=1e-12, atol=1e-12)  # round-off: the start is the solution


def test_no_current_through_blocked_sites_or_shut_slabs_and_no_matter_where_the_potential_starts():
    medium = random_medium((1, 5, 6, 4), seed=2)
    J = currents(medium, 0)
    blocked = medium.labels == 3
    for d in range(3):
        assert (J[:, d][blocked] == 0).all()
        assert (J[:, d].roll(1, d + 1)[blocked] == 0).all()
    shifted = Medium(medium.labels, medium.diffusivity, medium.potential - 900)
    torch.testing.assert_close(currents(shifted, 0), J, rtol=0, atol=1e-9)  # potentials of 900 carry errors of 1e-13
    labels = medium.labels.clone()
    labels[:, 2] = 3
    J = currents(Medium(labels, medium.diffusivity, medium.potential), 0)
    assert float(J.abs().max()) < 1e-12


def test_currents_refuse_nonsense_and_own_up():
    medium = random_medium((1, 6, 6, 6))
    for axis in (3, -1, None):
        with pytest.raises(ValueError, match="axis must be 0, 1 or 2"):
            currents(medium, axis)
    for options in ({"tolerance": 2.0}, {"max_iterations": 0}):
        with pytest.raises(ValueError, match=r"tolerance is a|max_iterations must be"):
            currents(medium, 0, **options)
    with pytest.raises(ConvergenceError, match="raise max_iterations"):
        currents(medium, 0, max_iterations=2)


def test_tortuosity_is_by_the_flux_through_the_whole_cross_section():
    """The flux of a dense solve with fixed concentrations at both ends, mirrored walls: TauFactor's own set-up.

    A structure and its mirror image along every axis is periodic and has that flux.
    """
    open_ = torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(5)) < 0.7
    nodes = {site: i for i, site in enumerate(map(tuple, open_.nonzero().tolist()))}
    A, load = torch.zeros(len(nodes), len(nodes)).double(), torch.zeros(len(nodes)).double()
    for (x, y, z), i in nodes.items():
        for other in ((x + 1, y, z), (x, y + 1, z), (x, y, z + 1)):
            if (j := nodes.get(other)) is not None:
                A[i, i] += 1
                A[j, j] += 1
                A[i, j] -= 1
                A[j, i] -= 1
        if x in (0, 3):  # half a spacing from the walls at concentrations 1 and 0
            A[i, i] += 2
            load[i] += 2 * (x == 0)
    c = torch.linalg.lstsq(A, load[:, None], driver="gelsd").solution[:, 0]
    flux = sum(2 * (1 - float(c[i])) for site, i in nodes.items() if site[0] == 0) / 16 * 4  # per area and gradient 1/4
    image = open_
    for axis in range(3):
        image = torch.cat([image, image.flip(axis)], axis)
    medium = Medium.from_image(image, diffusivity={0: None, 1: 2.5})
    tau = tortuosity(medium, tolerance=1e-9)
    epsilon = float(open_.double().mean())
    assert float(tau[0, 0]) == pytest.approx(epsilon / flux, rel=1e-8)
    assert (tau > 1).all()


def test_tortuosity_of_an_open_fraction_is_the_ratio_of_diffusivities():
    image = torch.rand(2, 7, 8, 9, generator=torch.Generator().manual_seed(1)) < 0.8
    medium = Medium.from_image(image, diffusivity={False: 0, True: 0.3})
    result = homogenize(medium)
    torch.testing.assert_close(tortuosity(medium, result), 0.3 / result.diffusivity, rtol=1e-12, atol=0)
    assert torch.equal(tortuosity(medium), tortuosity(medium, result))
    # Ions that go nowhere weigh on D, not on the current through the cross-section.
    resting = Medium(medium.labels, torch.tensor([0.0, 0.3]), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(tortuosity(resting), tortuosity(medium), rtol=1e-12, atol=0)


def test_tortuosity_of_several_phases_and_of_shut_ones():
    layers = torch.tensor([0, 1, 1, 2], dtype=torch.int16).view(4, 1, 1).expand(4, 2, 3)
    medium = Medium.from_image(layers, diffusivity=[1.0, 4.0, 9.0], potential=[0.0, 1.0, -1.0])
    tau = tortuosity(medium)[0].tolist()
    sigma = torch.tensor([1.0, 4 / math.e, 4 / math.e, 9 * math.e]).double()
    assert tau[1:] == pytest.approx([1.0, 1.0], rel=1e-12)  # straight layers
    assert tau[0] == pytest.approx(float(sigma.mean() * (1 / (sigma * sigma.roll(1)).sqrt()).mean()), rel=1e-6)
    shut = tortuosity(Medium.from_image(layers, diffusivity=[1.0, 4.0, None]))[0].tolist()
    assert shut[0] == INF
    assert shut[1:] == pytest.approx([1.0, 1.0], rel=1e-12)
    still = Medium(torch.zeros(1, 2, 2, 2, dtype=torch.uint8), torch.zeros(1), torch.zeros(1))
    assert tortuosity(still).tolist() == [[INF] * 3]
    with pytest.raises(ValueError, match="result has 1 structures, the medium 2"):
        tortuosity(random_medium((2, 3, 3, 3)), homogenize(medium))


def test_electrolyte_has_currents_and_tortuosity():
    centers = gpuion.place("random", n_structures=1, n_particles=2, box=14.0, diameter=6.0)
    medium = gpuion.electrolyte(centers, box=14.0, diameter=6.0)
    J = currents(medium, 2, tolerance=1e-6)
    D = homogenize(medium, tolerance=1e-6).tensor
    assert float(J[0, 2].mean()) == pytest.approx(float(D[0, 2, 2]), rel=0.01)
    assert (tortuosity(medium) >= 1).all()
