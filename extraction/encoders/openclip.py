"""Models of open_clip (Ilharco et al., 2021): OpenCLIP's, SigLIP, MobileCLIP, EVA-CLIP and others of its list.

open_clip needs torchvision of the same build as PyTorch, and so has a file of requirements of its own.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import InputError
from extraction.encoders.encoder import (BATCH, Encoder, Encoders, as_it_is, check_sound, device, half_is_safe,
                                         optional, reason, running, unit_length, versions, weights_digest)
from extraction.encoders.pictures import not_slim, upright

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

# Tokenizers differ in what they do with capitals, accents, digits and other scripts.
PROBE = ["A photo of a cat.", "El Niño, 1234!", "一只猫 και ένα σκυλί"]


@functools.cache
def load(model: str) -> Encoders:
    """Both encoders of a model of open_clip, whose features have unit length and share one space.

    Args:
        model: MODEL/WEIGHTS, a name of ``open_clip.list_pretrained()`` such as ViT-B-32/laion2b_s34b_b79k, or with the
            path of a checkpoint as WEIGHTS; or a folder with open_clip_config.json and the weights; or hf-hub:NAME.

    Raises InputError if it can't be used.
    """
    library = _library()
    try:
        found = _load(model, library)
        check_sound(found)
    except Exception as error:  # damaged files make the libraries raise whatever they come upon
        raise InputError(f"open_clip:{model}: can't be used ({reason(error)}); expected MODEL/WEIGHTS as open_clip "
                         f"lists them, such as open_clip:ViT-B-32/laion2b_s34b_b79k, or a folder of its own") from error
    return found


def _library():
    try:
        return importlib.import_module("open_clip")
    except Exception as error:  # torchvision of another build raises a RuntimeError
        raise InputError(f"open_clip can't be imported ({reason(error)}); run pip install -r "
                         f"requirements-open-clip.txt, which says how torchvision has to fit PyTorch") from None


def _load(model: str, library) -> Encoders:
    import torch

    name, weights, recorded = _place(model)
    where = device()
    with warnings.catch_warnings(), _quiet():
        warnings.filterwarnings("error", message="QuickGELU mismatch")  # other features than the weights are made for
        warnings.filterwarnings("ignore", message="Detected pickle protocol")  # of what is refused in one line
        # create_model goes on with random weights if it finds none; this refuses.
        network, preprocess = library.create_model_from_pretrained(
            name, weights, device=where, precision="fp32", **_own_preprocessing(name, weights, library))
        tokens = library.get_tokenizer(name)
    network.eval()
    settings = network.visual.preprocess_cfg
    digest = weights_digest(network, json.dumps(settings, sort_keys=True, default=str).encode(),
                            tokens(PROBE).numpy().tobytes())
    crops = settings.get("resize_mode", "shortest") == "shortest"

    def pixels(image: Image | str | Path) -> Tensor:
        image = upright(image)
        return preprocess(not_slim(image) if crops else image)

    def image_features(batch: list[Tensor], half: bool) -> np.ndarray:
        with running(where, half):
            return unit_length(network.encode_image(torch.stack(batch).to(where)), model)

    def text_features(batch: list[str], half: bool) -> np.ndarray:
        with running(where, half):
            return unit_length(network.encode_text(tokens(batch).to(where)), model)

    sample = [pixels(optional("PIL.Image").linear_gradient("L"))]
    half = (half_is_safe(where, functools.partial(image_features, sample))
            and half_is_safe(where, functools.partial(text_features, PROBE)))
    attributes = {"preprocessing": json.dumps({"image": settings, "text": {"longest": tokens.context_length}},
                                              sort_keys=True, default=str),
                  "versions": versions("torch", "numpy", "pillow", "torchvision", "open_clip_torch"),
                  "device": f"{where}, {'float16' if half else 'float32'}"}
    return Encoders(Encoder(pixels, lambda batch: image_features(batch, half), BATCH[where]),
                    Encoder(as_it_is, lambda batch: text_features(batch, half), BATCH[where]),
                    f"open_clip ({recorded}, weights {digest})", attributes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what open_clip logs before it raises the same as an exception."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _own_preprocessing(name: str, weights: str | None, library) -> dict:
    """The preprocessing of a checkpoint of one's own, which doesn't say it: that of all weights listed for its model.

    MobileCLIP, for one, has another than open_clip takes by default. Raises InputError if the listed ones differ.
    """
    if weights is None or not Path(weights).is_file():
        return {}
    listed = [library.get_pretrained_cfg(name, tag) for tag in library.list_pretrained_tags_by_model(name)]
    found = [{f"image_{key}": each.get(key) for key in ("mean", "std", "interpolation", "resize_mode")}
             for each in listed]
    if any(each != found[0] for each in found):
        raise InputError(f"the weights listed for {name} have different preprocessing, and a checkpoint doesn't say "
                         f"which; put it into a folder with an open_clip_config.json, which does")
    return found[0] if found else {}


def _place(model: str) -> tuple[str, str | None, str]:
    """The name of a model and of its weights as open_clip takes them, and what a data set records."""
    if model and Path(model).is_dir():
        folder = str(Path(model).resolve())
        return f"local-dir:{folder}", None, folder
    if model.startswith("hf-hub:"):
        return model, None, model
    name, _, weights = model.partition("/")
    if not weights:
        raise InputError("no weights are named")
    if Path(weights).is_file():
        weights = str(Path(weights).resolve())
    return name, weights, f"{name}/{weights}"
