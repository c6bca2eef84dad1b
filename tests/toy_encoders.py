"""Encoders that need no package and no time, for tests of what is done with features."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import pytest

from extraction import encoders
from extraction.encoders import Encoder, Encoders, as_it_is, packaged, square


def mean_colour(image) -> np.ndarray:
    return square(image).mean((0, 1))


def lengths(texts: list[str]) -> np.ndarray:
    return np.array([[len(text), 1] for text in texts], np.float32)


def toy_encoders(names: str = "toy (here, weights 00)", image_batch: int = 3, text_batch: int = 2) -> Encoders:
    """An image's mean colour, (3,), and a text's length and 1, (2,)."""
    return Encoders(Encoder(mean_colour, lambda batch: np.stack(batch).astype(np.float32), image_batch),
                    Encoder(as_it_is, lengths, text_batch), names, {"preprocessing": "none"})


@pytest.fixture
def stub_encoders(monkeypatch) -> None:
    """The toy encoders in place of the packaged ones, under their names."""
    names = ", ".join(f"{name} ({package} 1.2.3)" for name, package in packaged.WEIGHTS.items())
    monkeypatch.setattr(packaged, "load", lambda: toy_encoders(names))
