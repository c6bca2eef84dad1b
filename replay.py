"""A GPU's training step, recorded once and replayed from then on (CUDA graphs).

A step on a small batch is some hundred small kernels, which take longer to launch one by one than to run.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

EAGER = 3  # steps before the recording, in which libraries set themselves up and the optimizer makes its state


class Replayed:
    """Calls ``step`` for the first three steps, records the fourth, and replays the record from there on.

    What a recorded step does must depend on its inputs and on tensors that stay where they are, nothing else: Python
    runs in it once. Random numbers go on as if each step were called.

    Args:
        step: takes tensors and numbers, and returns a tensor; all are on ``device``. It sees numbers as tensors.
    """

    def __init__(self, step: Callable[..., Tensor], device: torch.device):
        self.step, self.device = step, device
        self.inputs: list[Tensor] = []
        self.eager = EAGER
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor | float) -> Tensor:
        if not self.inputs:
            self.inputs = [each.clone() if isinstance(each, Tensor) else torch.zeros((), device=self.device)
                           for each in inputs]
        for place, value in zip(self.inputs, inputs):
            place.copy_(value) if isinstance(value, Tensor) else place.fill_(value)
        if self.eager:
            self.eager -= 1
            return self.beside()
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # records and runs nothing
                self.output = self.step(*self.inputs)
        self.graph.replay()
        return self.output.clone()

    def beside(self) -> Tensor:
        """The step on a stream of its own, as steps before a recording must be."""
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            output = self.step(*self.inputs)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        return output
