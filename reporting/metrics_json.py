"""``metrics.json`` read back: what its fields must be, as types that msgspec checks.

The file of an older version, or of a training of benchmark.py, may lack some of them: whoever needs one says so. What
reporting/page.py only prints has no type here.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from common import json_text
from common.errors import InputError

Count = Annotated[int, Meta(ge=0)]
Number = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
Figure = Annotated[float, Meta(ge=-1e6, le=1e6)]
Length = Annotated[str, Meta(pattern="^([1-9][0-9]{0,4}|real)$")]  # of codes, or real-valued embeddings
Directions = dict[str, dict[str, Figure]]  # by direction and measure
Drawn = Annotated[float, Meta(ge=-1e100, le=1e100)]  # far below where the arithmetic of a figure overflows
Setting = bool | int | Number | str | list[bool | int | Number | str] | None


class Sizes(Struct):
    train: Count
    query: Count
    retrieval: Count
    query_texts: Count | UnsetType = UNSET  # where images have several texts
    retrieval_texts: Count | UnsetType = UNSET


class Trained(Struct):
    config: dict[str, Setting]
    chosen: dict[str, Any]


class Figures(Struct):
    unpaired: Directions | UnsetType = UNSET
    paired: Directions | UnsetType = UNSET
    partners: Directions | UnsetType = UNSET
    quantization_error: Figure | UnsetType = UNSET
    bit_balance: Figure | UnsetType = UNSET


class Histogram(Struct):
    edges: list[Drawn]
    share: list[Drawn]


class Curves(Struct):
    code_histogram: Histogram | UnsetType = UNSET
    unpaired: dict[str, dict[str, list[Drawn]]] | UnsetType = UNSET


class Metrics(Struct, kw_only=True):
    dataset: str | UnsetType = UNSET
    commit: str | None = None
    code: str | None = None
    fingerprint: str
    sizes: Sizes | UnsetType = UNSET
    config: dict[str, Setting] | UnsetType = UNSET
    settings: dict[str, Setting] | UnsetType = UNSET
    trained: dict[Length, Trained] | UnsetType = UNSET
    environment: dict[str, Setting]
    final: dict[Length, Figures]
    history: list[dict[str, Count | Figures]] | UnsetType = UNSET
    curves: dict[Length, Curves] | UnsetType = UNSET
    epochs: list[dict[str, Drawn]] | UnsetType = UNSET


def read(path: Path) -> dict:
    """What the file says.

    Raises:
        OSError: it can't be read; ValueError: it isn't JSON in UTF-8.
        InputError: it was edited or damaged, or a field of it, which the message names, is not what it must be.
    """
    found = json_text.read(path)
    try:
        if not (isinstance(found, dict) and "skipped" in found):  # a method that can't be trained on some data
            msgspec.convert(found, Metrics)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        where = re.sub(r"[`$]", "", where).strip(".") or "the file"
        raise InputError(f"{path}: {where}: {what}; expected the metrics of a finished run of this version; run it "
                         f"again") from None
    return found
