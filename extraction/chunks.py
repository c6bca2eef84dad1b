"""Pictures and their texts encoded in chunks, each of which is on the disk before the next one is written.

A chunk is a file of its own in a folder beside the data set that is made, so that a run that was killed loses at most
one chunk, and the features never lie in memory together. Each chunk has a digest of what it is made from: the pictures
(of a file its name, size and time of change, of a member of an archive its checksum, else its pixels), the captions,
the encoders and the settings. Where that is the same, a later run takes it as it is, and else makes it again. No batch
crosses the border between two chunks, so that an item's features don't depend on where a run was interrupted.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import itertools
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from common.atomic_files import write_atomically
from common.errors import InputError
from extraction.download import File
from extraction.encoders import Encoder, Encoders, pictures, upright

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK = 256  # pictures: up to a minute of EfficientNet-Lite0 or CLIP ViT-B/32 on two cores; whole batches of all sizes
MAX_THREADS = 16


class Task(NamedTuple):
    """A picture to be encoded."""

    chunk: int
    row: int
    source: File | Path | Image


class Prepared(NamedTuple):
    """A picture as the encoders take it, or why there is none."""

    task: Task
    identity: str
    pixels: list | None  # of each encoder what it takes
    problem: str = ""


class Chunk(NamedTuple):
    """What a file of a chunk holds."""

    digest: str
    kept: np.ndarray  # (rows of the chunk,) bool: the pictures that could be read
    problems: list[str]  # of the others
    features: list[tuple[np.ndarray, np.ndarray]]  # float16 of each encoder: image (kept, d), text (captions, d)


def encode(sources: Iterable[File | Path | Image], captions: Sequence[Sequence[str]], names: Sequence[str],
           encoders: Sequence[Encoders], mean: bool, strict: bool, folder: Path) -> list[Path]:
    """Encode pictures with their captions; returns the files of the chunks, in order.

    Args:
        sources: n pictures, taken one after the other; they are decoded in threads.
        captions: of each picture, at least one.
        names: of each picture, for messages.
        encoders: all make features of each picture, which is decoded once.
        mean: the text features of a picture are the mean of those of its captions.
        strict: refuse a picture that can't be read instead of leaving it out.
        folder: of the chunks; those that are there already and fit aren't made again.

    Raises InputError if a picture is refused or the disk is full. What is finished stays in the folder.
    """
    settings = [[each.names, each.attributes, each.image.batch, each.text.batch] for each in encoders]
    settings += [mean, CHUNK, pictures.max_pixels]
    slices = [slice(start, start + CHUNK) for start in range(0, len(captions), CHUNK)]
    files = [folder / f"{number:06}.npz" for number in range(len(slices))]

    def digest(number: int, identities: Iterable[str]) -> str:
        entries = [settings, [list(texts) for texts in captions[slices[number]]], list(identities)]
        return hashlib.sha256(json.dumps(entries).encode("utf-8", "surrogatepass")).hexdigest()

    sources = iter(sources)
    ahead = 2 * max(each.image.batch for each in encoders)
    prepare = functools.partial(_prepare, names=names, encoders=encoders)
    with (tqdm(total=len(captions), desc="pictures", unit="", disable=None) as progress,
          contextlib.closing(in_threads(prepare, _unfinished(sources, len(captions), files, digest, progress), ahead))
          as prepared):
        for number, of_chunk in itertools.groupby(prepared, key=lambda each: each.task.chunk):
            chunk = _encode_chunk(of_chunk, captions[slices[number]], encoders, mean, strict,
                                  functools.partial(digest, number), progress)
            try:
                write_atomically(files[number], functools.partial(_write, chunk))
            except InputError as error:
                raise InputError(f"{error}; the chunks that are finished are kept: make room and run the same command "
                                 f"again") from error
    if next(sources, None) is not None:
        raise ValueError(f"more pictures than the {len(captions)} lists of captions")
    return files


def read(file: Path) -> Chunk:
    """The content of the file of a chunk. Raises ValueError or another error if it is damaged or none."""
    with np.load(file, allow_pickle=False) as arrays:
        encoders = sum(name.startswith("image_") for name in arrays.files)
        return Chunk(str(arrays["digest"]), arrays["kept"], arrays["problems"].tolist(),
                     [(arrays[f"image_{number}"], arrays[f"text_{number}"]) for number in range(encoders)])


def _write(chunk: Chunk, file) -> None:
    features = {f"{modality}_{number}": array for number, both in enumerate(chunk.features)
                for modality, array in zip(("image", "text"), both)}
    np.savez(file, digest=chunk.digest, kept=chunk.kept, problems=np.array(chunk.problems, str), **features)


# --- what is to be done ---------------------------------------------------------------------------------------------


def _unfinished(sources: Iterator, count: int, files: list[Path], digest: Callable, progress: tqdm) -> Iterator[Task]:
    """The pictures of the chunks that aren't there yet; says if there are any that are, and if some don't fit."""
    reused = remade = False
    for number, file in enumerate(files):
        rows = range(number * CHUNK, min((number + 1) * CHUNK, count))
        of_chunk = itertools.islice(sources, len(rows))
        if file.exists():
            of_chunk = list(of_chunk)
            if _digest_of(file) == digest(number, map(_identity, of_chunk)):
                if not reused:
                    progress.write(f"{file.parent}: an earlier run is resumed", sys.stderr)
                reused = True
                if not progress.disable:
                    progress.initial += len(rows)  # which took no time
                    progress.update(len(rows))
                continue
            if not remade:
                progress.write(f"{file.parent}: there are chunks of other or changed pictures, captions, encoders or "
                               f"settings, or damaged ones; they are made anew", sys.stderr)
            remade = True
        found = 0
        for found, (row, source) in enumerate(zip(rows, of_chunk), 1):
            yield Task(number, row, source)
        if found < len(rows):
            raise ValueError(f"{rows.start + found} pictures for {count} lists of captions")


def _digest_of(file: Path) -> str | None:
    """The digest that the file of a chunk has; None if it is damaged."""
    try:
        return read(file).digest
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _identity(source: File | Path | Image) -> str:
    """What changes when a picture does."""
    try:
        if isinstance(source, File) and source.member is not None:
            info = source.info()
            return f"{source} {info.file_size} {info.CRC}"
        if isinstance(source, (File, Path)):
            about = os.stat(str(source))
            return f"{source} {about.st_size} {about.st_mtime_ns}"
        return f"{source.size} {source.mode} {hashlib.sha256(source.tobytes()).hexdigest()}"
    except Exception as error:  # it isn't there or is damaged, which is a problem of its own
        return f"{source if isinstance(source, (File, Path)) else ''} {error}"


# --- pictures -------------------------------------------------------------------------------------------------------


def in_threads(function: Callable, items: Iterable, ahead: int) -> Iterator:
    """``map(function, items)`` in as many threads as there are processors, in the order of the items.

    The items are taken in the thread of the caller. At most ``ahead`` results are there before they are asked for.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(min(processors, MAX_THREADS))
    try:
        pending: collections.deque[Future] = collections.deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare(task: Task, names: Sequence[str], encoders: Sequence[Encoders]) -> Prepared:
    identity = _identity(task.source)
    try:
        picture = upright(task.source.picture() if isinstance(task.source, File) else task.source)
        return Prepared(task, identity, [each.image.prepare(picture) for each in encoders])
    except Exception as error:  # one odd picture in a hundred thousand is to be named, not to end the work
        said = str(error) if isinstance(error, InputError) else f"can't be prepared ({type(error).__name__}: {error})"
        return Prepared(task, identity, None, said if said.startswith(str(task.source)) else
                        f"{names[task.row]}: {said}")


# --- features -------------------------------------------------------------------------------------------------------


def _encode_chunk(prepared: Iterable[Prepared], captions: Sequence[Sequence[str]], encoders: Sequence[Encoders],
                  mean: bool, strict: bool, digest: Callable, progress: tqdm) -> Chunk:
    identities, kept, problems = [], np.zeros(len(captions), bool), []
    waiting = [[] for _ in encoders]
    images = [[] for _ in encoders]
    for place, each in enumerate(prepared):
        progress.update()
        identities.append(each.identity)
        if each.pixels is None:
            if strict:
                raise InputError(f"--strict: {each.problem}")
            problems.append(each.problem)
            continue
        kept[place] = True
        for encoder, batch, features, pixels in zip(encoders, waiting, images, each.pixels):
            batch.append(pixels)
            if len(batch) == encoder.image.batch:
                features.append(encoder.image.encode(batch))
                batch.clear()
    of_kept = list(itertools.compress(captions, kept))
    both = []
    for encoder, batch, features in zip(encoders, waiting, images):
        if batch:
            features.append(encoder.image.encode(batch))
        both.append((_half(features, encoder), _half(_texts(encoder.text, of_kept, mean), encoder)))
    return Chunk(digest(identities), kept, problems, both)


def _texts(encoder: Encoder, captions: list[Sequence[str]], mean: bool) -> list[np.ndarray]:
    """The features of all captions one after the other, or of each picture the mean of those of its captions."""
    texts = list(itertools.chain.from_iterable(captions))
    if not texts:
        return []
    features = encoder(texts)
    return [mean_features(features, list(map(len, captions)))] if mean else [features]


def mean_features(features: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """The means of runs of rows, (m, d) to (n, d): of the first ``counts[0]`` rows, of the next ``counts[1]``, ...

    The mean of rows of unit length is brought to unit length again, unless they cancel each other.
    """
    means = np.add.reduceat(features, np.cumsum([0, *counts[:-1]])) / np.asarray(counts, features.dtype)[:, None]
    if np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-3):
        length = np.linalg.norm(means, axis=1, keepdims=True)
        means = np.divide(means, length, out=means, where=length > 1e-6)
    return means


def _half(features: list[np.ndarray], encoders: Encoders) -> np.ndarray:
    """Features as float16. Raises InputError if some are too large for it or aren't numbers."""
    with np.errstate(over="ignore"):
        half = np.concatenate(features).astype(np.float16) if features else np.empty((0, 0), np.float16)
    if not np.isfinite(half).all():
        raise InputError(f"{encoders.names}: gives features that are not finite as float16")
    return half
