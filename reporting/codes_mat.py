"""The codes of a trained model as MATLAB files, with the names that evaluation scripts of the field read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.io

import evaluation
from common.atomic_files import write_atomically
from load_data import Dataset
from model import HashModel


NAME = "codes_{}.mat"  # by code length


def remove(folder: Path) -> None:
    """Remove the files of :func:`write`, which are of another run."""
    for path in folder.glob(NAME.format("*")):
        path.unlink(missing_ok=True)


def write(folder: Path, data: Dataset, models: Sequence[tuple[HashModel, float]]) -> list[Path]:
    """Write ``codes_<bits>.mat`` for each code length of the models, each given with its scale; returns the files.

    A file holds the unpaired codes, -1 and 1, (n, bits): ``q_img`` and ``q_txt`` of the queries, ``r_img`` and
    ``r_txt`` of the retrieval split; the labels ``q_l`` and ``r_l``, (n, classes), if there are any; and ``q_id`` and
    ``r_id``, (n, 1), the number of each item in the file of the data set, 0 the first. Codes and labels are single, as
    products of integers overflow in NumPy and are refused by MATLAB. Where images have several texts, the labels and
    the numbers of texts are ``q_l_txt``, ``q_id_txt`` and so on.

    Raises:
        InputError: the folder refuses a file.
    """
    written = []
    for model, scale in models:
        splits = {"q": data.query, "r": data.retrieval}
        codes = {name: evaluation.encode(model, split, scale)["unpaired"] for name, split in splits.items()}
        for bits in model.hash_lens:
            content: dict[str, np.ndarray] = {}
            for name, split in splits.items():
                for side, code, modality in zip(("img", "txt"), codes[name], ("image", "text")):
                    content[f"{name}_{side}"] = model.split(code)[bits].numpy().astype(np.float32)
                    if modality == "image" or split.texts is not None:
                        end = "_txt" if modality == "text" else ""
                        items = split.items(modality)
                        content[f"{name}_id{end}"] = items.index.reshape(-1, 1)
                        if data.num_classes:
                            content[f"{name}_l{end}"] = items.label.numpy().astype(np.float32)
            matlab = io.BytesIO()  # savemat takes no temporary file
            scipy.io.savemat(matlab, content, do_compression=True)
            path = Path(folder) / NAME.format(bits)
            written.append(write_atomically(path, lambda file: file.write(matlab.getbuffer())))
    return written
