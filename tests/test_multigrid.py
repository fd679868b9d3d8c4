"""The CPU's multigrid solver against dense matrices, the spectral solver, and itself in other company."""

import numpy as np
import pytest
import torch

import gpuion
from gpuion import homogenization, multigrid
from gpuion.fields import minus_operator, neighbour_sum
from gpuion.homogenization import homogenize
from gpuion.kernels import gradients
from gpuion.kernels import multigrid as kernel
from gpuion.kernels.levels import bonds_of, hierarchy
from gpuion.stopping import Stop

INF = float("inf")
SHAPES = [(4, 4, 4), (5, 6, 7), (1, 5, 8), (6, 1, 3), (7, 2, 1), (1, 1, 9), (2, 2, 2), (3, 3, 3), (10, 3, 2), (1, 1, 2)]


def site_factors(shape, seed, contrast=1e8):
    """Return factors of two classes whose bonds differ by `contrast`, a fifth of the sites blocked."""
    choice = np.random.default_rng(seed).choice([1.0, contrast**-0.5, 0.0], size=shape, p=[0.4, 0.4, 0.2])
    choice.flat[0] = 1.0
    return choice


def scaled_operator(s):
    """Return B as a matrix, and the indices of sites that have a bond, from s [X, Y, Z]."""
    index = np.arange(s.size).reshape(s.shape)
    B = np.zeros((s.size, s.size))
    flat = s.reshape(-1)
    for axis in range(3):
        if s.shape[axis] == 1:
            continue
        for i, j in zip(index.reshape(-1), np.roll(index, -1, axis).reshape(-1), strict=True):
            if flat[i] * flat[j] > 0:
                B[i, j] -= 1
                B[j, i] -= 1
                B[i, i] += flat[j] / flat[i]
                B[j, j] += flat[i] / flat[j]
    return B, B.diagonal().nonzero()[0]


def preconditioner(s):
    """Return the preconditioner as a matrix, image by image."""
    levels = hierarchy(s)
    X, Y, Z = s.shape
    P = np.zeros((s.size, s.size))
    work = np.full((2, levels.bonds.shape[1]), 1e300)  # whatever was there must not matter …
    work.reshape(-1)[:] = np.where(np.isfinite(work), 0.0, 0.0) if levels.bonds.shape[1] == 0 else work.reshape(-1)
    for k in range(s.size):
        c, t = (np.zeros((X + 1, Y + 2, Z + 2)) for _ in range(2))
        c[:X, 1:-1, 1:-1].reshape(-1)
        x, y, z = np.unravel_index(k, s.shape)
        c[x, y + 1, z + 1] = 1
        kernel.precondition(levels, c.reshape(X + 1, -1), t.reshape(X + 1, -1), work * 0)
        P[:, k] = t[:X, 1:-1, 1:-1].reshape(-1)
    return P
