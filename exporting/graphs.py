"""The heads of a hash model as graphs that run without this project: ONNX, and programs of ``torch.export``.

A graph takes the features of images (n, d_i), of texts (n, d_t), or of both in this order, float32, any n. It gives
``x`` (n, bits), float32, and ``code`` (n, ceil(bits / 8)), uint8: the signs of x, packed as in an index, so that bit j
of byte i, of value 2**j, is bit 8i + j of the code.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

import metric
from common.errors import InputError
from common.packages import optional
from model import HashModel

REQUIREMENTS = "requirements-export.txt"
INPUTS = {"image": ("image",), "text": ("text",), "both": ("image", "text")}
CHECKED_ROWS = (1, 7, 256)  # of the batches that are compared
TOLERANCE = 1e-4  # of x, whose standard deviation is about 1


class HashGraph(nn.Module):
    """What a graph computes: features of the modalities ``inputs`` to x and packed codes."""

    def __init__(self, model: HashModel, inputs: Sequence[str]):
        super().__init__()
        self.inputs, self.model = inputs, copy.deepcopy(model)
        for name, modules in (("image", ("image_input", "ImageMlp")), ("text", ("text_input", "TextMlp"))):
            if name not in inputs:
                for module in modules:
                    setattr(self.model, module, None)  # or the file would hold its weights
        self.register_buffer("values", 2 ** torch.arange(8, dtype=torch.int32))

    def forward(self, first: Tensor, second: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (n, bits) and codes (n, bytes), as :meth:`HashModel.encode` followed by packing."""
        given = dict(zip(self.inputs, (first, second)))
        image, text = self.model.fuse(given.get("image"), given.get("text"))
        outputs = [head.norm(head.perceptron(features)) for name, head, features in
                   (("image", self.model.ImageMlp, image), ("text", self.model.TextMlp, text)) if name in given]
        x = outputs[0] if len(outputs) == 1 else (outputs[0] + outputs[1]) / 2**0.5
        bits = pad((x >= 0).to(torch.int32), (0, -self.model.width % 8)).unflatten(1, (-1, 8))
        return x, (bits * self.values).sum(dim=2).to(torch.uint8)


def write_onnx(model: HashModel, kind: str, path: Path, about: dict[str, str]) -> float:
    """Write a graph for ``image``, ``text`` or ``both`` as ONNX, with ``about`` as its metadata.

    Returns:
        The largest difference of x between onnxruntime and PyTorch.

    Raises:
        InputError: a package is missing, or the codes differ.
    """
    with optional(REQUIREMENTS):
        import onnx  # noqa: F401 (torch.onnx needs both)
        import onnxruntime
        import onnxscript  # noqa: F401
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of operations of packages that aren't installed
    exported = _quietly(lambda: torch.onnx.export(
        HashGraph(model, INPUTS[kind]).eval(), _examples(model, kind), dynamo=True, verbose=False,
        input_names=INPUTS[kind], output_names=("x", "code"), dynamic_shapes=_any_rows(kind)))
    for node in exported.model.graph:
        node.metadata_props.clear()  # where in this computer's files each node comes from
    exported.model.metadata_props.update(about)
    exported.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return _compare(model, kind, path, lambda *features: session.run(("x", "code"), dict(zip(INPUTS[kind], features))))


def write_program(model: HashModel, kind: str, path: Path) -> float:
    """Write a graph as a program that ``torch.export.load`` reads, .pt2; otherwise as :func:`write_onnx`."""
    program = _quietly(lambda: torch.export.export(HashGraph(model, INPUTS[kind]).eval(), _examples(model, kind),
                                                   dynamic_shapes=_any_rows(kind)))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    content = io.BytesIO()  # PyTorch aborts the process where a disk refuses a file that it writes itself
    torch.export.save(program, content)
    path.write_bytes(content.getbuffer())
    run = torch.export.load(path).module()
    return _compare(model, kind, path,
                    lambda *features: [side.detach().numpy() for side in run(*map(torch.from_numpy, features))])


def _any_rows(kind: str) -> tuple:
    return tuple({0: torch.export.Dim("rows")} for _ in INPUTS[kind])


def _examples(model: HashModel, kind: str, rows: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(rows, model.settings[f"{name}_dim"], generator=generator) for name in INPUTS[kind])


def _quietly(export: Callable):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own functions, and of names of axes
        return export()


@torch.inference_mode()
def _compare(model: HashModel, kind: str, path: Path, run: Callable) -> float:
    """The largest difference of x between ``run`` and the model, whose codes are the same wherever x isn't about 0."""
    largest = 0.0
    for rows in CHECKED_ROWS:
        examples = _examples(model, kind, rows)
        expected = model.encode(**dict(zip(INPUTS[kind], examples)))[1].numpy()
        x, code = run(*(features.numpy() for features in examples))
        sound = x.shape == expected.shape and np.array_equal(code, metric.pack_codes(metric.sign_codes(x)))
        difference = np.abs(x - expected).max() if sound else np.inf
        if not difference <= TOLERANCE:
            raise InputError(f"{path.name}: x of the exported graph differs from the model's by {difference:.2g}, "
                             f"expected at most {TOLERANCE}; use the versions of {REQUIREMENTS}")
        largest = max(largest, float(difference))
    return largest
