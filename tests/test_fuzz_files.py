"""Files that are damaged, not what they seem, or made to harm: the right content or one clear error, nothing else.

A file is made and read in a child process by its number alone: `python tests/mutants.py shard 17` does it
again. One reads many; where a file ends it, by a signal, an alarm or for lack of memory, the next begins behind it.
"""

import collections
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FINE = {"right", "error"}
KINDS = ("shard", "checkpoint", "other")
# Share of shards, changed with their checksums made good, that may crash HDF5 or take its time or memory: 1.1% did.
FORGED = 0.03


def outcomes(kind, first, last):
    """Return what came of files by number, those that ended their process included."""
    found, env = [], {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)}
    while first < last:
        command = [sys.executable, TESTS / "mutants.py", kind, str(first), str(last)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        lines = done.stdout.splitlines()
        found += [json.loads(line) for line in lines if line.startswith("{")]
        if done.returncode == 0:
            break
        assert lines, done.stderr
        assert not lines[-1].startswith("{"), done.stderr
        first = int(lines[-1]) + 1
        name = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
        found.append({"number": first - 1, "outcome": "hang" if name == "SIGALRM" else "crash", "said": name,
                      "recipe": done.stderr[-300:], "seconds": 0.0, "bytes": 0})  # fmt: skip
    return found


def check(kind, first, last):
    found = outcomes(kind, first, last)
    assert [told["number"] for told in found] == list(range(first, last))
    counts = collections.Counter(told["outcome"] for told in found)
    seconds, size = (max(told[name] for told in found) for name in ("seconds", "bytes"))
    print(f"{kind}: {len(found)} files, {dict(counts)}; at most {seconds:.2f} s, {size / 2**20:.0f} MiB")
    allowed = FINE
    if kind == "forged":
        allowed = {*FINE, "crash", "hang", "memory"}
        assert sum(counts[name] for name in allowed - FINE) <= FORGED * len(found)
    wrong = [told for told in found if told["outcome"] not in allowed]
    told = "\n".join(f"python tests/mutants.py {kind} {x['number']}: {x}" for x in wrong)
    assert not wrong, f"{len(wrong)} of {len(found)}:\n{told}"
    assert counts["error"] > len(found) / 4  # spoilt indeed


@pytest.mark.parametrize("kind", KINDS)
def test_spoilt_files_are_read_right_or_refused(kind):
    check(kind, 0, 150)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "first"), itertools.product((*KINDS, "forged"), range(0, 2400, 600)))
def test_many_spoilt_files_are_read_right_or_refused(kind, first):
    check(kind, first, first + 600)
