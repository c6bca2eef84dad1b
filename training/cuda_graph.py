"""A GPU's training step, recorded once and replayed from then on (CUDA graphs).

A step on a small batch is several hundred small kernels, which take longer to launch one by one than to run.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP_CALLS = 3  # before the recording, in which libraries set themselves up and the optimizer makes its state


class Replayed:
    """Calls a step three times, records its fourth call, and replays the record from there on.

    What a recorded step does must depend on its inputs and on tensors that stay where they are, nothing else: Python
    runs in it once. Random numbers go on as if each step were called.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.inputs: list[Tensor] = []
        self.warm_up = WARM_UP_CALLS
        self.stream: torch.cuda.Stream | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, step: Callable[..., Tensor], *inputs: Tensor | float) -> Tensor:
        """What ``step``, the same in each call, returns for ``inputs``: a tensor. It sees numbers as tensors, too."""
        if not self.inputs:
            self.inputs = [each.clone() if isinstance(each, Tensor) else torch.zeros((), device=self.device)
                           for each in inputs]
        for place, value in zip(self.inputs, inputs):
            place.copy_(value) if isinstance(value, Tensor) else place.fill_(value)
        if self.warm_up:
            self.warm_up -= 1
            return self.beside(step)
        if self.graph is None:
            self.record(step)
        self.graph.replay()
        return self.output.clone()

    def beside(self, step: Callable[..., Tensor]) -> Tensor:
        """The step on a stream of its own, as steps before a recording must be."""
        current, self.stream = torch.cuda.current_stream(self.device), self.stream or torch.cuda.Stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            output = step(*self.inputs)
        current.wait_stream(self.stream)
        return output

    def record(self, step: Callable[..., Tensor]) -> None:
        """Record the step, which runs nothing."""
        graph, collecting = torch.cuda.CUDAGraph(), gc.isenabled()
        gc.collect()
        gc.disable()  # another graph that is destroyed meanwhile would spoil the record
        try:
            with torch.cuda.device(self.device), torch.cuda.graph(graph, stream=self.stream):
                self.output = step(*self.inputs)
        finally:
            if collecting:
                gc.enable()
        self.graph = graph
