"""Cases in the order of their worth, each a process of its own with a time limit: `python bench/run.py --suite gpu`.

A case writes its JSON row by row, so one that is stopped or crashes leaves what it had, and why it ended. A case
begins only while its whole limit is left of the budget; those that find no time are named.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpuion.files import write_json

UNFINISHED = "it did not come to its end"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A case of a suite and the seconds that its process may take, its start included."""

    case: str
    limit: float


SUITES = {
    "gpu": (  # 540 s together
        Part(case="gpu-tests", limit=180),
        Part(case="walk-ladder", limit=80),
        Part(case="solve-ladder", limit=50),
        Part(case="label", limit=80),
        Part(case="train", limit=75),
        Part(case="chains", limit=75),
    )
}
BUDGET = 540.0
"""Seconds of a whole suite, nine minutes."""


def run_suite(
    parts: Sequence[Part], driver: Sequence[str], folder: Path, budget: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """Run the parts one after the other; return what their files hold, and the cases that found no time.

    Parameters
    ----------
    parts : sequence of Part
        The worthiest first.
    driver : sequence of str
        The command that runs a case, given `--case NAME --out FOLDER`.
    folder : Path
    budget : float
        Seconds in all.
    """
    began, results, dropped = time.perf_counter(), [], []
    for part in parts:
        left = budget - (time.perf_counter() - began)
        if left < part.limit:
            print(f"{part.case}: left out, {left:.0f} s are left and it may take {part.limit:.0f}", file=sys.stderr)
            dropped.append(part.case)
        else:
            results.append(_run(part, driver, folder))
    return results, dropped


def _run(part: Part, driver: Sequence[str], folder: Path) -> dict[str, Any]:
    """Return what a case's file holds when its process has ended, one way or another."""
    path = folder / f"{part.case}.json"
    path.unlink(missing_ok=True)
    command = [*driver, "--case", part.case, "--out", str(folder)]
    began, process = time.perf_counter(), subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    reason = ""
    try:
        code = process.wait(part.limit)
        reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}" if code else ""
    except subprocess.TimeoutExpired:
        reason = f"stopped at its limit of {part.limit:g} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # what it started, too
            process.wait()
    try:
        result: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        result = {"case": part.case, "error": UNFINISHED, "rows": []}
    result["seconds"] = round(time.perf_counter() - began, 1)  # of the process, its start included
    if reason and result["error"] in {"", UNFINISHED}:
        result["error"] = reason
    write_json(path, result)
    return result
