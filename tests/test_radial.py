import itertools

import numpy as np
import pytest
import torch

import gpuion
from gpuion import radial
from gpuion.radial import pair_distribution


def gas(seed, B, N, box):
    return box * torch.rand(B, N, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def placed(family, B=3, N=91, box=75.0):
    ranges = {"random": {}, "chained": {"distance": (12.5, 13.5)}, "gapped": {"gap": 20.0, "axes": (0,)}}[family]
    diameter = gpuion.sphere_diameter(N, box, 0.1)
    return gpuion.place(family, n_structures=B, n_particles=N, box=box, diameter=diameter, seed=3, **ranges)


def shells(r_max):
    edges = np.concatenate([[0.0], np.arange(r_max + 1) + 0.5])
    return edges, 4 / 3 * np.pi * np.diff(edges**3)


def brute(x, box, r_max):
    """g(r) of one structure from every image that could count, written out."""
    edges, volume = shells(r_max)
    x = np.mod(x.double().numpy(), box)
    reach = int(np.ceil((r_max + 0.5) / box)) + 1
    found = []
    for n in itertools.product(range(-reach, reach + 1), repeat=3):
        apart = np.sqrt(((x[None] + box * np.array(n) - x[:, None]) ** 2).sum(-1))
        found.append(apart[~np.eye(len(x), dtype=bool)])
    found = np.concatenate(found)
    counts = np.bincount(np.searchsorted(edges, found, side="right") - 1, minlength=r_max + 2)[: r_max + 1]
    return counts * box**3 / (len(x) * (len(x) - 1)) / volume


@pytest.mark.parametrize(
    ("N", "box", "r_max"),
    [(7, 20.0, 4), (7, 20.0, 9), (7, 20.0, 10), (6, 20.0, 19), (5, 20.0, 33), (3, 9.5, 38), (2, 75.0, 38), (4, 3.0, 0)],
)
def test_all_images_count_at_any_r(N, box, r_max):
    x = gas(N + r_max, 3, N, box)
    x[0] = (x[0] * 4).round() / 4  # distances on the edges of bins, as r + ½ along an axis
    found = pair_distribution(x, box=box, r_max=r_max)
    assert found.shape == (3, r_max + 1)
    assert found.dtype == torch.float64
    for b in range(3):
        # Equal counts, and five roundings of a product: 5 · 2⁻⁵³ < 1e-15.
        np.testing.assert_allclose(found[b], brute(x[b], box, r_max), rtol=1e-14, atol=0)


def test_a_pair_is_in_the_bin_of_its_distance():
    for apart, r in [(0.25, 0), (0.5, 1), (1.49, 1), (1.5, 2), (6.0, 6), (38.4, 38)]:
        x = torch.tensor([[[70.0, 1.0, 1.0], [70.0 + apart, 1.0, 1.0]]], dtype=torch.float64)
        found = pair_distribution(x, box=100.0)
        assert found.nonzero().tolist() == [[0, r]]
        volume = shells(38)[1][r]
        # One pair in two ordered ways, of N (N − 1) = 2 in V; four roundings.
        assert float(found[0, r]) == pytest.approx(100.0**3 / volume, rel=1e-14)


def test_a_simple_cubic_array_has_its_coordination_numbers():
    grid = torch.cartesian_prod(*[torch.arange(4.0) * 5 + 1] * 3)[None]
    found = pair_distribution(grid, box=20.0, r_max=11)[0]
    # Neighbours at 5, 5√2 = 7.07, 5√3 = 8.66, 10 and 5√5 = 11.18, of which none is beyond any copy of itself.
    neighbours = found * torch.from_numpy(shells(11)[1]) * 63 / 20.0**3
    expected = torch.zeros(12, dtype=torch.float64)
    expected[[5, 7, 9, 10, 11]] = torch.tensor([6.0, 12, 8, 6, 24], dtype=torch.float64)
    torch.testing.assert_close(neighbours, expected, rtol=1e-14, atol=0)


def test_of_an_ideal_gas_it_is_one():
    # Mean over 600 independent structures; the standard error is their spread's. 26 bins to beyond the box itself:
    # 4.5 sigma would be passed by chance once in 6000 runs of such a test; rms z of 26 is 1 ± 0.14.
    g = pair_distribution(gas(0, 600, 12, 20.0), box=20.0, r_max=25)
    z = (g.mean(0) - 1) / (g.std(0) / 600**0.5)
    assert float(z.abs().max()) < 4.5
    assert 0.5 < float(z.square().mean().sqrt()) < 1.5
    assert float((g.std(0) / 600**0.5)[10:].max()) < 0.015  # N² instead of N (N − 1) would be off by 8%


@pytest.mark.parametrize("family", ["random", "chained", "gapped"])
def test_placed_structures_are_those_of_the_brute_force(family):
    x = placed(family)
    found = pair_distribution(x, box=75.0)
    assert not found[:, :9].any()  # spheres of diameter 9.6 do not overlap
    for b in range(2):
        # Separations may round onto the other side of a bin's edge, at distances up to 38.5 within 2e-14: the seed
        # has no pair there.
        np.testing.assert_allclose(found[b], brute(x[b], 75.0, 38), rtol=1e-14, atol=0)


def test_it_is_that_of_scipys_tree():
    spatial = pytest.importorskip("scipy.spatial")
    x = placed("chained", B=1)[0].double().numpy()
    copies = (x + 75.0 * np.array(list(itertools.product((-1, 0, 1), repeat=3)))[:, None]).reshape(-1, 3)
    radii = np.arange(39) + 0.5
    below = spatial.cKDTree(x).count_neighbors(spatial.cKDTree(copies), radii) - 91  # less each with itself
    expected = np.diff(below, prepend=0) * 75.0**3 / (91 * 90) / shells(38)[1]
    found = pair_distribution(torch.from_numpy(x)[None], box=75.0)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=0)  # five roundings


def test_it_is_that_of_freud():
    freud = pytest.importorskip("freud")
    x = placed("random", B=2)
    # freud takes r < L/2, float32 distances, and N (N − 1) pairs in its mode "finite_size".
    other = freud.density.RDF(bins=36, r_min=0.5, r_max=36.5, normalization_mode="finite_size")
    for b in range(2):
        other.compute((freud.box.Box.cube(75.0), x[b].numpy() - 37.5), reset=False)
    found = pair_distribution(x, box=75.0)[:, 1:37].mean(0).numpy()
    pairs = found * shells(38)[1][1:37] * 91 * 90 / 75.0**3  # ordered pairs, mean of two structures
    theirs = np.asarray(other.rdf) * shells(38)[1][1:37] * 91 * 90 / 75.0**3
    # 2 · 4095 distances, each within 3 · 75 · 2⁻²⁴ = 1.3e-5 of the exact one: 0.1 of them, at most one or two, may
    # lie that close to an edge; a pair that changes bins changes a mean by 1. Beside that float32, 36 roundings.
    assert np.abs(pairs - theirs).sum() <= 4
    assert (np.abs(pairs - theirs) < pairs * 36 * 2**-24 + 1e-9).sum() >= 32
    assert pairs.sum() > 1e3


def test_neither_batch_nor_order_nor_chunk_change_it(monkeypatch):
    x = gas(5, 7, 11, 20.0)
    whole = pair_distribution(x, box=20.0, r_max=12)
    shuffled = x[:, torch.randperm(11, generator=torch.Generator().manual_seed(0))]
    assert torch.equal(pair_distribution(shuffled, box=20.0, r_max=12), whole)
    assert torch.equal(pair_distribution(x[3:4], box=20.0, r_max=12), whole[3:4])
    for chunk in (1, 17, 55, 120):  # pairs of a structure at a time, structures at a time
        monkeypatch.setattr(radial, "_CHUNK", chunk)
        assert torch.equal(pair_distribution(x, box=20.0, r_max=12), whole)


@pytest.mark.parametrize(
    ("centers", "box", "r_max", "words"),
    [
        (torch.zeros(3, 3), 20.0, 5, r"\[B, N, 3\]"),
        (torch.zeros(2, 1, 3), 20.0, 5, "at least two spheres"),
        (torch.full((1, 3, 3), torch.inf), 20.0, 5, "finite"),
        (torch.zeros(1, 3, 3), 0.0, 5, "box"),
        (torch.zeros(1, 3, 3), 20.0, -1, "r_max"),
        (torch.zeros(1, 3, 3), 20.0, 2.5, "r_max"),
    ],
)
def test_what_cannot_be_used_is_refused(centers, box, r_max, words):
    with pytest.raises(ValueError, match=words):
        pair_distribution(centers, box=box, r_max=r_max)
