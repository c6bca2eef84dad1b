"""A training step that is recorded and replayed computes what it computes when it is called."""

import contextlib
import gc
import weakref

import pytest
import torch

import ICMR
from training import cuda_graph
from training.cuda_graph import Replayed
from training.run_state import RunState
from toy import toy_arguments, write_toy

CASES = {"default": [], "bfloat16": ["--precision", "bfloat16"], "balanced": ["--loss", "balanced"],
         "no structure": ["--structure_start", "0", "--structure_end", "0"],
         "no scale": ["--use_progressive_hash", "false"], "transformer": ["--fusion", "transformer"], "fusion": ["--task", "0"]}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def small(tmp_path):
    return write_toy(tmp_path, pairs=130, queries=20)


def solver(small, *more, device="cpu"):
    return ICMR.Solver(ICMR.parse([*toy_arguments(small, "--precision", "float32", *more), "--device", device]))


def step(made, rows, weight, scale):
    return made.hash_step(rows, weight, scale) if made.hashing else made.fusion_step(rows, weight)


def epochs(made, count=3):
    """The losses of some epochs, the scale growing, and the weights after them."""
    losses = [made.trainhash(1.0 + epoch) if made.hashing else made.trainfusion() for epoch in range(count)]
    return losses, {name: value.clone() for name, value in made.model.state_dict().items()}


@pytest.mark.parametrize("name", CASES)
def test_a_step_depends_on_its_inputs_and_on_tensors_alone(small, name):
    """Numbers that Python holds would stay in a record what they were when it was made."""
    found = []
    for changed in (False, True):
        made = solver(small, *CASES[name])
        made.model.train()
        if changed:
            made.run = RunState(epoch=2, step=1, statistics=[torch.zeros(5)], log=[{}])
            made.scale_min, made.scale_max = 3.0, 20.0
        torch.manual_seed(1)
        found.append(torch.stack([step(made, torch.arange(first, first + 16), torch.tensor(0.7), torch.tensor(3.0))
                                  for first in (0, 40)]))
    assert torch.equal(*found)


@pytest.mark.parametrize("name", CASES)
def test_numbers_may_be_tensors(small, name):
    found = []
    for numbers in ((0.7, 3.0), (torch.tensor(0.7), torch.tensor(3.0))):
        made = solver(small, *CASES[name])
        made.model.train()
        found.append(step(made, torch.arange(16), *numbers))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_inputs_are_passed_on_and_outputs_stay_what_they_were(monkeypatch):
    class Record:  # of a device that calls the step again
        def replay(self):
            made.output.copy_(step(*made.inputs))

    def step(rows, number):
        collected.append(gc.isenabled())
        return rows * number

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Record)
    monkeypatch.setattr(torch.cuda, "graph", lambda record, stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(Replayed, "beside", lambda self, step: step(*self.inputs))
    made, collected = Replayed(torch.device("cpu")), []
    outputs = [made(step, torch.arange(3.0) + number, 0.5 * number) for number in range(2 * cuda_graph.WARM_UP_CALLS + 1)]
    assert made.graph is not None
    assert collected == [True] * cuda_graph.WARM_UP_CALLS + [False] + [True] * (cuda_graph.WARM_UP_CALLS + 1)  # the fourth call is the record
    for number, output in enumerate(outputs):
        assert torch.equal(output, (torch.arange(3.0) + number) * (0.5 * number))


def test_a_record_that_fails_leaves_nothing_half_made(monkeypatch):
    def step(rows):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", lambda record, stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    made = Replayed(torch.device("cpu"))
    made.warm_up = 0
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            made(step, torch.arange(3.0))
        assert made.graph is None and gc.isenabled()


def test_a_solver_goes_when_it_is_no_longer_used(small):
    """Not when garbage is collected, which would be during the recording of another's step."""
    made = solver(small)
    epochs(made, 1)
    gone = weakref.ref(made)
    gc.disable()
    try:
        del made
        assert gone() is None
    finally:
        gc.enable()


@needs_gpu
@pytest.mark.parametrize("name", CASES)
def test_replayed_training_is_that_of_single_calls_to_the_bit(small, monkeypatch, name):
    found = []
    for eager in (10**9, cuda_graph.WARM_UP_CALLS):
        monkeypatch.setattr(cuda_graph, "WARM_UP_CALLS", eager)
        made = solver(small, *CASES[name], device="cuda")
        found.append(epochs(made))
        assert (made.replayed.graph is None) == (eager == 10**9)
    (called, called_weights), (replayed, replayed_weights) = found
    assert called == replayed
    assert all(torch.equal(called_weights[name], value) for name, value in replayed_weights.items())


@needs_gpu
def test_a_run_on_a_gpu_that_was_stopped_goes_on_to_the_same_weights(small):
    settings = [*toy_arguments(small, "--eval_every", "1", "--precision", "float32"), "--device", "cuda"]
    whole = ICMR.main(settings)
    stopped = ICMR.Solver(ICMR.parse(settings))
    take = stopped.take

    def stopping(*inputs):
        stopped.stop.signal = 15 if (stopped.run.epoch, stopped.run.step) == (1, 2) else None
        return take(*inputs)

    stopped.take = stopping
    with pytest.raises(SystemExit):
        stopped.train()
    resumed = ICMR.main([*settings, "--resume"])
    assert resumed["final"] == whole["final"]
    assert [e["loss"] for e in resumed["epochs"]] == [e["loss"] for e in whole["epochs"]]
