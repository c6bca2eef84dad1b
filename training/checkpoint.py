"""Checkpoints: written whole or not at all, read without running any code from them.

A checkpoint is a dictionary of tensors, numbers, strings, lists and dictionaries. ``torch.load(weights_only=True)``
reads it anywhere; here formats/torch_file.py does, and training/checkpoint_schema.py says what its fields must be.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.errors import InputError
from common.atomic_files import write_atomically
from formats.torch_file import read_torch_file
from model import FusionModel, HashModel
from pairs.rows import MAX_FEATURE
from training.checkpoint_schema import Model, Training, check

FORMAT = 1
PARTS = ("image_input", "text_input", "FuseTrans", "ImageMlp", "TextMlp")  # of a model


def save(path: str | os.PathLike, content: dict) -> Path:
    """Save a checkpoint, whole or not at all. Raises :class:`InputError` as :func:`atomic_files.write_atomically` does."""
    return write_atomically(path, lambda file: torch.save({"format": FORMAT, **content}, file))


def check_exists(path: Path) -> None:
    """Raise :class:`InputError` if there is no such file."""
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; check the path (of ICMR.py: --checkpoint_dir and --hash_lens), "
                         f"or train it: python ICMR.py --task 1, or 0 for the real-valued fusion")


def load(path: str | os.PathLike, expect: dict | None = None, what: str = "a checkpoint of this version",
         schema: type = Model) -> dict:
    """Read a checkpoint on the CPU, running no code from it.

    Args:
        expect: what the checkpoint must agree with, e.g. ``{"dataset": "openmoji", "image_dim": 1280}``.
        what: it is, in words.
        schema: of training/checkpoint_schema.py, which its fields must have.

    Raises:
        InputError: the file is missing, damaged, not a checkpoint of this project, or disagrees with ``expect``;
            the message names the file, the field, what was found and what was expected.
    """
    path = Path(path)
    check_exists(path)
    try:
        content = read_torch_file(path)
    except InputError as error:
        raise InputError(f"{path}: {error}; train again or restore the file") from error
    except Exception as error:  # a damaged file can make the reader stumble anywhere
        raise InputError(f"{path}: damaged or not a checkpoint ({_first_line(error)}); "
                         f"train again or restore the file") from error
    if not isinstance(content, dict) or type(content.get("format")) is not int or content["format"] != FORMAT:
        raise InputError(f"{path}: not a checkpoint of this version: expected format {FORMAT}; train again")
    check(path, what, {key: value for key, value in content.items() if key in (expect or {})}, Training)
    for key, expected in (expect or {}).items():
        if content.get(key) != expected:
            way_out = ("its training had other features, labels or splits; train again" if key == "fingerprint" else
                       "use the settings it was trained with, or train again")
            raise InputError(f"{path}: {key} does not match: the checkpoint has {content.get(key)}, "
                             f"this run {expected}; {way_out}")
    check(path, what, content, schema)
    return content


def save_model(path: str | os.PathLike, model: FusionModel | HashModel, **about) -> Path:
    """Save a model with what it takes to build it again; ``about`` says how it was trained and on what."""
    weights = {name: module.state_dict() for name, module in model.named_children()}
    return save(path, {"settings": model.settings, **weights, **about})


def keep_replaced(path: Path, model: FusionModel | HashModel) -> Path | None:
    """Keep a copy of what is at ``path`` beside it, where the copy of an earlier model is replaced; None if nothing is
    there, or the same as ``model``, which comes in its place when a finished run is resumed.

    Raises :class:`InputError` if the disk refuses it.
    """
    if not path.is_file() or _has_weights(path, model.state_dict()):
        return None
    with open(path, "rb") as model:
        return write_atomically(path.with_name(path.name + ".replaced"), lambda file: shutil.copyfileobj(model, file))


def load_model(path: str | os.PathLike, expect: dict | None = None) -> tuple[FusionModel | HashModel, dict]:
    """Build the model of a checkpoint, in evaluation mode, and return it with the checkpoint's other content.

    Raises:
        InputError: as :func:`load`, or when the weights don't fit the settings beside them.
    """
    path, content = Path(path), load(path, expect)
    settings = content.pop("settings")
    found = {f"{part}.{name}": value for part in PARTS for name, value in content.pop(part, {}).items()}
    try:
        with torch.device("meta"):  # takes no memory for sizes that the weights don't have
            model = (HashModel if "hash_lens" in settings else FusionModel)(**settings)
    except (TypeError, RuntimeError) as error:
        raise InputError(f"{path}: settings: {_first_line(error)}; train again or restore the file") from error
    check_tensors(path, model.state_dict(), found)
    model.to_empty(device="cpu").load_state_dict(found)
    return model.eval(), content


def _has_weights(path: Path, weights: Mapping[str, Tensor]) -> bool:
    try:
        found = load_model(path)[0].state_dict()
    except InputError:
        return False
    return found.keys() == weights.keys() and all(torch.equal(found[name], weights[name].cpu()) for name in weights)


def check_tensors(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise :class:`InputError` if the tensors that were found in a file aren't those that were expected: of the same
    names and sizes, numbers of any precision where numbers are expected, and none of them NaN or larger than features
    may be, as the squares of larger ones overflow.
    """
    for name in sorted(expected.keys() ^ found.keys()):
        raise InputError(f"{path}: {name}: {'missing' if name in expected else 'found, but the settings know none'}; "
                         f"its weights and settings don't fit each other; train again or restore the file")
    for name, tensor in found.items():
        like = expected[name]
        alike = tensor.is_floating_point() if like.is_floating_point() else tensor.dtype == like.dtype
        if tensor.shape != like.shape or not alike:
            raise InputError(f"{path}: {name}: found {tensor.dtype} {tuple(tensor.shape)}, expected {like.dtype} "
                             f"{tuple(like.shape)}, by the settings; train again or restore the file")
        if not (tensor.float().abs() <= MAX_FEATURE).all():  # False for NaN
            raise InputError(f"{path}: {name}: found NaN, infinity or a number beyond {MAX_FEATURE:g}, expected finite "
                             f"numbers; train again or restore the file")


def load_trained(path: str | os.PathLike, lengths: Sequence[int], expect: dict | None = None
                 ) -> tuple[FusionModel | HashModel, dict]:
    """A model that ICMR.py trained: of these code lengths, or with none the real-valued fusion.

    Raises:
        InputError: as :func:`load_model`, or when the checkpoint holds another kind of model or lacks a code length, or
            doesn't say how it was trained.
    """
    model, content = load_model(path, expect)
    wanted = HashModel if lengths else FusionModel
    if not isinstance(model, wanted):
        raise InputError(f"{path}: holds a {type(model).__name__}, expected a {wanted.__name__}; train again")
    if not set(lengths) <= set(model.hash_lens if lengths else ()):
        raise InputError(f"{path}: holds codes of {', '.join(map(str, model.hash_lens))} bits, expected "
                         f"{', '.join(map(str, lengths))}; ask for lengths that it has, or train again")
    if missing := {"epoch", "scale", "config", "chosen"} - content.keys():
        raise InputError(f"{path}: says nothing of {', '.join(sorted(missing))}, as those of an older version; train "
                         f"again")
    return (model.only(lengths) if lengths else model), content


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {line if len(line) <= 120 else line[:119] + '…'}"
