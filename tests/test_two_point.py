"""Two-point functions against plain loops and closed forms, and lines along a current against known flows."""

import math

import numpy as np
import pytest
import torch

import gpuion
from gpuion.streamlines import streamlines
from gpuion.two_point import cluster_correlation, lineal_path, phase_correlation


def some_images(voxels=9):
    chance = torch.Generator().manual_seed(3)
    return (torch.rand(2, 1, voxels, voxels, voxels, generator=chance) < 0.3).float()


def test_phase_correlation_is_the_mean_over_pairs_of_voxels():
    image, V, r_max = some_images(), 9, 4
    found = phase_correlation(image, r_max)
    for b in range(2):
        pairs = [[] for _ in range(r_max + 1)]
        for d in np.ndindex(V, V, V):
            length = math.sqrt(sum(min(x, V - x) ** 2 for x in d))
            if int(length + 0.5) <= r_max:
                pairs[int(length + 0.5)].append(float((image[b, 0] * image[b, 0].roll(d, (0, 1, 2))).mean()))
        expected = torch.tensor([np.mean(values) for values in pairs], dtype=torch.float64)
        # Single precision: 729 products of numbers ≤ 1 by transforms, 2⁻²⁴ · log₂(729) · 4 < 3e-6.
        assert torch.allclose(found[b], expected, rtol=0, atol=3e-6)
    assert found[:, 0].tolist() == pytest.approx(image.mean((1, 2, 3, 4)).tolist(), abs=3e-6)
    with pytest.raises(ValueError, match="half of the image's 9 voxels"):
        phase_correlation(image, 5)


def test_lineal_path_counts_open_rows():
    image, r_max = some_images(), 10  # longer than the cell
    image[0, 0, 3, 5] = 0  # a row that is open all around
    found = lineal_path(image, r_max)
    for b in range(2):
        open_ = image[b, 0] == 0
        for r in range(r_max + 1):
            hits = 0
            for axis in range(3):
                row = open_.clone()
                for step in range(1, r + 1):
                    row &= open_.roll(-step, axis)
                hits += int(row.sum())
            assert float(found[b, r]) == hits / (3 * 9**3)
    assert float(found[0, r_max]) > 0


def test_cluster_correlation_is_g_of_r_where_all_spheres_are_one_cluster():
    centers = torch.rand(3, 12, 3, generator=torch.Generator().manual_seed(1)) * 21
    whole = cluster_correlation(centers, box=21.0, cutoff=20.0, r_max=10)
    # The same counts, and the same volumes from other roundings.
    assert torch.allclose(whole, gpuion.pair_distribution(centers, box=21.0, r_max=10), rtol=1e-12, atol=0)
    line = torch.tensor([[[1.0, 1, 1], [4.0, 1, 1], [7.0, 1, 1], [16.0, 1, 1]]])  # three in steps of 3, one alone
    found = cluster_correlation(line, box=21.0, cutoff=3.5, r_max=10)[0]
    assert found.nonzero()[:, 0].tolist() == [3, 6]
    assert float(found[3] * (3.5**3 - 2.5**3) / (found[6] * (6.5**3 - 5.5**3))) == pytest.approx(2)  # 2 pairs and 1
    with pytest.raises(ValueError, match="half the box"):
        cluster_correlation(line, box=21.0, cutoff=3.5, r_max=11)


def test_lines_follow_a_uniform_current():
    current = torch.zeros(3, 8, 8, 8)
    current[0] = 2.0
    pieces = streamlines(current, box=16.0, count=5, length=10.0)
    assert len(pieces) >= 5
    for piece in pieces:
        assert piece.min() >= 0
        assert piece.max() < 16
        assert (np.diff(piece[:, 0]) > 0).all()  # in the current's direction
        assert np.ptp(piece[:, 1:], axis=0).max() == 0
    # Each is 10 voxels long, less the step of 4 · ½ · 2 = 4 voxels that a cut at the box may take.
    assert sum(np.ptp(piece[:, 0]) for piece in pieces) >= 5 * (10 - 4)


def test_lines_go_around_a_vortex_and_nowhere_without_a_current():
    x = torch.arange(32) + 0.5 - 16
    X, Y = torch.meshgrid(x, x, indexing="ij")
    J = torch.stack([-Y, X, torch.zeros_like(X)])[..., None].expand(-1, -1, -1, 32)
    J = J * ((X.square() + Y.square()).sqrt() < 12)[None, ..., None]
    # Currents of bonds, whose mean over both of a site's is J there, in the middle of the vortex.
    bonds = torch.stack([(J[d] + J[d].roll(-1, d)) / 2 for d in range(3)])
    pieces = streamlines(bonds, box=32.0, count=8, length=20.0)
    far = [np.hypot(*(piece[:, :2] - 16).T) for piece in pieces if np.hypot(*(piece[0, :2] - 16)) < 9]
    assert far
    # By the midpoint rule a circle of radius R drifts outwards by step⁴ / (8 R³) a step: next to nothing.
    assert max(np.ptp(r) for r in far) < 0.3
    assert streamlines(torch.zeros(3, 4, 4, 4), box=4.0) == []
    with pytest.raises(ValueError, match=r"\[3, X, Y, Z\]"):
        streamlines(torch.zeros(2, 4, 4, 4), box=4.0)


def test_a_site_s_current_is_that_of_the_bonds_on_both_sides():
    current = torch.zeros(3, 12, 12, 12)
    current[0, 3:6] = 1.0  # from site 3 to site 6, whose middles are at 3.5 and 6.5
    points = np.concatenate(streamlines(current, box=12.0, count=12, length=24.0))
    # Between sites it is interpolated: it ends a site's width beyond, and a step of half a site may go on from there.
    assert 2.5 - 0.5 <= points[:, 0].min() < 3.5
    assert 6.5 < points[:, 0].max() <= 7.5 + 0.5
