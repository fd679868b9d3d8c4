"""Random walks beside pytrax and plain numpy, what the kernel's machine code allows, and the way to 1%.

An attempt is one draw of a direction and one decision; pytrax's step and ours are the same there, as its images are
binary: all hops into open sites succeed. Rates are of whole calls, starts and analysis included.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import peers
import sass
import torch
from cases_solve import binary, electrolyte
from measure import Limit, Row, Setting, absent, clock, in_turn, threads, version

import gpuion
from gpuion.kernels.scalar import philox

RECORDS = 64  # positions kept of each walk, by all alike
GPUS = {"H100 SXM": (132, 1.755e9), "H200": (132, 1.785e9)}  # multiprocessors, clock (Hz); data sheets


def walk(setting: Setting) -> Iterator[Row]:
    """Attempts a second of random walks, against pytrax and plain numpy, on one core and on all."""
    sites, count = (16, 2) if setting.tiny else (75, 91)
    diameter = gpuion.sphere_diameter(count, float(sites), 0.1)
    centers = gpuion.place("random", n_structures=1, n_particles=count, box=float(sites), diameter=diameter)
    image = 1 - gpuion.voxelize(centers, box=float(sites), diameter=diameter, voxels=sites)[0, 0].byte().numpy()
    medium = binary(image, "cpu")
    W, steps = (64, 256) if setting.tiny else (4000, 40_960)  # a quarter of the attempts of a default call
    shape = (64, 128) if setting.tiny else (5000, 512)  # walkers, steps of the others: pytrax's best of 1000 to 20 000
    ours = lambda: gpuion.walk(medium, walkers=W, time=steps / 6)  # noqa: E731
    attempts = int(ours().attempts)
    facts: dict[str, Any] = {"walkers": W, "attempts_a_walker": attempts // W, "others": {"walkers, steps": shape}}
    facts["accepted"] = int(ours().hops) / attempts
    theirs: list[tuple[str, str, Any]] = [
        ("pytrax " + version("pytrax"), absent("pytrax"), lambda: peers.pytrax_walk(image, *shape, RECORDS)),
        (f"numpy {np.__version__}", "", lambda: peers.plain_walk(image, *shape, RECORDS)),
    ]
    for cores in sorted({1, setting.threads}):
        with threads(cores):
            limit = Limit(value=words(cores), what="random words alone, measured", estimate=False)
            for name, missing, task in theirs:
                seconds = in_turn(ours, *([] if missing else [task]), repeats=setting.repeats)
                yield Row(
                    what=f"attempts, spheres in {sites}³, {cores} core{'s' * (cores > 1)}", unit="attempts/s",
                    samples=[attempts / s for s in seconds[0]], peer=name, limit=limit, facts=facts,
                    peer_samples=[shape[0] * shape[1] / s for s in seconds[1]] if not missing else [],
                    note=missing or _shares(name, attempts / min(seconds[0]), limit.value, facts),
                )  # fmt: skip
    yield from _electrolyte(setting, sites, count)


def _shares(peer: str, rate: float, drawn: float, facts: dict[str, Any]) -> str:
    """Say what a walk's time goes to."""
    note = f"{peer.split(maxsplit=1)[0]} on one core, per attempt; {facts['accepted']:.0%} accepted"
    return f"{note}; at best {1e9 / rate:.2f} ns, random words {rate / drawn:.0%} of it"


def _electrolyte(setting: Setting, sites: int, count: int) -> Iterator[Row]:
    """Yield the rates in the medium itself, where most attempts fail and no peer can walk."""
    medium = electrolyte("random", sites, count)
    W, time = (64, 2.0) if setting.tiny else (4000, 320.0)
    devices = [("cpu", 1), ("cpu", setting.threads)] + ([("cuda", 1)] if setting.device == "cuda" else [])
    for device, cores in dict.fromkeys(devices):
        here = medium.to(device)
        walkers, longer = (W, time) if device == "cpu" or setting.tiny else (500_000, 10 * time)
        with threads(cores):
            task = lambda m=here, n=walkers, t=longer: gpuion.walk(m, walkers=n, time=t)  # noqa: E731
            run = task()
            seconds = in_turn(task, repeats=setting.repeats)[0]
            limit = Limit(value=words(cores), what="random words alone, measured", estimate=False)
        if device == "cuda":
            limit = fastest()
        where = device if device != "cpu" else f"{cores} core" + "s" * (cores > 1)
        for name, number in (("attempts", int(run.attempts)), ("hops", int(run.hops))):
            yield Row(
                what=f"{name}, electrolyte {sites}³, {where}",
                unit=f"{name}/s", samples=[number / s for s in seconds], limit=limit if name == "attempts" else None,
                facts={"walkers": walkers, "accepted": int(run.hops) / int(run.attempts)},
            )  # fmt: skip


def fastest() -> Limit:
    """Return the attempts a second that the kernel's instructions allow on the GPU that is here."""
    about = torch.cuda.get_device_properties(0)
    clocks = [hz for name, (_, hz) in GPUS.items() if name.split()[0] in about.name]
    hertz = _top_clock() or (clocks or [GPUS["H200"][1]])[0]
    try:
        counts = sass.read_walk(about.major * 10 + about.minor)
    except (FileNotFoundError, subprocess.CalledProcessError):  # no disassembler: as it was counted for sm_90
        stored = json.loads((Path(__file__).parent / "results" / "sass.json").read_text())
        counts = next(row["facts"] for row in stored["rows"] if row["what"].endswith("sm_90"))
    return Limit(
        value=sass.roofline(counts, about.multi_processor_count, hertz),
        what=f"{counts['instructions']:g} instructions each at full issue and {hertz / 1e9:.3g} GHz",
    )


def _top_clock() -> float:
    """Return the highest clock of the first GPU, Hz, 0 where nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        return 1e6 * float(done.stdout.strip())
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0.0


@numba.njit(cache=True, parallel=True)
def _words(total: int, chunks: int) -> int:  # pragma: no cover
    mixed = np.zeros(chunks, np.uint32)
    for chunk in numba.prange(chunks):
        mix = np.uint32(0)
        for i in range(total):
            a, b, c, d = philox(
                numba.uint32(i), numba.uint32(chunk), numba.uint32(0), numba.uint32(0), numba.uint32(1), numba.uint32(2)
            )
            mix ^= a ^ b ^ c ^ d
        mixed[chunk] = mix
    return mixed.sum()


def words(cores: int) -> float:
    """Return random words a second, nothing done with them; one attempt needs one word. The best of five."""
    total = 200_000
    numba.set_num_threads(cores)
    _words(10, cores)
    before = torch.get_num_threads()
    best = min(clock(lambda: _words(total, cores)) for _ in range(5))
    torch.set_num_threads(before)  # a parallel kernel of numba's may have changed OpenMP's count
    return 4 * total * cores / best


def machine_code(setting: Setting) -> Iterator[Row]:
    """Instructions an attempt of the walk's kernel as compiled, and the rate that they allow."""
    for capability in (90,) if setting.tiny else (80, 90, 100):
        counts = sass.read_walk(capability)
        rates = {name: sass.roofline(counts, *numbers) for name, numbers in GPUS.items()} if capability == 90 else {}
        text = ", ".join(f"{name} {rate / 1e9:.0f} G attempts/s" for name, rate in rates.items())
        yield Row(
            what=f"walk kernel for sm_{capability}", unit="instructions per attempt", samples=[counts["instructions"]],
            facts=counts | {"roofline": rates},
            note=f"{counts['registers']} registers" + f"; arithmetic alone allows (estimate): {text}" * bool(rates),
        )  # fmt: skip


def one_percent(setting: Setting) -> Iterator[Row]:
    """Time to 1% error in the mean D of an electrolyte: exact solve against random walk."""
    sites, count = (16, 2) if setting.tiny else (75, 91)
    for family in ("random", "chained"):
        medium = electrolyte(family, sites, count).to(setting.device)
        exact = float(gpuion.homogenize(medium, tolerance=1e-5).diffusivity.mean())
        tolerance, error = _loosest(medium, exact)
        solve = lambda m=medium, t=tolerance: gpuion.homogenize(m, tolerance=t)  # noqa: E731
        walkers, time = _plan(setting)
        runs: list[gpuion.WalkResult] = []

        def walk_once(m: gpuion.Medium = medium, w: int = walkers, t: float = time, kept: list[Any] = runs) -> None:
            kept.append(gpuion.walk(m, walkers=w, time=t, seed=len(kept)))

        solve()
        seconds = in_turn(solve, walk_once, repeats=2 if setting.tiny else 3, warm=False)
        off = [float(run.mean_error[0] / run.mean[0]) for run in runs]
        yield Row(
            what=f"to 1% in mean D, {family}, {count} spheres in {sites}³", unit="s", samples=seconds[0],
            peer=f"gpuion.walk on {setting.device}",
            peer_samples=[s * (e / 0.01) ** 2 for s, e in zip(seconds[1], off, strict=True)],
            facts={
                "D_exact": exact, "tolerance": tolerance, "error": error, "walkers": walkers, "time": time,
                "walk_seconds": seconds[1], "walk_error_bars": off,
                "converged": [bool(run.converged[0]) for run in runs],
                "z": [float((run.mean[0] - exact) / run.mean_error[0]) for run in runs],
            },
            note=f"walk of {walkers} ions to {off[0]:.0%}, then as 1/√walkers (estimate)",
        )  # fmt: skip


def _plan(setting: Setting) -> tuple[int, float]:
    """Return walkers and time of a walk that settles, on a GPU enough of them to fill it."""
    if setting.tiny:
        return 32, 200.0
    return (200, 24_000.0) if setting.device == "cpu" else (20_000, 24_000.0)


def _loosest(medium: gpuion.Medium, exact: float) -> tuple[float, float]:
    """Return the loosest tolerance whose mean D is within 1%, and its error."""
    from cases_solve import TOLERANCES
    from measure import loosest

    def error(tolerance: float) -> float:
        return abs(float(gpuion.homogenize(medium, tolerance=tolerance).diffusivity.mean()) / exact - 1)

    return loosest(TOLERANCES, error, 0.01)
