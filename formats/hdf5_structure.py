"""Follows every link of an HDF5 file once, in a process of its own.

The HDF5 library can follow the links of a damaged file round in circles for ever (heaps of strings above all, indexes of
groups and of chunks), or crash, and nothing but the end of its process stops it. So a process that can be ended goes
first: this file, run as a program, which reads everything but the numbers themselves. It is started for the first file
and waits for more.
"""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import sys
import threading
from pathlib import Path

SECONDS = 15  # for any file, and another for each BYTES_A_SECOND
BYTES_A_SECOND = 20_000_000
SPARE_BYTES = 1 << 30  # of memory, beyond four times the file
ROWS = 4096  # strings read at once


def check_structure(path: Path) -> None:
    """Raise ValueError if the HDF5 library doesn't come to an end with a file, crashes, or can't read text or attributes
    in it, for which a damaged file can ask gigabytes. A file that was found sound isn't looked at again until it changes.
    """
    about = os.stat(path)
    _check(os.path.realpath(path), about.st_ino, about.st_size, about.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _check(path: str, _inode: int, size: int, _changed: int) -> None:
    seconds = SECONDS + size // BYTES_A_SECOND
    with _one_at_a_time:
        walker = _walker(os.getpid())
        late = threading.Timer(seconds, walker.kill)
        late.start()
        try:
            walker.stdin.write(os.fsencode(path).hex().encode() + b"\n")
            walker.stdin.flush()
            done = walker.stdout.readline()
        except OSError:
            done = b""
        finally:
            too_late = not late.is_alive()
            late.cancel()
        if done == b"sound\n":
            return
        if done:
            raise ValueError(bytes.fromhex(done.decode()).decode())
        walker.kill()
        walker.communicate()
        _walker.cache_clear()
    raise ValueError(f"its structure has no end within {seconds} seconds" if too_late else
                     "the HDF5 library crashes on its structure")


_one_at_a_time = threading.Lock()


@functools.lru_cache(maxsize=1)
def _walker(_pid: int) -> subprocess.Popen:
    """The process that walks for this one; after a fork there is another."""
    walker = subprocess.Popen([sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})
    atexit.register(walker.kill)
    return walker


# --- what the process does ------------------------------------------------------------------------------------------


def main() -> None:
    """Walk through the files whose paths come, one a line, until there are no more; say of each when it is done."""
    for line in sys.stdin.buffer:
        path = os.fsdecode(bytes.fromhex(line.decode()))
        _limit_memory(SPARE_BYTES + 4 * os.path.getsize(path))
        try:
            _walk(path)
            said = "sound"
        except (OSError, MemoryError) as error:
            said = str(error).encode().hex()
        except Exception:
            said = "sound"  # what h5py has no type for
        print(said, flush=True)


def _limit_memory(size: int) -> None:
    try:
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, ValueError, OSError):
        pass  # Windows has no such limit, and macOS may refuse it


def _walk(path: str) -> None:
    import h5py  # here, as the process that checks has it already

    found: list[h5py.HLObject] = []
    with h5py.File(path, "r") as file:
        dict(file.attrs)
        file.visititems(lambda _name, item: found.append(item))
        for item in found:
            try:
                _walk_item(item)
            except (OSError, MemoryError) as error:
                raise OSError(f"{item.name.removeprefix('/')}: {error or 'out of memory'}") from error
            except Exception:
                pass  # what h5py has no type for


def _walk_item(item) -> None:
    import h5py

    dict(item.attrs)
    if isinstance(item, h5py.Dataset) and item.shape and not item.external and not item.is_virtual:
        if item.chunks:
            item.id.chunk_iter(lambda _chunk: None)
        if item.dtype.hasobject:  # strings of many lengths, and references
            for start in range(0, item.shape[0], ROWS):
                item[start:start + ROWS]


if __name__ == "__main__":
    main()
