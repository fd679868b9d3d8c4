"""Models on sphere centres take one thread of a CPU, so that their bits do not depend on how many there are."""

import pytest
import torch
from test_models import ALONE, ON_CENTERS, PLAN, TRAINED

import gpuion
from gpuion import fitting, scoring, training
from gpuion.models import create
from gpuion.threads import one_thread
from gpuion.training import Samples

CELL = {"box": 75.0, "diameter": 9.6}


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def learnt(name, threads):
    """Return what a model learns, predicts and scores on so many threads: 91 spheres, or no sum would be shared."""
    torch.set_num_threads(threads)
    x = gpuion.place("random", n_structures=24, n_particles=91, seed=1, **CELL)
    target = torch.linspace(0.2, 0.3, 24)
    data = Samples(
        centers=x, target=target, id=torch.arange(24), voxels=75, axes=target[:, None].repeat(1, 3), **CELL
    )  # fmt: skip
    torch.manual_seed(0)
    net = create(name)
    data = training.prepared(net, data)
    if name in TRAINED:
        training.calibrate(net, data)
        training.train_epoch(net, training.optimizer_for(net, PLAN), data, epoch=0, plan=PLAN, world=ALONE)
    else:
        net.solve(data.target, data.inputs)
    fitting.doubt(net, {"train": data, "validation": data}, ALONE)
    said = net.predict(x, **CELL)
    like = gpuion.Dataset(
        centers=x, diffusivity=torch.ones(24, 3), standard_error=torch.ones(24, 3), id=torch.arange(24), family=None,
        distance=torch.ones(24, 2), gap=torch.ones(24), axes=torch.ones(24, 3), sites_per_voxel=1, method="exact",
        **CELL,
    )  # fmt: skip
    score = scoring.surrogate_score(net, like, 8)(x)
    assert torch.get_num_threads() == threads
    return *net.state_dict().values(), said.d_star, said.spread, *training.estimate(net, data), score


@pytest.mark.parametrize("name", ON_CENTERS)
def test_one_thread_and_two_give_the_same_bits(name):
    pairs = zip(learnt(name, 1), learnt(name, 2), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_one_thread_gives_back_what_there_was():
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert torch.get_num_threads() == 2
    with one_thread(when=False):
        assert torch.get_num_threads() == 2
