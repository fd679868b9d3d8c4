"""Time gpuion beside its peers, a case at a time: what it was on, all samples, ratios, and the hardware's limit.

    pip install -c constraints.txt -e '.[bench]'      # the peers; a case does without one that is missing
    python bench/run.py --list
    python bench/run.py --case walk solve-64 --out bench/results
    python bench/run.py --scale tiny --out runs/bench   # every case in a second or so: does it run?
    python bench/run.py --suite gpu --out runs/gpu      # all that needs a GPU, in nine minutes at most

Ours and a peer take turns in one process, so that what else the machine does meets both; the ratio is the median
over these pairs. A case that fails is reported, the others go on, and the exit status is 1.
"""

import argparse
import dataclasses
import datetime as dt
import faulthandler
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from cases import CASES
from measure import Row, Setting, machine
from suite import BUDGET, SUITES, UNFINISHED, run_suite

from gpuion.config import Parser
from gpuion.errors import run_script
from gpuion.files import write_json

Case = Callable[[Setting], Iterable[Row]]


def main(arguments: list[str] | None = None, cases: dict[str, Case] | None = None) -> int:
    """Run the cases asked for, write a JSON file each, print a table; return the exit status."""
    cases = CASES if cases is None else cases
    given = parse(arguments, cases)
    if given.list:
        for name, case in cases.items():
            print(f"{name:<18}{(case.__doc__ or '').splitlines()[0]}")
        return 0
    device = ("cuda" if torch.cuda.is_available() else "cpu") if given.device == "auto" else given.device
    setting = Setting(scale=given.scale, device=device, threads=given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    dropped: list[str] = []
    if given.suite:
        driver = [sys.executable, __file__, "--scale", given.scale, "--device", device, "--threads", str(given.threads)]
        patience = 4 if setting.tiny else 1  # a rehearsal, where the CPU's loops compile beside other work
        parts = [dataclasses.replace(part, limit=patience * part.limit) for part in SUITES[given.suite]]
        results, dropped = run_suite(parts, driver, given.out, patience * given.budget)
    else:
        torch.set_num_threads(given.threads)
        about = machine(setting)
        results = [run(name, cases[name], setting, about, given.out / f"{name}.json") for name in given.case or cases]
    print(table(results, dropped))
    return 1 if dropped or any(result["error"] for result in results) else 0


def parse(arguments: list[str] | None, cases: dict[str, Case]) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(prog="python bench/run.py", description=__doc__, epilog=None)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--case", nargs="+", choices=list(cases), metavar="NAME", help="cases to run (default: all)")
    what.add_argument("--suite", choices=list(SUITES), help="cases in the order of their worth, a process each")
    parser.add_argument("--budget", type=float, default=BUDGET, help=f"seconds of a whole suite (default {BUDGET:g})")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench"), help="folder for NAME.json (default runs/bench)"
    )
    parser.add_argument(
        "--scale", choices=["full", "tiny"], default="full", help="sizes of the cases; tiny takes a second each"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    cores = torch.get_num_threads()
    parser.add_argument("--threads", type=int, default=cores, help=f"of the CPU (default: torch's, {cores} here)")
    parser.add_argument("--list", action="store_true", help="say what there is, and stop")
    given = parser.parse_args(arguments)
    if given.threads < 1 or not given.budget > 0:
        parser.error(f"threads and budget must be above 0, got {given.threads} and {given.budget}")
    if given.device not in {"auto", "cpu", "cuda"}:
        parser.error(f"device must be auto, cpu or cuda, got {given.device}")
    return given


def run(name: str, case: Case, setting: Setting, about: dict[str, Any], path: Path) -> dict[str, Any]:
    """Run one case; return its rows, those before a failure included. The file has those so far at any time."""
    print(f"{name}: {(case.__doc__ or '').splitlines()[0]}", file=sys.stderr, flush=True)
    date, load = dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), os.getloadavg()
    rows: list[dict[str, Any]] = []
    error, began = UNFINISHED, time.perf_counter()

    def save() -> dict[str, Any]:
        result = {
            "case": name, "error": error, "date": date, "seconds": round(time.perf_counter() - began, 1),
            "load_average_before": load, "load_average_after": os.getloadavg(), "machine": about, "rows": rows,
        }  # fmt: skip
        write_json(path, result)
        return result

    save()
    try:
        for row in case(setting):
            rows.append(row.json())
            save()
            print("  " + line(rows[-1]), file=sys.stderr, flush=True)
        error = ""
    except Exception:  # noqa: BLE001, the other cases go on, and the exit status tells
        error = traceback.format_exc()
        print(error, file=sys.stderr, flush=True)
    return save()


def line(row: dict[str, Any]) -> str:
    """Return a row of the table: what, median (quartiles), ratio to the peer, limit."""
    low, high = row["quartiles"]
    text = f"{row['what']:<58} {row['median']:>9.4g} {row['unit']:<12} ({low:.3g} to {high:.3g}, n = {row['repeats']})"
    if row["ratio"]:
        low, high = row["ratio"]["quartiles"]
        text += f"; {row['peer']['name']} {row['peer']['median']:.4g}: {row['ratio']['median']:.3g} times as fast"
        text += f" ({low:.3g} to {high:.3g})"
    if row["limit"]:
        kind = " (estimate)" if row["limit"]["estimate"] else ""
        text += f"; limit{kind} {row['limit']['value']:.3g}: {row['limit']['what']}"
    return text + (f"; {row['note']}" if row["note"] else "")


def table(results: list[dict[str, Any]], dropped: list[str]) -> str:
    """Return all rows as text."""
    lines = []
    about = next((result["machine"] for result in results if "machine" in result), None)
    if about:
        where = f"{about['cpu']}, {about['cores']} cores ({about['threads']} threads used), GPU {about['gpu']}"
        lines.append(
            f"{where}, gpuion {about['commit']}, scale {about['scale']}; median (quartiles, number of samples)"
        )
    for result in results:
        load = result.get("load_average_before", [0.0])[0]
        busy = "  (the machine was busy)" if load > 0.5 else ""
        lines += ["", f"{result['case']}: {result['seconds']} s, load average before {load:.1f}{busy}"]
        lines += ["  " + line(row) for row in result["rows"]]
        if result["error"]:
            lines.append("  FAILED: " + result["error"].strip().splitlines()[-1])
    failed = [result["case"] for result in results if result["error"]]
    done = f"{len(results) - len(failed)} cases done"
    ends = [f", {why}: {', '.join(names)}" for why, names in (("failed", failed), ("no time for", dropped)) if names]
    return "\n".join([*lines, "", done + "".join(ends)])


if __name__ == "__main__":
    faulthandler.enable()
    run_script(lambda: sys.exit(main()))
