"""The Wikipedia set of Rasiwasia et al., "A new approach to cross-modal multimedia retrieval" (ACM Multimedia 2010)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.atomic_files import write_atomically
from common.errors import InputError
from load_data import load_dataset

WHERE = ("wikiData.mat in the folder 'Unsupervised cross-modal hashing/RFDH' of "
         "https://github.com/BMC-SDNU/Cross-Modal-Retrieval")
CLASSES = ["art", "biology", "geography", "history", "literature", "media", "music", "royalty", "sport", "warfare"]
SHAPES = {"train": ((2173, 128), (2173, 10), (2173, 10)), "query": ((693, 128), (693, 10), (693, 10))}


def make_wiki(out: Path, archive: Path | None = None) -> None:
    """The 2,866 sections of Wikipedia's featured articles, each with its picture: 128 counts of SIFT words as image, 10
    LDA topics as text, 10 classes. Its 693 test rows are the queries.

    Args:
        out: the .npz file to write.
        archive: the set as one .mat file of I_tr, T_tr, L_tr, I_te, T_te, L_te. Its rows may be in any order: they are
            sorted by their features.

    Raises InputError.
    """
    if archive is None:
        raise InputError(f"wiki: give its .mat file with --archive; such a one is {WHERE}")
    if not archive.is_file():
        raise InputError(f"--archive {archive}: no such file; expected {WHERE}")
    found = load_dataset(archive.absolute())
    parts = []
    for name, expected in SHAPES.items():
        rows = getattr(found, name)
        arrays = [array.numpy() for array in (rows.image, rows.text, rows.label)]
        shapes = tuple(array.shape for array in arrays)
        if shapes != expected:
            raise InputError(f"{archive}: {name}: image, text and label have the shapes {shapes}; expected {expected}, "
                             f"as in {WHERE}")
        order = np.lexsort(np.concatenate(arrays, axis=1).T[::-1])
        parts.append([array[order] for array in arrays])
    image, text, label = map(np.concatenate, zip(*parts))
    train, query = np.split(np.arange(len(image)), [len(parts[0][0])])
    write_atomically(out, lambda file: np.savez(file, image=image, text=text, label=label, label_names=CLASSES,
                                                train_idx=train, query_idx=query, retrieval_idx=train))
