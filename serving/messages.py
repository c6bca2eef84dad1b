"""What a client of the service asks and what it is answered, as types that check, write and document themselves."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.exceptions import HTTPException

from extraction import encoders

MAX_RANKED = 1000  # items in one ranking
MAX_CHARACTERS = 10_000  # of a text query; encoders look at the first few hundred words
Checked = TypeVar("Checked")
Value = str | int | float | bool | None
Filter = Annotated[dict[str, Value | list[Value]], Meta(
    description="take only the items whose columns have these values, or one of the values of a list, such as "
                '{"category": "animals"}; the others are left out before the search')]


class SearchRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """A query, one of ``text``, ``item`` and ``features``, and how to rank. A picture is a body of its own."""

    text: Annotated[str, Meta(max_length=MAX_CHARACTERS, description="words to search with")] | None = None
    item: Annotated[int, Meta(ge=0, le=2 ** 63 - 1, description="the id of an item, whose code is searched with; the "
                                                                "item itself is left out")] | None = None
    features: Annotated[dict[Literal["image", "text"], list[float]], Meta(
        description="the features of an image, a text or both, made by the encoders of the index")] | None = None
    topk: Annotated[int, Meta(ge=1, le=MAX_RANKED, description="how many items are ranked (default: 10, with radius "
                                                               f"{MAX_RANKED})")] | None = None
    radius: Annotated[int, Meta(ge=0, description="of these only the items within this Hamming distance; exact for "
                                                  "any kind of index")] | None = None
    bits: Annotated[int, Meta(ge=1, description="compare the first so many bits, one of the lengths of the "
                                                "index")] | None = None
    rerank: Annotated[int, Meta(ge=1, le=MAX_RANKED, description="order the best so many again by the real-valued "
                                                                 "query against the binary codes")] | None = None
    rescore: Annotated[int, Meta(ge=1, le=MAX_RANKED, description="order the best so many again by the real-valued "
                                                                  "copy in the index")] | None = None
    filter: Filter | None = None
    offset: Annotated[int, Meta(ge=0, description="skip the first so many of the ranking")] = 0
    limit: Annotated[int, Meta(ge=0, le=MAX_RANKED, description="answer with so many of the ranking (default: all "
                                                                "after offset)")] | None = None


class ItemsRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which items are to be listed."""

    filter: Filter | None = None
    offset: Annotated[int, Meta(ge=0, le=2 ** 63 - 1, description="skip the first so many")] = 0
    limit: Annotated[int, Meta(ge=0, le=MAX_RANKED, description="list so many")] = 10


class Hit(Struct, omit_defaults=True):
    """An item found."""

    rank: int
    id: int
    distance: Annotated[int, Meta(description="Hamming distance of the codes")]
    columns: msgspec.Raw
    score: Annotated[float, Meta(description="with rerank or rescore, higher is nearer")] | UnsetType = UNSET


class Item(Struct):
    """An item of the index."""

    id: int
    columns: msgspec.Raw


class ItemsResponse(Struct):
    """A part of the items, in the order of their ids."""

    total: int
    offset: int
    items: list[Item]


class SearchResponse(Struct):
    """A part of a ranking."""

    total: Annotated[int, Meta(description="items in the ranking, at most topk")]
    offset: int
    hits: list[Hit]


class Error(Struct):
    """What is wrong, in a sentence."""

    error: str


def from_json(body: bytes) -> SearchRequest:
    """A request from a JSON object. Raises HTTPException 400 if it isn't one."""
    return _checked(lambda: _DECODER.decode(body))


def from_parameters(kind: type[Checked], parameters: Mapping[str, str]) -> Checked:
    """A request of a kind from the parameters of a URL, where ``filter`` and ``features`` are JSON.

    Raises HTTPException 400 if they aren't one.
    """
    def read() -> Checked:
        given: dict[str, Any] = dict(parameters)
        for name in {"filter", "features"} & given.keys():
            given[name] = msgspec.json.decode(given[name])
        return msgspec.convert(given, kind, strict=False)
    return _checked(read)


def words(text: str) -> str:
    """The text of a request. Raises HTTPException 400 if there is nothing in it, or half a character."""
    if not text.strip():
        raise HTTPException(400, "text: empty; give some words")
    if not encoders.is_unicode(text):
        raise HTTPException(400, "text: half of a character of two; expected whole ones")
    return text


_DECODER = msgspec.json.Decoder(SearchRequest)


def _checked(read: Callable[[], Checked]) -> Checked:
    try:
        return read()
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        what, _, where = str(error).partition(" - at ")
        where = re.sub(r"[`$]|^`\$\.", "", where).strip(".")
        raise HTTPException(400, f"{where}: {what}" if where else f"the request: {what}") from None
