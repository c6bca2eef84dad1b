"""Checkpoints and states of runs that are whole as archives, but hold hostile values in place of some of their own.

A damaged byte of a checkpoint is found by the checksums of its archive; here they are right.
"""

from __future__ import annotations

import contextlib
import functools
import io
import random
import shutil
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import ICMR
from attack.mutants import mutant
from indexing.index import Index
from reporting import page
from toy import toy_arguments, write_toy

STOPPED = 2, 1  # the epoch, of three, and the steps after which the state was saved


# --- sound ones -------------------------------------------------------------------------------------------------------


@functools.cache
def runs() -> Path:
    """A folder with a data set, a run that was stopped on it, and a model of another run."""
    page.shown_figure = lambda caption, _: {"caption": caption, "svg": "", "downloads": []}  # drawings take seconds
    folder = write_toy(Path(tempfile.mkdtemp()), pairs=60, queries=12, classes=2, spread=3)
    with contextlib.redirect_stdout(io.StringIO()):
        ICMR.Solver(settings(folder, "--checkpoint_dir", str(folder / "tested"))).train()
        solver = ICMR.Solver(settings(folder))
        take = solver.take

        def stopping(*inputs):
            solver.stop.signal = 15 if (solver.run.epoch, solver.run.step) == STOPPED else None
            return take(*inputs)

        solver.take = stopping
        with contextlib.suppress(SystemExit):
            solver.train()
    return folder


def settings(folder: Path, *more: str) -> ICMR.Config:
    return ICMR.parse(toy_arguments(folder, "--eval_every", "1", "--run_name", "a", *more))


def write_model(folder: Path) -> Path:
    return Path(shutil.copy(runs() / "tested" / "hash" / "toy_hash.pth", folder))


def write_state(folder: Path) -> Path:
    return Path(shutil.copy(runs() / "checkpoints" / "hash" / "toy_hash_4_8_state.pth", folder))


# --- reading them -----------------------------------------------------------------------------------------------------


def read_model(path: Path) -> None:
    """Test a model, and build an index with it."""
    folder = runs() / "tested"
    shutil.copy(path, folder / "hash" / "toy_hash.pth")
    ICMR.Solver(settings(runs(), "--checkpoint_dir", str(folder), "--task", "3")).train()
    Index.build(folder / "index", path, image=np.ones((30, 9), np.float32), rescore="int8")


def read_state(path: Path) -> None:
    """Resume a run to its end."""
    shutil.copy(path, runs() / "checkpoints" / "hash" / "toy_hash_4_8_state.pth")
    ICMR.Solver(settings(runs(), "--resume")).train()


# --- hostile ones -----------------------------------------------------------------------------------------------------


def crafted(content: bytes, seed: object, fragments: tuple[bytes, ...] = ()) -> bytes:
    """The content with one to three of its values replaced, left out, or joined by others; in every fourth case its
    pickle is damaged instead, under a right checksum.
    """
    rng = random.Random(repr(seed))
    if rng.random() < 0.25:
        return repacked(content, lambda pickled: mutant(pickled, seed, fragments))
    saved = torch.load(io.BytesIO(content), weights_only=True)
    for _ in range(rng.choice((1, 1, 2, 3))):
        container, key = place(saved, rng)
        change = rng.randrange(8)
        if change == 0:
            del container[key]
        elif change == 1 and isinstance(container, dict):
            container[rng.choice(("another", "", 7, -1, "x" * 5000))] = rng.choice(VALUES)()
        elif change < 4:
            container[key] = rng.choice(VALUES)()
        else:
            container[key] = rng.choice(near(container[key]))()
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of sparse and quantised tensors
        torch.save(saved, target)
    return target.getvalue()


def place(saved: dict, rng: random.Random) -> tuple[dict | list, object]:
    """A container somewhere in what was saved, and one of its keys; as likely at the top as deep inside."""
    container = saved
    while True:
        key = rng.choice([*container] if isinstance(container, dict) else range(len(container)))
        inner = container[key]
        if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.3:
            return container, key
        container = inner


def repacked(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """An archive of PyTorch with its pickle changed."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(old.read(name)) if name.endswith("data.pkl") else old.read(name))
    return target.getvalue()


def shared(value: object, times: int) -> object:
    """A list of two lists of two lists ... of the value, so many deep, each list in both places."""
    for _ in range(times):
        value = [value, value]
    return value


def endless() -> list:
    itself: list = [1]
    itself.append(itself)
    return itself


VALUES: list[Callable[[], object]] = [*(functools.partial(lambda value: value, value) for value in (
    None, True, False, 0, -1, 3, 10**9, 2**31, 2**63, 10**30, -10**30, 0.0, -1.0, 0.5, 1e-320, 1e308, float("nan"),
    float("inf"), -float("inf"), 1j, "", "text", "x" * 10**6, "\ud800", "\0", "../../elsewhere", "<b>", b"bytes", (),
    [], {}, set(), {1: 2}, {"a": {}}, [None], ["text"], [0] * 10**5, torch.float16, torch.device("cuda"),
    torch.Size([3])))]
VALUES += [lambda: shared(1, 12), lambda: shared("x" * 1000, 40), lambda: shared({}, 60), endless,
           lambda: functools.reduce(lambda inner, _: {"a": inner}, range(40), 1),
           lambda: OrderedDict(a=1), lambda: torch.nn.Parameter(torch.ones(3)), lambda: torch.ones(()),
           lambda: torch.ones(0), lambda: torch.ones(1).expand(10**9), lambda: torch.ones(1).expand(10**5, 10**5),
           lambda: torch.ones(3, 4, device="meta"), lambda: torch.ones(10**9, 10**9, device="meta"),
           lambda: torch.ones(2, dtype=torch.complex64), lambda: torch.ones(2, dtype=torch.bool),
           lambda: torch.full((5,), torch.nan), lambda: torch.zeros(5056, dtype=torch.uint8)]


def near(value: object) -> list[Callable[[], object]]:
    """What is much like a value, and isn't right."""
    if isinstance(value, Tensor) and value.numel() < 10**6 and value.device.type == "cpu":  # not a hostile one's
        other = torch.full_like(value, torch.nan if value.is_floating_point() else 9)
        return [lambda: other, lambda: value.to(torch.complex64), lambda: value.long(), lambda: value.half(),
                lambda: value.double(), lambda: -value.float(), lambda: value.float() * 1e38, lambda: value.to_sparse(),
                lambda: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8), lambda: value[None],
                lambda: value.new_ones(()).expand(value.shape), lambda: value.mT if value.ndim > 1 else value[None],
                lambda: value.flatten(), lambda: value.flatten()[1:], lambda: value.tolist(), lambda: [value] * 10**4,
                lambda: value.flatten().as_strided((max(value.numel() // 2, 1),), (0,)),
                lambda: value.float() + torch.inf]
    if isinstance(value, (int, float)):
        return [lambda: -value, lambda: value * 10**9, lambda: str(value), lambda: [value], lambda: float(value),
                lambda: value + 1, lambda: torch.tensor(value), lambda: {"a": value}, lambda: 0 * value]
    if isinstance(value, str):
        return [lambda: value + "x", lambda: value * 10**4, lambda: value.encode("utf-8", "surrogatepass"),
                lambda: [value], lambda: "",
                lambda: "\N{ZERO WIDTH SPACE}" + value]
    if isinstance(value, dict):
        return [lambda: {}, lambda: [*value], lambda: [*value.values()], lambda: {str(key): 1 for key in value},
                lambda: {f"{key}x": entry for key, entry in value.items()}, lambda: {"a": value},
                lambda: dict([*value.items()][1:]), lambda: {key: None for key in value}]
    if isinstance(value, list):
        return [lambda: [], lambda: value * 2, lambda: value[::-1], lambda: value[1:], lambda: value[:-1],
                lambda: [value], lambda: dict(enumerate(value)), lambda: value + [None], lambda: tuple(value)]
    return VALUES
