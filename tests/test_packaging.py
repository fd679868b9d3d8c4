"""A wheel in an empty folder works as the source tree does."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import gpuion

ROOT = Path(__file__).parent.parent

USE = """
import gpuion, gpuion.kernels, gpuion.kernels.reference
from pathlib import Path
print(gpuion.__file__, gpuion.kernels.__file__)
centers = gpuion.place("random", n_structures=1, n_particles=2, box=16.0, diameter=5.0)
medium = gpuion.electrolyte(centers, box=16.0, diameter=5.0)
print(float(gpuion.homogenize(medium, tolerance=1e-3).diffusivity.mean()) > 0)
print(gpuion.walk(medium, walkers=4, time=5.0).hops.item() > 0)
print((Path(gpuion.__file__).parent / "web/viewer.js").is_file())
print(float(gpuion.load_surrogate().predict(50 * centers / 16, box=50.0, diameter=9.6).d_star) > 0)
"""


def run(*command, cwd, **env):
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=300
    )


def test_a_wheel_works_in_an_empty_folder(tmp_path):
    site, empty, source = (tmp_path / name for name in ("site", "empty", "source"))
    empty.mkdir()
    source.mkdir()
    for name in ("gpuion", "kernels"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--sdist", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    built = run(*command, cwd=source)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,), (sdist,) = tmp_path.glob("gpuion-*.whl"), tmp_path.glob("gpuion-*.tar.gz")
    with tarfile.open(sdist) as archive:
        for part in ("pretrained/network.pt", "web/viewer.js", "web/3Dmol-min.js", "web/3Dmol-LICENSE.txt"):
            assert any(name.endswith(f"gpuion/{part}") for name in archive.getnames()), part
    installed = run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(site), str(wheel), cwd=empty)
    assert installed.returncode == 0, installed.stderr
    used = run(sys.executable, "-W", "ignore", "-c", USE, cwd=empty, PYTHONPATH=str(site))
    assert used.returncode == 0, used.stderr
    files, *answers = used.stdout.split("\n")
    assert all(file.startswith(str(site)) for file in files.split())
    assert answers[:4] == ["True", "True", "True", "True"]


def test_the_kernels_folder_is_not_a_package_of_its_own(tmp_path):
    result = run(sys.executable, "-c", "import kernels", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert result.returncode != 0
    assert "import gpuion.kernels" in result.stderr


def test_importing_gpuion_is_quick(tmp_path):
    # Slow packages wait until a function needs them.
    code = (
        "import sys, gpuion; print([m for m in ('torch', 'triton', 'numba', 'h5py', 'matplotlib') if m in sys.modules])"
    )
    assert run(sys.executable, "-c", code, cwd=tmp_path).stdout.strip() == "[]"


def test_public_names():
    assert {"place", "electrolyte", "Medium", "walk", "homogenize", "voxelize", "tile", "Surrogate"} <= set(dir(gpuion))
    for name in gpuion.__all__:
        assert getattr(gpuion, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'homogenise'"):
        _ = gpuion.homogenise
