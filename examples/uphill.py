"""Push spheres uphill in their medium's diffusivity, along its exact gradient: python examples/uphill.py [steps]."""

import argparse

import gpuion

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("steps", type=int, nargs="?", default=12, help="steps to take (default 12)")
given = parser.parse_args()

box, diameter, stride = 24.0, 8.0, 1.0
centers = gpuion.place("random", n_structures=1, n_particles=6, box=box, diameter=diameter, seed=1).double()
for step in range(given.steps):
    centers.requires_grad_()
    medium = gpuion.smooth_medium(centers, box=box, diameter=diameter, core_width=0.5)
    D = gpuion.effective_diffusivity(medium.potential, medium.log_diffusivity, tolerance=1e-3)
    mean = D.diagonal(dim1=1, dim2=2).mean()
    print(f"step {step:3d}: D = {float(mean.detach()):.4f}", flush=True)
    mean.log().backward()
    # The sphere that gains most moves by the stride, which shrinks.
    move = centers.grad / centers.grad.norm(dim=-1).max() * stride * 0.9**step
    centers = gpuion.separate(centers.detach() + move, box=box, diameter=diameter)
