"""How well do labels repeat themselves? Structures shifted by a fraction of a voxel, and solved ten times as closely.

    python examples/label_noise.py data/study --count 56

D of the medium does not change when all of it moves; on a lattice its labels do. Half of the difference's variance is
one label's. The share that the closer solve takes away is the solver's error, which is never negative.
"""

import argparse

import torch

from gpuion.evaluate import part_of
from gpuion.labeling import label

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="folder of labelled structures, of which the test part is taken")
parser.add_argument("--count", type=int, default=56, help="test structures (default 56)")
parser.add_argument("--tolerance", type=float, default=5e-3, help="relative error of the labels (default 5e-3)")
given = parser.parse_args()

data = part_of(given.data, "test")
chosen = data.subset(torch.arange(len(data))[: given.count])
generator = torch.Generator().manual_seed(0)
shift = torch.rand(len(chosen), 1, 3, dtype=torch.float64, generator=generator)
cell = {"box": data.box, "diameter": data.diameter, "sites_per_voxel": data.sites_per_voxel, "model": data.model}
ways = {"as they are": (0 * shift, given.tolerance), "shifted": (shift, given.tolerance)}
ways["ten times as closely"] = (0 * shift, given.tolerance / 10)
found = {}
for name, (by, tolerance) in ways.items():
    parts = [
        label((x.double() + move) % data.box, tolerance=tolerance, **cell).diffusivity.mean(1)
        for x, move in zip(chosen.centers.split(8), by.split(8), strict=True)
    ]
    found[name] = torch.cat(parts).double().log()
moved = 100 * (found["shifted"] - found["as they are"])
solved = 100 * (found["as they are"] - found["ten times as closely"])
print(f"{len(chosen)} structures, D to {given.tolerance:g}; differences in %")
print(f"shifted by a fraction of a voxel: standard deviation of one label {float(moved.std()) / 2**0.5:.3f}")
print(f"against {given.tolerance / 10:g}: {float(solved.mean()):+.3f} ± {float(solved.std()):.3f} too high")
