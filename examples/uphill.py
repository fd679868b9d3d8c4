"""Push spheres uphill in their medium's diffusivity, along its exact gradient: python examples/uphill.py [steps]."""

import sys

import torch

import gpuion


def uphill(n: int = 6, box: float = 24.0, diameter: float = 8.0, steps: int = 12, stride: float = 1.0) -> torch.Tensor:
    """Return sphere centres [1, N, 3] after some steps uphill from a random arrangement; prints ⟨D⟩ on the way."""
    centers = gpuion.place("random", n_structures=1, n_particles=n, box=box, diameter=diameter, seed=1).double()
    for step in range(steps + 1):
        x = centers.clone().requires_grad_()
        medium = gpuion.smooth_medium(x, box=box, diameter=diameter, core_width=0.5)
        D = gpuion.effective_diffusivity(medium.potential, medium.log_diffusivity, tolerance=1e-3)
        mean = D.diagonal(dim1=1, dim2=2).mean()
        print(f"step {step:3d}: D = {float(mean.detach()):.4f}", flush=True)
        mean.log().backward()
        if step < steps:  # the sphere that gains most moves by the stride, which shrinks
            move = x.grad / x.grad.norm(dim=-1).max() * stride * 0.9**step
            centers = apart(centers + move, box, diameter)
    return centers


def apart(centers: torch.Tensor, box: float, diameter: float) -> torch.Tensor:
    """Move overlapping spheres away from each other until none do."""
    for _ in range(1000):
        gap = centers[:, :, None] - centers[:, None]
        gap = gap - box * (gap / box).round()
        distance = gap.norm(dim=-1) + torch.eye(gap.shape[1]) * box
        lack = (diameter - distance).clamp_min(0)
        if not lack.any():
            break
        centers = centers + 0.51 * (gap * (lack / distance)[..., None]).sum(2)
    return centers.remainder(box)


if __name__ == "__main__":
    uphill(steps=int(sys.argv[1]) if len(sys.argv) > 1 else 12)
