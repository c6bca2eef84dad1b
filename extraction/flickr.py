"""Flickr30k (Young et al., TACL 2014) and Flickr8k (Hodosh et al., JAIR 2013): photographs with five captions each.

The captions come as ``results_20130124.token`` or ``Flickr8k.token.txt``, whose lines are a picture's name, ``#``,
the number of the caption, a tab and the caption; on Kaggle as ``captions.txt``, with commas, or ``results.csv``, with
``|``; and inside ``dataset_flickr30k.json`` or ``dataset_flickr8k.json``, which also have the usual split. There are no
labels.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from common.errors import InputError
from extraction.collection import Collection, Lists, Published
from extraction.download import Download, File, Pictures, clean
from extraction.karpathy import karpathy_images

Caption = tuple[str, int, str]  # the picture's name, the caption's number, the caption


def read_flickr(root: Path, title: str, names: tuple[str, ...], published: Published,
                official: Callable[[Download], Lists], without: str = "") -> Collection:
    """The pairs in the order of the pictures' names; captions in the order of their numbers. Raises InputError.

    Args:
        title: of the data set.
        names: of the files that have the captions; the first that is there is read.
        official: reads the published split.
        without: a name that the captions have and that is no picture's in the source.
    """
    download = Download(root)
    file = next((found for name in names for found in download.find(re.escape(name)).values()), None)
    if file is None:
        raise download.missing(" or ".join(names), f"the download of {title}")
    problems: list[str] = []
    captions: dict[str, list[tuple[int, str]]] = {}
    for name, number, text in _captions(file, problems):
        if not (text := clean(text)):
            problems.append(f"{name}: caption {number} is empty and is left out")
        elif name != without:
            captions.setdefault(name, []).append((number, text))
    if not captions:
        raise InputError(f"{file}: no line is a picture's name and a caption")
    files = download.find(r".+\.jpg")
    names_of_pictures = sorted(captions)
    attributes = {"source": f"{title}, {Path(str(file)).name}, {root}",
                  "filter": f"all {len(captions):,} pictures with a caption"
                            + (f", without {without}, which the source has no picture of" if without else "")}
    return Collection(Pictures([files.get(name) for name in names_of_pictures]),
                      [[text for _, text in sorted(captions[name])] for name in names_of_pictures], None,
                      columns={"image_file": names_of_pictures}, attributes=attributes, problems=problems,
                      published=published, official=lambda: official(download))


def _captions(file: File, problems: list[str]) -> Iterator[Caption]:
    name = Path(str(file)).name
    if name.endswith(".json"):
        for image in karpathy_images(file, "filename", "sentences"):
            for number, sentence in enumerate(image["sentences"]):
                if not isinstance(sentence, dict) or not isinstance(sentence.get("raw"), str):
                    raise InputError(f"{file}: sentence {number} of {image['filename']} has no text 'raw', as those of "
                                     f"Karpathy's files have")
                yield image["filename"], number, sentence["raw"]
        return
    lines = file.lines()
    if name.endswith((".token", ".token.txt")):
        pattern = r"([^\t]+)#(\d{1,9})\t(.*)"
    elif name.endswith(".csv"):
        pattern = r"([^|]+?)\s*\|\s*(\d{1,9})\s*(?:\|\s*)?(.*)"  # a line of Kaggle's file lacks the second bar
    else:
        yield from _comma_separated(file, lines, problems)
        return
    for number, line in enumerate(lines, 1):
        if match := re.fullmatch(pattern, line):
            yield match[1], int(match[2]), match[3]
        elif line.strip() and not line.startswith("image"):
            problems.append(f"{name}: line {number}: {line[:80]!r} is no picture's name and a caption; it is left out")


def _comma_separated(file: File, lines: list[str], problems: list[str]) -> Iterator[Caption]:
    """The captions of a table with the columns image, caption or image_name, comment_number, comment.

    Commas in a caption belong to it, whether it is in quotes or not.
    """
    columns = 2
    try:
        for line, row in enumerate(csv.reader(lines), 1):
            if line == 1 and not row[0].endswith(".jpg"):
                columns = len(row)
            elif len(row) < columns or columns == 3 and not re.fullmatch(r"\s*\d{1,9}\s*", row[1]):
                problems.append(f"{file}: row {line} is no picture's name and a caption; it is left out")
            else:
                yield row[0], int(row[1]) if columns == 3 else line, ",".join(row[columns - 1:])
    except (csv.Error, IndexError) as error:
        raise InputError(f"{file}: not a table of image, caption ({error})") from None
