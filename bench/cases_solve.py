"""Exact solves beside TauFactor and PoreSpy, at equal error in D; their cost by size, and their memory.

The images are spheres in a periodic box, insulating, 30% of it. The three programs put different conditions on its
faces, so that each has its own exact answer, and the error of each is measured against its own:

- gpuion: periodic along all axes, D along all three in one call;
- TauFactor's PeriodicSolver: fixed values half a site outside the faces normal to x; D along x. That is gpuion's
  problem on the image and its mirror image along x, where both must agree: the row «mirrored»;
- PoreSpy's tortuosity_fd: fixed values in the first and last layer along x, nothing through the other faces; D along
  x. On image and mirror images without the doubled layers, gpuion solves the same.

For each, the loosest setting that reaches the error is found first, and that is timed, image to answer. TauFactor's
setting is the number of iterations, in hundreds, as it looks at its answer every hundred: no stop could be better.
"""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import peers
import torch
from measure import Limit, Row, Setting, absent, bandwidth, clock, in_turn, loosest, version

import gpuion

SPHERE = 12.0  # sites across
FILLED = 0.3  # volume fraction of the spheres
TOLERANCES = [0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4]
RESIDUALS = [0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6]
BYTES = 110
"""Least traffic of an iteration, bytes a site and axis in float32: stencil 16, two updates 24, new direction 12, two
transforms of three passes 48, Green function 10."""


def sphere_image(sites: int) -> np.ndarray:
    """Return an image [X, Y, Z] of 1 (open) and 0 (inside a sphere)."""
    count = max(1, round(FILLED * sites**3 / (math.pi / 6 * SPHERE**3)))
    centers = gpuion.place("random", n_structures=1, n_particles=count, box=float(sites), diameter=SPHERE, seed=1)
    return 1 - gpuion.voxelize(centers, box=float(sites), diameter=SPHERE, voxels=sites)[0, 0].byte().numpy()


def binary(image: np.ndarray, device: str) -> gpuion.Medium:
    """Return the medium of an image of 1 (open, D = 1) and 0 (blocked)."""
    labels = torch.from_numpy(np.ascontiguousarray(1 - image))[None].to(device)
    return gpuion.Medium(labels, torch.tensor([1.0, 0.0]), torch.tensor([0.0, math.inf]))


def conductivity(image: np.ndarray, tolerance: float, device: str) -> np.ndarray:
    """Return σ_eff = D · (open fraction) along x, y, z."""
    return gpuion.homogenize(binary(image, device), tolerance=tolerance).diffusivity[0].cpu().numpy() * image.mean()


def solve_64(setting: Setting) -> Iterator[Row]:
    """Exact solve against TauFactor and PoreSpy at equal error in D, spheres in 64³ sites."""
    yield from _beside_taufactor(setting, 24 if setting.tiny else 64)
    yield from _beside_porespy(setting, 24 if setting.tiny else 64)


def solve_100(setting: Setting) -> Iterator[Row]:
    """The same in 100³ sites."""
    yield from _beside_taufactor(setting, 25 if setting.tiny else 100)
    yield from _beside_porespy(setting, 25 if setting.tiny else 100)


def solve_150(setting: Setting) -> Iterator[Row]:
    """The same in 150³ sites, without PoreSpy."""
    yield from _beside_taufactor(setting, 26 if setting.tiny else 150)


def solve_200(setting: Setting) -> Iterator[Row]:
    """The same in 200³ sites, without PoreSpy."""
    yield from _beside_taufactor(setting, 27 if setting.tiny else 200)


def _ours(image: np.ndarray, target: float, exact: np.ndarray, device: str) -> tuple[float, float]:
    """Return the loosest tolerance whose answer is within the target along all axes, and its largest error."""
    return loosest(TOLERANCES, lambda t: float(np.abs(conductivity(image, t, device) / exact - 1).max()), target)


def _repeats(setting: Setting, seconds: float) -> int:
    """Return how often to time what takes so long: a minute in all, three times at least."""
    return max(3, min(setting.repeats, int(60 / max(seconds, 1e-3)))) if not setting.tiny else 2


def _limit(sites: int, iterations: int, device: str) -> Limit:
    """Return the seconds that memory traffic alone would take."""
    seconds = 3 * sites * iterations * BYTES / bandwidth(device)
    return Limit(value=seconds, what=f"s: {iterations} iterations of {BYTES} bytes a site and axis through memory")


def _beside_taufactor(setting: Setting, sites: int) -> Iterator[Row]:
    image, device = sphere_image(sites), setting.device
    exact = conductivity(image, 1e-5, device)
    missing = absent("taufactor")
    facts: dict[str, object] = {"sigma": exact.tolist(), "axes": "gpuion x, y, z; TauFactor x"}
    name = f"TauFactor {version('taufactor')}"
    if not missing:
        mirrored = np.concatenate([image, image[::-1]])
        theirs = float(conductivity(mirrored, 1e-5, device)[0])
        ran = peers.taufactor_course(image, device, lambda value: abs(value / theirs - 1) <= 1e-3, 100 * sites)
        course = ran["course"]
        errors = [abs(value / theirs - 1) for _, value in course]
        facts |= {"sigma_x_mirrored": theirs, "taufactor_last": course[-1][1], "taufactor_own_stop": ran["own_stop"]}
    for target in (1e-2, 1e-3):
        tolerance, error = _ours(image, target, exact, device)
        iterations = int(gpuion.homogenize(binary(image, device), tolerance=tolerance).iterations[0])
        more = facts | {"tolerance": tolerance, "error": error, "iterations": iterations}
        what, limit = f"{sites}³ spheres, image to D, {target:.1%} in D", _limit(sites**3, iterations, device)
        if missing:
            seconds = in_turn(lambda t=tolerance: conductivity(image, t, device), repeats=2)[0]
            yield Row(what=what, unit="s", samples=seconds, limit=limit, facts=more, note=missing)
            continue
        first = next(i for i in range(len(errors)) if max(errors[i : i + 2]) <= target)
        count = course[first][0]
        more |= {"taufactor_iterations": count, "taufactor_error": errors[first]}
        tasks = [
            lambda t=tolerance: conductivity(image, t, device),
            lambda k=count: peers.taufactor_solve(image, k, device),
            lambda t=tolerance: conductivity(mirrored, t, device),
        ]
        samples = in_turn(*tasks, repeats=_repeats(setting, clock(tasks[0]) + clock(tasks[1])), warm=False)
        yield Row(
            what=what, unit="s", samples=samples[0], peer=name, peer_samples=samples[1], limit=limit, facts=more,
            note=f"all three axes against one: per axis 3 times that (estimate); TauFactor stopped after {count} iterations",
        )  # fmt: skip
        yield Row(
            what=f"{sites}³ mirrored to {2 * sites}·{sites}²: TauFactor's very problem", unit="s", samples=samples[2],
            peer=name, peer_samples=samples[1], facts=more,
            note=f"σ_x {theirs:.5f}, TauFactor's last {course[-1][1]:.5f}",
        )  # fmt: skip


def _beside_porespy(setting: Setting, sites: int) -> Iterator[Row]:
    image, device = sphere_image(sites), setting.device
    exact = conductivity(image, 1e-5, device)
    missing = absent("porespy", "openpnm", "pyamg")
    if missing:
        seconds = in_turn(lambda: conductivity(image, 1e-2, device), repeats=2)[0]
        yield Row(what=f"{sites}³ spheres, image to D, tolerance 1%", unit="s", samples=seconds, note=missing)
        return
    theirs = peers.porespy_solve(image, 1e-9)
    facts = {"sigma": exact.tolist(), "sigma_x_porespy": theirs, "axes": "gpuion x, y, z; PoreSpy x"}
    if sites <= 64:
        double = np.concatenate([image, image[-2:0:-1]])
        for axis in (1, 2):
            double = np.concatenate([double, np.flip(double, axis)], axis)
        facts["sigma_x_mirrored"] = float(conductivity(double, 1e-4, device)[0])
    for target in (1e-2, 1e-3):
        tolerance, error = _ours(image, target, exact, device)
        residual, off = loosest(RESIDUALS, lambda r: abs(peers.porespy_solve(image, r) / theirs - 1), target)
        tasks = [
            lambda t=tolerance: conductivity(image, t, device),
            lambda r=residual: peers.porespy_solve(image, r),
        ]
        samples = in_turn(*tasks, repeats=_repeats(setting, clock(tasks[1])), warm=False)
        yield Row(
            what=f"{sites}³ spheres, image to D, {target:.1%} in D", unit="s", samples=samples[0],
            peer=f"PoreSpy {version('porespy')}", peer_samples=samples[1],
            facts=facts | {"tolerance": tolerance, "error": error, "residual": residual, "porespy_error": off},
            note="PoreSpy fixes values on the faces, another problem: compare costs, not answers; one axis against three",
        )  # fmt: skip


def by_size(setting: Setting) -> Iterator[Row]:
    """Cost of the exact solve by size, an electrolyte of equal density at each."""
    for sites in (16, 20) if setting.tiny else (32, 48, 64, 75, 96, 128, 160, 192):
        count = max(2, round(91 * (sites / 75) ** 3))
        medium = electrolyte("random", sites, count).to(setting.device)
        solved = gpuion.homogenize(medium, tolerance=1e-2)
        iterations = int(solved.iterations[0])
        task = lambda m=medium: gpuion.homogenize(m, tolerance=1e-2)  # noqa: E731, PLC3002
        repeats = 2 if setting.tiny or sites > 100 else setting.repeats
        seconds = in_turn(task, repeats=repeats, warm=False)[0]
        yield Row(
            what=f"{sites}³, {count} spheres, tolerance 1%, per site and iteration", unit="ns",
            samples=[s * 1e9 / (sites**3 * iterations) for s in seconds],
            limit=Limit(value=3e9 * BYTES / bandwidth(setting.device), what="ns: traffic of three axes through memory"),
            facts={"iterations": iterations, "seconds": seconds, "D": solved.diffusivity[0].tolist()},
            note=f"{iterations} iterations, {sorted(seconds)[len(seconds) // 2]:.3g} s",
        )  # fmt: skip


def electrolyte(family: str, sites: int, count: int) -> gpuion.Medium:
    """Return one structure of coated spheres of φ = 0.1 at a site a voxel."""
    diameter = gpuion.sphere_diameter(count, float(sites), 0.1)
    distance = (12.5, 13.5) if family == "chained" else None
    centers = gpuion.place(
        family, n_structures=1, n_particles=count, box=float(sites), diameter=diameter, distance=distance
    )
    return gpuion.electrolyte(centers, box=float(sites), diameter=diameter)


def memory(setting: Setting) -> Iterator[Row]:
    """Memory of the exact solve: peak of a process at two sizes, and its slope in bytes a site."""
    sizes = (20, 40) if setting.tiny else (64, 96, 128)
    peaks = [_peak(sites, setting) for sites in sizes]
    slopes = [(peaks[-1] - peak) / (sizes[-1] ** 3 - sites**3) for sites, peak in zip(sizes[:-1], peaks, strict=False)]
    yield Row(
        what=f"exact solve, slope of peak memory, {sizes[0]}³ to {sizes[-1]}³", unit="bytes/site", samples=slopes,
        limit=Limit(value=3 * 5 * 4, what="bytes: s, u, r, p and one more field, float32, of three axes"),
        facts={"peak_bytes": dict(zip(map(str, sizes), peaks, strict=True))},
        note="tiny sizes say little" if setting.tiny else "",
    )  # fmt: skip


def _peak(sites: int, setting: Setting) -> int:
    """Return how far a solve lifts the peak memory of a process of its own, bytes."""
    command = [sys.executable, str(Path(__file__).parent / "peak.py"), str(sites), setting.device, str(setting.threads)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["bytes"]
