"""Media whose walks have exact numbers to meet, and whether one meets them."""

import math

import torch

import gpuion


def uniform_medium(shape=(1, 9, 10, 11), spacing=0.5, diffusivity=1.0):
    labels = torch.zeros(shape, dtype=torch.uint8)
    return gpuion.Medium(labels, torch.tensor([diffusivity]), torch.tensor([3.0]), spacing)


def two_phase(seed, shape=(1, 6, 6, 6), blocked=False):
    """Two classes at random, and a blocked third one on request."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3 if blocked else 2, shape, dtype=torch.uint8, generator=generator)
    potential = torch.tensor([0.0, -1.5, math.inf if blocked else 0.0])
    return gpuion.Medium(labels, torch.tensor([1.0, 0.4, 1.0]), potential)


def laminate():
    """Layers across z of two classes: D along and across follow from sums in parallel and in series."""
    labels = torch.zeros(1, 4, 4, 12, dtype=torch.uint8)
    labels[..., 5:] = 1
    return gpuion.Medium(labels, torch.tensor([1.0, 0.25]), torch.tensor([0.0, -1.0]))


def agree(run, exact, sigmas=4):
    """Whether a walk lies within so many standard errors of exact diffusivities, and its errors mean something."""
    z = (run.diffusivity - exact).abs() / run.standard_error.clamp_min(1e-12)
    assert float(z.max()) < sigmas, (run.diffusivity, run.standard_error, exact)
    mean_z = (run.mean - exact.mean(-1)).abs() / run.mean_error
    assert float(mean_z.max()) < sigmas, (run.mean, run.mean_error, exact.mean(-1))
