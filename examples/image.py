"""D and tortuosity of a labelled image: python examples/image.py rock.npy --open 0. Labels not named block.

--mirror joins the image with its mirror image along each axis, for scans whose sides do not match.
"""

import argparse

import numpy as np

import gpuion

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("image", help="a .npy array or a .tif stack of integers")
parser.add_argument("--open", type=int, nargs="+", default=[0], help="labels that ions diffuse in (default 0)")
parser.add_argument("--diffusivity", type=float, nargs="+", default=[1.0], help="of these, one or one each (default 1)")
parser.add_argument("--tolerance", type=float, default=1e-3, help="relative error of D (default 1e-3)")
parser.add_argument("--mirror", action="store_true", help="make the image periodic by its mirror images")
given = parser.parse_args()

image = gpuion.read_image(given.image)
for axis in range(3 if given.mirror else 0):
    image = np.concatenate([image, np.flip(image, axis)], axis)
values = given.diffusivity * (len(given.open) if len(given.diffusivity) == 1 else 1)
table = dict.fromkeys(np.unique(image).tolist()) | dict(zip(given.open, values, strict=True))
medium = gpuion.Medium.from_image(image, table)
found = gpuion.homogenize(medium, tolerance=given.tolerance)
print(f"{'x'.join(map(str, image.shape))} sites, {np.isin(image, given.open).mean():.1%} open")
tau = gpuion.tortuosity(medium, found)
for axis, D, factor in zip("xyz", found.diffusivity[0].tolist(), tau[0].tolist(), strict=True):
    print(f"{axis}: D = {D:.4f}, tortuosity {factor:.3f}")
