"""A folder's lock: of one run, on a file that is there, and nothing where files cannot be locked."""

import pytest

from gpuion import locks
from gpuion.errors import ConfigError


def test_a_lock_is_of_one_run_and_goes_with_its_last_process(tmp_path):
    with locks.held(tmp_path, alone=True) as mine:
        with pytest.raises(ConfigError, match="another run is writing to"), locks.held(tmp_path, alone=True):
            pass
        locks.share(tmp_path, mine)
        other = locks.held(tmp_path, alone=False)
        other.__enter__()
        with pytest.raises(ConfigError, match="another run is writing to"), locks.held(tmp_path, alone=True):
            pass
    assert (tmp_path / locks.NAME).exists()
    with pytest.raises(ConfigError, match="another run is writing to"), locks.held(tmp_path, alone=True):
        pass
    other.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []
    with locks.held(tmp_path, alone=True):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_on_a_file_that_was_just_removed_is_none(tmp_path, monkeypatch):
    """A run ends, and removes the file, between another one's opening and locking it."""
    flock, removed = locks.fcntl.flock, []

    def late(descriptor, kind):
        if not removed:
            (tmp_path / locks.NAME).unlink()
            removed.append(True)
        flock(descriptor, kind)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    with locks.held(tmp_path, alone=True):
        assert (tmp_path / locks.NAME).exists()
        with pytest.raises(ConfigError), locks.held(tmp_path, alone=True):
            pass


def test_where_files_cannot_be_locked_a_run_goes_on(tmp_path, monkeypatch):
    def unable(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", unable)
    with locks.held(tmp_path, alone=True) as one, locks.held(tmp_path, alone=True) as other:
        assert one != other  # both hold the file that is there
        assert (tmp_path / locks.NAME).exists()
