"""A file of an export appears whole or not at all, and what killed writers left is removed."""

import pytest

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.export.target import new_file


def test_it_appears_at_the_end_of_the_block(tmp_path):
    with new_file(tmp_path / "t", overwrite=False) as file:
        file.write(b"content")
        assert not (tmp_path / "t").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["t"]
    assert (tmp_path / "t").read_bytes() == b"content"


@pytest.mark.parametrize("error", [KeyError, OSError, KeyboardInterrupt])
def test_an_exception_leaves_what_was_there(tmp_path, error):
    (tmp_path / "t").write_bytes(b"precious")
    with pytest.raises(error):
        with new_file(tmp_path / "t", overwrite=True) as file:
            file.write(b"content")
            raise error
    assert [p.name for p in tmp_path.iterdir()] == ["t"]
    assert (tmp_path / "t").read_bytes() == b"precious"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    with pytest.raises(InvalidArgumentError, match="overwrite=True"):
        with new_file(tmp_path / "t", overwrite=False) as file:
            file.write(b"content")
            (tmp_path / "t").write_bytes(b"precious")
    assert [p.name for p in tmp_path.iterdir()] == ["t"]
    assert (tmp_path / "t").read_bytes() == b"precious"


def test_what_a_killed_writer_left_is_removed_and_that_of_a_live_one_is_not(tmp_path):
    left = tmp_path / f".t.{'0' * 16}.tmp"
    left.write_bytes(b"half")
    with new_file(tmp_path / "t", overwrite=True) as file:
        assert not left.exists()
        file.write(b"first")
        file.flush()
        with new_file(tmp_path / "t", overwrite=True) as other:
            other.write(b"second")
    assert (tmp_path / "t").read_bytes() == b"first"
