"""Files appear whole or not at all, and what is no file is left alone."""

import os

import pytest

from common.errors import InputError
from common.atomic_files import write_atomically


def write(file):
    file.write(b"new")


def test_the_target_of_a_link_is_written_and_the_link_stays(tmp_path):
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "link").symlink_to("old")
    assert write_atomically(tmp_path / "link", write) == tmp_path / "link"
    assert (tmp_path / "link").is_symlink() and (tmp_path / "old").read_bytes() == b"new"


def test_a_pipe_and_a_folder_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(InputError, match=f"{name}: cannot write: a folder or a device has that name"):
            write_atomically(tmp_path / name, write)
    assert (tmp_path / "pipe").is_fifo() and sorted(os.listdir(tmp_path)) == ["folder", "pipe"]
