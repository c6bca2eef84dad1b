"""How far a training is, and its state on the disk, from which it can be resumed to the same weights bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common import processes
from common.errors import InputError
from training import checkpoint
from training.checkpoint_schema import State, check, progress
from training.device import random_state, set_random_state
from training.randomness import seed_process

STATISTICS = ("loss", "mean_abs", "saturation", "quantization_error", "bit_balance")  # of a step; of task 0 the first
SAME_DATA = ("dataset", "image_dim", "text_dim", "fingerprint")  # in the order that explains most
WHAT = "the state of an interrupted run"
ADVICE = "stopped, no trained model was replaced; try a smaller --lr or a larger --temperature"


@dataclass
class RunState:
    """Everything that the rest of a training depends on besides its settings, its weights and its random numbers."""

    epoch: int = 0  # whole epochs that are done
    step: int = 0  # steps that are done of the epoch after them
    seconds: float = 0.0  # of training
    statistics: list[Tensor] = field(default_factory=list)  # STATISTICS of each step of the epoch in progress
    log: list[dict] = field(default_factory=list)  # one entry an epoch
    history: list[dict] = field(default_factory=list)  # one entry an evaluation

    def means(self) -> dict[str, float]:
        """The means of the STATISTICS over the steps done. Raises :class:`InputError` if a loss is not finite."""
        values = torch.stack(self.statistics).cpu().double().numpy()
        for step, loss in enumerate(values[:, 0], start=1):
            if not np.isfinite(loss):
                raise InputError(f"the loss is {loss} in epoch {self.epoch + 1}, step {step}: {ADVICE}")
        return dict(zip(STATISTICS, values.mean(axis=0).tolist()))

    def end_epoch(self, **also: float) -> dict:
        """Count the epoch as done; append its means, its seconds and what ``also`` is known of it to the log."""
        means = self.means()
        seconds = self.seconds - sum(earlier["seconds"] for earlier in self.log)
        self.epoch, self.step, self.statistics = self.epoch + 1, 0, []
        self.log.append({"epoch": self.epoch, **also, **means, "seconds": seconds})
        return self.log[-1]


def save(path: Path, about: dict, run: RunState, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Save everything that the rest of the run depends on; ``about`` says which run it is. The first process writes."""
    device = next(model.parameters()).device
    random = processes.of_all(torch.get_rng_state())  # one a process
    on_device = [] if device.type == "cpu" else processes.of_all(random_state(device))
    if processes.rank() == 0:
        checkpoint.save(path, {**about, **vars(run), "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                               "random": random, f"random_{device.type}": on_device})


def run_of(path: Path) -> str | None:
    """The folder of results of the interrupted run, inside results_dir/<dataset>; None if the state names another.

    Raises:
        InputError: there is no such state, or it is damaged.
    """
    run = checkpoint.load(path, what=WHAT, schema=State)["run"]
    return run if run and not Path(run).is_absolute() and ".." not in Path(run).parts else None


def load(path: Path, about: dict, outcome: dict[str, object], run: RunState, model: nn.Module,
         optimizer: torch.optim.Optimizer, labelled: bool) -> None:
    """Bring a run, its model and its optimizer to the saved state.

    Args:
        about: what the checkpoint must say of the data.
        outcome: the settings that must be those of the interrupted run.
        labelled: whether its evaluations measure mAP.

    Raises:
        InputError: there is no such state, it is damaged, or it is another run's.
    """
    device = next(model.parameters()).device
    state = checkpoint.load(path, {key: about[key] for key in SAME_DATA}, WHAT, State)
    for name, value in outcome.items():
        if state["config"].get(name) != value:
            raise InputError(f"{path}: --{name} does not match: the interrupted run has "
                             f"{state['config'].get(name)}, this one {value}; give the same, or start a new run "
                             f"without --resume")
    _check_progress(path, state, outcome, labelled)
    checkpoint.check_tensors(path, model.state_dict(), state["model"])
    groups, moments = optimizer.state_dict()["param_groups"], state["optimizer"]["state"]
    checkpoint.check_tensors(path, _named({number: dict(step=torch.zeros(()), exp_avg=weight, exp_avg_sq=weight)
                                           for number, weight in enumerate(_parameters(optimizer))}), _named(moments))
    model.load_state_dict(state["model"])
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    run.epoch, run.step, run.seconds = state["epoch"], state["step"], state["seconds"]
    run.statistics = [values.to(device) for values in state["statistics"]]
    run.log, run.history = [*state["log"]], [*state["history"]]  # lists, even if they were saved as tuples
    seed_process(outcome["seed"], run.epoch, run.step)  # for processes that the interrupted run didn't have
    try:
        for random in state["random"][processes.rank():][:1]:
            torch.set_rng_state(random)
        for random in state.get(f"random_{device.type}", [])[processes.rank():][:1]:
            set_random_state(device, random)
    except (TypeError, RuntimeError) as error:
        raise InputError(f"{path}: not {WHAT}: random: {error}; start without --resume") from error


def _check_progress(path: Path, state: dict, outcome: dict[str, object], labelled: bool) -> None:
    """Raise :class:`InputError` if the numbers of a run in progress don't fit its settings, or each other."""
    hashing = outcome["task"] == 1
    statistics = STATISTICS if hashing else STATISTICS[:1]
    scale = ["scale"] if hashing and outcome["use_progressive_hash"] else []
    kinds = [str(bits) for bits in outcome["hash_lens"]] if hashing else ["real"]
    check(path, WHAT, {key: state[key] for key in ("log", "history")},
          progress([*statistics, *scale], kinds, labelled))
    epochs, evaluated = ([entry["epoch"] for entry in state[name]] for name in ("log", "history"))
    for found, holds, expected in (
            (f"epoch {state['epoch']}", state["epoch"] <= outcome["epoch"], f"at most {outcome['epoch']}"),
            (f"a log of {len(epochs)} epochs, or in another order", epochs == [*range(1, len(epochs) + 1)]
             and len(epochs) == state["epoch"], f"1 to {state['epoch']}"),
            ("evaluations of other epochs, or in another order", evaluated == sorted(set(evaluated) & set(epochs)),
             "some of those in the log"),
            ("evaluations of others", all(entry.keys() == {"epoch", *kinds} for entry in state["history"]),
             ", ".join(kinds)),
            ("no evaluation of the last epoch", state["epoch"] < outcome["epoch"] or evaluated[-1:] == epochs[-1:],
             "one"),
            (f"statistics of {len(state['statistics'])} steps", len(state["statistics"]) == state["step"],
             str(state["step"]))):
        if not holds:
            raise InputError(f"{path}: not {WHAT}: found {found}, expected {expected}; start without --resume")
    noted = {f"statistics.{step}": values for step, values in enumerate(state["statistics"])}
    checkpoint.check_tensors(path, dict.fromkeys(noted, torch.zeros(len(statistics))), noted)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _named(moments: dict[int, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"optimizer.{number}.{name}": value for number, each in moments.items() for name, value in each.items()}
