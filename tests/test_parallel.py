"""Two processes under torchrun: the same training and figures as one, and a clear end when one of them dies."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import ICMR
from common import processes
from training.device import choose_device
from toy import write_toy

ROOT = Path(__file__).parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
CASES = {"late": dict(hash_lens=[4, 8]), "transformer": dict(hash_lens=[8], fusion="transformer", batch_norm=False),
         "real": dict(task=0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small data set, as data/toy/toy.h5 of a temporary folder."""
    return write_toy(tmp_path_factory.mktemp("parallel"), pairs=80, queries=15,  # 65 items: they can't be halved
                     train_idx=np.arange(15, 79))


def one_step(folder, name):
    """A step over the whole training split in float64, without noise and dropout: what it computes, as tensors."""
    solver = ICMR.Solver(ICMR.Config(
        dataset="toy", data_dir=str(folder / "data"), results_dir=str(folder), checkpoint_dir=str(folder), device="cpu",
        hidden=16, noise=0.0, batch_size=64, precision="float32", **CASES[name]))
    for module in solver.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    solver.model.double()
    solver.image, solver.text = solver.image.double(), solver.text.double()
    solver.objective.shared = tuple(side.double() for side in solver.objective.shared)
    for split in (solver.data.query, solver.data.retrieval):
        split.image, split.text = split.image.double(), split.text.double()
    loss = solver.trainhash(2.0) if solver.hashing else solver.trainfusion()
    return {"loss": torch.tensor(loss, dtype=torch.float64),
            **{f"gradient of {key}": p.grad for key, p in solver.model.named_parameters() if p.grad is not None},
            **{f"after: {key}": value for key, value in solver.model.state_dict().items()},
            "figures": torch.tensor(list(numbers(solver.evaluate())), dtype=torch.float64)}


def numbers(figures):
    for value in figures.values():
        yield from numbers(value) if isinstance(value, dict) else [value]


def test_two_processes_compute_what_one_does(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*TORCHRUN, __file__, str(folder)], check=True, env=environment, cwd=folder, timeout=120)
    for name in CASES:
        one, two = one_step(folder, name), torch.load(folder / f"{name}.pt", weights_only=True)
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert torch.allclose(two[key].double(), value.double(), rtol=1e-9, atol=1e-9), (name, key)
        assert max(value.abs().max() for key, value in one.items() if key.startswith("gradient")) > 1e-4


def started(folder, **settings):
    """A run of two processes, once it has saved its state: torchrun, the second process, the command's arguments."""
    settings = {"dataset": "toy", "data_dir": folder / "data", "results_dir": folder, "checkpoint_dir": folder,
                "hash_lens": 8, "hidden": 8, "batch_size": 32, "device": "cpu", "eval_every": 50} | settings
    arguments = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    run = subprocess.Popen([*TORCHRUN, str(ROOT / "ICMR.py"), *arguments], cwd=folder, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    state = settings["checkpoint_dir"] / "hash" / "toy_hash_8_state.pth"
    while not state.exists() and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.01)
    second = next(pid for pid in children(run.pid) if b"LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_bytes())
    return run, second, arguments


def test_all_processes_stop_when_one_is_asked_to(folder):
    run, second, _ = started(folder, epoch=100_000, checkpoint_dir=folder / "stopped")
    os.kill(second, signal.SIGTERM)
    out, error = run.communicate(timeout=60)
    assert run.returncode and re.search(r"Stopped in epoch \d+ after \d of its 2 steps; the state is saved", out)
    assert "another one ended" not in error


def test_a_process_that_dies_ends_the_run_and_one_process_goes_on(folder):
    run, second, settings = started(folder, epoch=400)
    state = folder / "hash" / "toy_hash_8_state.pth"
    os.kill(second, signal.SIGKILL)
    out, error = run.communicate(timeout=60)
    assert run.returncode and state.exists()
    assert "error: process 0 stopped because another one ended" in error
    assert out.splitlines().count("epoch: 1") == 1  # the first process alone prints
    assert not (folder / "hash" / "toy_hash.pth").exists()

    results = ICMR.main([*settings, "--resume"])
    assert len(results["epochs"]) == 400 and results["environment"]["processes"] == 1


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("rows, size", [(10, 3), (7, 7), (2, 3), (0, 2), (18015, 16)])
def test_the_parts_cover_all_rows_evenly(monkeypatch, rows, size):
    monkeypatch.setattr(processes, "size", lambda: size)
    taken = []
    for rank in range(size):
        monkeypatch.setattr(processes, "rank", lambda: rank)
        taken.append(list(range(rows))[processes.part(rows)])
    assert sum(taken, []) == list(range(rows))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1


def test_one_process_is_left_alone():
    x = torch.randn(3, 2, requires_grad=True)
    assert processes.gather(x) is x and processes.rank() == 0 and processes.size() == 1
    assert processes.any_of_all(True) and not processes.any_of_all(False)


def test_averaging_waits_for_no_number_from_the_device(monkeypatch):
    monkeypatch.setattr(processes, "size", lambda: 2)
    monkeypatch.setattr(processes.dist, "all_reduce", lambda tensor: None)
    weight = torch.zeros(3, 2, device="meta", requires_grad=True)  # on a device whose tensors have no values to read
    weight.sum().backward()
    processes.average_gradients([weight])
    assert processes.any_of_all(True) and not processes.any_of_all(False)


@pytest.mark.parametrize("device, message", [("auto", "sees 1 here; start fewer processes"),
                                             ("cuda:0", "use --device auto or cuda"), ("cudaX", "expected auto, cpu")])
def test_processes_without_a_gpu_each_are_refused(monkeypatch, device, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(processes, "size", lambda: 2)
    monkeypatch.setattr(processes, "local_rank", lambda: 0)
    assert choose_device("auto") == torch.device("cuda:0")
    monkeypatch.setattr(processes, "local_rank", lambda: 1)
    with pytest.raises(ICMR.InputError, match=message):
        choose_device(device)


def test_a_batch_that_the_processes_cannot_share_evenly_is_refused(folder, monkeypatch):
    monkeypatch.setattr(processes, "size", lambda: 3)
    with pytest.raises(ICMR.InputError, match="multiple of 3"):
        ICMR.Solver(ICMR.Config(dataset="toy", data_dir=str(folder / "data"), batch_size=64, device="cpu"))


if __name__ == "__main__":  # under torchrun, by the first test
    with processes.joined():
        for case in CASES:
            result = one_step(Path(sys.argv[1]), case)
            if processes.rank() == 0:
                torch.save(result, Path(sys.argv[1]) / f"{case}.pt")
