"""Hand-built arrangements: whole, without overlaps, of the shapes that their names say."""

import math

import pytest
import torch

import gpuion
from gpuion import designs
from gpuion.descriptors import nearest_distance, percolates

BOX, N = 75.0, 91
DIAMETER = gpuion.sphere_diameter(N, BOX, 0.1)


def apart(x):
    return nearest_distance(x[None], box=BOX)[0]


def test_all_designs_are_whole_and_without_overlaps():
    names, centers = designs.build(N, BOX, DIAMETER, 13.0)
    assert len(set(names)) == len(names) == len(centers) > 40
    assert max(map(len, names)) <= 16
    assert centers.shape[1:] == (N, 3)
    assert bool(((centers >= 0) & (centers < BOX)).all())
    assert float(nearest_distance(centers, box=BOX).min()) >= DIAMETER
    made = designs.catalogue(N, BOX, DIAMETER, 13.0)
    assert all(torch.equal(made[name](), made[name]()) for name in ("fcc-gyroid", "sheet112", "ball-sc-1.10"))


@pytest.mark.parametrize("kind", designs.CELLS)
def test_crystals_have_their_number_of_sites_and_their_nearest_distance(kind):
    x = designs.crystal(kind, 4, 60.0)
    assert len(x) == 64 * len(designs.CELLS[kind])
    near = nearest_distance(x[None], box=60.0)[0]
    # float64 coordinates to 60: 1e-13
    torch.testing.assert_close(near, torch.full_like(near, 15 * designs._NEAREST[kind]), rtol=0, atol=1e-10)


def test_three_planes_of_a_simple_cubic_crystal_are_all_of_91_spheres():
    x = designs.catalogue(N, BOX, DIAMETER, 13.0)["sc-planes"]()
    assert bool((x == 0).any(1).all())
    assert len(torch.unique(x, dim=0)) == N == 6**3 - 5**3
    assert percolates(x[None], box=BOX, cutoff=14.0).all()


@pytest.mark.parametrize("normal", [(0, 1, 1), (1, 1, 2), (1, 2, 2)])
def test_a_sheet_is_one_lattice_on_its_plane(normal):
    x = designs.sheet(N, BOX, normal)
    assert x.shape == (N, 3)
    height = x @ torch.tensor(normal, dtype=torch.float64) / BOX
    torch.testing.assert_close(height, height.round(), rtol=0, atol=1e-6)  # rounded to 1e-9 of a box
    vector = x - x[:1]
    moved = torch.remainder(x[:, None] + vector + BOX * 1e-7, BOX)
    # a lattice: shifted by any of its vectors, it is itself
    shifted = (moved[:, :, None] - x).abs().flatten(0, 1).amin(1).amax()
    assert float(shifted) < 1e-4
    near = apart(x)
    assert float(near.max() - near.min()) < 1e-6


def test_the_most_even_sheet_is_found():
    """In the plane x + y + z = 0, the vectors (9, 1, -10) / 91 of a box and their like are 60° apart."""
    near = apart(designs.sheet(N, BOX, (1, 1, 1)))
    assert float(near[0]) == pytest.approx(BOX * math.sqrt(9**2 + 1 + 10**2) / 91, abs=1e-6)


def test_strands_are_rows_of_touching_coronas():
    x = designs.strands(N, BOX, 13.0)
    assert len(x) == N
    rows = torch.unique(x[:, 1:], dim=0)
    assert len(rows) == 16  # fifteen of six, one of one
    assert percolates(x[None], box=BOX, cutoff=14.0)[0].tolist() == [True, False, False]


def test_spread_points_keep_apart_on_their_surface():
    free = designs.spread(30, BOX, 13.0, steps=80)
    bound = designs.spread(30, BOX, 13.0, steps=80, surface="gyroid")
    start = gpuion.place("random", n_structures=1, n_particles=30, box=BOX, diameter=2.0, seed=0)[0].double()
    assert float(apart(free).min()) > 2 * float(apart(start).min())
    assert float(designs.shape("gyroid", bound, BOX).max()) < 0.3 * float(designs.shape("gyroid", start, BOX).max())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: designs.crystal("hcp", 3, 10.0), "sc, bcc, fcc"),
        (lambda: designs.nearest_sites(torch.zeros(3, 3), torch.zeros(3), 4), "as many sites"),
        (lambda: designs.shape("knot", torch.zeros(1, 3), 1.0), "knot"),
        (lambda: designs.sheet(5, 10.0, (0, 2, 2)), "common divisor"),
    ],
)
def test_what_cannot_be_built_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
