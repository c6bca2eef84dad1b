"""CLIP-like models of transformers: CLIP, SigLIP and SigLIP 2, Chinese-CLIP, MetaCLIP and others of their kind.

Any model counts that has image and text features in one space. It is used with its own preprocessing, which Pillow
computes whether torchvision is installed or not, so that features don't depend on that.
"""

from __future__ import annotations

import functools
import json
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import InputError
from extraction.encoders.encoder import (BATCH, Encoder, Encoders, as_it_is, check_sound, device, half_is_safe,
                                         optional, reason, running, unit_length, versions, weights_digest)
from extraction.encoders.pictures import not_slim, upright

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_TEXT = {"chinese_clip": 52}  # tokens that a kind was trained with, where its settings allow for more
# Trained with texts in lower case, all filled up to one length, and without a mask that hides the filling (Zhai et al.,
# ICCV 2023; Tschannen et al., 2025).
SIGLIP = ("siglip", "siglip2")


@functools.cache
def load(model: str) -> Encoders:
    """Both encoders of a CLIP-like model, whose features have unit length and share one space.

    Args:
        model: its name on Hugging Face's hub, such as openai/clip-vit-base-patch32, or a folder in the hub's format.

    Raises InputError if it can't be used as one.
    """
    library = optional("transformers")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # of what is refused in one line
            found = _load(model, library)
        check_sound(found)
    except Exception as error:  # damaged files make the libraries raise whatever they come upon
        raise InputError(f"{model or '(empty)'}: can't be used as a CLIP model ({reason(error)}); expected the name of "
                         f"one on Hugging Face's hub, such as openai/clip-vit-base-patch32, or its folder") from error
    return found


def _load(model: str, library) -> Encoders:
    import torch

    library.utils.logging.disable_progress_bar()
    library.utils.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it reports every attempt to reach the hub
    if not model.strip():
        raise InputError("no name")
    name = str(Path(model).resolve()) if Path(model).is_dir() else model
    options = dict(trust_remote_code=False)  # runs no code of the model's, and does not ask whether to
    kind = library.AutoConfig.from_pretrained(name, **options).model_type
    network, found = library.AutoModel.from_pretrained(
        name, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    if not all(hasattr(network, f"get_{modality}_features") for modality in ("image", "text")):
        raise InputError(f"it is of the kind {kind!r}, which doesn't encode images and texts apart")
    for problem in ("missing_keys", "mismatched_keys"):
        if keys := sorted(map(str, found[problem])):
            raise InputError(f"{len(keys)} {problem.replace('_keys', '')} weights, the first is {keys[0]}")
    preprocess = library.AutoImageProcessor.from_pretrained(name, backend="pil", **options)
    tokens = library.AutoTokenizer.from_pretrained(name, **options)
    settings = network.config.text_config
    if len(tokens) > settings.vocab_size:
        raise InputError(f"its tokenizer has {len(tokens):,} words, the model {settings.vocab_size:,}")
    longest = min(tokens.model_max_length, settings.max_position_embeddings, LONGEST_TEXT.get(kind, 1 << 30))
    digest = weights_digest(network, json.dumps([preprocess.to_dict(), longest], sort_keys=True, default=str).encode(),
                            tokens.backend_tokenizer.to_str().encode())
    where = device()
    network.eval().to(where)
    crops = bool((preprocess.to_dict().get("size") or {}).get("shortest_edge"))

    def pixels(image: Image | str | Path) -> dict[str, np.ndarray]:
        image = upright(image)
        return preprocess(not_slim(image) if crops else image, return_tensors="np")

    def image_features(batch: list[dict[str, np.ndarray]], half: bool) -> np.ndarray:
        inputs = {key: torch.from_numpy(np.concatenate([each[key] for each in batch])).to(where) for key in batch[0]}
        with running(where, half):
            return unit_length(network.get_image_features(**inputs).pooler_output, model)

    def text_features(batch: list[str], half: bool) -> np.ndarray:
        if kind in SIGLIP:
            batch = [text.lower() for text in batch]
        padding = "max_length" if kind in SIGLIP else True
        inputs = tokens(batch, padding=padding, truncation=True, max_length=longest, return_tensors="pt")
        if kind in SIGLIP:
            inputs.pop("attention_mask", None)
        with running(where, half):
            return unit_length(network.get_text_features(**inputs.to(where)).pooler_output, model)

    sample = [pixels(optional("PIL.Image").linear_gradient("L"))]
    half = (half_is_safe(where, functools.partial(image_features, sample))
            and half_is_safe(where, functools.partial(text_features, ["a photograph of a cat", "two dogs"])))
    attributes = {"preprocessing": json.dumps({"image": preprocess.to_dict(), "text": {
                      "longest": longest, "lower_case_of_full_length": kind in SIGLIP}}, sort_keys=True, default=str),
                  "versions": versions("torch", "numpy", "pillow", "transformers", "tokenizers"),
                  "device": f"{where}, {'float16' if half else 'float32'}"}
    return Encoders(Encoder(pixels, lambda batch: image_features(batch, half), BATCH[where]),
                    Encoder(as_it_is, lambda batch: text_features(batch, half), BATCH[where]),
                    f"{'CLIP' if kind == 'clip' else kind} ({name}, weights {digest})", attributes)
