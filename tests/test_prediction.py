"""D* and its spread from Python: the same bits alone and in a batch, ensembles, and how sure they are."""

import pytest
import torch
from test_models import ALONE, BOX, DIAMETER, ON_CENTERS, model, placed, samples
from test_training import _one_thread  # noqa: F401, the fixture holds here too

import gpuion
from gpuion import fitting, relabel, training

CELL = {"box": BOX, "diameter": DIAMETER}


def certain(name):
    """Return a model that has learnt how sure it is, from five structures each."""
    net, data = model(name), samples(10)
    first, second = (
        training.Samples(**{**vars(data), **cut}) for cut in (part(data, slice(0, 5)), part(data, slice(5, 10)))
    )
    fitting.doubt(net, {"train": first, "validation": second}, ALONE)
    return net


def part(data, at):
    """Return some of the samples' fields."""
    return {name: getattr(data, name)[at] for name in ("centers", "target", "id", "axes")}


def every():
    """Return a model of each kind, trained or not."""
    torch.manual_seed(0)
    image = gpuion.Surrogate(widths=(4, 4), hidden=4)
    return [image, *map(certain, ON_CENTERS)]


@pytest.mark.parametrize("net", every(), ids=["periodic", *ON_CENTERS])
def test_a_structure_has_the_same_bits_alone_and_in_a_batch(net):
    x = placed(5)
    together = net.predict(x, **CELL, batch=2)
    for k in range(5):
        alone = net.predict(x[k : k + 1], **CELL, batch=2)
        assert torch.equal(alone.d_star, together.d_star[k : k + 1])
        assert torch.equal(alone.spread.nan_to_num(-1), together.spread[k : k + 1].nan_to_num(-1))
    assert float(together.d_star.std()) > 1e-6
    assert together.d_star.shape == together.spread.shape == (5,)
    assert bool(together.spread.isnan().all()) == isinstance(net, gpuion.Surrogate)
    assert (together.d_star_axes is None) != getattr(net, "per_axis", False)
    # What annealing goes by.
    like = gpuion.Dataset(
        centers=x, diffusivity=torch.ones(5, 3), standard_error=torch.ones(5, 3), id=torch.arange(5), family=None,
        distance=torch.ones(5, 2), gap=torch.ones(5), axes=torch.ones(5, 3), sites_per_voxel=1, method="exact", **CELL,
    )  # fmt: skip
    if isinstance(net, gpuion.Surrogate):
        net.meta = {"voxels": 50, "box": 50.0}
    assert torch.equal(relabel.surrogate_score(net, like, 2)(x).double(), together.d_star)
