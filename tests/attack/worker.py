"""Damages samples of a format and reads them, one seed after the other; prints a line of JSON for each: what came of
it, its seed, a detail, the seconds it took, and by how many bytes the memory grew beyond the file's size.
``python -m attack.worker FORMAT[,...] FIRST_SEED END FOLDER``, started by ``attack.__main__``. Several formats take
turns.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import time
from pathlib import Path

from attack.formats import FORMATS, Format
from common.errors import MESSAGE, InputError, one_line
from formats import hdf5_structure

SPARE_BYTES = 500 << 20  # of memory that a file may take beyond four times its size
ENDLESS = 3  # seconds until an HDF5 file counts as one without an end, of which one in a hundred is: else they take all
STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux; elsewhere no memory is measured


def main(names: list[str], first: int, end: int, folder: Path) -> None:
    hdf5_structure.SECONDS = ENDLESS
    samples = {name: samples_of(FORMATS[name], folder / name) for name in names}
    marker = folder / "it ran"
    noise = open(folder / "noise", "w+b")
    os.dup2(noise.fileno(), 2)  # what libraries write there is another line to the one that is promised
    for turn in range(first, end):
        seed, name = turn // len(names), names[turn % len(names)]
        form = FORMATS[name]
        path, size = damaged(form, samples[name][seed % len(samples[name])], folder / "damaged", (name, seed), marker)
        noise.seek(0)
        noise.truncate()
        before, started = forget_peak(), time.monotonic()
        outcome, detail = classify(form, path)
        seconds, grown = time.monotonic() - started, peak() - before
        noise.seek(0)
        if marker.exists():
            marker.unlink()
            outcome = "code ran"
        elif outcome in ("read", "refused") and grown > SPARE_BYTES + 4 * size:
            outcome, detail = "memory", f"{grown >> 20} MB for {size:,} bytes"
        elif outcome in ("read", "refused") and (lines := noise.read().decode("utf-8", "replace").strip()):
            outcome, detail = "noise", lines
        if len(names) > 1:
            detail = f"{name}, seed {seed}: {detail}"
        print(json.dumps([outcome, turn, detail, seconds, max(0, grown - size)]), file=sys.__stdout__, flush=True)


def samples_of(form: Format, folder: Path) -> list[Path]:
    """The samples of a format, each written into a folder of its own. Raises AssertionError if one can't be read, which
    would test nothing.
    """
    samples = []
    for number, write in enumerate(form.samples):
        (folder / f"{number}").mkdir(parents=True)
        samples.append(write(folder / f"{number}"))
        if (found := classify(form, samples[-1])) != ("read", ""):
            raise AssertionError(f"a sample that can't be read: {found}")
    return samples


def damaged(form: Format, sample: Path, target: Path, seed: object, marker: Path) -> tuple[Path, int]:
    """A copy of a sample with one file damaged, and the bytes of that file."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    copy = target / sample.name
    shutil.copytree(sample, copy) if sample.is_dir() else shutil.copy(sample, copy)
    files = sorted(file for file in copy.rglob("*") if file.is_file()) if copy.is_dir() else [copy]
    file = files[seed[1] // len(form.samples) % len(files)]
    fragments = tuple(fragment.replace(b"%s", str(marker).encode()) for fragment in form.fragments)
    content = form.damage(file.read_bytes(), seed, fragments)
    file.write_bytes(content)
    return copy, len(content)


def classify(form: Format, path: Path) -> tuple[str, str]:
    """What comes of reading a file."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            form.read(path)
        return "read", ""
    except InputError as error:
        said = one_line(error)
        return ("refused", "") if 20 < len(said) <= MESSAGE else ("a poor message", said)
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {error}"


def forget_peak() -> int:
    """The memory of this process, in bytes, from which its next peak is counted; 0 where it can't be."""
    if not PEAK.exists():
        return 0
    PEAK.write_text("5")
    return status("VmRSS")


def peak() -> int:
    return status("VmHWM") if PEAK.exists() else 0


def status(key: str) -> int:
    return next(int(line.split()[1]) << 10 for line in STATUS.read_text().splitlines() if line.startswith(key))


if __name__ == "__main__":
    main(sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
