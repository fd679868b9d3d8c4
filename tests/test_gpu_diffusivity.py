"""What a GPU computes, beside what a CPU does: walks and exact solves."""

import pytest
import torch
from cells import peak, spheres

import gpuion
from gpuion.labeling import label


@pytest.mark.parametrize("tolerance", [1e-3, 1e-7])
def test_the_exact_solve_agrees(real, tolerance):
    # Each is within the tolerance of the exact D, so that they are within twice that of one another.
    edge, n = (50, 27) if real else (8, 1)
    centers = gpuion.place("random", n_structures=2, n_particles=n, box=edge, diameter=9.6 if real else 5.0)
    medium = gpuion.electrolyte(centers, box=edge, diameter=9.6 if real else 5.0)
    here, there = (
        gpuion.homogenize(medium, tolerance=tolerance),
        gpuion.homogenize(medium.to("cuda"), tolerance=tolerance),
    )
    assert there.tensor.is_cuda
    assert bool(there.converged.all())
    assert float((there.diffusivity.cpu() / here.diffusivity - 1).abs().max()) <= 2 * tolerance
    alone = gpuion.homogenize(medium[1:2].to("cuda"), tolerance=tolerance)
    assert float((alone.diffusivity / there.diffusivity[1:2] - 1).abs().max()) <= 2 * tolerance


def test_labels_of_both_kinds_agree(real, cell):
    # Paths are the same hops; averages over them may be summed in another order in float64.
    centers = spheres(cell, 2)
    options = {"box": cell["box"], "diameter": cell["diameter"], "method": "both", "tolerance": 1e-3}
    options |= {"walkers": 2000 if real else 40, "time": 500.0 if real else 20.0, "seed": 2**64 - 1}
    here = label(centers, ids=torch.tensor([7, 2**32 - 1]), **options)
    there = label(centers.to("cuda"), ids=torch.tensor([7, 2**32 - 1]).to("cuda"), **options)
    assert torch.allclose(here.diffusivity, there.diffusivity, rtol=2e-3)
    assert torch.allclose(here.diffusivity_kmc, there.diffusivity_kmc, rtol=1e-12)
    assert torch.equal(here.converged_kmc, there.converged_kmc)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-9])
def test_the_exact_solve_keeps_to_14_fields(real, tolerance):
    edge = 150 if real else 6
    labels = torch.randint(0, 3, (1, edge, edge, edge), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    medium = gpuion.Medium(labels, torch.tensor([1.0, 0.5, 1.0]), torch.tensor([0.0, -3.0, torch.inf])).to("cuda")
    field = 3 * edge**3 * (4 if tolerance >= 1e-6 else 8)
    gpuion.homogenize(medium, tolerance=0.5)  # plans of the FFT stay in memory
    assert peak(lambda: gpuion.homogenize(medium, tolerance=tolerance, max_iterations=8)) <= 14 * field
