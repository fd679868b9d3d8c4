"""Exact solves beside TauFactor and PoreSpy, at equal error in D; their cost by size, and their memory.

The images are spheres in a periodic box, insulating, 30% of it. The three programs put different conditions on its
faces, so that each has its own exact answer, and the error of each is measured against its own:

- gpuion: periodic along all axes; D along x, as the others have it, and in rows of their own along all three in one
  call;
- TauFactor's PeriodicSolver: fixed values half a site outside the faces normal to x; D along x. That is gpuion's
  problem on the image and its mirror image along x, where both must agree: the row «mirrored»;
- PoreSpy's tortuosity_fd: fixed values in the first and last layer along x, nothing through the other faces; D along
  x. On image and mirror images without the doubled layers, gpuion solves the same.

For each, the loosest setting that reaches the error is found first, and that is timed, image to answer. TauFactor's
setting is the number of iterations, in hundreds, as it looks at its answer every hundred: no stop could be better.
All edges are even, because PeriodicSolver 1.2.1 diverges on odd ones (25, 27, 51, 75 tried): its two colours then meet
at the seam.
"""

import dataclasses
import functools
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from measure import Limit, Row, Setting, absent, bandwidth, clock, in_turn, loosest, version

import gpuion

SPHERE = 12.0  # sites across
FILLED = 0.3  # volume fraction of the spheres
X_ALONE, ALL_AXES = (0,), (0, 1, 2)
TOLERANCES = [0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5]
TARGETS = (1e-2, 1e-3, 1e-4)  # errors of D
RESIDUALS = [0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6]
BYTES = 110
"""Least traffic of an iteration, bytes a site and axis in float32: stencil 16, two updates 24, new direction 12, two
transforms of three passes 48, Green function 10."""


def sphere_image(sites: int) -> np.ndarray:
    """Return an image [X, Y, Z] of 1 (open) and 0 (inside a sphere)."""
    count = max(1, round(FILLED * sites**3 / (math.pi / 6 * SPHERE**3)))
    centers = gpuion.place("random", n_structures=1, n_particles=count, box=float(sites), diameter=SPHERE, seed=1)
    return 1 - gpuion.voxelize(centers, box=float(sites), diameter=SPHERE, voxels=sites)[0, 0].byte().numpy()


def pore_image(sites: int) -> np.ndarray:
    """Return an image of 1 (open) and 0 (inside one of many overlapping spheres), 40% open."""
    generator = torch.Generator().manual_seed(1)
    count = max(1, round(-math.log(0.4) * sites**3 / (math.pi / 6 * SPHERE**3)))  # 1 − φ = exp(−density · volume)
    centers = torch.rand(1, count, 3, generator=generator) * sites
    return 1 - gpuion.voxelize(centers, box=float(sites), diameter=SPHERE, voxels=sites)[0, 0].byte().numpy()


def binary(image: np.ndarray, device: str) -> gpuion.Medium:
    """Return the medium of an image of 1 (open, D = 1) and 0 (blocked)."""
    labels = torch.from_numpy(np.ascontiguousarray(1 - image))[None].to(device)
    return gpuion.Medium(labels, torch.tensor([1.0, 0.0]), torch.tensor([0.0, math.inf]))


def conductivity(image: np.ndarray, tolerance: float, device: str, axes: tuple[int, ...] = X_ALONE) -> np.ndarray:
    """Return σ_eff = D · (open fraction) along some axes."""
    solved = gpuion.homogenize(binary(image, device), tolerance=tolerance, axes=axes)
    return solved.diffusivity[0, list(axes)].cpu().numpy() * image.mean()


def solve_64(setting: Setting) -> Iterator[Row]:
    """Exact solve against TauFactor and PoreSpy at equal error in D, spheres in 64³ sites."""
    image = sphere_image(24 if setting.tiny else 64)
    yield from _beside_taufactor(setting, image)
    yield from _beside_porespy(setting, image)


def solve_100(setting: Setting) -> Iterator[Row]:
    """The same in 100³ sites, without PoreSpy (minutes)."""
    yield from _beside_taufactor(setting, sphere_image(26 if setting.tiny else 100))


def solve_150(setting: Setting) -> Iterator[Row]:
    """The same in 150³ sites, without PoreSpy."""
    yield from _beside_taufactor(setting, sphere_image(28 if setting.tiny else 150))


def solve_200(setting: Setting) -> Iterator[Row]:
    """The same in 200³ sites, without PoreSpy."""
    yield from _beside_taufactor(setting, sphere_image(30 if setting.tiny else 200))


def pores_100(setting: Setting) -> Iterator[Row]:
    """The same in the pores between overlapping spheres, 40% open, 100³ sites."""
    yield from _beside_taufactor(setting, pore_image(24 if setting.tiny else 100))


class _Ours:
    """Our answers on one image along some axes at each tolerance asked for, and how far they are off."""

    def __init__(self, image: np.ndarray, device: str, axes: tuple[int, ...] = X_ALONE) -> None:
        self.exact = conductivity(image, 1e-5, device, axes)
        self._error = functools.cache(
            lambda t: float(np.abs(conductivity(image, t, device, axes) / self.exact - 1).max())
        )
        self._iterations = lambda t: int(gpuion.homogenize(binary(image, device), tolerance=t, axes=axes).iterations[0])

    def loosest(self, target: float) -> tuple[float, dict[str, Any]]:
        """Return the loosest tolerance within the target along its axes, and facts about it."""
        tolerance, error = loosest(TOLERANCES, self._error, target)
        iterations = self._iterations(tolerance)
        return tolerance, {
            "sigma": self.exact.tolist(), "tolerance": tolerance, "error": error, "iterations": iterations
        }  # fmt: skip


def _repeats(setting: Setting, seconds: float) -> int:
    """Return how often to time what takes so long: half a minute in all, three times at least."""
    return 2 if setting.tiny else max(3, min(setting.repeats, int(30 / max(seconds, 1e-3))))


def _limit(sites: int, axes: int, iterations: int, device: str) -> Limit:
    """Return the seconds that memory traffic alone would take."""
    seconds = axes * sites * iterations * BYTES / bandwidth(device)
    return Limit(value=seconds, what=f"{iterations} iterations of {BYTES} bytes a site and axis through memory")


def _beside_taufactor(setting: Setting, image: np.ndarray) -> Iterator[Row]:
    """Yield ours on the periodic image, x alone and all axes, beside TauFactor at three errors, then on its problem."""
    device, n = setting.device, len(image)
    missing, name = absent("taufactor"), f"TauFactor {version('taufactor')}"
    answers = {"x": _Ours(image, device, X_ALONE), "x, y and z": _Ours(image, device, ALL_AXES)}
    course = None if missing else _course(image, device)
    for target in TARGETS:
        count, error = course.first(target) if course else (0, 0.0)
        theirs = lambda k=count: peers.taufactor_solve(image, k, device)  # noqa: E731
        found = [ours.loosest(target) for ours in answers.values()]
        tasks: list[Callable[[], object]] = [
            functools.partial(conductivity, image, tolerance, device, axes)
            for (tolerance, _), axes in zip(found, (X_ALONE, ALL_AXES), strict=True)
        ]
        tasks += [theirs] if course and count else []
        samples = in_turn(*tasks, repeats=_repeats(setting, sum(clock(task) for task in tasks)), warm=False)
        note = missing
        if course and not count:
            note = f"TauFactor did not come within {target} in {course.checks[-1][0]} iterations"
        if course and count:
            theirs_too = {"taufactor_iterations": count, "taufactor_error": error, **course.facts()}
        for k, (which, (_, facts)) in enumerate(zip(answers, found, strict=True)):
            own = f"{facts['iterations']} iterations"
            yield Row(
                what=f"{n}³, image to D along {which}, {target:.2%} in D", unit="s", samples=samples[k],
                peer=name if count else "", peer_samples=samples[2] if count else [],
                limit=_limit(n**3, 3 if k else 1, facts["iterations"], device),
                facts=facts | (theirs_too if count else {}), note=note or f"{own}; TauFactor {count}, along x",
            )  # fmt: skip
    if course is not None:
        yield _same_problem(setting, image, course, name)


def _same_problem(setting: Setting, image: np.ndarray, course: "_Course", name: str) -> Row:
    """Return ours on image and mirror image beside TauFactor on the image: one answer to 0.1%, and what each took."""
    n, mirror, device = len(image), np.concatenate([image, image[::-1]]), setting.device
    last = course.checks[-1][1]
    if not abs(last / course.exact - 1) <= 1e-3:
        raise ValueError(f"TauFactor's σ_x is {last} and ours {course.exact}, on what is one problem")
    tolerance, facts = _Ours(mirror, device).loosest(1e-3)
    count = course.first(1e-3)[0]
    tasks = (lambda: conductivity(mirror, tolerance, device), lambda: peers.taufactor_solve(image, count, device))
    samples = in_turn(*tasks, repeats=2 if setting.tiny else 3, warm=False)
    return Row(
        what=f"{n}³ mirrored along x: TauFactor's very problem, 0.10%", unit="s", samples=samples[0], peer=name,
        peer_samples=samples[1], facts=facts | course.facts(),
        note=f"twice the sites; σ_x {course.exact:.5f}, TauFactor's last {last:.5f}",
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Course:
    """What TauFactor says of one image at its own checks, and what it would say in the end."""

    exact: float
    checks: list[tuple[int, float]]
    own_stop: int | None

    def first(self, target: float) -> tuple[int, float]:
        """Return at which check it comes within the target, to stay, and with what error; 0 if it does not."""
        errors = [abs(value / self.exact - 1) for _, value in self.checks]
        far = [i for i, error in enumerate(errors) if not error <= target]
        first = far[-1] + 1 if far else 0
        return (self.checks[first][0], errors[first]) if first < len(errors) else (0, math.nan)

    def facts(self) -> dict[str, Any]:
        """Return what to keep: answers, and the stop that it has by itself."""
        own = next((abs(v / self.exact - 1) for k, v in self.checks if k == self.own_stop), None)
        return {
            "sigma_x_mirrored": self.exact,
            "taufactor_checks": self.checks,
            "taufactor_own_stop": {"iterations": self.own_stop, "error": own},
        }


def _course(image: np.ndarray, device: str) -> _Course:
    """Follow TauFactor to the exact answer of its problem, within the tightest target."""
    exact = float(conductivity(np.concatenate([image, image[::-1]]), 1e-5, device)[0])
    most = 20 * len(image) + 300
    ran = peers.taufactor_course(image, device, lambda value: abs(value / exact - 1) <= min(TARGETS), most)
    return _Course(exact=exact, checks=ran["course"], own_stop=ran["own_stop"])


def _beside_porespy(setting: Setting, image: np.ndarray) -> Iterator[Row]:
    """Yield ours on the periodic image beside PoreSpy."""
    device, n = setting.device, len(image)
    missing = absent("porespy", "openpnm", "pyamg")
    exact = math.nan if missing else peers.porespy_solve(image, 1e-9)
    more = {"sigma_x_porespy": exact}
    if n <= 64 and not missing:
        more["sigma_x_mirrored"] = float(conductivity(_folded(image), 1e-4, device)[0])
    answers = _Ours(image, device)
    for target in TARGETS[:2]:
        tolerance, facts = answers.loosest(target)
        what = f"{n}³, image to D along x, {target:.2%} in D"
        ours = lambda t=tolerance: conductivity(image, t, device)  # noqa: E731
        if missing:
            yield Row(what=what, unit="s", samples=in_turn(ours, repeats=2)[0], facts=facts, note=missing)
            continue
        residual, error = loosest(RESIDUALS, lambda r: abs(peers.porespy_solve(image, r) / exact - 1), target)
        theirs = lambda r=residual: peers.porespy_solve(image, r)  # noqa: E731
        samples = in_turn(ours, theirs, repeats=_repeats(setting, clock(ours) + clock(theirs)), warm=False)
        yield Row(
            what=what, unit="s", samples=samples[0], peer=f"PoreSpy {version('porespy')}", peer_samples=samples[1],
            facts=facts | more | {"residual": residual, "porespy_error": error},
            note="PoreSpy with fixed values on the faces, another problem: compare costs",
        )  # fmt: skip


def _folded(image: np.ndarray) -> np.ndarray:
    """Return the periodic image that PoreSpy's conditions amount to: mirrored in the last layer along x, and so on."""
    folded = np.concatenate([image, image[-2:0:-1]])
    for axis in (1, 2):
        folded = np.concatenate([folded, np.flip(folded, axis)], axis)
    return folded


def by_size(setting: Setting) -> Iterator[Row]:
    """Cost of the exact solve by size, an electrolyte of equal density at each."""
    for sites in (16, 20) if setting.tiny else (32, 48, 64, 75, 96, 128, 160, 192):
        count = max(2, round(91 * (sites / 75) ** 3))
        medium = electrolyte("random", sites, count).to(setting.device)
        solved = gpuion.homogenize(medium, tolerance=1e-2)
        iterations = int(solved.iterations[0])
        task = lambda m=medium: gpuion.homogenize(m, tolerance=1e-2)  # noqa: E731
        repeats = 2 if setting.tiny or sites > 100 else setting.repeats
        seconds = in_turn(task, repeats=repeats, warm=False)[0]
        yield Row(
            what=f"{sites}³, {count} spheres, tolerance 1%, per site and iteration", unit="ns",
            samples=[s * 1e9 / (sites**3 * iterations) for s in seconds],
            limit=Limit(value=3e9 * BYTES / bandwidth(setting.device), what="traffic of three axes through memory"),
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
    sizes = (32, 64) if setting.tiny else (64, 96, 128)
    peaks = [_peak(sites, setting) for sites in sizes]
    slopes = [(peaks[-1] - peak) / (sizes[-1] ** 3 - sites**3) for sites, peak in zip(sizes[:-1], peaks, strict=False)]
    yield Row(
        what=f"exact solve, slope of peak memory, {sizes[0]}³ to {sizes[-1]}³", unit="bytes/site", samples=slopes,
        limit=Limit(value=3 * 5 * 4, what="s, u, r, p and one more field, float32, of three axes"),
        facts={"peak_bytes": dict(zip(map(str, sizes), peaks, strict=True))},
        note="tiny sizes say little" if setting.tiny else "",
    )  # fmt: skip


def _peak(sites: int, setting: Setting) -> int:
    """Return how far a solve lifts the peak memory of a process of its own, bytes."""
    command = [sys.executable, str(Path(__file__).parent / "peak.py"), str(sites), setting.device, str(setting.threads)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["bytes"]
