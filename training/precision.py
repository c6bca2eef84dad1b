"""The precision of training: bfloat16 where this machine computes this model faster in it, float32 elsewhere."""

from __future__ import annotations

import time

import torch
from torch import nn

from common import processes

SETTINGS = ("auto", "float32", "bfloat16")
ENOUGH = 1.2  # times as fast: what autocast has to gain to be worth coarser numbers
SMALL = 1e9  # floating-point operations a step: below, there is little to gain and too little to time


def choose(setting: str, model: nn.Module, rows: int, device: torch.device) -> tuple[str, float | None]:
    """The precision for ``model`` on batches of ``rows``, and how many times as fast bfloat16 is, if that was measured.

    With ``auto`` the linear layers are timed forwards and backwards in both, which takes as long as a few steps. All
    processes follow the measurement of the first.
    """
    if setting != "auto":
        return setting, None
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if 6 * rows * sum(layer.weight.numel() for layer in layers) < SMALL:
        return "float32", None
    speedup = float(processes.of_all(torch.tensor(measure(layers, rows, device)))[0])
    return "bfloat16" if speedup >= ENOUGH else "float32", speedup


def described(precision: str, speedup: float | None) -> str:
    """A line for the log: the precision, and why where it was measured."""
    measured = ("" if speedup is None else
                f" (in bfloat16 the layers are {speedup:.1f} times as fast; --precision fixes it)")
    return f"Trained in {precision}{measured}"


def measure(layers: list[nn.Linear], rows: int, device: torch.device) -> float:
    """Time of the layers' forward and backward passes in float32 over that under bfloat16 autocast, each with a ReLU:
    of a backward pass on a GPU that begins with a matrix product, PyTorch warns.
    """
    best = {False: float("inf"), True: float("inf")}
    inputs = [torch.ones(rows, layer.in_features, device=device, requires_grad=True) for layer in layers]
    for repetition in range(6):
        for enabled in best:
            started = now(device)
            for layer, x in zip(layers, inputs):
                with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                    output = torch.relu(layer(x))
                torch.autograd.grad(output, (x, layer.weight), torch.ones_like(output))
            if repetition:  # the first sets the library's kernels up
                best[enabled] = min(best[enabled], now(device) - started)
    return best[False] / best[True]


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
