"""VTKHDF images, read back with h5py alone and, where it is installed, by VTK."""

import time

import h5py
import numpy as np
import pytest
import torch

import gpuion
from gpuion.vtkhdf import write_medium, write_vtkhdf

SHAPE = (4, 5, 6)


def fields():
    """Fields that tell every site and component apart."""
    site = torch.arange(120).view(SHAPE)
    return {
        "label": site.to(torch.uint8), "wide": site * 2**40, "single": site / 7, "double": site.double() / 7,
        "open": site % 3 == 0, "half": (site / 8).half(),
        "vector": torch.stack([site, 200 + site, 400 + site], -1).float(),
    }  # fmt: skip


def read(path):
    """Attributes and cell fields of a file, the fields back in [X, Y, Z] order."""
    with h5py.File(path) as file:
        root = file["VTKHDF"]
        found = {name: stored[...] for name, stored in root["CellData"].items()}
        return dict(root.attrs), {k: v.transpose(2, 1, 0, *range(3, v.ndim)) for k, v in found.items()}


def check_active(image, scalars, vectors):
    """Check what is shown at first; of the releases tried, 9.3 to 9.5 take no notice of it, 9.7 does."""
    from vtkmodules.vtkCommonCore import vtkVersion

    if (vtkVersion.GetVTKMajorVersion(), vtkVersion.GetVTKMinorVersion()) >= (9, 7):
        assert image.GetCellData().GetScalars().GetName() == scalars
        assert image.GetCellData().GetVectors().GetName() == vectors


def load(path):
    """The image as VTK reads it: cell (i, j, k) by VTK's own numbering, x fastest."""
    io = pytest.importorskip("vtkmodules.vtkIOHDF")
    from vtkmodules.vtkCommonCore import vtkVersion

    if (vtkVersion.GetVTKMajorVersion(), vtkVersion.GetVTKMinorVersion()) < (9, 3):
        pytest.skip("VTK before 9.3 reads the cells of an image as if they were points")
    from vtkmodules.util.numpy_support import vtk_to_numpy

    reader = io.vtkHDFReader()
    assert reader.CanReadFile(str(path))
    reader.SetFileName(str(path))
    reader.Update()
    image = reader.GetOutput()
    cells = image.GetCellData()
    return image, {
        cells.GetArrayName(k): vtk_to_numpy(cells.GetArray(k)).copy() for k in range(cells.GetNumberOfArrays())
    }


def test_what_is_written_lies_as_the_format_says(tmp_path):
    write_vtkhdf(tmp_path / "a.vtkhdf", fields(), spacing=0.5, origin=(1, 2, 3))
    attributes, found = read(tmp_path / "a.vtkhdf")
    assert attributes["Version"].tolist() == [1, 0]
    assert attributes["Type"] == b"ImageData"
    assert attributes["WholeExtent"].tolist() == [0, 4, 0, 5, 0, 6]
    assert attributes["Origin"].tolist() == [1, 2, 3]
    assert attributes["Spacing"].tolist() == [0.5] * 3
    assert attributes["Direction"].tolist() == np.eye(3).ravel().tolist()
    for name, field in fields().items():
        assert np.array_equal(found[name], field.numpy())
    dtypes = {name: array.dtype.str for name, array in found.items()}
    assert dtypes == {
        "label": "|u1", "wide": "<i8", "single": "<f4", "double": "<f8", "open": "|u1", "half": "<f4", "vector": "<f4"
    }  # fmt: skip
    with h5py.File(tmp_path / "a.vtkhdf") as file:
        cells = file["VTKHDF/CellData"]
        assert cells["label"].shape == (6, 5, 4)
        assert cells["vector"].shape == (6, 5, 4, 3)
        assert (cells.attrs["Scalars"], cells.attrs["Vectors"]) == (b"label", b"vector")
        assert file["VTKHDF"].attrs.get_id("Type").get_type().is_variable_str() is False
    time.sleep(1.1)  # HDF5 could store times, in whole seconds
    write_vtkhdf(tmp_path / "b.vtkhdf", fields(), spacing=0.5, origin=(1, 2, 3))
    assert (tmp_path / "a.vtkhdf").read_bytes() == (tmp_path / "b.vtkhdf").read_bytes()


def test_vtk_reads_it(tmp_path):
    write_vtkhdf(tmp_path / "a.vtkhdf", fields(), spacing=0.5, origin=(1, 2, 3))
    image, found = load(tmp_path / "a.vtkhdf")
    assert image.GetDimensions() == (5, 6, 7)  # points: one more than cells
    assert image.GetSpacing() == (0.5, 0.5, 0.5)
    assert image.GetOrigin() == (1, 2, 3)
    check_active(image, "label", "vector")
    for name, field in fields().items():
        for x, y, z in [(0, 0, 0), (3, 0, 0), (0, 4, 0), (0, 0, 5), (1, 2, 3), (3, 4, 5)]:
            cell = image.ComputeCellId((x, y, z))
            assert found[name][cell].tolist() == field[x, y, z].tolist()
            bounds = image.GetCell(cell).GetBounds()
            assert bounds == (1 + x / 2, 1.5 + x / 2, 2 + y / 2, 2.5 + y / 2, 3 + z / 2, 3.5 + z / 2)
    assert found["label"].dtype == np.uint8
    assert found["double"].dtype == np.float64


def medium():
    """Two structures, with three classes one of which is blocked, on a lattice of unequal edges."""
    labels = torch.randint(0, 3, (2, *SHAPE), generator=torch.Generator().manual_seed(3))
    return gpuion.Medium(labels, [1.0, 0.25, 0.5], [0.0, -1.5, torch.inf], spacing=0.5)


def test_a_medium_and_its_current(tmp_path):
    m, axis, index = medium(), 2, 1
    write_medium(tmp_path / "a.vtkhdf", m, index=index, axis=axis)
    attributes, found = read(tmp_path / "a.vtkhdf")
    assert attributes["Spacing"].tolist() == [0.5] * 3
    labels = m.labels[index].numpy()
    assert np.array_equal(found["label"], labels)
    assert np.array_equal(found["diffusivity"], np.float32([1, 0.25, 0])[labels])
    assert np.array_equal(found["potential"], np.float32([0, -1.5, np.nan])[labels], equal_nan=True)
    weight = np.array([1, np.exp(1.5), 0])[labels]
    # Within a rounding of float32, 2⁻²⁴, of float64 values.
    np.testing.assert_allclose(found["concentration"], weight / weight.mean(), rtol=1e-7, atol=0)
    J = gpuion.currents(m[index : index + 1], axis)[0].numpy()
    for x, y, z in [(0, 0, 0), (1, 2, 3), (3, 4, 5)]:
        before = J[0, x - 1, y, z], J[1, x, y - 1, z], J[2, x, y, z - 1]
        np.testing.assert_allclose(found["current"][x, y, z], (J[:, x, y, z] + before) / 2, rtol=1e-7, atol=1e-12)
    # The mean over the sites stays that over the bonds, up to float32 of each; that is a column of D up to the root of
    # the solve's tolerance, 1e-3.
    mean = found["current"].mean((0, 1, 2), dtype=np.float64)
    np.testing.assert_allclose(mean, J.mean((1, 2, 3)), rtol=0, atol=1e-7)
    D = gpuion.homogenize(m[index : index + 1], tolerance=1e-6).tensor[0].numpy()
    np.testing.assert_allclose(mean, D[:, axis], rtol=0, atol=1e-3 * D.max())
    assert not found["current"][labels == 2].any()  # nothing flows through a blocked site
    write_medium(tmp_path / "b.vtkhdf", m)
    assert "current" not in read(tmp_path / "b.vtkhdf")[1]


def test_vtk_reads_a_medium(tmp_path):
    m = medium()
    write_medium(tmp_path / "a.vtkhdf", m, index=1, axis=0)
    image, found = load(tmp_path / "a.vtkhdf")
    _, stored = read(tmp_path / "a.vtkhdf")
    assert image.GetBounds() == (0, 2, 0, 2.5, 0, 3)
    assert sorted(found) == ["concentration", "current", "diffusivity", "label", "potential"]
    for name, array in stored.items():
        for x, y, z in [(0, 0, 0), (3, 1, 0), (1, 4, 5)]:
            np.testing.assert_array_equal(found[name][image.ComputeCellId((x, y, z))], array[x, y, z])
    check_active(image, "label", "current")


def test_a_medium_of_extreme_potentials_or_none_open(tmp_path):
    labels = torch.zeros(1, 2, 2, 2, dtype=torch.uint8)
    labels[0, 0] = 1
    deep = gpuion.Medium(labels, [1.0, 1.0, 1.0], [2000.0, 2001.0, -5000.0])  # exp(5000) and exp(−2000) are no floats
    write_medium(tmp_path / "a.vtkhdf", deep)
    weight = np.where(labels[0].numpy() == 1, np.exp(-1.0), 1.0)
    found = read(tmp_path / "a.vtkhdf")[1]["concentration"]
    np.testing.assert_allclose(found, weight / weight.mean(), rtol=1e-7, atol=0)
    write_medium(tmp_path / "b.vtkhdf", gpuion.Medium(labels, [1.0, 1.0], [torch.inf, torch.inf]))
    found = read(tmp_path / "b.vtkhdf")[1]
    assert not found["concentration"].any()
    assert np.isnan(found["potential"]).all()


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ({}, {}, "of one lattice, got none"),
        ({"a": torch.zeros(2, 2, 2), "b": torch.zeros(2, 2, 3)}, {}, "of one lattice"),
        ({"a": torch.zeros(2, 2)}, {}, r"\[X, Y, Z\]"),
        ({"a": torch.zeros(2, 2, 2, 2)}, {}, r"\[X, Y, Z, 3\]"),
        ({"a": torch.zeros(2, 0, 2)}, {}, r"\[X, Y, Z\]"),
        ({"a": torch.zeros(2, 2, 2, dtype=torch.complex64)}, {}, "real"),
        ({"a/b": torch.zeros(2, 2, 2)}, {}, "name"),
        ({"": torch.zeros(2, 2, 2)}, {}, "name"),
        ({"a": torch.zeros(2, 2, 2)}, {"spacing": 0.0}, "spacing"),
        ({"a": torch.zeros(2, 2, 2)}, {"origin": (0.0, 0.0)}, "origin"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, given, options, words):
    with pytest.raises(ValueError, match=words):
        write_vtkhdf(tmp_path / "a.vtkhdf", given, **options)
    assert list(tmp_path.iterdir()) == []


def test_another_structure_or_axis_is_refused(tmp_path):
    for options, words in (({"index": 2}, "0 … 1, got 2"), ({"index": -1}, "got -1"), ({"axis": 3}, "axis")):
        with pytest.raises(ValueError, match=words):
            write_medium(tmp_path / "a.vtkhdf", medium(), **options)
    assert list(tmp_path.iterdir()) == []
