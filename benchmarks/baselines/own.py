"""A method of one's own, ``benchmark.py --method FILE.py:Class``, behind the interface of :class:`Baseline`.

The class needs ``fit``, ``encode_image`` and ``encode_text``; one that is derived from :class:`Baseline` has them.
docs/extending.md walks through one.
"""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.baselines.base import Baseline
from common import own_code
from common.errors import InputError

LABEL = re.compile(r"\w[\w .,+-]{0,59}")  # a part of the name of a folder, and of a row of a table
TOLERANCE = 1e-4  # of a bound


def label_of(name: str) -> str:
    """The label of a class in tables: its attribute ``name``, or its own name.

    Raises:
        InputError: the class can't be loaded, or has another interface.
    """
    made = own_code.load(name)
    plain = own_code.unpinned(name)
    own_code.check_call(name, made.__name__, made, ["bits", "seed", "device"], by_name=True)
    for method, arguments in (("fit", ["image", "text"]), ("encode_image", ["image"]), ("encode_text", ["text"])):
        if getattr(made, "paired", False) and method != "fit":
            arguments = [*arguments, "text" if method == "encode_image" else "image"]
        if not callable(getattr(made, method, None)):
            raise InputError(f"{plain}: has no method {method}({', '.join(['self', *arguments])})")
        own_code.check_call(name, method, getattr(made, method), ["self", *arguments])
    label = getattr(made, "name", made.__name__)
    if not isinstance(label, str) or not LABEL.fullmatch(label):
        raise InputError(f"{plain}: name = {label!r}; expected up to 60 letters, digits, spaces and . , + - _")
    return label


class Own(Baseline):
    """The class named ``name``, made for a code length and a seed, with what it gives checked.

    Its mistakes are an :class:`InputError` with their place; the whole traceback is printed.
    """

    def __init__(self, name: str, bits: int, seed: int = 0, device: str | torch.device = "cpu"):
        super().__init__(bits, seed, device)
        self.code, self.name = name, label_of(name)
        torch.manual_seed(seed)
        self.method = self._call("__init__", own_code.load(name), bits=bits, seed=seed, device=self.device)
        self.reference = str(getattr(self.method, "reference", ""))
        self.paired = bool(getattr(self.method, "paired", False))
        self.bounded = bool(getattr(self.method, "bounded", False))

    @property
    def epochs(self) -> int | None:
        return getattr(self.method, "epochs", None)

    def fit(self, image: Tensor, text: Tensor, on_epoch: Callable[[int], None] | None = None) -> None:
        """As :meth:`Baseline.fit`; a method that takes no ``on_epoch`` is tested at its end only."""
        torch.manual_seed(self.seed)
        parameters = inspect.signature(self.method.fit).parameters
        more = {"on_epoch": on_epoch} if on_epoch and "on_epoch" in parameters else {}
        self._call("fit", self.method.fit, image, text, **more)

    def encode_image(self, image: Tensor, text: Tensor | None = None) -> Tensor:
        return self._checked("encode_image", self.method.encode_image, image, text)

    def encode_text(self, text: Tensor, image: Tensor | None = None) -> Tensor:
        return self._checked("encode_text", self.method.encode_text, text, image)

    @torch.no_grad()
    def _checked(self, what: str, encode: Callable[..., Tensor], own: Tensor, other: Tensor | None) -> Tensor:
        found = self._call(what, encode, *([own, other] if self.paired and other is not None else [own]))
        plain, expected = own_code.unpinned(self.code), (len(own), self.bits)
        if not isinstance(found, Tensor) or found.shape != expected:
            given = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise InputError(f"{plain}: {what} of {len(own)} items gives {given}; expected a tensor of shape "
                             f"{expected}, real-valued codes")
        found = found.detach().float().cpu()
        if not found.isfinite().all():
            raise InputError(f"{plain}: {what} gives codes that are not finite")
        if self.bounded and found.numel() and found.abs().max() > 1 + TOLERANCE:
            raise InputError(f"{plain}: {what} gives codes up to {found.abs().max():.3g}; expected some in [-1, 1], or "
                             f"bounded = False")
        return found

    def _call(self, what: str, function: Callable, *arguments, **named):
        try:
            return function(*arguments, **named)
        except InputError:
            raise
        except Exception as error:
            print(traceback.format_exc())
            raise InputError(f"{own_code.unpinned(self.code)}, {self.bits} bits, seed {self.seed}: {what} fails: "
                             f"{own_code.described(error, self.code)}") from error
