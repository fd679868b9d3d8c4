import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuion
from gpuion import voxels as module


def brute_force(centers, box, diameter, voxels):
    """Test every voxel against every sphere and its 27 images."""
    grid = (torch.arange(voxels).double() + 0.5) * (box / voxels)
    points = torch.cartesian_prod(grid, grid, grid)
    images = torch.cartesian_prod(*[torch.tensor([-box, 0.0, box]).double()] * 3)
    wrapped = torch.remainder(centers.double(), box)
    inside = torch.zeros(len(centers), voxels**3, dtype=torch.bool)
    for b, spheres in enumerate(wrapped):
        for center in spheres:
            for image in images:
                inside[b] |= (points - (center + image)).square().sum(-1) < (diameter / 2) ** 2
    return inside.float().view(-1, 1, voxels, voxels, voxels)


def random_centers(B, N, box, seed=0):
    return (torch.rand(B, N, 3, generator=torch.Generator().manual_seed(seed)) * 3 - 1) * box


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 17),
    st.integers(1, 3),
    st.integers(0, 4),
    st.floats(0.05, 1.0),
    st.floats(3.0, 20.0),
)
def test_matches_a_brute_force_test_of_every_voxel(voxels, B, N, share, box):
    # The two differ by rounding only where a voxel centre lies within 1e-13 of a surface: never here.
    centers = random_centers(B, N, box, seed=voxels)
    image = gpuion.voxelize(centers, box=box, diameter=share * box, voxels=voxels)
    assert image.dtype == torch.float32
    assert torch.equal(image, brute_force(centers, box, share * box, voxels))


def test_a_sphere_on_a_voxel_centre_has_the_known_count():
    # Lattice points closer than 2 to the origin: 1 + 6 + 12 + 8 with squares 0, 1, 2, 3; 4 is not inside.
    image = gpuion.voxelize(torch.full((1, 1, 3), 0.5), box=10.0, diameter=4.0, voxels=10)
    assert image.sum() == 27
    assert image[0, 0, 0, 0, 0] == 1
    assert image[0, 0, 9, 9, 9] == 1  # across the corner of the box
    assert image[0, 0, 2, 0, 0] == 0


def test_volume_fraction():
    # 30 spheres of 463 voxels: the error of a count is about the root of the voxels at its surface, √290 a
    # sphere or 0.7% of 30; 2% is about three of those.
    centers = torch.cartesian_prod(*[torch.arange(4) * 12.5 + 0.3] * 3)[None, :30]
    image = gpuion.voxelize(centers, box=50.0, diameter=9.6, voxels=50)
    assert image.sum().item() == pytest.approx(30 * math.pi * 9.6**3 / 6, rel=0.02)


def test_batches_chunks_and_images_do_not_matter(monkeypatch):
    centers = random_centers(5, 7, 20.0)
    options = {"box": 20.0, "diameter": 5.3, "voxels": 20}
    together = gpuion.voxelize(centers, **options)
    for chunk in (10**7, 2000, 1):  # the tensor program, which a GPU runs, against the scalar loop
        monkeypatch.setattr(module, "_CHUNK", chunk)
        drawn = torch.zeros(5, 20, 20, 20)
        module.draw(drawn, torch.remainder(centers.double(), 20.0), radius=5.3 / 2, spacing=1.0)
        assert torch.equal(drawn, together[:, 0])
    alone = torch.cat([gpuion.voxelize(c[None], **options) for c in centers])
    assert torch.equal(alone, together)
    turned = gpuion.voxelize(centers.flip(1), **options)
    assert torch.equal(turned, together)


def test_moving_by_whole_voxels_rolls_the_image():
    centers = torch.remainder(random_centers(2, 6, 16.0), 16.0).double()
    options = {"box": 16.0, "diameter": 5.1, "voxels": 16}
    shift = torch.tensor([3, -5, 20])
    moved = gpuion.voxelize(centers + shift, **options)
    assert torch.equal(moved, gpuion.voxelize(centers, **options).roll(shift.tolist(), (2, 3, 4)))


def test_no_structures_and_no_spheres():
    assert gpuion.voxelize(torch.zeros(0, 3, 3), box=8.0, diameter=2.0, voxels=8).shape == (0, 1, 8, 8, 8)
    assert gpuion.voxelize(torch.zeros(2, 0, 3), box=8.0, diameter=2.0, voxels=8).sum() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"voxels": 0}, "voxels must be a whole number, 1 or more"),
        ({"diameter": 9.0}, "diameter must lie"),
        ({"box": -1.0}, "box must be"),
    ],
)
def test_bad_arguments(changes, message):
    options = {"box": 8.0, "diameter": 2.0, "voxels": 8} | changes
    with pytest.raises(ValueError, match=message):
        gpuion.voxelize(torch.zeros(1, 2, 3), **options)
    with pytest.raises(ValueError, match="finite"):
        gpuion.voxelize(torch.full((1, 2, 3), math.nan), box=8.0, diameter=2.0, voxels=8)


def test_tile_repeats_the_image():
    image = torch.rand(2, 1, 4, 4, 4)
    big = gpuion.tile(image, 3)
    assert big.shape == (2, 1, 12, 12, 12)
    at = torch.arange(12) % 4
    assert torch.equal(big, image[:, :, at][:, :, :, at][..., at])
    with pytest.raises(ValueError, match="repeats"):
        gpuion.tile(image, 0)
    with pytest.raises(ValueError, match="shape"):
        gpuion.tile(image[0], 3)
