"""Pictures of arrangements: where things are drawn, what hides what, whole PNG files."""

import math
import zlib

import numpy as np
import pytest
import torch

from gpuion.render import LONE, PALETTE, cluster_colors, png, recenter, render

BOX, DIAMETER = 40.0, 9.6


def middle_of(image, color):
    """Mean row and column of pixels whose hue is near a colour's."""
    x, c = image.astype(float), np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)], dtype=float)
    x, c = x - x.mean(-1, keepdims=True), c - c.mean()
    size = np.linalg.norm(x, axis=-1)
    like = (size > 25) & ((x @ c) / np.maximum(size, 1e-9) / np.linalg.norm(c) > 0.97)
    return np.argwhere(like).mean(0), int(like.sum())


def test_a_pair_is_drawn_where_it_is():
    # From azimuth 0, elevation 0 the viewer looks along −x: y goes right, z up, and both spheres lie low on the right.
    pair = torch.tensor([[20.0, 25.0, 10.0], [20.0, 35.0, 10.0]])
    image = render(pair, box=BOX, diameter=DIAMETER, reach=1.0, size=200, azimuth=0, elevation=0)
    assert image.dtype == np.uint8
    assert image.shape == (200, 200, 3)
    half = 1.02 * (BOX / 2 + 0.8 * DIAMETER / 2)  # what half the picture shows, voxels
    (row, column), area = middle_of(image, PALETTE[0])
    # Symmetric about y = 30, z = 10; light and box edges shift the middle by less than half a voxel.
    pixel = 100 / half
    assert column == pytest.approx(100 + 10 * pixel, abs=0.5 * pixel)
    assert row == pytest.approx(100 + 10 * pixel, abs=0.5 * pixel)
    disk = math.pi * (DIAMETER / 2 * pixel) ** 2
    assert 2 * disk < area < 3.2 * disk  # two disks and their coronas, (5.8 / 4.8)² = 1.46 times as large


def test_a_stick_through_the_boundary_is_drawn_at_both_ends():
    x = torch.tensor([[20.0, 8.0, 20.0], [20.0, 32.0, 20.0]])  # 16 apart through the face y = 0
    joined = render(x, box=BOX, diameter=DIAMETER, reach=3.3, size=200, azimuth=0, elevation=0)
    apart = render(x, box=BOX, diameter=DIAMETER, reach=3.1, size=200, azimuth=0, elevation=0)
    half = 1.02 * (BOX / 2 + 0.8 * DIAMETER / 2)
    for y in (1.0, 39.0):
        column = round(100 + (y - BOX / 2) * 100 / half)
        blue, none = joined[100, column].astype(int), apart[100, column].astype(int)
        assert blue[2] - blue[0] > 60  # a stick in the cluster's blue
        assert abs(none[2] - none[0]) < 25  # grey or white
    beyond = round(100 + (BOX / 2 + 2.5) * 100 / half)
    assert joined[100, beyond].min() > 245


def test_a_nearer_sphere_hides_a_farther_one():
    x = torch.tensor([[32.0, 20.0, 20.0], [8.0, 20.0, 20.0], [8.0, 20.0, 8.5]])  # viewed along −x; 2 and 3 touch
    image = render(x, box=BOX, diameter=DIAMETER, reach=1.0, size=200, azimuth=0, elevation=0)
    pixel = image[100, 100].astype(int)
    assert np.ptp(pixel) < 12  # grey, of the lone sphere in front
    image = render(BOX - x, box=BOX, diameter=DIAMETER, reach=1.0, size=200, azimuth=0, elevation=0)
    pixel = image[100, 100].astype(int)
    assert pixel[2] - pixel[0] > 60


def test_larger_clusters_choose_their_colour_first():
    color = cluster_colors(np.array([0, 1, 1, 3, 3, 3, 6]))
    names = ["#" + "".join(f"{round(255 * c):02X}" for c in rgb) for rgb in color]
    assert names == [LONE, PALETTE[1], PALETTE[1], PALETTE[0], PALETTE[0], PALETTE[0], LONE]


def test_a_cluster_across_the_faces_is_moved_together():
    x = torch.tensor([[38.0, 5.0, 1.0], [39.0, 6.0, 39.0], [2.0, 9.0, 20.0], [4.0, 35.0, 22.0]])
    # Widest gaps: x 4 … 38, y 9 … 35, z 1 … 20; their middles, 21, 22 and 10.5, become the origin.
    expected = torch.tensor([[17.0, 23.0, 30.5], [18.0, 24.0, 28.5], [21.0, 27.0, 9.5], [23.0, 13.0, 11.5]])
    assert torch.equal(recenter(x, BOX), expected.double())
    assert torch.equal(recenter(x + BOX, BOX), expected.double())


def test_png_holds_the_image():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    content = png(image)
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    start = content.index(b"IDAT")
    size = int.from_bytes(content[start - 4 : start], "big")
    rows = np.frombuffer(zlib.decompress(content[start + 4 : start + 4 + size]), np.uint8).reshape(5, 22)
    assert (rows[:, 0] == 0).all()
    np.testing.assert_array_equal(rows[:, 1:].reshape(5, 7, 3), image)
    assert int.from_bytes(content[start + 4 + size : start + 8 + size], "big") == zlib.crc32(
        content[start : start + 4 + size]
    )


def test_a_picture_of_nothing_is_refused():
    with pytest.raises(ValueError, match="pixels"):
        render(torch.zeros(1, 3), box=BOX, diameter=DIAMETER, size=4)
    with pytest.raises(ValueError, match="centers"):
        render(torch.zeros(3), box=BOX, diameter=DIAMETER)
