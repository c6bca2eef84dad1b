"""Files appear whole or not at all, and what is no file is left alone."""

import os

import pytest

from common import atomic_files
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


def test_what_killed_programs_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    path = tmp_path / "x[1].json"
    left = [tmp_path / f".x[1].json.{number:08x}.tmp" for number in range(3)]
    for each in left:
        each.write_bytes(b"half")
    other = tmp_path / ".y.json.00000000.tmp"
    other.write_bytes(b"another file's")

    def slowly(file):
        file.write(b"old")
        write_atomically(path, write)
        assert len(list(tmp_path.glob(".x*.tmp"))) == 1  # this one's own

    write_atomically(path, slowly)
    assert path.read_bytes() == b"old" and sorted(tmp_path.iterdir()) == [other, path]


def test_a_temporary_file_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    def removed(file, how):
        monkeypatch.undo()
        os.unlink(file.name)

    monkeypatch.setattr(atomic_files.fcntl, "flock", removed)
    write_atomically(tmp_path / "x", write)
    assert (tmp_path / "x").read_bytes() == b"new" and os.listdir(tmp_path) == ["x"]


def test_files_that_belong_together_are_all_written_before_the_first_is_replaced(tmp_path):
    def refuse(file):
        raise OSError(28, "No space left on device")

    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(InputError, match="b: cannot write: No space left on device; nothing was written"):
        with atomic_files.written(tmp_path / "a", write), atomic_files.written(tmp_path / "b", refuse):
            pass
    assert (tmp_path / "a").read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]
