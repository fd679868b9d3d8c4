"""All states of two spheres on 27 sites, their exact distributions, and chains of replicas among them."""

import itertools

import torch
from test_annealing import run, toy

SITES = torch.tensor(list(itertools.product(range(3), repeat=6)))
STATES = (SITES.reshape(-1, 2, 3).float() + 0.25)[(SITES[:, :3] != SITES[:, 3:]).any(1)]  # all 27 · 26 of two spheres
SCORES = toy(STATES)
HEAT = torch.tensor([0.5, 0.8, 1.4], dtype=torch.float64)


def boltzmann(heat, sign):
    """The exact distribution at a temperature, [702]."""
    return torch.softmax(sign * SCORES / heat, 0)


def off(found, heat, sign):
    """How many standard errors the mean of chains' scores, [C], is off its exact value; chains are independent."""
    return float((found.mean() - boltzmann(heat, sign) @ SCORES) / (found.std() / len(found) ** 0.5))


def tempered(G, steps, *, heat=HEAT, cycles=1, **options):
    start = torch.tensor([[0.25, 0.25, 0.25], [1.25, 1.25, 1.25]]).expand(G * len(heat), 2, 3)
    return run(
        start, score=toy, box=3.0, diameter=1.0, cycles=cycles, steps=steps, temperature=heat, cooling=1.0,
        replicas=len(heat), samples=0, **options,
    )  # fmt: skip
