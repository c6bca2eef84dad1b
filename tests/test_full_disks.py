"""A disk that takes no more, and output that nobody takes: one line, status 2, and nothing that was there is harmed."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from attack.sandbox import sample
from common.atomic_files import write_atomically
from common.console import Log, say
from common.errors import InputError
from exporting import graphs
from formats.hdf5 import new_hdf5
from model import HashModel
from reporting.run_log import TensorBoardLog

ROOT = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def full_disk(room: int = 0) -> Iterator[None]:
    """Let no file grow beyond some bytes, as on a full disk: Python ignores the signal that comes with it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_disk_that_takes_no_more_harms_no_file():
    outcome = sample("query,add,export,half", first=0, count=20, by="attack.full_disks")
    assert outcome.examples == {}
    assert sum(outcome.values()) > 10, "too slow to test anything"


def run(command: str, folder: Path, room: int | None = None) -> subprocess.CompletedProcess:
    """Run a line of bash in which $LOAD is load_data.py, where no file may have more bytes than there is room for."""
    load = f"{sys.executable} {ROOT / 'load_data.py'}"
    return subprocess.run(["bash", "-c", command.replace("$LOAD", load)], cwd=folder, text=True, capture_output=True,
                          preexec_fn=None if room is None else functools.partial(
                              resource.setrlimit, resource.RLIMIT_FSIZE, (room, room)))


def test_what_a_closed_standard_error_would_say_is_not_said_elsewhere(tmp_path):
    done = run("$LOAD nope 2>&-", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_closed_output_leaves_its_number_to_no_file(tmp_path):
    """The number of a closed stream goes to the next file that is opened, which would then hold what is printed."""
    (tmp_path / "script.py").write_text(f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from common.errors import exit_on_bad_input
@exit_on_bad_input
def main():
    with open("data", "wb"):
        os.write(1, b"said by a library")
        print("said by us")
main()
""")
    done = run(f"{sys.executable} script.py >&- 2>&-", tmp_path)
    assert done.returncode == 0 and (tmp_path / "data").read_bytes() == b""


def test_output_to_a_file_that_may_not_grow_ends_in_one_line(tmp_path):
    done = run(f"$LOAD {ROOT / 'data/openmoji'} >out.txt", tmp_path, room=10)
    assert (done.returncode, done.stderr) == (2, "error: cannot write the output: File too large\n")


def test_a_checkpoint_that_is_refused_says_why(tmp_path):
    with full_disk(5000), pytest.raises(InputError, match="x.pth: cannot write: File too large; nothing was written"):
        write_atomically(tmp_path / "x.pth", lambda file: torch.save({"weights": torch.zeros(3000)}, file))


@pytest.mark.parametrize("room", [0, 500, 3000])
def test_an_hdf5_file_that_is_refused_prints_nothing(room, tmp_path, capfd):
    def write(target) -> None:
        with new_hdf5(target) as file:
            for number in range(20):
                file.create_dataset(f"array {number}", data=np.arange(1000.0), chunks=(100,), compression=9)

    with full_disk(room), pytest.raises(InputError, match="x.h5: cannot write: File too large; nothing was written"):
        write_atomically(tmp_path / "x.h5", write, "w+b")
    gc.collect()  # HDF5 closes what is left
    assert capfd.readouterr() == ("", "")


def test_a_log_that_is_refused_is_named_and_what_went_wrong_first_is_said(tmp_path):
    log = Log()
    with log, full_disk():
        log.keep_in(tmp_path / "log.txt")
        with pytest.raises(InputError, match="log.txt: cannot write: File too large"):
            say("a line")
    log = Log()
    log.keep_in(tmp_path / "log.txt")
    with full_disk(), pytest.raises(InputError, match="^the loss is nan$"), log:
        raise InputError("the loss is nan")


def test_tensorboard_events_that_are_refused_end_in_one_line(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    log = TensorBoardLog(tmp_path / "tensorboard")
    with full_disk(200), pytest.raises(InputError, match="tensorboard: cannot write the TensorBoard events: File too"):
        for epoch in range(1, 100):
            log.write({"epoch": epoch, "loss": 1.0})
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("tensorboard."):
            thread.join(10)
    assert capsys.readouterr().err == ""


def test_a_database_that_is_refused_is_not_begun(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    from exporting.databases import opened

    with full_disk(), pytest.raises(InputError, match="duckdb: .*; what the database had before is unchanged"):
        with opened(f"duckdb:{tmp_path / 'new.db'}"):
            pass
    assert not (tmp_path / "new.db").exists()
    duckdb.connect(str(tmp_path / "old.db")).close()
    before = (tmp_path / "old.db").read_bytes()
    with full_disk(), pytest.raises(InputError), opened(f"duckdb:{tmp_path / 'old.db'}") as database:
        database.execute("CREATE TABLE items (id int)")
        database.execute("CHECKPOINT")
    assert (tmp_path / "old.db").read_bytes() == before


def test_a_program_that_is_refused_is_an_error_of_the_system(tmp_path):
    model = HashModel(7, 5, [4, 8], hidden=6, nested=True)
    with full_disk(10_000), pytest.raises(OSError, match="File too large"):
        graphs.write_program(model, "image", tmp_path / "image.pt2")


def test_safetensors_that_are_refused_are_an_error_of_the_system(tmp_path):
    pytest.importorskip("huggingface_hub"), pytest.importorskip("safetensors")
    from exporting.hub import HubHashModel

    model = HubHashModel(**HashModel(7, 5, [4, 8], hidden=6, nested=True).settings)
    with full_disk(100), pytest.raises(OSError) as refused:
        model.save_pretrained(tmp_path)
    assert refused.value.errno in (errno.EIO, errno.EFBIG)
