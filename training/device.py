"""The device that computes, and what a run's figures were measured on."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import numpy as np
import torch

from common import processes
from common.errors import InputError

CPU_INFO = Path("/proc/cpuinfo")  # of Linux


def choose_device(name: str) -> torch.device:
    """The device of a name: ``auto`` (the first GPU, or the CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    With several processes each has a GPU of its own.

    Raises:
        InputError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name}: expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return device
    gpus = torch.cuda.device_count()
    if processes.size() > 1:
        if device.index is not None:
            raise InputError(f"--device {name}: {processes.size()} processes need a GPU each; use --device auto or cuda")
        if processes.local_rank() >= gpus:
            raise InputError(f"each process needs a GPU of its own, and this PyTorch sees {gpus} here; start fewer "
                             f"processes, or use --device cpu")
        return torch.device("cuda", processes.local_rank())
    if (device.index or 0) >= gpus:
        raise InputError(f"--device {name}: this PyTorch sees {gpus} CUDA devices; use --device auto or cpu, "
                         f"or install a CUDA build of PyTorch")
    return device


def environment(device: torch.device) -> dict[str, object]:
    """What figures were measured on: versions, platform, processor, device and threads."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
            "platform": platform.platform(), "cpu": processor(), "device": str(device),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None}


def processor() -> str:
    """The processor's name, as Linux or else Python tells it."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def now(device: torch.device) -> float:
    """A clock, in seconds, read once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
