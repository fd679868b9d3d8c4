"""The pretended GPU is at least as strict as a real one: what it lets pass has been seen to use one device."""

import numpy as np
import pytest
import torch
from rehearsal import rehearse


@pytest.mark.parametrize(
    "mix",
    [
        lambda there, here: there + here,
        lambda there, here: torch.cat([there, here]),
        torch.equal,
        lambda there, here: torch.where(here > 0, there, 0.0),
        lambda there, here: here[there.long()],
        lambda there, here: there.gather(0, here.long()),
        lambda there, here: there.add_(here),
        lambda there, here: there.__setitem__(there > 0, here),
        lambda there, here: torch.mul(there, there, out=here),
        lambda there, _: np.asarray(there),
    ],
)
def test_devices_do_not_mix(mix):
    with rehearse():
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        with pytest.raises((RuntimeError, TypeError), match="cuda:0"):
            mix(there, here)


def test_what_a_gpu_allows_is_allowed():
    with rehearse():
        there, here = torch.arange(3.0, device="cuda"), torch.arange(3)
        assert there.is_cuda
        assert not here.is_cuda
        for value in (
            there + torch.tensor(1.0),
            there[here],
            there.to(torch.float64),
            torch.zeros_like(there),
            there.view(1, 3),
        ):
            assert value.is_cuda
            assert value.device == torch.device("cuda:0")
        assert not there.cpu().is_cuda
        assert here.to(there.device).is_cuda
        assert not torch.zeros(2).is_cuda
        assert here.copy_(there).tolist() == [0, 1, 2]
        assert there.cpu().numpy().tolist() == [0, 1, 2]
        layer = torch.nn.Linear(3, 1).to("cuda")
        layer(there).sum().backward()
        assert all(p.is_cuda and p.grad.is_cuda for p in layer.parameters())
    assert not torch.ones(1).is_cuda
