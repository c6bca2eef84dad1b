"""An index in memory that answers queries while new versions of it are written."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import UNSET
from PIL import Image
from starlette.exceptions import HTTPException

from common.errors import InputError, listing
from extraction import encoders
from indexing import nearest
from indexing.folder import MANIFEST
from indexing.index import Encoded, Hits, Index
from serving.messages import MAX_RANKED, Hit, SearchRequest, SearchResponse

MODALITIES = ("image", "text")
MAX_PIXELS = 50_000_000
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_CACHED_TEXTS, MAX_CACHED_ITEMS, MAX_CACHED_FILTERS = 1024, 100_000, 64
MAX_VALUES = 200  # different ones of a column, to be offered as a filter
SECONDS_BETWEEN_LOOKS, SECONDS_BETWEEN_TRIES = 1.0, 3.0  # for a new version, and after one that couldn't be loaded


@dataclass(frozen=True, eq=False)
class Query:
    """A request with the version that answers it, which is the one that was there when it came."""

    version: Version
    request: SearchRequest
    features: dict[str, np.ndarray] | None = None  # by modality, (d,); None for an item

    @property
    def key(self) -> tuple:
        """The same of queries that one search can answer together."""
        request = self.request
        return (id(self.version), request.item is None, *(self.features or ()), request.topk, request.radius,
                request.bits, request.rerank, request.rescore,
                None if request.filter is None else msgspec.json.encode(request.filter))


class Version:
    """A version of an index in memory, with what encodes its queries.

    :meth:`search` is for one thread, and :meth:`features` for one thread for each modality.
    """

    def __init__(self, folder: Path, model: str | None = None, before: Version | None = None):
        """Load the index. Raises InputError if there is none or it is damaged.

        Args:
            model: where the encoder of the index's features is now, if it isn't where the index says.
            before: the version before, whose encoders are taken if they are the right ones.
        """
        self.index = index = Index.load(folder)
        # Copies, since overwriting a file in its place would end a process that has mapped it.
        index.codes = index.searcher.codes = np.array(index.codes)
        index.ids = np.array(index.ids)
        if index.outputs is not None:
            index.outputs = np.array(index.outputs)
        if index.items is not None:
            index.items = index.items.take(np.arange(len(index)))
        self.columns = [] if index.items is None else index.items.column_names
        self.made_by = index.about["source"].get("encoders")
        if before is not None and before.made_by == self.made_by:
            self.encoders = before.encoders
        else:
            self.encoders = {modality: _encoder(self.made_by, modality, model) for modality in MODALITIES}
        self.parts: dict[tuple, Index | None] = {}
        self.texts: dict[str, np.ndarray] = {}
        self.described: dict[int, msgspec.Raw] = {}
        self.search([Query(self, SearchRequest(item=int(index.ids[0])))])  # compiles the loops, once

    @property
    def widths(self) -> dict[str, int]:
        """The size of the features of each modality."""
        if self.index.heads is not None:
            return self.index.heads.widths
        return {modality: self.index.model.settings[f"{modality}_dim"] for modality in MODALITIES}

    def has(self, item: int) -> bool:
        """Whether there is an item of this id."""
        row = np.searchsorted(self.index.ids, item)
        return row < len(self.index) and self.index.ids[row] == item

    def check(self, query: Query) -> None:
        """Raise HTTPException or InputError for a query that this version can't answer."""
        index, request = self.index, query.request
        bits = index.check_length("bits", request.bits)
        if request.item is not None and not self.has(request.item):
            raise HTTPException(404, f"item {request.item}: not in the index")
        if request.radius is not None and request.radius > bits:
            raise InputError(f"radius {request.radius}: expected 0 to {bits}, the length of the codes")
        for name in ("rerank", "rescore"):
            number = getattr(request, name)
            if number is not None and request.radius is not None:
                raise InputError(f"{name} and radius: give one of them; a radius has no best N")
            if number is not None and number < (request.topk or 10):
                raise InputError(f"{name} {number}: expected at least topk, which is {request.topk or 10}")

    # --- searching ------------------------------------------------------------------------------------

    def search(self, queries: Sequence[Query]) -> list[bytes]:
        """The answers, in JSON, to checked queries of the same key. Raises InputError for unsound features."""
        request = queries[0].request
        index = self._searched(request)
        if index is None:  # no item has the values of the filter
            found = [Hits(np.empty(0, np.int64), np.empty(0, np.int32))] * len(queries)
        else:
            found = self._nearest(index, queries)
        return [self._answer(query.request, hits) for query, hits in zip(queries, found)]

    def _nearest(self, index: Index, queries: Sequence[Query]) -> list[Hits]:
        request, by_item = queries[0].request, queries[0].features is None
        if by_item:
            rows = np.searchsorted(self.index.ids, [query.request.item for query in queries])
            bits = np.unpackbits(self.index.codes[rows], axis=1, count=index.bits, bitorder="little")
            codes = 2 * bits.view(np.int8) - 1
            stored = self.index.outputs[rows] if request.rescore and self.index.outputs is not None else codes
            encoded = Encoded(codes, stored.astype(np.float32))
        else:
            encoded = index.encode(**{name: np.stack([query.features[name] for query in queries])
                                      for name in queries[0].features})
        topk = request.topk or (10 if request.radius is None else MAX_RANKED)
        wanted = min(topk + by_item, len(index))  # one more, in place of the item itself
        best = {name: None if number is None else min(number + by_item, len(index))
                for name, number in (("rerank", request.rerank), ("rescore", request.rescore))}
        found = index.query_encoded(encoded, wanted, bits=request.bits, **best).each()
        for place, hits in enumerate(found):
            kept = np.ones(len(hits.id), bool) if request.radius is None else hits.distance <= request.radius
            if by_item:
                kept &= hits.id != queries[place].request.item
            found[place] = Hits(*(None if array is None else array[kept][:topk] for array in hits))
        return found

    def _searched(self, request: SearchRequest) -> Index | None:
        """The index, or its part that the filter leaves; exact for a radius. None if nothing is left."""
        exact = request.radius is not None and self.index.about["kind"] != "flat"
        if request.filter is None and not exact:
            return self.index
        key = exact, None if request.filter is None else msgspec.json.encode(request.filter)
        if key not in self.parts:
            rows = self.rows(request.filter) if request.filter is not None else slice(None)
            self.parts[key] = part = copy.copy(self.index)
            part.codes, part.ids, part.narrow = self.index.codes[rows], self.index.ids[rows], {}
            part.outputs = None if self.index.outputs is None else self.index.outputs[rows]
            part.about = {**self.index.about, "kind": "flat", "count": len(part.ids)}
            part.searcher = nearest.Flat(part.codes)
            if not len(part.ids):
                self.parts[key] = None
            while len(self.parts) > 1 and (len(self.parts) > MAX_CACHED_FILTERS or sum(
                    len(part) for part in self.parts.values() if part is not None) > len(self.index)):
                del self.parts[next(iter(self.parts))]  # the oldest
        return self.parts[key]

    def rows(self, wanted: dict) -> np.ndarray:
        """The rows of the items whose columns have the wanted values. Raises InputError if no column can have them."""
        kept = np.ones(len(self.index), bool)
        for name, values in wanted.items():
            if name not in self.columns:
                raise InputError(f"filter: no column {name!r:.100}; the index has {listing(self.columns)}")
            column, values = self.index.items[name], values if isinstance(values, list) else [values]
            try:
                if pa.types.is_integer(column.type) and any(
                        isinstance(value, float) and not value.is_integer() for value in values):
                    raise ValueError  # pa.array would cut it down to a whole number
                kept &= pc.is_in(column, pa.array(values, column.type)).to_numpy()
            except (pa.ArrowException, TypeError, ValueError, OverflowError):
                raise InputError(f"filter: {name} is of type {column.type}; expected values of that type") from None
        return np.flatnonzero(kept)

    def _answer(self, request: SearchRequest, hits: Hits) -> bytes:
        stop = len(hits.id) if request.limit is None else request.offset + request.limit
        ids, distances = hits.id[request.offset:stop].tolist(), hits.distance[request.offset:stop].tolist()
        scores = [UNSET] * len(ids) if hits.score is None else hits.score[request.offset:stop].round(4).tolist()
        answers = [Hit(request.offset + place, *fields) for place, fields in enumerate(
            zip(ids, distances, self.describe(ids), scores), start=1)]
        return msgspec.json.encode(SearchResponse(len(hits.id), request.offset, answers))

    def describe(self, ids: list[int]) -> list[msgspec.Raw]:
        """The columns of items, a JSON object each."""
        described = self.described  # another thread may begin a new one
        unknown = [item for item in ids if item not in described]
        if len(described) + len(unknown) > MAX_CACHED_ITEMS:
            described, unknown = {}, ids
            self.described = described
        if unknown:
            for item, columns in zip(unknown, self.index.describe(np.array(unknown))):
                described[item] = msgspec.Raw(msgspec.json.encode(columns))  # NaN becomes null
        return [described[item] for item in ids]

    def values(self) -> dict[str, list]:
        """The values, by column, of the columns of words and whole numbers that have few different ones; sorted."""
        found = {}
        for name in self.columns:
            kind = self.index.items[name].type
            if not (pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
                continue
            values = pc.unique(self.index.items[name]).drop_null()
            if 1 < len(values) <= min(MAX_VALUES, len(self.index) // 2):
                found[name] = sorted(values.to_pylist())
        return found

    # --- encoding -------------------------------------------------------------------------------------

    def features(self, modality: str, items: Sequence) -> list[np.ndarray]:
        """The features (d,) of texts, or of pictures given as the bytes of their files.

        Raises HTTPException 501 if the encoder isn't here, and InputError for what can't be encoded.
        """
        encoder = self.encoders[modality]
        if isinstance(encoder, InputError):
            raise HTTPException(501, f"{modality} queries: {encoder}")
        if modality == "image":
            return list(encoder([open_picture(item) for item in items]))
        if new := list(dict.fromkeys(text for text in items if text not in self.texts)):
            features = dict(zip(new, encoder(new)))
        else:
            features = {}
        answers = [features[text] if text in features else self.texts[text] for text in items]
        self.texts |= features  # the pages of one ranking ask for one text
        while len(self.texts) > MAX_CACHED_TEXTS:
            del self.texts[next(iter(self.texts))]
        return answers


def open_picture(content: bytes) -> Image.Image:
    """A picture, its pixels not read yet. Raises HTTPException 413 if it has too many, 400 if it is none."""
    try:
        picture = Image.open(BytesIO(content), formats=PICTURE_FORMATS)
    except Image.DecompressionBombError:
        raise HTTPException(413, f"the picture: more than {MAX_PIXELS:,} pixels; make it smaller") from None
    except Exception:  # Pillow's readers raise whatever damaged files make them
        raise HTTPException(400, f"the picture: can't be read; expected {', '.join(PICTURE_FORMATS)}") from None
    if picture.width * picture.height > MAX_PIXELS:
        raise HTTPException(413, f"the picture: {picture.width:,} x {picture.height:,} pixels; expected at most "
                                 f"{MAX_PIXELS:,}")
    return picture


def _encoder(recorded: str | None, modality: str, model: str | None) -> encoders.Encoder | InputError:
    """The encoder that made the features of an index, as the index names it, warm, or why it isn't here."""
    if recorded is None:
        return InputError("the index doesn't say which encoder made its features; search with items, or with features "
                          "of the same encoder")
    try:
        encoder = encoders.like(recorded, modality, model)
        encoder([Image.new("RGB", (encoders.IMAGE_SIZE, encoders.IMAGE_SIZE)) if modality == "image" else "warm"])
        return encoder
    except InputError as error:
        return InputError(str(error).removeprefix(f"--{modality}: "))


# --- new versions -------------------------------------------------------------------------------------


class LiveIndex:
    """The newest version of an index folder.

    Attributes:
        problem: why no newer version could be loaded, None if there is none.
    """

    def __init__(self, folder: Path, model: str | None = None):
        """Load the index. Raises InputError as :class:`Version`."""
        self.folder, self.model = folder, model
        self.problem: str | None = None
        self.mark = self._mark()
        self.version: Version | None = Version(folder, model)

    def current(self) -> Version:
        """The newest version. Raises HTTPException 503 if the index has been removed."""
        if self.version is None:
            raise HTTPException(503, self.problem, {"Retry-After": "5"})
        return self.version

    async def follow(self) -> None:
        """Load each new version when it is there, until cancelled; the old one answers in the meantime."""
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS if self.problem is None else SECONDS_BETWEEN_TRIES)
            mark = self._mark()
            if mark is None:
                self.version, self.mark = None, None
                self.problem = "the index has been removed; build it again"
            elif mark != self.mark:
                try:
                    self.version = await asyncio.to_thread(Version, self.folder, self.model, self.version)
                    self.mark, self.problem = mark, None
                except Exception as error:  # whatever it is, the service goes on
                    self.problem = str(error) or type(error).__name__
            else:
                self.problem = None  # the version that is served is the one that is there, perhaps again

    def _mark(self) -> tuple | None:
        """Changes with every version; None without an index."""
        try:
            found = (self.folder / MANIFEST).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size
