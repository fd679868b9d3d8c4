"""The README's Python runs as it stands, and its commands are the scripts' own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_first_example_runs(tmp_path):
    example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    # A shorter walk: that of the README takes seconds on a quiet machine, and more on a busy one.
    example = example.replace("time=3000.0", "time=300.0")
    result = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("tensor") == 6


@pytest.mark.parametrize("script", ["simulate.py", "train.py", "anneal.py"])
def test_commands_have_only_known_flags(script):
    shown = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True)
    for document in ("README.md", "Makefile"):
        text = (ROOT / document).read_text().replace("\\\n", " ")
        for command in re.findall(rf"{script} (.*)", text):
            for flag in re.findall(r"(?<!\S)--[a-z-]+", command.split("`")[0]):
                assert flag in shown.stdout, (document, flag)
