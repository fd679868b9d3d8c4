"""Which way should each sphere move? Gradients of ln D by trained models, beside the exact ones of the solve.

    python examples/attribution.py data/study runs/network/surrogate.pt runs/periodic/surrogate.pt --picture out.png

Cosines are of all 3 N components of a structure, R is Pearson's, of the gradients' lengths over its spheres. The exact
gradient beside itself after a shift by half a voxel, which D ought not to see, says how much of it is the lattice's.
"""

import argparse
from pathlib import Path

import torch

import gpuion
from gpuion.attribution import agreement, exact_pull, pull, saliency
from gpuion.evaluate import kinds, name_of, part_of

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", type=Path, help="folder of labelled structures, of which the test part is taken")
parser.add_argument("checkpoint", nargs="+", help="surrogate.pt of train.py")
parser.add_argument("--count", type=int, default=4, help="test structures of each family (default 4)")
parser.add_argument("--picture", type=Path, help="a file for the arrows of the last chained one")
given = parser.parse_args()

data = part_of(given.data, "test")
cell = {"box": data.box, "diameter": data.diameter}
ways = {"exact, shifted": lambda x: exact_pull(x + 0.5, model=data.model, **cell)}
nets = [gpuion.load_surrogate(path) for path in given.checkpoint]
for net in nets:
    ways[name_of(net)] = lambda x, net=net: pull(net, x, **cell)
family, shown, rows = kinds(data), {}, {name: [] for name in ways}
chosen = [i for kind in sorted(set(family)) for i in (family == kind).nonzero()[0][: given.count].tolist()]
for i in chosen:
    x = data.centers[i : i + 1]
    true = exact_pull(x, model=data.model, **cell)
    found = {name: way(x) for name, way in ways.items()}
    for name, gradient in found.items():
        rows[name].append(agreement(true, gradient)[0])
    if family[i] == "chained":
        shown = {"exact": true, **found}
        drawn = x
print(f"{'gradient of':<16}{'family':<14}{'structures':>11}{'cosine':>9}{'lowest':>9}{'R':>8}{'rms ratio':>11}")
for name in ways:
    for kind in ["all", *sorted(set(family))]:
        some = torch.stack([row for i, row in zip(chosen, rows[name], strict=True) if kind in {"all", family[i]}])
        cosine, r, ratio = some.mean(0).tolist()
        print(f"{name:<16}{kind:<14}{len(some):>11}{cosine:>9.3f}{some[:, 0].min():>9.3f}{r:>8.3f}{ratio:>11.3f}")
if given.picture:
    from gpuion import model_panels, panels

    arrows = {name: gradient[0].numpy() for name, gradient in shown.items() if "shifted" not in name}
    voxels = [saliency(net, drawn, voxels=net.meta["voxels"], **cell)[0] for net in nets if "boundary" in net.arguments]
    picture = model_panels.arrows(drawn[0].numpy(), arrows, saliency=voxels[0].numpy() if voxels else None, **cell)
    given.picture.write_bytes(panels.png(picture))
