"""Scores that are told of moves: the same chains as by a plain function, nothing evaluated in vain, stops unnoticed."""

import dataclasses

import pytest
import torch
from test_annealing import equal, lattice_start, run, smallest_distance

from gpuion.scores import Each, IncrementalScore

BOX, DIAMETER = 12.0, 2.6  # spheres 2.9 apart: a third of the moves would make them overlap


def parts(centers):
    """What each sphere adds to a score, float64 [C, N]."""
    x, y, z = centers.double().unbind(-1)
    return torch.cos(x * 0.7) + torch.sin(y * 0.3) * 0.5 + torch.cos(z * 0.2)


def total(part):
    """Sums in a fixed order, so that they have the same bits in any batch."""
    value = torch.zeros(len(part), dtype=torch.float64)
    for i in range(part.shape[1]):
        value = value + part[:, i] * (i + 1)
    return value / 10


def plain(centers):
    return total(parts(centers))


@dataclasses.dataclass
class Told:
    """The same score, one sphere at a time; `drift` is added at each accepted move, as rounding would be."""

    drift: float = 0.0
    starts: int = 0
    seen: list = dataclasses.field(default_factory=list)

    def start(self, centers):
        self.starts += 1
        return plain(centers), (parts(centers), centers, 0.0)

    def propose(self, state, sphere, position, trial):
        part, centers, extra = state
        C = len(centers)
        assert torch.equal(trial[torch.arange(C), sphere], position)
        changed = (trial != centers).any(-1)
        changed[torch.arange(C), sphere] = False
        assert not bool(changed.any())
        self.seen.append((position != centers[torch.arange(C), sphere]).any(-1))
        assert float(smallest_distance(trial, BOX)) >= DIAMETER
        part = part.scatter(1, sphere[:, None], parts(position[:, None]))
        return total(part) + extra, (part, trial, extra)

    def accept(self, state, trial_state, accepted):
        assert accepted.dtype == torch.bool
        at = accepted[:, None]
        part = torch.where(at, trial_state[0], state[0])
        return part, torch.where(at[..., None], trial_state[1], state[1]), state[2] + self.drift * accepted


def go(score, C=5, **options):
    start = lattice_start(C, 27, BOX, 2.9)
    return run(start, score=score, box=BOX, diameter=DIAMETER, steps=80, **options)


@pytest.mark.parametrize("maximize", [True, False])
def test_a_score_that_is_told_of_moves_makes_the_same_chains(maximize):
    told = Told()
    assert isinstance(told, IncrementalScore)
    assert equal(go(told, maximize=maximize), go(plain, maximize=maximize))


def test_a_move_into_another_sphere_is_not_proposed():
    told = Told()
    result = go(told, temperature=1e9)  # whatever is free is accepted
    moved = torch.stack(told.seen).double()
    assert torch.equal(moved.view(2, 80, 5).mean(1).T, result.acceptance)
    assert 0.2 < float(moved.mean()) < 0.95


def test_only_structures_that_move_are_evaluated():
    counts = []

    def counted(centers):
        counts.append(len(centers))
        return plain(centers)

    told = Told()
    whole = go(told)
    assert equal(go(Each(counted)), whole)
    free = torch.stack(told.seen).sum(1)
    assert counts == [5, *[n for n in free.tolist() if n]]
    assert sum(counts) < 5 * (1 + 160)
    counts.clear()
    assert equal(go(counted), whole)  # a plain function is always given all chains
    assert counts == [5] * 161


def test_a_score_in_which_errors_add_up_is_the_same_after_a_stop():
    kept = []
    whole = go(Told(drift=1e-3), cycles=4, save=kept.append)
    told = Told(drift=1e-3)
    assert equal(go(told, cycles=4, state=kept[1]), whole)
    assert told.starts == 2
    assert not equal(go(Told(), cycles=4), whole)


def test_a_told_score_of_a_wrong_shape_is_refused():
    class Short(Told):
        def propose(self, state, sphere, position, trial):
            value, state = super().propose(state, sphere, position, trial)
            return value[:2], state

    with pytest.raises(ValueError, match="one number a chain"):
        go(Short())
