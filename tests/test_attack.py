"""Files made to hang, crash or swell whoever reads them are refused in one line, in time and in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import benchmark
import ICMR
import report
from attack.__main__ import attack
from attack.formats import FORMATS, installed
from attack.hostile_pickles import HOSTILE
from benchmarks import compare
from common import json_text
from common.errors import InputError, one_line
from exporting.card import read_metrics
from formats import hdf5_structure
from load_data import load_dataset

ROOT = Path(__file__).resolve().parent.parent
MUTANTS = 100  # of each format

READ_ALL = """
import json, resource, sys, time
from pathlib import Path
from common.errors import InputError, one_line
from formats.pickles import read_pickle

megabytes = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
for path in map(Path, sys.argv[1:]):
    started, before = time.process_time(), megabytes()
    try:
        read_pickle(path)
        said = "read"
    except InputError as error:
        said = str(error)
    print(json.dumps([said, time.process_time() - started, megabytes() - before]), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="measures memory as POSIX has it")
def test_hostile_pickles_are_refused_in_time_and_in_little_memory(tmp_path):
    marker = tmp_path / "it ran"
    paths = []
    for number, content in enumerate(HOSTILE.values()):
        paths.append(tmp_path / f"{number}.pkl")
        paths[-1].write_bytes(content.replace(b"%s", str(marker).encode()))
    result = subprocess.run([sys.executable, "-c", READ_ALL, *map(str, paths)], cwd=ROOT, text=True,
                            capture_output=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]  # a crash has another
    found = dict(zip(HOSTILE, map(json.loads, result.stdout.splitlines()), strict=True))
    assert {name: said for name, (said, *_) in found.items() if said == "read" or "\n" in said} == {}
    assert {name: seconds for name, (_, seconds, _) in found.items() if seconds > 5} == {}
    assert {name: megabytes for name, (*_, megabytes) in found.items() if megabytes > 500} == {}
    assert len(HOSTILE) > 100 and not marker.exists()


def write_damaged(path: Path, offset: int, damage: bytes) -> Path:
    """An HDF5 file with a heap of strings, of which some bytes are others, ``offset`` bytes behind the heap's start."""
    with h5py.File(path, "w") as file:
        for split in ("train", "query", "retrieval"):
            file[f"{split}/image"] = file[f"{split}/text"] = np.ones((4, 3), np.float32)
            file[f"{split}/caption"] = np.array([f"words {row}" for row in range(4)], dtype=h5py.string_dtype())
    content = bytearray(path.read_bytes())
    start = content.index(b"GCOL") + offset
    content[start:start + len(damage)] = damage
    path.write_bytes(content)
    return path


def test_an_hdf5_file_without_an_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5_structure, "SECONDS", 2)
    path = write_damaged(tmp_path / "x.h5", 16 + 3 * 24, bytes(16))  # the third object has no size and follows itself
    with pytest.raises(InputError, match=r"x.h5: cannot be read .*structure has no end within 2 seconds\); expected"):
        load_dataset(path)


def test_an_hdf5_file_that_asks_for_gigabytes_is_refused_without_them():
    outcome = attack("HDF5", first=1759, count=1, until=time.monotonic() + 100)  # a damaged heap of strings
    assert outcome == {"refused": 1} and outcome.memory < 500 << 20


def test_a_reader_of_hdf5_that_dies_is_started_again(tmp_path, monkeypatch):
    sound, crashing = tmp_path / "sound.h5", tmp_path / "crashing.h5"
    for path in (sound, crashing):
        with h5py.File(path, "w") as file:
            file["image"] = file["text"] = np.ones((4, 3), np.float32)
    walker = hdf5_structure._walker
    monkeypatch.setattr(hdf5_structure, "__file__", "/dev/null")  # a program that ends at once, as one that crashes
    walker.cache_clear()
    with pytest.raises(ValueError, match="the HDF5 library crashes"):
        hdf5_structure.check_structure(crashing)
    monkeypatch.undo()
    hdf5_structure.check_structure(sound)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_standard_error_leaves_the_status(tmp_path):
    with open("/dev/full", "w") as full:
        result = subprocess.run([sys.executable, "load_data.py", str(tmp_path / "none")], cwd=ROOT, stderr=full)
    assert result.returncode == 2


def test_long_names_are_shortened_in_the_middle():
    line = one_line(f"no data set '{'x' * 2000}yz': found\nnothing; expected one")
    assert len(line) < 200 and line.startswith("no data set 'xxx") and line.endswith("xyz': found nothing; expected one")
    assert len(one_line("word " * 2000)) == 400


def test_a_message_gives_the_terminal_no_orders():
    assert one_line("a\x1b[31m.png:\nno \u202eimage") == "a\ufffd[31m.png: no \ufffdimage"


def test_damaged_files_are_read_or_refused_in_one_line():
    names = installed()
    outcome = attack(",".join(names), first=0, count=MUTANTS * len(names), until=time.monotonic() + 300)
    assert outcome.examples == {}
    assert outcome.total() > 10 * len(names), "too slow to test anything"
    if missing := FORMATS.keys() - names:
        pytest.skip(f"without {', '.join(missing)}, whose packages are not installed")


def test_edited_metrics_are_refused_by_all_who_read_them(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(json_text.sealed({"final": {"16": {"unpaired": {}}}})).replace("16", "32"))
    for read in (lambda: report.main.__wrapped__([str(tmp_path)]), lambda: compare.read(path),
                 lambda: ICMR.Config.read(path), lambda: read_metrics(path, {}, [16], ())):
        with pytest.raises(InputError, match=r"metrics.json: edited or damaged since it was written"):
            read()


def test_metrics_nested_without_end_are_refused(tmp_path, capsys):
    (tmp_path / "metrics.json").write_text("[" * 100_000 + "]" * 100_000)
    for main, *arguments in ((report.main, tmp_path), (benchmark.main, "compare", tmp_path, tmp_path / "metrics.json"),
                             (ICMR.main, "--config", tmp_path / "metrics.json")):
        with pytest.raises(SystemExit) as stop:
            main([*map(str, arguments)])
        said = capsys.readouterr().err
        assert stop.value.code == 2 and said.count("\n") == 1 and "metrics.json" in said
