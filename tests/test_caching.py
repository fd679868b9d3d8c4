"""Compiled kernels: what another file's change may have made old is forgotten."""

import os
import subprocess
import sys
from pathlib import Path

from gpuion.kernels import caching

SOURCES = Path(caching.__file__).parent


def test_indices_older_than_a_source_are_removed_and_no_other_file(tmp_path):
    newest = max(source.stat().st_mtime for source in SOURCES.glob("*.py"))
    ages = {"old.nbi": -1, "new.nbi": 1, "old.nbc": -1, "old.py": -1}
    for name, age in ages.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (newest + age, newest + age))
    caching.forget(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == ages.keys() - {"old.nbi"}
    caching.forget(tmp_path / "nowhere")


def test_a_change_of_a_callee_in_another_file_takes_effect(tmp_path):
    """Numba alone would go on with what it compiled of the caller, whose file is the same."""
    package = tmp_path / "kernels"
    package.mkdir()
    source = (SOURCES / "caching.py").read_text("utf-8")
    (package / "__init__.py").write_text("")
    (package / "caching.py").write_text(source)
    (package / "callee.py").write_text("import numba\n@numba.njit(cache=True)\ndef number():\n    return 1\n")
    (package / "caller.py").write_text(
        "import kernels.caching, numba\nfrom kernels.callee import number\n"
        "@numba.njit(cache=True)\ndef twice():\n    return 2 * number()\nprint(twice())\n"
    )
    for path in package.iterdir():
        os.utime(path, (1e9, 1e9))
    assert printed(tmp_path) == printed(tmp_path) == "2"
    index = next((package / "__pycache__").glob("caller.twice-*.nbi"))
    os.utime(index, (1.1e9, 1.1e9))  # some time ago
    (package / "callee.py").write_text("import numba\n@numba.njit(cache=True)\ndef number():\n    return 10\n")
    assert printed(tmp_path) == "20"


def printed(folder):
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    run = [sys.executable, "-c", "import kernels.caller"]
    done = subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()
