"""The other programs, each as a call from an image to an answer, and plain baselines in numpy.

Every call here is what a user would write, its set-up included. Images are arrays of 1 (open) and 0 (blocked).
Legend: X Y Z sites, W walkers, T steps, N particles, V voxels.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from measure import peer, quiet


def taufactor_solve(image: np.ndarray, iterations: int, device: str) -> float:
    """Return σ_eff along x after so many iterations: fixed values on the faces normal to x, y and z periodic."""
    module: Any = peer("taufactor")
    with quiet():
        solver = module.PeriodicSolver(image, device=device)
        solver.solve(iter_limit=iterations, verbose=False, conv_crit=0.0)  # 0 is never reached: it runs them all
    return float(solver.D_rel[0])


def taufactor_course(image: np.ndarray, device: str, done: Callable[[float], bool], most: int) -> dict[str, Any]:
    """Return σ_eff at each of TauFactor's own checks until `done` twice running, and where it would have stopped.

    The stop that it has by itself: fluxes through all layers equal within 1%, and τ steady within 2e-3.
    """
    module: Any = peer("taufactor")
    course: list[tuple[int, float]] = []
    own: list[int] = []

    class Watched(module.PeriodicSolver):
        def check_convergence(self, verbose: Any, conv_crit: Any, plot_interval: Any) -> bool:
            if super().check_convergence(verbose, conv_crit, plot_interval) and not own:
                own.append(self.iter)
            course.append((self.iter, float(self.D_rel[0])))
            return bool(own) and len(course) > 1 and all(done(value) for _, value in course[-2:])

    with quiet():
        Watched(image, device=device).solve(iter_limit=most, verbose=False)
    return {"course": course, "own_stop": own[0] if own else None}


def porespy_solve(image: np.ndarray, tolerance: float) -> float:
    """Return σ_eff along x: fixed values in the first and last layer of sites, shut faces along y and z."""
    module: Any = peer("porespy")
    with quiet():
        module.settings.tqdm["disable"] = True
        module.settings.loglevel = 50
        return float(1 / module.simulations.tortuosity_fd(image.astype(bool), axis=0, tol=tolerance).formation_factor)


def pytrax_walk(image: np.ndarray, walkers: int, steps: int, records: int) -> np.ndarray:
    """Return positions [records, W, 3] of walkers in an image that its mirror images continue; a step is an attempt."""
    module: Any = peer("pytrax")
    walk = module.RandomWalk(image.astype(int))
    walk.run(nt=steps, nw=walkers, stride=max(1, steps // records))
    return walk.real_coords


def plain_walk(image: np.ndarray, walkers: int, steps: int, records: int, seed: int = 0) -> np.ndarray:
    """Return displacements [records, W, 3] of walkers in a periodic image, all moved at once by numpy."""
    generator = np.random.default_rng(seed)
    shape = np.array(image.shape)
    flat = image.astype(bool).ravel()
    opened = np.flatnonzero(flat)
    position = np.stack(np.unravel_index(opened[generator.integers(len(opened), size=walkers)], image.shape), 1)
    moves = np.concatenate([np.eye(3, dtype=np.int64), -np.eye(3, dtype=np.int64)])
    place = np.array([shape[1] * shape[2], shape[2], 1])
    travelled, recorded = np.zeros((walkers, 3), np.int64), []
    for step in range(1, steps + 1):
        move = moves[generator.integers(6, size=walkers)]
        new = (position + move) % shape
        free = flat[new @ place]
        position = np.where(free[:, None], new, position)
        travelled += move * free[:, None]
        if step % max(1, steps // records) == 0:
            recorded.append(travelled.copy())
    return np.stack(recorded)


def plain_place(n_particles: int, box: float, diameter: float, seed: int) -> np.ndarray:
    """Return centres [N, 3] by random sequential adsorption, a draw at a time against all spheres at once."""
    generator = np.random.default_rng(seed)
    centers = np.empty((n_particles, 3))
    for n in range(n_particles):
        while True:
            draw = generator.random(3) * box
            apart = np.abs(centers[:n] - draw)
            if (np.minimum(apart, box - apart) ** 2).sum(1).min(initial=np.inf) >= diameter**2:
                break
        centers[n] = draw
    return centers


def _window(center: np.ndarray, reach: float, sites: int, spacing: float) -> tuple[Any, np.ndarray]:
    """Return the index of the sites around a sphere, wrapped, and their squared distances from its centre."""
    first = np.floor((center - reach) / spacing - 0.5).astype(int)
    index = first[:, None] + np.arange(int(np.ceil(2 * reach / spacing)) + 2)
    x, y, z = ((index + 0.5) * spacing - center[:, None]) ** 2
    return np.ix_(*(index % sites)), x[:, None, None] + y[:, None] + z


def plain_voxelize(centers: np.ndarray, box: float, diameter: float, voxels: int) -> np.ndarray:
    """Return a binary image [V, V, V], the window around each sphere at once."""
    image = np.zeros((voxels,) * 3, np.float32)
    for center in centers:
        index, square = _window(center, diameter / 2, voxels, box / voxels)
        image[index] = np.maximum(image[index], square < (diameter / 2) ** 2)
    return image


def plain_classes(centers: np.ndarray, box: float, diameter: float, sites: int, model: Any) -> np.ndarray:
    """Return the site classes [X, Y, Z] of ligand-coated spheres, the window around each at once."""
    density, blocked = np.zeros((sites,) * 3), np.zeros((sites,) * 3, bool)
    for center in centers:
        index, square = _window(center, diameter / 2 + model.cutoff, sites, box / sites)
        distance = np.sqrt(square) - diameter / 2
        corona = 1 / (1 + np.exp((distance - model.reach) / model.width))
        density[index] += np.where(distance <= model.cutoff, corona, 0)
        blocked[index] |= square < (diameter / 2) ** 2
    level = np.minimum(np.rint(density * (254 / model.max_density)), 254).astype(np.uint8)
    return np.where(blocked, np.uint8(255), level)
