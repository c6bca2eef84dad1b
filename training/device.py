"""The device that computes, and what a run's figures were measured on.

Apple's GPUs (MPS) have no float64: what needs it is computed on the CPU (:func:`exact_device`). That part is written
against PyTorch's documentation and has been tested with the device imitated only.
"""

from __future__ import annotations

import platform
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import processes
from common.errors import InputError

CPU_INFO = Path("/proc/cpuinfo")  # of Linux
CPU_NAME = ["sysctl", "-n", "machdep.cpu.brand_string"]  # of macOS


def choose_device(name: str, mps: bool = False) -> torch.device:
    """The device of a name: ``auto`` (the first CUDA GPU, or the CPU), ``cpu``, ``cuda`` or ``cuda:N``, and ``mps``
    where the caller can use it, as a training can.

    ``auto`` is the CPU on Apple silicon, too: there a training gives the same weights in every run. With several
    processes each has a GPU of its own.

    Raises:
        InputError: there is no such device.
    """
    expected = "expected auto, cpu, cuda" + (", cuda:N or mps" if mps else " or cuda:N")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name}: {expected}") from None
    if device.type not in ("cpu", "cuda", *["mps"] * mps):
        raise InputError(f"--device {name}: {expected}")
    if device.type == "cpu":
        return device
    if device.type == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("--device mps: this PyTorch sees no GPU of Apple's here; use --device auto or cpu")
        if processes.size() > 1:
            raise InputError("--device mps: there is one such GPU; start one process, or use --device cpu")
        return torch.device("mps")
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


def exact_device(device: torch.device) -> torch.device:
    """Where float64 is computed: on the device itself or, as Apple's GPUs have none, on the CPU."""
    return torch.device("cpu") if device.type == "mps" else device


def random_state(device: torch.device) -> Tensor:
    """The state of a GPU's random numbers, uint8 on the CPU."""
    return torch.mps.get_rng_state() if device.type == "mps" else torch.cuda.get_rng_state(device)


def set_random_state(device: torch.device, state: Tensor) -> None:
    """Bring a GPU's random numbers to a state of :func:`random_state`."""
    torch.mps.set_rng_state(state) if device.type == "mps" else torch.cuda.set_rng_state(state, device)


def explanation(error: Exception) -> str | None:
    """What to say of an error that the device causes, not the code: its memory is short, or it lacks an operation."""
    message = str(error)
    if "MPS" in message and isinstance(error, (NotImplementedError, TypeError)):
        lacking = re.search(r"aten::[\w.]+|float64", message)
        return (f"--device mps: Apple's GPUs lack {lacking[0] if lacking else 'an operation'} in this PyTorch; set "
                f"PYTORCH_ENABLE_MPS_FALLBACK=1 to compute on the CPU what they lack, or use --device cpu")
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
            words in message for words in ("can't allocate memory", "MPS backend out of memory")):
        return "not enough memory: give a smaller --hidden or --batch_size, or fewer --hash_lens"
    return None


def environment(device: torch.device) -> dict[str, object]:
    """What figures were measured on: versions, platform, processor, device and threads."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
            "platform": platform.platform(), "cpu": processor(), "device": str(device),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else
                   processor() if device.type == "mps" else None}


def processor() -> str:
    """The processor's name, as Linux, macOS or else Python tells it."""
    try:
        if platform.system() == "Darwin":
            return subprocess.run(CPU_NAME, capture_output=True, text=True, check=True).stdout.strip()
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except (OSError, subprocess.SubprocessError):
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def now(device: torch.device) -> float:
    """A clock, in seconds, read once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
