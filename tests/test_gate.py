"""What `make test` ends with: the share of branches, and why tests were skipped."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import conftest
import pytest

ROOT = Path(__file__).parent.parent
CODE = """
def pick(x):
    if x > 0:
        return 1
    return 2

"""


@pytest.mark.parametrize(("calls", "code", "said"), [("pick(1)", 1, "1 of 2 taken, 50.0%"),
                                                     ("pick(1)\npick(-1)", 0, "2 of 2 taken, 100.0%")])  # fmt: skip
def test_branches_count_alone(tmp_path, calls, code, said):
    """Without lines: of these, five of six are run either way."""
    pytest.importorskip("coverage", reason="comes with the extra test")
    (tmp_path / "some.py").write_text(CODE + calls + "\n")
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}  # of an outer run
    run = lambda *words: subprocess.run(  # noqa: E731
        [sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=300
    )
    assert run("-m", "coverage", "run", "--branch", "some.py").returncode == 0
    done = run(str(ROOT / "tests" / "branches.py"))
    assert (done.returncode, done.stderr) == (code, "")
    assert said in done.stdout


def test_make_test_asks_for_the_branches():
    rule = (ROOT / "Makefile").read_text().partition("\ntest:")[2].partition("\n\n")[0]
    assert rule.splitlines()[-1].endswith("tests/branches.py")


def test_reasons_of_skipped_tests_are_told_once():
    def skipped(reason):
        return SimpleNamespace(longrepr=("test_x.py", 3, f"Skipped: {reason}"))

    lines = []
    stats = {"skipped": [skipped("no GPU"), skipped("no ase"), skipped("no GPU")]}
    conftest.pytest_terminal_summary(SimpleNamespace(stats=stats, write_line=lines.append))
    assert Counter(lines) == Counter(["skipped 2: no GPU", "skipped 1: no ase"])
    conftest.pytest_terminal_summary(SimpleNamespace(stats={}, write_line=lines.append))
    assert len(lines) == 2
