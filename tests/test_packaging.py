"""A wheel in an empty folder works as the source tree does, and the sdist is that tree."""

import os
import re
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
placed = gpuion.place("random", n_structures=1, n_particles=27, box=50.0, diameter=9.6)
medium = gpuion.electrolyte(centers, box=16.0, diameter=5.0)
print(float(gpuion.homogenize(medium, tolerance=1e-3).diffusivity.mean()) > 0)
print(gpuion.walk(medium, walkers=4, time=5.0).hops.item() > 0)
print((Path(gpuion.__file__).parent / "web/viewer.js").is_file())
print(float(gpuion.load_surrogate().predict(placed, box=50.0, diameter=9.6).d_star) > 0)
"""


def run(*command, cwd, **env):
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=1200
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The clone's files, and sdist and wheel made of them."""
    if not (ROOT / ".git").exists():
        pytest.skip("what belongs to a clone is known to git alone")
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=ROOT).stdout
    names = {name for name in listed.split("\0") if (ROOT / name).is_file()}
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--sdist", "--wheel", "--no-isolation", "--outdir", str(made)]
    done = run(*command, cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is absent from the `packages` configuration" not in done.stdout + done.stderr
    version = gpuion.__version__
    return names, made / f"gpuion-{version}.tar.gz", made / f"gpuion-{version}-py3-none-any.whl"


def test_the_sdist_is_the_whole_clone(built):
    names, sdist, _ = built
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"simulate.py", "tests/conftest.py", "kernels/walk.py", "gpuion/pretrained/network.pt"} <= names
    assert names - held == set()


def test_a_registry_would_take_both(built):
    pytest.importorskip("twine", reason="comes with the extra test")
    checked = run(sys.executable, "-m", "twine", "check", "--strict", *map(str, built[1:]), cwd=ROOT)
    assert (checked.returncode, checked.stdout.count("PASSED")) == (0, 2), checked.stdout + checked.stderr


def test_the_citation_has_the_version_of_the_package():
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited[1] == gpuion.__version__


def test_a_wheel_works_in_an_empty_folder(built, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    installed = run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(site), built[2], cwd=empty)
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
