"""Site classes against a brute-force sum over images, tables against their formulae, and refusal of nonsense."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuion
from gpuion import medium as media
from gpuion.medium import BLOCKED

SIGMA = 9.6024


def brute_classes(centers, box, sites, diameter, model):
    """Σ_i c(d_i) over 27 images of every sphere at every site, one sphere after the other."""
    x = (torch.arange(sites, dtype=torch.float64) + 0.5) * (box / sites)
    density = torch.zeros(sites, sites, sites, dtype=torch.float64)
    blocked = torch.zeros_like(density, dtype=torch.bool)
    shifts = torch.cartesian_prod(*[torch.arange(-1.0, 2.0, dtype=torch.float64) * box] * 3)
    for center in centers.double():
        for image in center + shifts:
            axes = [(x - image[a]) ** 2 for a in range(3)]
            distance = (axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :]).sqrt()
            density += 1 / (1 + torch.exp((distance - diameter / 2 - model.reach) / model.width))
            blocked |= distance < diameter / 2
    classes = (density / model.max_density * 254).round().clamp(max=254)
    return classes.masked_fill(blocked, BLOCKED).to(torch.uint8)


@pytest.mark.parametrize(("box", "sites_per_voxel", "n"), [(24.0, 1, 4), (13.0, 2, 1), (20.0, 1, 2), (18.5, 2, 2)])
def test_classes_are_the_brute_force_sum(box, sites_per_voxel, n):
    centers = gpuion.place("random", n_structures=2, n_particles=n, box=box, diameter=SIGMA, seed=n)
    medium = gpuion.electrolyte(centers, box=box, diameter=SIGMA, sites_per_voxel=sites_per_voxel)
    assert medium.spacing == 1 / sites_per_voxel
    for b in range(2):
        expected = brute_classes(centers[b], box, round(box * sites_per_voxel), SIGMA, gpuion.TransportModel())
        # The cut-off leaves out 1e-7 a sphere, and two orders of summation differ by 1e-15: a class may change only
        # where ρ is that close to a boundary, and in 2e5 sites at most a few are.
        assert int((medium.labels[b] != expected).sum()) <= 3
        assert torch.equal(medium.labels[b] == BLOCKED, expected == BLOCKED)


def by_bricks(centers, box, sites, model):
    """Return the labels as a GPU makes them."""
    images = [media._images(c, box, SIGMA / 2 + model.cutoff) for c in centers.double()]
    labels = torch.full((len(centers), sites, sites, sites), 77, dtype=torch.uint8)
    media.brick_classes(images, box, SIGMA / 2, model, labels)
    return labels


@pytest.mark.parametrize(("box", "sites_per_voxel", "n"), [(30.5, 2, 9), (13.0, 2, 1), (20.0, 1, 2), (11.0, 3, 1)])
@pytest.mark.parametrize("chunk", [media._CHUNK, 30_000])
def test_the_gpu_path_is_the_cpu_path(box, sites_per_voxel, n, chunk, monkeypatch):
    # Exponentials of two libraries may differ in the last bit of a float64; no density here is that near a boundary.
    monkeypatch.setattr(media, "_CHUNK", chunk)
    model = gpuion.TransportModel()
    centers = gpuion.place("random", n_structures=3, n_particles=n, box=box, diameter=SIGMA, seed=7)
    bricks = by_bricks(centers, box, round(box * sites_per_voxel), model)
    medium = gpuion.electrolyte(centers, box=box, diameter=SIGMA, sites_per_voxel=sites_per_voxel)
    assert torch.equal(bricks, medium.labels)


def test_the_gpu_path_takes_no_spheres_and_no_structures():
    assert int(by_bricks(torch.zeros(2, 0, 3), 12.0, 12, gpuion.TransportModel()).max()) == 0
    assert by_bricks(torch.zeros(0, 4, 3), 12.0, 12, gpuion.TransportModel()).shape == (0, 12, 12, 12)


def test_two_coronas_touch_at_14_voxels():
    assert SIGMA + 2 * gpuion.TransportModel().reach == pytest.approx(14.0, abs=0.01)


def test_tables_follow_the_model():
    model = gpuion.TransportModel(shell_diffusivity=0.5)
    diffusivity, potential = model.tables()
    density = torch.arange(255, dtype=torch.float64) * 4 / 254
    for k, rho in enumerate(density.tolist()):
        u = -8 * rho if rho <= 1 else -8 - 0.5 * (rho - 1)
        d = 1 - 0.5 * rho if rho <= 1 else 0.5 * math.exp(-3 * (rho - 1))
        assert float(potential[k]) == pytest.approx(u, rel=1e-14)
        assert float(diffusivity[k]) == pytest.approx(d, rel=1e-14)
    assert float(diffusivity[BLOCKED]) == 0
    assert float(potential[BLOCKED]) == math.inf


def test_a_blocked_site_is_one_whose_centre_is_inside():
    centers = torch.tensor([[[10.0, 10.0, 10.0]]])
    labels = gpuion.electrolyte(centers, box=20.0, diameter=6.0).labels[0]
    x = torch.arange(20) + 0.5 - 10
    inside = (x[:, None, None] ** 2 + x[:, None] ** 2 + x**2) < 9
    assert torch.equal(labels == BLOCKED, inside)


def test_structures_do_not_depend_on_their_batch_or_image():
    centers = gpuion.place("random", n_structures=3, n_particles=6, box=32.0, diameter=SIGMA)
    batch = gpuion.electrolyte(centers, box=32.0, diameter=SIGMA).labels
    assert torch.equal(batch[1:2], gpuion.electrolyte(centers[1:2], box=32.0, diameter=SIGMA).labels)
    # Half a box in float32 is exact here, so the shifted lattice is the same numbers in another place.
    centers = (centers * 4).round() / 4
    plain = gpuion.electrolyte(centers, box=32.0, diameter=SIGMA).labels
    moved = gpuion.electrolyte(centers + torch.tensor([16.0, -32.0, 5.0]), box=32.0, diameter=SIGMA).labels
    assert torch.equal(plain.roll((16, 5), (1, 3)), moved)


@settings(max_examples=8, deadline=None)
@given(order=st.permutations([0, 1, 2]), seed=st.integers(0, 1000))
def test_axes_are_alike(order, seed):
    centers = gpuion.place("random", n_structures=1, n_particles=3, box=22.0, diameter=8.0, seed=seed)
    labels = gpuion.electrolyte(centers, box=22.0, diameter=8.0).labels
    turned = gpuion.electrolyte(centers[..., order], box=22.0, diameter=8.0).labels
    # Sums of three squares in another order may differ in the last bit, and move a class at a boundary.
    assert int((labels.permute(0, *[1 + o for o in order]) != turned).sum()) <= 1


def test_an_empty_batch_is_empty():
    assert gpuion.electrolyte(torch.empty(0, 5, 3), box=20.0, diameter=5.0).labels.shape == (0, 20, 20, 20)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"box": 20.5}, "whole number"),
        ({"sites_per_voxel": 0}, "whole number"),
        ({"diameter": 21.0}, "diameter"),
        ({"diameter": 0.0}, "diameter"),
        ({"box": math.nan}, "box"),
        ({"centers": torch.zeros(3, 3)}, "shape"),
        ({"centers": torch.full((1, 1, 3), math.nan)}, "finite"),
        ({"centers": torch.zeros(1, 1, 3, dtype=torch.int32)}, "floats"),
    ],
)
def test_electrolyte_refuses_nonsense(kwargs, message):
    with pytest.raises(ValueError, match=message):
        gpuion.electrolyte(**{"centers": torch.ones(1, 1, 3), "box": 20.0, "diameter": 5.0, **kwargs})


@pytest.mark.parametrize(
    ("labels", "diffusivity", "potential", "spacing", "message"),
    [
        (torch.zeros(2, 2, 2, dtype=torch.uint8), [1.0], [0.0], 1.0, "shape"),
        (torch.zeros(1, 2, 2, 2), [1.0], [0.0], 1.0, "integers"),
        (torch.ones(1, 2, 2, 2, dtype=torch.uint8), [1.0], [0.0], 1.0, "describe 1 classes"),
        (torch.zeros(1, 2, 2, 2, dtype=torch.uint8), [1.0, 1.0], [0.0], 1.0, "one length"),
        (torch.zeros(1, 2, 2, 2, dtype=torch.uint8), [-1.0], [0.0], 1.0, "not negative"),
        (torch.zeros(1, 2, 2, 2, dtype=torch.uint8), [math.inf], [0.0], 1.0, "finite"),
        (torch.zeros(1, 2, 2, 2, dtype=torch.uint8), [1.0], [math.nan], 1.0, "NaN"),
        (torch.zeros(1, 2, 2, 2, dtype=torch.uint8), [1.0], [0.0], 0.0, "spacing"),
    ],
)
def test_medium_refuses_nonsense(labels, diffusivity, potential, spacing, message):
    with pytest.raises(ValueError, match=message):
        gpuion.Medium(labels, torch.tensor(diffusivity), torch.tensor(potential), spacing)


def test_medium_takes_any_labelled_image():
    medium = gpuion.Medium(torch.ones(1, 2, 3, 4, dtype=torch.int64), torch.ones(2), torch.tensor([math.inf, 0.0]))
    assert medium.labels.dtype == torch.uint8
    assert medium.diffusivity.dtype == torch.float64


def test_model_refuses_nonsense():
    with pytest.raises(ValueError, match="width"):
        gpuion.TransportModel(width=0.0)
    with pytest.raises(ValueError, match="affinity"):
        gpuion.TransportModel(affinity=math.inf)
