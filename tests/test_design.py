"""The design of a dataset: counts, shares, what is refused, jams."""

import pytest
import torch

import gpuion
from gpuion import design
from gpuion.design import Design, arrange, choose
from gpuion.errors import PackingError

CELL = {"particles": 27, "box": 50.0, "diameter": gpuion.sphere_diameter(27, 50.0, 0.1)}
RANGES = (("contact", 11.0), (11.0, 12.5), (12.5, 13.5), (13.5, 14.5), (14.5, 16.0), (16.0, 20.0), (20.0, 30.0))
WIDTHS = ((14.0, 20.0), (14.0, 20.0), (14.0, 14.0))


@pytest.fixture(scope="module")
def paper():
    return Design(**CELL, random=722, chained=5304, gapped=2166, ranges=RANGES, widths=WIDTHS, seed=5)


def family(number):
    return "random" if number < 722 else "chained" if number < 722 + 5304 else "gapped"


def test_the_design_has_the_papers_counts_and_even_ranges(paper):
    cases = [paper.case(number) for number in range(8192)]
    assert len(paper) == 8192
    assert [sum(case.family == f for case in cases) for f in ("random", "chained", "gapped")] == [722, 5304, 2166]
    chained = [case.distance for case in cases if case.family == "chained"]
    assert {chained.count(pair) for pair in paper.ranges} <= {757, 758}  # 5304 / 7 = 757.7
    gapped = [case for case in cases if case.family == "gapped"]
    for slabs in (1, 2, 3):
        some = [case for case in gapped if len(case.axes) == slabs]
        assert len(some) == 722
        assert sum(case.distance is not None for case in some) == 361
        lo, hi = WIDTHS[slabs - 1]
        assert all(lo <= case.gap <= hi for case in some)
        # 3, 3 and 1 sets of axes, each drawn with probability 1/3 or 1: binomial, σ = √(722 · 2/9) = 12.7; 5 σ.
        for axes in {case.axes for case in some}:
            assert abs(sum(case.axes == axes for case in some) - 722 / (3, 3, 1)[slabs - 1]) < 64
    # A range is drawn with probability 1/7 for 1083 structures: σ = √(1083 · 6/49) = 11.5; 5 σ.
    for pair in paper.ranges:
        assert abs(sum(case.distance == pair for case in gapped) - 1083 / 7) < 58


def test_a_part_of_the_design_keeps_the_shares_of_the_families(paper):
    whole = choose(paper)
    assert sorted(whole) == list(range(8192))
    for count in (1, 2, 10, 64, 100, 777, 4096, 8191):
        part = choose(paper, count)
        assert part == whole[:count]
        for name, size in (("random", 722), ("chained", 5304), ("gapped", 2166)):
            assert abs(sum(family(number) == name for number in part) - count * size / 8192) < 1.01
    ranges = [paper.case(number).distance for number in choose(paper, 512) if family(number) == "chained"]
    assert all(abs(ranges.count(pair) - len(ranges) / 7) <= 3 for pair in paper.ranges)
    for count in (0, 8193):
        with pytest.raises(ValueError, match=r"structures must lie in 1 … 8192"):
            choose(paper, count)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"random": -1}, "random must be at least 0"),
        ({"ranges": ()}, "a chained range or more"),
        ({"ranges": ((11.0,),)}, "chained_ranges must be pairs"),
        ({"ranges": (("near", 11.0),)}, "chained_ranges must be pairs"),
        ({"ranges": ((5.0, 11.0),)}, "diameter = 9.59"),
        ({"ranges": ((12.0, 11.0),)}, "lo ≤ hi"),
        ({"widths": ((14.0, 20.0),)}, "three gapped widths"),
        ({"widths": (("contact", 20.0),) * 3}, "gapped_widths must be pairs"),
        ({"widths": ((14.0, 45.0),) * 3}, "leaves no room"),
        ({"box": 20.0}, "saturates"),
    ],
)
def test_an_impossible_design_is_refused_at_once(changes, message):
    fields = {**CELL, "random": 1, "chained": 1, "gapped": 1, "ranges": RANGES, "widths": WIDTHS, **changes}
    with pytest.raises(ValueError, match=message):
        Design(**fields)


def test_a_structure_is_the_same_alone_and_in_company(paper):
    numbers = choose(paper, 12)
    together = arrange(paper, numbers)
    for b in (0, 5, 11):
        assert torch.equal(arrange(paper, [numbers[b]])[0], together[b])
    assert torch.equal(arrange(paper, numbers[::-1]), together.flip(0))


def test_a_jam_is_drawn_again(paper, monkeypatch):
    attempts = []

    def jams(ids, rules):
        """Structure 3 finds no place with the design's own seed and the first made one."""
        attempts.append((ids.tolist(), rules.seed))
        centers, placed = real(ids, rules)
        return centers, torch.where((ids == 3) & (len(attempts) < 3), 5, placed)

    real = design.fill
    monkeypatch.setattr(design, "fill", jams)
    centers = arrange(paper, [2, 3, 4])
    assert [ids for ids, _ in attempts] == [[2, 3, 4], [3], [3]]
    again = [seed for _, seed in attempts]
    assert again[0] == paper.seed
    assert len(set(again)) == 3
    attempts.clear()
    assert torch.equal(arrange(paper, [3])[0], centers[1])  # the same redraw alone
    monkeypatch.setattr(design, "fill", real)
    assert torch.equal(centers[[0, 2]], arrange(paper, [2, 4]))
    assert not torch.equal(centers[1], arrange(paper, [3])[0])


def test_what_always_jams_ends(paper, monkeypatch):
    monkeypatch.setattr(design, "fill", lambda ids, _: (torch.zeros(len(ids), 27, 3), torch.full_like(ids, 9)))
    with pytest.raises(PackingError, match="jammed in 32 attempts; the last: structure 0 holds 9 of 27"):
        arrange(paper, [0])
