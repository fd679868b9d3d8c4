"""What a GPU is for: the tests that need one, walks and solves up to 375³ sites, training in each precision.

On a CPU the same cases run, small. Legend: W walkers, T checkpoints.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from cases_models import cell, steps
from cases_solve import BYTES
from cases_walk import fastest, words
from measure import Limit, Row, Setting, bandwidth, clock, in_turn

import gpuion
from gpuion import acceleration, hops, throughput, timing
from gpuion.errors import ConfigError
from gpuion.models import MODELS, create
from gpuion.surrogate import BOUNDARIES
from gpuion.training import Plan

ROOT = Path(__file__).parent.parent
_FINER = {75: 1, 150: 2, 375: 5}  # sites along an edge and sites a voxel, of the study's cell
_SECTOR = 32  # bytes, the least that a GPU reads of its memory
_VERDICT = re.compile(r"^(tests/\S+?)\.py::(.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")


def tests(setting: Setting) -> Iterator[Row]:
    """The tests that need a GPU, the kernel beside its twin first; on a CPU a few of their rehearsals."""
    files = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").glob("test_gpu_*.py"))]
    files.sort(key=lambda name: ("kernels" not in name, "functions" in name))
    chosen = ["-m", "gpu"] if setting.device == "cuda" else ["-k", "rehearsal and (images or neighbours)"]
    command = [sys.executable, "-m", "pytest", *chosen, "-vv", "--tb=short", "-p", "no:cacheprovider", *files]
    began, said, found, bad = time.perf_counter(), list[str](), dict[str, dict[str, int]](), list[str]()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        for text in process.stdout:
            said.append(text)
            verdict = _VERDICT.match(text)
            if not verdict:
                continue
            file, name, outcome = verdict.groups()
            if file not in found and found:
                yield _passed(*list(found.items())[-1], began)
            counts = found.setdefault(file, {})
            counts[outcome] = counts.get(outcome, 0) + 1
            bad += [f"{file}.py::{name}"] * (outcome in {"FAILED", "ERROR"})
    if found:
        yield _passed(*list(found.items())[-1], began)
    if process.returncode:
        raise RuntimeError(f"{''.join(said[-150:])}\n{len(bad)} of these tests fail: {', '.join(bad) or 'none began'}")


def _passed(file: str, counts: dict[str, int], began: float) -> Row:
    """Return how many tests of a file passed."""
    note = f"all files so far took {time.perf_counter() - began:.0f} s"
    return Row(what=file, unit="passed", samples=[counts.get("PASSED", 0)], facts=dict(counts), note=note)


def study(setting: Setting, sites: int) -> gpuion.Medium:
    """Return one random structure of the study's cell on so many sites along an edge, or a small cell of as many."""
    count, finer = (2, 1) if setting.tiny else (91, _FINER[sites])
    box = float(sites // finer)
    diameter = gpuion.sphere_diameter(count, box, 0.1)
    centers = gpuion.place("random", n_structures=1, n_particles=count, box=box, diameter=diameter)
    return gpuion.electrolyte(centers.to(setting.device), box=box, diameter=diameter, sites_per_voxel=finer)


def walk_ladder(setting: Setting) -> Iterator[Row]:
    """Attempts a second of the walk's kernel, 1e4 to 1e6 walkers on 75³ to 375³ sites, beside two limits of a GPU."""
    launch = _launcher(setting)
    limit, memory = _fastest(setting), bandwidth(setting.device) / _SECTOR
    for sites in (16,) if setting.tiny else _FINER:
        medium = study(setting, sites)
        tables, ids = hops.rates(medium), torch.zeros(1, dtype=torch.int64, device=setting.device)
        for W in (64, 256) if setting.tiny else (10_000, 30_000, 100_000, 300_000, 1_000_000):
            T, quads = 8, _quads(setting, W)
            first, fours = hops.starts(medium, W, 0, ids), torch.full_like(ids, quads).int()
            fixed = medium.labels, tables.leave, tables.enter, first, fours, ids, 0, T
            task = lambda f=fixed: launch(*f)  # noqa: E731
            made, attempts = int(task()[1].long().sum()), 4 * quads * T * W
            rates = [attempts / s for s in in_turn(task, repeats=min(5, setting.repeats))[0]]
            best = max(rates)
            yield Row(
                what=f"kernel, {sites}³ sites, {W} walkers", unit="attempts/s", samples=rates, limit=limit,
                facts={
                    "attempts_a_walker": 4 * quads * T, "accepted": made / attempts, "share": best / limit.value,
                    "a_sector_an_attempt": {"attempts/s": memory, "share": best / memory},
                },
                note=f"{best / limit.value:.0%} of the limit; {best / memory:.0%} of a {_SECTOR}-byte read each",
            )  # fmt: skip
    yield _whole_walk(setting, medium, sites)


def _launcher(setting: Setting) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Return the kernel, or on a CPU its twin."""
    if setting.device == "cuda":
        from gpuion.kernels.walk import walk
    else:
        from gpuion.kernels.lanes import walk
    return walk


def _fastest(setting: Setting) -> Limit:
    """Return the attempts a second that arithmetic allows."""
    if setting.device == "cuda":
        return fastest()
    return Limit(value=words(setting.threads), what="random words alone, measured", estimate=False)


def _quads(setting: Setting, walkers: int) -> int:
    """Return attempts between two of 8 checkpoints, in fours: 1e10 attempts in all, 2e5 a walker at most."""
    total = 2e4 if setting.tiny else 1e10 if setting.device == "cuda" else 2e7
    return max(1, round(min(total / walkers, 2e5) / 32))


def _whole_walk(setting: Setting, medium: gpuion.Medium, sites: int) -> Row:
    """Return the seconds of a call as the paper has it: 10 000 ions, t = 12 000."""
    W, time_, repeats = (64, 2.0, 2) if setting.tiny else (10_000, 12_000.0, 2)
    runs: list[gpuion.WalkResult] = []
    task = lambda: runs.append(gpuion.walk(medium, walkers=W, time=time_))  # noqa: E731
    seconds = in_turn(task, repeats=repeats)[0]
    run = runs[-1]
    return Row(
        what=f"gpuion.walk, {sites}³ sites, {W} ions for {time_:g}", unit="s", samples=seconds,
        facts={
            "D": float(run.mean[0]), "standard_error": float(run.mean_error[0]), "attempts": int(run.attempts[0]),
            "converged": bool(run.converged[0]),
        },
        note=f"D = {float(run.mean[0]):.5f} ± {float(run.mean_error[0]):.5f}, starts, pockets and slopes included",
    )  # fmt: skip


def solve_ladder(setting: Setting) -> Iterator[Row]:
    """Exact solves of 75³, 150³ and 375³ sites along all axes to 1e-3: seconds, iterations, peak memory."""
    device, rate = torch.device(setting.device), bandwidth(setting.device)
    for sites in (16, 20) if setting.tiny else _FINER:
        medium = study(setting, sites)
        found: list[gpuion.HomogenizationResult] = []
        task = lambda m=medium, f=found: f.append(gpuion.homogenize(m, tolerance=1e-3))  # noqa: E731
        if setting.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = timing.peak_memory(device)
        task()
        grown = timing.peak_memory(device) - before
        iterations, D = int(found[0].iterations[0]), found[0].diffusivity[0]
        seconds = in_turn(task, repeats=min(5, setting.repeats), warm=False)[0]
        yield Row(
            what=f"homogenize, {sites}³ sites", unit="s", samples=seconds,
            limit=Limit(
                value=3 * sites**3 * iterations * BYTES / rate,
                what=f"{iterations} iterations of {BYTES} bytes a site and axis through memory",
            ),
            facts={"iterations": iterations, "grown_bytes": grown, "D": D.tolist()},
            note=f"{iterations} iterations, {grown / 2**20:.0f} MiB, {grown / sites**3:.0f} bytes a site",
        )  # fmt: skip


def train(setting: Setting) -> Iterator[Row]:
    """Samples a second that each model learns from in each precision, beside what matrix products reach."""
    device = torch.device(setting.device)
    for model in MODELS:
        if model == "ridge":
            continue  # solved at once
        n = 2 if setting.tiny else 8 if model == "tiled" else 64
        data = cell(setting, n)
        for precision in acceleration.PRECISIONS:
            if precision == "tf32" and setting.device == "cpu":
                continue  # the same as fp32
            net = create(model, voxels=data.voxels, widths=(4, 4) if setting.tiny else ())
            try:
                acceleration.arrange(net, precision, device)
            except ConfigError as error:
                print(f"  {model} in {precision} left out: {error}", file=sys.stderr)
                continue
            task, limit = steps(model, data, precision), None
            if model in BOUNDARIES:
                plan = Plan(epochs=1, batch=n, learning_rate=1e-4, precision=precision)
                work = throughput.operations(net.to(device), data, plan)
                top, edge = throughput.limit(device, precision)
                limit = Limit(value=top / work, what=f"{work:.3g} operations each as in products of {edge}² numbers")
            repeats = 2 if setting.tiny or clock(task) > 1 else setting.repeats
            yield Row(
                what=f"{model} in {precision}, batches of {n}", unit="samples/s", limit=limit,
                samples=[n / s for s in in_turn(task, repeats=repeats)[0]],
            )  # fmt: skip
