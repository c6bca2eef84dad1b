"""What an encoder is, and what those of all kinds have in common: a device, batches, a digest of the weights."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import itertools
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

BATCH = {"cpu": 32, "mps": 64, "cuda": 256}  # items that a network encodes at a time
HALF_PRECISION = ("cuda",)  # the devices that compute much faster in float16, and sum in float32
MIN_COSINE = 0.999  # of a feature in half precision with the same in full; as float16 it has about 3 digits anyway


@dataclass(frozen=True)
class Encoder:
    """Makes the features of one modality. Called with items, it gives their features, (n, d) float32 or float64."""

    # Of one item, a picture (PIL image or file) or a text, what ``encode`` takes; called in several threads at once
    prepare: Callable[[Any], Any]
    encode: Callable[[list], np.ndarray]  # of a batch of prepared items the features, (b, d)
    batch: int  # the largest b

    def __call__(self, items: Iterable) -> np.ndarray:
        return self.encode_prepared(map(self.prepare, items))

    def encode_prepared(self, prepared: Iterable) -> np.ndarray:
        """The features (n, d) of at least one item, batch by batch."""
        prepared = iter(prepared)
        batches = iter(lambda: list(itertools.islice(prepared, self.batch)), [])
        return np.concatenate(list(map(self.encode, batches)))


@dataclass(frozen=True)
class Encoders:
    """An encoder for each modality, and what a data set says of them."""

    image: Encoder
    text: Encoder
    names: str  # the attribute ``encoders`` of an HDF5 file, by which :func:`extraction.encoders.like` finds them again
    attributes: dict[str, str] = field(default_factory=dict)  # further ones: preprocessing, versions, device


def as_it_is(item: Any) -> Any:
    """The preparation of what needs none."""
    return item


# --- where and how a network runs ---------------------------------------------------------------------------------


def device() -> str:
    """Where networks run: cuda, Apple's mps or cpu, the first that is there."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@contextlib.contextmanager
def running(where: str, half: bool = False) -> Iterator[None]:
    """Run a network on a device without gradients, in half precision if that is asked for.

    Raises InputError if the memory of a GPU is too small.
    """
    import torch

    try:
        with torch.inference_mode(), torch.autocast(where, torch.float16, enabled=half):
            yield
    except torch.OutOfMemoryError:
        raise InputError(f"the memory of the device {where} is too small for this encoder; end what else uses it, or "
                         f"set CUDA_VISIBLE_DEVICES= to use the CPU") from None


def unit_length(features: Tensor, model: str) -> np.ndarray:
    """Features (b, d) as float32 of unit length. Raises InputError, which names the model, if they aren't finite."""
    import torch

    unit = torch.nn.functional.normalize(features.float(), dim=1).numpy(force=True)
    if not np.isfinite(unit).all():
        raise InputError(f"{model}: gives features that are not finite; its weights are damaged")
    return unit


def half_is_safe(where: str, features: Callable[[bool], np.ndarray]) -> bool:
    """Whether a network is to run in half precision: where that is faster and gives the same features.

    Args:
        where: the device.
        features: gives features of unit length (b, d), in half precision if it is called with True.
    """
    if where not in HALF_PRECISION:
        return False
    try:
        return bool((features(True) * features(False)).sum(axis=1).min() >= MIN_COSINE)
    except InputError:  # too large for float16: not finite
        return False


# --- what a model is ------------------------------------------------------------------------------------------------


def weights_digest(network: Module, *further: bytes) -> str:
    """A digest of the weights of a network and of what else its features depend on, 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy(force=True))
    for each in further:
        digest.update(each)
    return digest.hexdigest()[:12]


def versions(*packages: str) -> str:
    """The versions of Python and of packages, separated by commas."""
    return ", ".join([f"Python {platform.python_version()}",
                      *(f"{package} {importlib.metadata.version(package)}" for package in packages)])


def check_sound(found: Encoders) -> None:
    """Encode a picture and two texts with a CLIP-like model. Raises InputError if the result isn't one space."""
    image = found.image([optional("PIL.Image").new("RGB", (224, 224))])
    text = found.text(["a cat", "two dogs"])
    if np.array_equal(*text):
        raise InputError("its tokenizer takes every text for the same")
    if image.shape[1] != text.shape[1]:
        raise InputError(f"its image features have {image.shape[1]} numbers, its text features {text.shape[1]}")


def reason(error: Exception) -> str:
    """What an exception of another library says, in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def optional(module: str):
    """Import a module of requirements-extract.txt by its name. Raises InputError if it isn't installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{module} can't be imported ({error}); "
                         "run pip install -r requirements-extract.txt") from None
