"""Labelled images of any integer type as media, and the files they come from."""

import math
import sys
import types

import numpy as np
import pytest
import torch

import gpuion
from gpuion import DatasetError, Medium, read_image
from gpuion.images import classify

INF = math.inf
TYPES = ["bool", "uint8", "int8", "uint16", ">u2", "int32", ">i4", "uint32", "int64", "uint64"]


@pytest.mark.parametrize("dtype", TYPES)
def test_labels_of_any_integer_type_become_classes(dtype):
    image = np.array([[[0, 1], [1, 0]]]).astype(dtype)[:, ::-1]
    medium = Medium.from_image(image, diffusivity={1: 2.0, 0: None}, spacing=0.5)
    assert medium.labels.tolist() == [[[[1, 0], [0, 1]]]]
    assert medium.labels.dtype == torch.uint8
    assert medium.diffusivity.tolist() == [0.0, 2.0]
    assert medium.potential.tolist() == [INF, 0.0]
    assert medium.spacing == 0.5


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.uint16, torch.int64])
def test_tensors_and_batches_are_taken(dtype):
    image = torch.tensor([0, 1, 1, 0, 1, 1]).view(3, 1, 2, 1).to(dtype)
    medium = Medium.from_image(image, diffusivity=[3.0, 0.0])
    assert torch.equal(medium.labels, image.to(torch.uint8))
    assert medium.potential.tolist() == [0.0, INF]


def test_classes_depend_on_the_tables_not_on_the_image():
    table = {7: 1.0, -300: 0.5, 85: None, 70_000: 2.0}
    for present in ([7, 85], [-300, 70_000], [7]):
        medium = Medium.from_image(np.array(present)[None, None], table, potential={7: -1.0, -300: INF, 70_000: 3})
        assert medium.diffusivity.tolist() == [0.5, 1.0, 0.0, 2.0]
        assert medium.potential.tolist() == [INF, -1.0, INF, 3.0]
        assert [sorted(table)[k] for k in medium.labels.flatten().tolist()] == present


def test_the_medium_of_an_image_is_the_medium_made_by_hand():
    image = np.random.default_rng(0).choice([10, 200, 1000], (5, 6, 7))
    medium = Medium.from_image(image, {10: 1.0, 200: 0.1, 1000: None}, {10: 0.0, 200: -2.0})
    labels = torch.from_numpy((image > 10).astype(np.uint8) + (image > 200))[None]
    other = Medium(labels, torch.tensor([1.0, 0.1, 0.0], dtype=torch.float64), torch.tensor([0.0, -2.0, INF]))
    assert torch.equal(gpuion.homogenize(medium).tensor, gpuion.homogenize(other).tensor)


@pytest.mark.parametrize(
    ("image", "diffusivity", "potential", "message"),
    [
        ([[[0, 3]]], {0: 1.0}, None, r"no diffusivity for label 3, which occurs 1 times .* known are \[0\]"),
        ([[[0, 3, -1, 9]]], [1.0, 1.0], None, "no diffusivity for label -1, 3, 9"),
        ([[[0]]], {}, None, "at least one label"),
        ([[[0]]], dict.fromkeys(range(256), 1.0), None, "256 labels, at most 255"),
        ([[[0]]], {0: -1.0}, None, "diffusivity of label 0 must be a number ≥ 0"),
        ([[[0]]], {0: INF}, None, "diffusivity of label 0"),
        ([[[0]]], {0: 1.0}, {0: math.nan}, "potential of label 0"),
        ([[[0]]], {0: 1.0, 5: 1.0}, {0: 1.0}, "label 5 has a diffusivity, but no potential"),
        ([[[0.5]]], {0: 1.0}, None, "integers or booleans, got float64"),
        ([[0]], {0: 1.0}, None, r"\[X, Y, Z\] or \[B, X, Y, Z\], got \[1, 1\]"),
    ],
)
def test_bad_images_and_tables_are_named(image, diffusivity, potential, message):
    with pytest.raises(ValueError, match=message):
        Medium.from_image(np.array(image), diffusivity, potential)


def test_float_tensors_and_huge_labels_are_refused():
    with pytest.raises(ValueError, match=r"integers or booleans, got torch.float32"):
        classify(torch.zeros(1, 1, 1), [1.0], None)
    with pytest.raises(ValueError, match=r"below 2\*\*63"):
        classify(np.full((1, 1, 1), 2**63, dtype=np.uint64), [1.0], None)


def test_255_labels_are_possible():
    medium = Medium.from_image(np.arange(255).reshape(5, 51, 1), [1.0] * 255)
    assert medium.labels.flatten().tolist() == list(range(255))


def test_npy_files_are_read(tmp_path):
    image = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    np.save(tmp_path / "image.npy", image)
    assert np.array_equal(read_image(tmp_path / "image.npy"), image)
    assert read_image(str(tmp_path / "image.npy")).dtype == np.uint16


def test_bad_files_are_named(tmp_path):
    (tmp_path / "image.npy").write_bytes(b"not an array")
    with pytest.raises(DatasetError, match=r"image\.npy is not a readable \.npy file"):
        read_image(tmp_path / "image.npy")
    np.save(tmp_path / "objects.npy", np.array([None, {}]), allow_pickle=True)
    with pytest.raises(DatasetError, match=r"objects\.npy"):
        read_image(tmp_path / "objects.npy")
    with pytest.raises(ValueError, match=r"image\.png is not a \.npy, \.tif or \.tiff"):
        read_image(tmp_path / "image.png")
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "missing.npy")


def test_tif_without_tifffile_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImportError, match=r"needs tifffile; install it with: pip install gpuion\[tif\]"):
        read_image(tmp_path / "stack.tif")


@pytest.mark.parametrize("name", ["stack.tif", "STACK.TIFF"])
def test_tif_goes_through_tifffile(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"pages")
    reader = types.SimpleNamespace(imread=lambda file: np.frombuffer(file.read(), np.uint8).reshape(5, 1, 1))
    monkeypatch.setitem(sys.modules, "tifffile", reader)
    assert read_image(tmp_path / name).shape == (5, 1, 1)


def test_tif_stacks_are_read(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    stack = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", stack)
    assert np.array_equal(read_image(tmp_path / "stack.tif"), stack)
    (tmp_path / "broken.tif").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"broken\.tif is not a readable \.tif"):
        read_image(tmp_path / "broken.tif")
