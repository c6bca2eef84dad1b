"""What the scripts print: lines above a progress bar, and warnings that are printed once."""

from __future__ import annotations

import sys

from tqdm import tqdm

from common import processes


def say(line: str) -> None:
    """Print a line, above the progress bar if there is one."""
    tqdm.write(line)
    sys.stdout.flush()


def warn(line: str) -> None:
    """Print a warning on standard error, once however many processes there are."""
    if not processes.rank():
        print(f"warning: {line}", file=sys.stderr)
