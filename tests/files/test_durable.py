"""The order in which a finished file reaches the disk: its data, its name, the directory."""

from __future__ import annotations

import os
import stat

import pytest

from quiplinalg.files import atomic


@pytest.mark.parametrize("overwrite", (False, True))
def test_data_are_on_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path, monkeypatch, overwrite
):
    target = tmp_path / "result.h5"
    temporary = atomic.temporary_name(target)
    temporary.write_bytes(b"data")
    inode, happened = temporary.stat().st_ino, []
    sync = os.fsync

    def fsync(descriptor):
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            happened.append("directory")
        elif status.st_ino == inode:
            happened.append("data")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("link", "replace"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, c=call: (happened.append("name"), c(*a))[1])
    atomic.commit(temporary, target, overwrite)
    assert happened == (["data", "name"] if os.name == "nt" else ["data", "name", "directory"])
    assert target.read_bytes() == b"data" and not temporary.exists()
