"""Many processes, started by torchrun: each holds a part of the batch in training and of the database in evaluation.

    torchrun --nproc_per_node=2 ICMR.py --dataset openmoji

The batch is the same however many processes share it. Each computes the network's outputs for its rows; these are
gathered, and from there on (batch norm, loss) every process computes the same thing from the whole batch. So the
negatives and the statistics are those of the global batch, and one process or many train alike: only the rounding and
the random numbers of dropout and noise differ.
Everything here does nothing in a run of one process.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import InputError


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, for as long as the context lasts: over NCCL on GPUs, gloo on CPUs. Only
    the first process's standard output is shown.

    What goes wrong ends this process with one line that says which process it is: :class:`InputError` for bad input,
    SystemExit when another process has gone.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    dist.init_process_group()
    try:
        with contextlib.ExitStack() as stack:
            if rank():
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            yield
    except InputError as error:
        if rank():
            time.sleep(2)  # bad input is mostly bad for all; then torchrun ends this process once the first has told
        raise InputError(f"process {rank()}: {error}") from error
    except (dist.DistError, RuntimeError) as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        sys.exit(f"error: process {rank()} stopped because another one ended, whose own message says why; --resume "
                 f"resumes from the last evaluation")
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process; 0 is the one that prints and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    """The number of this process on its machine, hence of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def part(rows: int) -> slice:
    """The run of ``rows`` rows that falls to this process; their sizes differ by one at most."""
    return slice(rows * rank() // size(), rows * (rank() + 1) // size())


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        # Every process holds the gradient of the same loss in all rows; average_gradients divides by size().
        return size() * gradient[part(len(gradient))]


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes, which have as many each, in their order: (n, d) -> (size() * n, d).

    Differentiable, for a loss that every process computes alike; :func:`average_gradients` does the rest.
    """
    return _Gather.apply(rows) if size() > 1 else rows


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over the processes, in one message.

    The mean is the gradient of the loss of the whole batch, for parameters before a :func:`gather` as well as after it.
    """
    if size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    message = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(message)
    for gradient, mean in zip(gradients, (message / size()).split([g.numel() for g in gradients])):
        gradient.copy_(mean.view_as(gradient))


def any_of_all(flag: bool) -> bool:
    """Whether any process set ``flag``."""
    if size() == 1:
        return flag
    flags = torch.tensor([int(flag)])  # on the CPU: a flag on a GPU would have to be waited for
    dist.all_reduce(flags)
    return bool(flags)


def total(array: np.ndarray) -> np.ndarray:
    """The sum of an array over the processes."""
    if size() > 1:
        dist.all_reduce(torch.from_numpy(array := array.copy()))
    return array


def of_all(value: Tensor) -> list[Tensor]:
    """A small CPU tensor of each process, at each process."""
    values = [value] * size()
    if size() > 1:
        dist.all_gather(values := [torch.empty_like(value) for _ in values], value)
    return values
