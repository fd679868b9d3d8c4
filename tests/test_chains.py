"""States of annealed chains on disk: they go on to the same result, whatever was stopped, and damage is named."""

import dataclasses

import pytest
import torch
from test_annealing import equal, lattice_start, run

from gpuion.chains import load_state, load_states, save_state
from gpuion.errors import CheckpointError


def test_a_saved_run_goes_on_to_the_same_result(tmp_path):
    start = lattice_start(3, 8, 12, 3)
    kept, counted = [], []
    whole = run(start, cycles=4, save=kept.append, progress=counted.append)
    assert [state.cycles for state in kept] == [1, 2, 3, 4]
    assert sum(counted) == 3 * 4 * 60
    save_state(tmp_path / "state.pt", kept[1])
    state = load_state(tmp_path / "state.pt")
    assert equal(run(start, cycles=4, state=state), whole)
    assert equal(run(start, cycles=4, state=whole), whole)
    assert equal(run(start, cycles=2), state)


def test_states_are_joined_by_id(tmp_path):
    start, ids = lattice_start(4, 8, 12, 3), torch.tensor([0, 2, 4, 6])
    for r in (0, 1):
        save_state(tmp_path / f"{r}.pt", run(start[r::2], ids=ids[r::2]))
    assert equal(load_states([tmp_path / "1.pt", tmp_path / "0.pt"]), run(start, ids=ids))


def test_a_damaged_state_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    with pytest.raises(CheckpointError, match=r"state\.pt is not a (state|readable checkpoint).*; remove .*state\.pt"):
        load_state(path)
    for content in (b"", b"nonsense"):
        path.write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"state\.pt is not a (state|readable checkpoint).*; remove .*state\.pt"
        ):
            load_state(path)
    torch.save({"other": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"state\.pt is not a (state|readable checkpoint).*; remove .*state\.pt"):
        load_state(path)


def test_a_cycle_writes_only_what_is_new(tmp_path):
    start, path = lattice_start(3, 8, 12, 3), tmp_path / "state.pt"
    sizes, kept = [], []

    def save(state):
        before = {p.name: (p.stat().st_ino, p.stat().st_size) for p in tmp_path.iterdir() if p != path}
        save_state(path, state, first=state.cycles - 1)
        after = {p.name: (p.stat().st_ino, p.stat().st_size) for p in tmp_path.iterdir() if p != path}
        assert before.items() <= after.items()  # a file written again has another inode
        assert len(after) == len(before) + 1 == state.cycles
        sizes.append((path.stat().st_size, sum(s for _, s in after.values()) - sum(s for _, s in before.values())))
        kept.append(state)

    whole = run(start, cycles=6, samples=60, save=save)
    assert equal(load_state(path), whole)
    # 3 chains · 60 structures · 8 spheres · 12 bytes in a file of its own; the rest grows by 24 numbers a cycle.
    assert all(17_280 < new < 2 * 17_280 for _, new in sizes)
    assert sizes[-1][0] < sizes[0][0] + 2000
    none = run(start, samples=0)
    save_state(tmp_path / "none.pt", none)
    assert equal(load_state(tmp_path / "none.pt"), none)
    assert len(list(tmp_path.iterdir())) == 8


def test_killed_between_two_files_it_goes_on_to_the_same(tmp_path):
    start, path, kept = lattice_start(3, 8, 12, 3), tmp_path / "state.pt", []
    whole = run(start, cycles=3, save=kept.append)
    save_state(path, kept[0])
    before = path.read_bytes()
    save_state(path, kept[1], first=1)
    path.write_bytes(before)  # cycle 2's structures were written, the state was not
    state = load_state(path)
    assert equal(state, kept[0])
    result = run(start, cycles=3, state=state, save=lambda s: save_state(path, s, first=s.cycles - 1))
    assert equal(result, whole)
    assert equal(load_state(path), whole)


def test_structures_of_another_state_are_refused(tmp_path):
    start, path = lattice_start(2, 8, 12, 3), tmp_path / "state.pt"
    state = run(start)
    save_state(path, state)
    save_state(tmp_path / "other.pt", run(start, seed=1))
    mine, other = tmp_path / "state.00001.visited", tmp_path / "other.00001.visited"
    content = mine.read_bytes()
    mine.write_bytes(other.read_bytes())
    with pytest.raises(
        CheckpointError, match=r"state\.00001\.visited is of another state; remove .*state\.pt to start"
    ):
        load_state(path)
    mine.unlink()
    with pytest.raises(CheckpointError, match=r"state\.00001\.visited is missing"):
        load_state(path)
    at = content.index(state.visited[:, 25:].contiguous().numpy().tobytes())
    mine.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(CheckpointError, match=r"state\.00001\.visited is damaged: .* checksum"):
        load_state(path)
    save_state(path, dataclasses.replace(state, score=state.score))
    whole = path.read_bytes()
    at = whole.rindex(state.cell.numpy().tobytes())
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(CheckpointError, match=r"state\.pt is damaged: .* checksum"):
        load_state(path)
