"""Anneal towards an objective of your own on the network, then see what the exact solver says of it.

python examples/objective.py --chains 4 --cycles 8 --steps 300
"""

import argparse

import torch

import gpuion

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--chains", type=int, default=4, help="structures at once (default 4)")
parser.add_argument("--cycles", type=int, default=8, help="cycles of falling temperature (default 8)")
parser.add_argument("--steps", type=int, default=300, help="moves a cycle and chain (default 300)")
parser.add_argument("--seed", type=int, default=0, help="of starts and moves (default 0)")
given = parser.parse_args()


def objective(d_star: torch.Tensor) -> torch.Tensor:
    """Return a number to raise, [C], of D* along x, y and z, [C, 3]: two axes that conduct, and one that does not."""
    return d_star[:, :2].amin(1) - d_star[:, 2]


cell = {"box": 75.0, "diameter": gpuion.sphere_diameter(91, 75.0, 0.1)}
net = gpuion.load_surrogate()


def predicted(centers: torch.Tensor) -> torch.Tensor:
    """Return D* along the axes, by the network."""
    return net.predict(centers, **cell).d_star_axes


def exact(centers: torch.Tensor) -> torch.Tensor:
    """Return the same by the exact solver."""
    return gpuion.homogenize(gpuion.electrolyte(centers, **cell), tolerance=5e-3).diffusivity / net.meta["d_reference"]


start = gpuion.place(
    "chained", n_structures=given.chains, n_particles=91, **cell, distance=(12.5, 13.5), seed=given.seed
)
found = gpuion.anneal(
    gpuion.aim(predicted, objective), start, **cell, cycles=given.cycles, steps=given.steps, seed=given.seed,
    temperature=2e-2, cooling=0.6,
)  # fmt: skip
begun, told, true = objective(exact(start)), found.best_score, exact(found.best_centers)
for k in range(given.chains):
    axes = ", ".join(f"{x:.3f}" for x in true[k].tolist())
    print(f"chain {k}: {begun[k]:.3f} → {objective(true)[k]:.3f} exact, {told[k]:.3f} predicted; D* along axes {axes}")
