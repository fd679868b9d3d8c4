"""Structures for the tests on a GPU."""

import torch

import gpuion

SIGMA = gpuion.sphere_diameter(91, 75.0, 0.1)


def spheres(cell, count, device="cpu"):
    arguments = {"n_structures": count, "n_particles": cell["n"], "box": cell["box"], "diameter": cell["diameter"]}
    return gpuion.place("random", **arguments, device=device)


def overlap(centers, box, diameter):
    """Whether two spheres are nearer than a diameter; the coordinates' rounding to float32 is 1e-6 of it."""
    apart = (centers.double()[:, :, None] - centers.double()[:, None]).abs()
    distance = torch.minimum(apart, box - apart).square().sum(-1).sqrt()
    distance.diagonal(dim1=1, dim2=2).fill_(box)
    return bool((distance < diameter * (1 - 1e-6)).any())


def peak(call):
    """Return the bytes that a call takes on the GPU beside what was there."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before
