"""Damaged copies of a file: the same for the same seed."""

from __future__ import annotations

import copy
import json
import random
import re

EDGES = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
SIZES = (1, 2, 4, 8, 16, 64, 256)
MARKS = re.compile(rb"TREE|SNOD|HEAP|OHDR|OCHK|FRHP|BTHD|BTLF|GCOL|FAHD|EAHD|PK\x03\x04|PK\x01\x02|PK\x05\x06|NUMPY|"
                   rb"[{}\[\]:\"]|IHDR|IDAT|\xff[\xc0-\xdb]")  # where formats keep what decides how the rest is read

VALUES = (None, True, 0, 1, -1, 2**31, 2**63, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "x", "0", "x" * 5000,
          "\0", "\ud800", [], [[]], [0], {}, {"": None})


def mutant(content: bytes, seed: object, fragments: tuple[bytes, ...] = ()) -> bytes:
    """A damaged copy: half of the time with other values in its JSON, if it has any, and else with other bytes."""
    rng = random.Random(repr(seed))
    return (rng.random() < 0.5 and with_other_values(content, rng)) or with_other_bytes(content, rng, fragments)


def with_other_values(content: bytes, rng: random.Random) -> bytes | None:
    """The content with one to four values replaced, left out or added in its JSON, which is the whole or a line; None
    if there is none.
    """
    lines = content.split(b"\n")
    for piece in (content, *rng.sample(lines, len(lines))):
        try:
            found = json.loads(piece) if piece[:1] in b"{[" else None
        except ValueError:
            continue
        if found:
            for _ in range(rng.choice((1, 1, 2, 4))):
                container, key = somewhere(found, rng)
                if rng.random() < 0.2:
                    del container[key]
                elif isinstance(container, dict) and rng.random() < 0.2:
                    container[rng.choice(("x", "", str(key)[::-1]))] = container[key]
                else:
                    container[key] = copy.deepcopy(rng.choice(VALUES))  # itself it may be changed next
                if not found:
                    break
            return content.replace(piece, json.dumps(found).encode(), 1)
    return None


def somewhere(value: dict | list, rng: random.Random) -> tuple[dict | list, str | int]:
    """A place in JSON: what holds it, and its key there. Not each value is as likely, but each level is."""
    key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
    below = value[key]
    return somewhere(below, rng) if below and isinstance(below, (dict, list)) and rng.random() < 0.8 else (value, key)


def with_other_bytes(content: bytes, rng: random.Random, fragments: tuple[bytes, ...]) -> bytes:
    """The content with one to four changes: bytes zeroed, flipped, copied over others, inserted, cut out, or replaced
    by numbers at the edges of their ranges or by one of the ``fragments``; half of them near a mark of the format.
    """
    damaged = bytearray(content)
    marks = [match.start() for match in MARKS.finditer(content)] or [0]
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not damaged:
            break
        at = rng.choice(marks) + rng.randrange(64) if rng.random() < 0.5 else rng.randrange(len(damaged))
        at, size = min(at, len(damaged) - 1), rng.choice(SIZES)
        other = rng.randrange(len(damaged))
        number = rng.choice(EDGES).to_bytes(8, rng.choice(("little", "big")))
        width = rng.choice((1, 2, 4, 8))
        change = rng.randrange(9 if fragments else 8)
        if change == 0:
            damaged[at:at + size] = bytes(min(size, len(damaged) - at))
        elif change == 1:
            damaged[at] ^= 1 << rng.randrange(8)
        elif change == 2:
            damaged[at:at + size] = damaged[other:other + size]
        elif change == 3:
            damaged[at:at + width] = number[:width]
        elif change == 4:
            damaged[at:at] = damaged[other:other + size]
        elif change == 5:
            del damaged[at:at + size]
        elif change == 6:
            damaged[at:at + size] = rng.randbytes(min(size, len(damaged) - at))
        elif change == 7:
            del damaged[at:]
        else:
            damaged[at:at] = rng.choice(fragments)
    return bytes(damaged)
