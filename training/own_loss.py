"""A loss of one's own, ``--loss FILE.py:Class``: its interface, and a trial of it before anything is trained.

The class has the interface of :class:`loss.ContrastiveLoss`: it is made with a ``temperature`` for each code length,
and called with ``(image, text, neighbours, weight)``. docs/extending.md walks through one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common import own_code
from common.errors import InputError

ARGUMENTS = ("image", "text", "neighbours", "weight")
TEMPERATURE, PAIRS, BITS = 0.5, 8, 16  # of the trial


def own_loss(name: str, with_neighbours: bool = True) -> Callable[..., Callable[..., Tensor]]:
    """The class of this name, after a trial on random codes of 8 pairs.

    Args:
        with_neighbours: whether it will be given any; otherwise they are None.

    Raises:
        InputError: the class can't be loaded, or has another interface; it has parameters, which nothing would train;
            or the loss fails, is no number, or has no gradient.
    """
    made, plain = own_code.load(name), own_code.unpinned(name)
    method = "forward" if issubclass(made, nn.Module) else "__call__"
    own_code.check_call(name, made.__name__, made, ["temperature"], by_name=True)
    if not any(method in vars(base) for base in made.__mro__ if base is not nn.Module):
        raise InputError(f"{plain}: has no method {method}({', '.join(['self', *ARGUMENTS])})")
    own_code.check_call(name, method, getattr(made, method), ["self", *ARGUMENTS])
    random = torch.Generator().manual_seed(0)
    image, text = (torch.tanh(torch.randn(PAIRS, BITS, generator=random)).requires_grad_() for _ in range(2))
    neighbours = torch.full((PAIRS, PAIRS), 1 / (PAIRS - 1)).fill_diagonal_(0) if with_neighbours else None
    try:
        loss = made(temperature=TEMPERATURE)
        value = loss(image, text, neighbours, torch.tensor(0.5))
        if isinstance(value, Tensor) and value.shape == () and value.requires_grad:
            value.backward()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{plain}: fails in a trial with {PAIRS} pairs of {BITS} bits: "
                         f"{own_code.described(error, name)}") from error
    if parameters := [key for key, _ in loss.named_parameters()] if isinstance(loss, nn.Module) else []:
        raise InputError(f"{plain}: has parameters ({', '.join(parameters)}), which nothing would train; a loss is a "
                         f"function of its arguments")
    if not isinstance(value, Tensor) or value.shape != ():
        shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise InputError(f"{plain}: the loss of a batch is {shape}; expected one number, a tensor of shape ()")
    if not torch.isfinite(value):
        raise InputError(f"{plain}: the loss of {PAIRS} random pairs is {value.item()}; expected a finite number")
    if image.grad is None and text.grad is None:
        raise InputError(f"{plain}: the loss has no gradient; compute it from image and text with torch alone")
    return made
