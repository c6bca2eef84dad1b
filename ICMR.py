"""Trains and tests cross-modal hashing: settings, the solver, and the command line.

    python ICMR.py --dataset openmoji --hash_lens 16 32 64 128 --epoch 100 --task 1

Tasks (UCMFH's numbers): 0 trains the real-valued fusion, 1 trains the hash functions, 2 tests the real-valued fusion,
3 tests the hash functions.
"""

from __future__ import annotations

import os

# Before torch loads: threads that spin while they wait slow an epoch down twentyfold when another process wants a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import functools
import itertools
import json
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from training import checkpoint
import evaluation
import metric
from common import processes
from training import precision
from common.errors import InputError, Parser, exit_on_bad_input
from common.atomic_files import check_writable, write_atomically
from reporting.gallery import sample_retrievals
from load_data import load_dataset
from loss import BalancedContrastiveLoss, ContrastiveLoss
from model import SCHEDULES, FusionModel, HashModel, scale_at
from training.cuda_graph import Replayed
from training.targets import (DIMENSIONS, UNSURE, contrast_temperatures, measurable, nearest_codes, shared_space,
                       structure_targets, structure_temperature)
from reporting.terminal import summary, table, terminal_lines


class Config:
    """Every setting and its default: edit here, or override on the command line (``--scale_max 8``)."""

    def __init__(self, **settings):
        # What to run
        self.dataset = "mirflickr"
        self.data_dir = "data"
        self.task = 1
        self.hash_lens = [16, 32, 64, 128]
        self.epoch = 100

        # The loss
        self.loss = "contrastive"
        self.positive_weight = 0.5  # of the balanced loss; 0.5 is the plain one
        self.temperature = 0.0  # 0: chosen for each code length from the training pairs (training/targets.py)
        self.structure_start = 0.8  # share of each target that goes to pairs that are alike, in the first epoch
        self.structure_end = 0.2  # in the last; both 0: partners only
        self.alike = 0.15  # share of a batch that a pair is like
        self.code_weight = 0.5  # share of that given to the nearest codes, as far as learned; the rest by the features

        # Progressive hash learning: hash_code = tanh(scale * x)
        self.use_progressive_hash = True
        self.scale_min = 1.0  # in the first epoch
        self.scale_max = 10.0  # in the last epoch, and in every test
        self.scale_schedule = "linear"

        # The networks
        self.fusion = "late"
        self.hidden = 1024
        self.batch_norm = True
        self.centre = True
        self.noise = 1.0  # added to the features in training, relative to their length

        # The optimisation
        self.batch_size = 128
        self.lr = 1e-3  # of the hash heads
        self.lr_fusion = 1e-4  # of the fusion Transformer
        self.seed = 0
        self.device = "auto"
        self.precision = "auto"  # of the networks' layers in training; the loss and the tests are in float32

        # The results
        self.eval_every = 10
        self.results_dir = "results"
        self.checkpoint_dir = "checkpoints"
        self.run_name = ""
        self.tensorboard = False
        self.resume = False

        self.scale_min, self.scale_max = float(self.scale_min), float(self.scale_max)  # edited to 8 as well as to 8.0
        for name, value in settings.items():
            if name not in vars(self):
                raise InputError(f"unknown setting {name!r}; the settings are {', '.join(vars(self))}")
            default = getattr(self, name)
            if isinstance(default, float) and type(value) is int:
                value = float(value)
            if isinstance(default, list):
                value = [value] if type(value) is int else list(value)
            if type(value) is not type(default):
                raise InputError(f"{name} = {value!r}: expected a {type(default).__name__}, such as {default!r}")
            setattr(self, name, value)

    def check(self) -> None:
        """Raise :class:`InputError` for the first setting that can't be right."""
        def require(holds: bool, name: str, expected: str) -> None:
            if not holds:
                raise InputError(f"--{name} {getattr(self, name)}: expected {expected}")

        for name in ("epoch", "eval_every"):
            require(getattr(self, name) >= 1, name, "1 or more")
        require(1 <= self.hidden <= WIDEST, "hidden", f"a number from 1 to {WIDEST}")
        require(self.batch_size >= 2, "batch_size", "2 or more: a contrastive loss needs another pair to contrast")
        for name in ("scale_min", "scale_max"):
            require(0 < getattr(self, name) <= 1000, name, "a positive number up to 1000")
        for name in ("lr", "lr_fusion"):
            require(0 < getattr(self, name) < float("inf"), name, "a positive number")
        for name in ("structure_start", "structure_end", "positive_weight", "alike", "code_weight"):
            require(0 <= getattr(self, name) <= 1, name, "a number from 0 to 1")
        for name in ("noise", "temperature"):
            require(0 <= getattr(self, name) < float("inf"), name, "0 or more")
        require(self.scale_max >= self.scale_min, "scale_max", f"at least scale_min, which is {self.scale_min}")
        require(self.scale_schedule in SCHEDULES, "scale_schedule", f"one of {', '.join(SCHEDULES)}")
        require(self.loss in ("contrastive", "balanced"), "loss", "contrastive or balanced")
        require(self.loss == "balanced" or self.positive_weight == 0.5, "positive_weight",
                "0.5, unless --loss balanced is given")
        require(self.fusion in ("late", "transformer"), "fusion", "late or transformer")
        require(self.precision in precision.SETTINGS, "precision", f"one of {', '.join(precision.SETTINGS)}")
        require(self.task in (0, 1, 2, 3), "task", "0 (train real), 1 (train hash), 2 (test real) or 3 (test hash)")
        require(not Path(self.run_name).is_absolute() and ".." not in Path(self.run_name).parts, "run_name",
                "the name of a folder inside results_dir/<dataset>")
        require(0 <= self.seed < 2**63, "seed", "a whole number from 0 to 2^63 - 1")
        require(bool(self.hash_lens)
                and all(type(b) is int and 1 <= b <= metric.LONGEST for b in self.hash_lens)
                and len(set(self.hash_lens)) == len(self.hash_lens), "hash_lens",
                f"one or more different numbers of bits, each from 1 to {metric.LONGEST}")


class Stopped(Exception):
    """Training was asked to stop (Ctrl-C or SIGTERM); the state is saved."""


class Solver:
    """Trains, saves, loads and tests one model, as its :class:`Config` says."""

    def __init__(self, config: Config):
        config.check()
        self.config = config
        self.scale_min = config.scale_min
        self.scale_max = config.scale_max  # a checkpoint that is tested brings its own

        self.device = choose_device(config.device)
        self.training, self.hashing = config.task in (0, 1), config.task in (1, 3)
        self.lengths = config.hash_lens if self.hashing else [None]  # one checkpoint each
        kind = "hash" if self.hashing else "real"
        self.model_dir = Path(config.checkpoint_dir) / kind

        # Everything is checked before the first folder is made.
        self.data = load_dataset(config.dataset, config.data_dir)
        if not self.hashing:
            self.data.require_labels(f"the real-valued fusion (--task {config.task}) is tested by mAP")
        for warning in self.data.warnings:
            warn(warning)
        run_name = config.run_name or f"{datetime.now():%Y%m%d-%H%M%S}-{kind}-seed{config.seed}"
        self.run_dir = Path(config.results_dir) / self.data.name / run_name
        pairs = len(self.data.train)
        if self.training and config.batch_size > pairs:
            raise InputError(f"--batch_size {config.batch_size}: larger than the training split of "
                             f"{self.data.name}, which has {pairs} pairs; give at most {pairs}")
        for side in ("image", "text") if self.training else ():
            features = getattr(self.data.train, side)
            first = normalize(features[:1], dim=1)
            if all(torch.allclose(normalize(rows, dim=1), first, atol=1e-6) for rows in features.split(1024)):
                raise InputError(f"{self.data.name}: the {side} features of all {pairs:,} training pairs are the same "
                                 f"but for their length; expected features that tell items apart")
        fewest = min(len(self.data.query), len(self.data.retrieval))
        if fewest < processes.size():
            raise InputError(f"{self.data.name}: {processes.size()} processes can't share {fewest} queries or items; "
                             f"use fewer processes")
        if self.training and config.batch_size % processes.size():
            raise InputError(f"--batch_size {config.batch_size}: the batch is shared by {processes.size()} processes; "
                             f"give a multiple of {processes.size()}")
        writes = processes.rank() == 0
        for path in [self.state_path] * config.resume if self.training else map(self.model_path, self.lengths):
            checkpoint.check_exists(path)
        if writes:
            if not config.run_name:
                self.run_dir = unused(self.run_dir)
            check_writable(self.run_dir, "results_dir")
            if self.training:
                check_writable(self.model_dir, "checkpoint_dir")

        torch.manual_seed(config.seed)
        self.chosen: dict = {}  # from the training pairs: the temperatures
        if self.training:
            self.build()
            self.precision, self.speedup = precision.choose(
                config.precision, self.model, config.batch_size // processes.size(), self.device)
            if self.hashing:
                for head in (self.model.ImageMlp, self.model.TextMlp):
                    head.tohash.register_forward_hook(whole_batch)
            self.seed_process()
        else:
            self.precision, self.speedup = "float32", None
        self.epoch = self.step = 0  # what is done: whole epochs, and steps of the epoch after them
        self.statistics: list[Tensor] = []  # STATISTICS of each step of the epoch in progress
        self.log: list[dict] = []  # one entry an epoch
        self.history: list[dict] = []  # one entry an evaluation
        self.seconds = 0.0  # of training
        self.tested: list = []  # the models of a test, each with the scale of its codes
        self.trained: dict = {}  # of a test: how each model was trained
        self.bar = tqdm(disable=True)  # until fit shows one
        self.stop_signal: int | None = None

    @property
    def use_progressive_hash(self) -> bool:
        """Whether the scale acts; the heads are built for it, so that it can't be set afterwards."""
        return self.config.use_progressive_hash

    def seed_process(self, epoch: int = 0, step: int = 0) -> None:
        """Give every process its own dropout and noise; the first has those of a run of one."""
        if processes.rank():
            torch.manual_seed(derived_seed(self.config.seed, epoch, step, processes.rank()))

    def build(self) -> None:
        """Make the model, its loss and its optimizer, sizes following the data."""
        config, data = self.config, self.data
        shared = dict(centre=config.centre, noise=config.noise)
        if self.hashing:
            self.model = HashModel(data.image_dim, data.text_dim, config.hash_lens, self.use_progressive_hash,
                                   config.fusion, hidden=config.hidden, batch_norm=config.batch_norm, **shared)
        else:
            self.model = FusionModel(data.image_dim, data.text_dim, **shared)
        self.model.image_input.fit(data.train.image)
        self.model.text_input.fit(data.train.text)
        self.model.to(self.device)
        fusion = [p for name, p in self.model.named_parameters() if name.startswith("FuseTrans.")]
        heads = [p for name, p in self.model.named_parameters() if not name.startswith("FuseTrans.")]
        groups = [{"params": p, "lr": lr} for p, lr in ((fusion, config.lr_fusion), (heads, config.lr)) if p]
        self.optimizer = torch.optim.Adam(groups, betas=(0.5, 0.999),  # UCMFH's
                                          fused=True, capturable=self.replays)
        self.replayed = Replayed(self.device)

        self.image, self.text = data.train.image.to(self.device), data.train.text.to(self.device)
        with torch.no_grad():
            self.model.eval()  # no noise
            self.choose_loss(self.model.image_input(self.image), self.model.text_input(self.text))

    def choose_loss(self, image: Tensor, text: Tensor) -> None:
        """Make the loss of each code length, with the temperatures that the training features ask for."""
        config = self.config
        if self.structured:
            self.structure = shared_space(image, text)
            self.chosen["structure_temperature"] = structure_temperature(*self.structure, config.batch_size,
                                                                         config.alike)
        widths = [bits or DIMENSIONS for bits in self.lengths]
        widths += [DIMENSIONS] if config.fusion == "transformer" and DIMENSIONS not in widths else []
        temperatures = (dict.fromkeys(widths, config.temperature) if config.temperature else
                        contrast_temperatures(image, text, widths, config.batch_size))
        unsure = not config.temperature and min(temperatures.values()) == UNSURE
        if unsure and measurable(len(image), config.batch_size):
            warn(f"{self.data.name}: the texts of images can't be told from other texts; are the rows of both in the "
                 f"same order?")
        self.chosen["temperature"] = {str(bits): temperature for bits, temperature in temperatures.items()}
        make = (ContrastiveLoss if config.loss == "contrastive" else
                functools.partial(BalancedContrastiveLoss, positive_weight=config.positive_weight))
        self.criteria = {bits: make(temperature=temperature) for bits, temperature in temperatures.items()}

    @property
    def structured(self) -> bool:
        """Whether any share of the targets goes to pairs that are alike."""
        return max(self.config.structure_start, self.config.structure_end) > 0

    @property
    def progress(self) -> float:
        """How far training is, by whole epochs: 0 in the first, 1 in the last."""
        return min(self.epoch / max(self.config.epoch - 1, 1), 1.0)

    @property
    def structure_share(self) -> float:
        """The share of each target that goes to pairs that are alike, in this epoch."""
        return (1 - self.progress) * self.config.structure_start + self.progress * self.config.structure_end

    # --- training -----------------------------------------------------------------------------------------------------

    def train(self) -> dict:
        """Run the task: train where it trains, then test, and write the results. Returns what metrics.json holds."""
        if self.training:
            self.fit()
        else:
            say("Final Testing...")
            figures = self.test()
            self.history.append({"epoch": self.epoch, **figures})
        if processes.rank():
            return {}
        return self.report()

    def fit(self) -> None:
        """Train to the last epoch, from the saved state with ``--resume``."""
        config = self.config
        if config.resume:
            self.load_state()
        if self.hashing and self.use_progressive_hash:
            say(f"✅ Using Progressive Hash Learning - Scale from {self.scale_min} to {self.scale_max}")
        say("Training Hash Function..." if self.hashing else "Training Fusion Transformer...")
        steps = len(self.image) // config.batch_size
        handlers = {number: signal.signal(number, self.ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        # disable=None: no bar where standard error is not a terminal
        self.bar = tqdm(total=config.epoch * steps, initial=self.epoch * steps + self.step, unit="step", leave=False,
                        dynamic_ncols=True, disable=True if processes.rank() else None)
        try:
            while self.epoch < config.epoch:
                say(f"epoch: {self.epoch + 1}")
                scale = 1.0
                if self.hashing and self.use_progressive_hash:
                    scale = scale_at(self.progress, self.scale_min, self.scale_max, config.scale_schedule)
                    say(f"  Progressive scale: {scale:.2f} (progress: {100 * self.progress:.1f}%)")
                self.trainhash(scale) if self.hashing else self.trainfusion()
                entry = self.log[-1]
                say("  " + " | ".join(f"{label} {entry[key]:.4f}" for label, key in SHOWN if key in entry)
                    + f" | {entry['seconds']:.2f} s")
                if self.epoch % config.eval_every == 0 or self.epoch == config.epoch:
                    say("Testing...")
                    self.history.append({"epoch": self.epoch, **self.evaluate()})
                    for line in summary(self.history[-1]):
                        say("  " + line)
                    self.save_state()
                if config.tensorboard and processes.rank() == 0:
                    self.record()
        except Stopped:
            self.save_state()
            command = ("the same torchrun command" if processes.size() > 1 else
                       shlex.join([os.path.basename(sys.executable), *sys.argv]))
            say(f"Stopped in epoch {self.epoch + 1} after {self.step} of its {steps} steps; the state is saved. "
                f"To resume: {command}{'' if config.resume else ' --resume'}")
            raise SystemExit(128 + (self.stop_signal or signal.SIGTERM)) from None
        finally:
            self.bar.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        self.save()
        say(precision.described(self.precision, self.speedup))
        temperatures = ", ".join(f"{bits}: {value:.3f}" for bits, value in self.chosen["temperature"].items())
        say(f"Temperature by code length: {temperatures}" + ("" if config.temperature else ", from the training pairs"))

    def trainhash(self, scale: float) -> float:
        """Train the hash functions for one epoch at ``scale``; returns its mean loss."""
        return self.train_epoch(scale)

    def trainfusion(self) -> float:
        """Train the real-valued fusion for one epoch; returns its mean loss."""
        return self.train_epoch()

    def fusion_loss(self, image: Tensor, text: Tensor, structure: Tensor | None, share: float | Tensor) -> Tensor:
        """The loss of a batch of the real-valued fusion, the sum over the protocols."""
        return sum(self.criteria[DIMENSIONS](*map(processes.gather, sides), structure, share)
                   for sides in self.model(image, text).values())

    def hash_loss(self, image: Tensor, text: Tensor, structure: Tensor | None, share: float | Tensor,
                  scale: float | Tensor) -> Tensor:
        """The loss of a batch, the mean over the code lengths; with UCMFH's fusion also that of its fused features."""
        model, config = self.model, self.config
        features = model.fuse(image, text)
        x = torch.cat([model.ImageMlp.project(features[0]), model.TextMlp.project(features[1])])
        codes = model.ImageMlp.binarize(x, scale)
        self.observe(scale * x if self.use_progressive_hash else x, codes)
        if structure is not None and config.code_weight:
            nearest = nearest_codes(*x.chunk(2), config.alike)
            structure = torch.lerp(structure, nearest.to(structure.dtype), config.code_weight)
        loss = sum(self.criteria[bits](*code.chunk(2), structure, share)
                   for bits, code in model.split(codes).items()) / len(config.hash_lens)
        if config.fusion == "transformer":
            fused = self.criteria[DIMENSIONS](*map(processes.gather, features), structure, share)
            loss = fused + 0.5 * loss
        return loss

    def observe(self, x: Tensor, codes: Tensor) -> None:
        """Take the statistics of a batch's ``scale * x`` and codes, images then texts."""
        with torch.no_grad():
            balance = torch.stack([torch.where(side >= 0, 1.0, -1.0).mean(dim=0) for side in codes.chunk(2)])
            self.observed = [x.abs().mean(), (codes.abs() > 0.9).float().mean(), ((codes.abs() - 1) ** 2).mean(),
                             balance.abs().mean()]

    @property
    def replays(self) -> bool:
        """Whether steps are recorded and replayed (training/cuda_graph.py)."""
        return self.device.type == "cuda" and processes.size() == 1

    def run_step(self, rows: Tensor, share: float, scale: float) -> Tensor:
        """:meth:`train_step`, replayed where it can be."""
        if self.replays:
            return self.replayed(self.train_step, rows, share, scale)
        return self.train_step(rows, share, scale)

    def train_step(self, rows: Tensor, share: float | Tensor, scale: float | Tensor) -> Tensor:
        """One step of the optimizer on the training pairs ``rows``; returns its STATISTICS, which stay on the device.
        """
        structure = None
        if self.structured:
            structure = structure_targets(*(side[rows] for side in self.structure),
                                          self.chosen["structure_temperature"])
        rows = rows[processes.part(len(rows))]
        batch = self.image[rows], self.text[rows], structure, share
        self.observed: list[Tensor] = []
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            loss = self.hash_loss(*batch, scale) if self.hashing else self.fusion_loss(*batch)
        self.optimizer.zero_grad()
        loss.backward()
        processes.average_gradients(self.model.parameters())
        self.optimizer.step()
        return torch.stack([loss.detach(), *self.observed])

    def train_epoch(self, scale: float = 1.0) -> float:
        """One epoch, or the rest of one that was interrupted. Appends to ``log`` and returns the mean loss.

        The order of the pairs depends on the seed and the epoch alone. The pairs left over after the last whole batch
        sit out this epoch; the next shuffle leaves out others. Nothing waits for the device before the epoch is over.
        """
        started = time.perf_counter()
        batch, pairs = self.config.batch_size, len(self.image)
        shuffle = torch.Generator().manual_seed(derived_seed(self.config.seed, self.epoch))
        order = torch.randperm(pairs, generator=shuffle).to(self.device)
        steps, share = pairs // batch, self.structure_share
        self.model.train()
        while self.step < steps:
            rows = order[self.step * batch:(self.step + 1) * batch]
            self.statistics.append(self.run_step(rows, share, scale))
            self.step += 1
            self.bar.update()
            if processes.any_of_all(self.stop_signal is not None):
                self.means()
                self.seconds += time.perf_counter() - started
                raise Stopped
        means = self.means()
        self.seconds += time.perf_counter() - started
        seconds = self.seconds - sum(earlier["seconds"] for earlier in self.log)
        self.epoch, self.step, self.statistics = self.epoch + 1, 0, []
        at = {"scale": scale} if self.hashing else {}
        self.log.append({"epoch": self.epoch, **at, **means, "seconds": seconds})
        return means["loss"]

    def means(self) -> dict[str, float]:
        """The means of the STATISTICS over the steps done. Raises :class:`InputError` if a loss is not finite."""
        values = torch.stack(self.statistics).double().cpu().numpy()
        for step, loss in enumerate(values[:, 0], start=1):
            if not np.isfinite(loss):
                raise InputError(f"the loss is {loss} in epoch {self.epoch + 1}, step {step}: {ADVICE}")
        return dict(zip(STATISTICS, values.mean(axis=0).tolist()))

    def ask_to_stop(self, number: int, frame) -> None:
        self.stop_signal = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    # --- testing ------------------------------------------------------------------------------------------------------

    def evaluate(self) -> dict:
        """What :func:`evaluation.evaluate_codes` says, ``["16"]["unpaired"]["i2t"]["map@50"]``; for the real-valued
        fusion what :func:`evaluation.evaluate_real` says, under ``"real"``.

        The code of an item doesn't depend on the other items. Signs are those of x, hence of tanh(scale * x) at any
        scale; the quantization error is that of the database's unpaired codes at the largest scale.
        """
        if self.training and self.hashing:
            self.model.calibrate(zip(self.image.split(evaluation.ROWS), self.text.split(evaluation.ROWS)))
        try:
            if self.hashing:
                return evaluation.evaluate_codes(self.model, self.data, self.scale_max)
            return {"real": evaluation.evaluate_real(self.model, self.data)}
        except evaluation.NotFinite as error:
            raise InputError(f"{error} after epoch {self.epoch}: {ADVICE}") from error

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def model_path(self, bits: int | None) -> Path:
        """UCMFH's file names: ``real/<dataset>_fusion.pth`` and ``hash/<dataset>_hash_<bits>.pth``."""
        return self.model_dir / f"{self.data.name}_{'fusion' if bits is None else f'hash_{bits}'}.pth"

    @property
    def state_path(self) -> Path:
        """Where a run in progress is kept: ``hash/<dataset>_hash_16_32_state.pth``, ``real/<dataset>_fusion_state.pth``
        """
        kind = "hash_" + "_".join(map(str, self.config.hash_lens)) if self.hashing else "fusion"
        return self.model_dir / f"{self.data.name}_{kind}_state.pth"

    def about(self) -> dict:
        """What every checkpoint says of the training and the data behind it."""
        config = vars(self.config) | {"scale_min": self.scale_min, "scale_max": self.scale_max}
        return {"dataset": self.data.name, "fingerprint": self.data.fingerprint, "image_dim": self.data.image_dim,
                "text_dim": self.data.text_dim, "config": config, "epoch": self.epoch,
                "scale": self.log[-1].get("scale", 1.0) if self.log else self.scale_min, "chosen": self.chosen}

    def save(self) -> None:
        """Save the trained model, one file a code length."""
        if processes.rank():
            return
        for bits in self.lengths:
            model = self.model.single(bits) if self.hashing else self.model
            checkpoint.save_model(self.model_path(bits), model, **self.about())

    def save_state(self) -> None:
        """Save everything that the rest of the run depends on."""
        random = processes.of_all(torch.get_rng_state())  # one a process
        random_cuda = processes.of_all(torch.cuda.get_rng_state(self.device)) if self.device.type == "cuda" else []
        if processes.rank():
            return
        checkpoint.save(self.state_path, {
            **self.about(), "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "step": self.step, "statistics": self.statistics, "log": self.log, "history": self.history,
            "seconds": self.seconds, "precision": [self.precision, self.speedup], "random": random, "random_cuda": random_cuda})

    def load_state(self) -> None:
        """Resume from the saved state. Raises :class:`InputError` if it is another run's."""
        about = self.about()
        state = checkpoint.load(self.state_path, {key: about[key] for key in SAME_DATA})
        for name, value in about["config"].items():
            if name not in MAY_CHANGE and state["config"].get(name) != value:
                raise InputError(f"{self.state_path}: --{name} does not match: the interrupted run has "
                                 f"{state['config'].get(name)}, this one {value}; give the same, or start a new run "
                                 f"without --resume")
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            for group in self.optimizer.param_groups:
                group["capturable"] = self.replays  # the interrupted run may have been on another device
            self.replayed = Replayed(self.device)  # a record works on the tensors that were there before
            self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
            self.statistics = [values.to(self.device) for values in state["statistics"]]
            self.log, self.history = state["log"], state["history"]
            if self.config.precision == "auto":
                self.precision, self.speedup = state["precision"]
            self.seed_process(self.epoch, self.step)  # for processes that the interrupted run didn't have
            for random in state["random"][processes.rank():][:1]:
                torch.set_rng_state(random)
            for random in state["random_cuda"][processes.rank():][:1]:
                if self.device.type == "cuda":
                    torch.cuda.set_rng_state(random, self.device)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise InputError(f"{self.state_path}: not the state of an interrupted run "
                             f"({type(error).__name__}: {error}); start without --resume") from error
        say(f"Resuming after {self.epoch} epochs and {self.step} steps, from {self.state_path}")

    def test(self) -> dict:
        """Test the trained models of the checkpoint folder, one file a code length."""
        about = self.about()
        figures, epochs = {}, {}
        for bits in self.lengths:
            path = self.model_path(bits)
            self.model, content = checkpoint.load_model(path, {key: about[key] for key in SAME_DATA})
            wanted = HashModel if self.hashing else FusionModel
            if not isinstance(self.model, wanted):
                raise InputError(f"{path}: holds a {type(self.model).__name__}, expected a {wanted.__name__}; "
                                 f"train again")
            if self.hashing and self.model.hash_lens != [bits]:
                raise InputError(f"{path}: holds codes of {self.model.hash_lens} bits, expected {bits}; train again")
            if missing := {"epoch", "scale", "config", "chosen"} - content.keys():
                raise InputError(f"{path}: says nothing of {', '.join(sorted(missing))}, as those of an older version; "
                                 f"train again")
            say(f"Loaded {path} (epoch {content['epoch']}, scale {content['scale']:g})")
            self.model.to(self.device)
            self.epoch, self.scale_max = content["epoch"], content["config"]["scale_max"]
            self.trained["real" if bits is None else str(bits)] = {
                key: content[key] for key in ("epoch", "config", "chosen")}
            epochs[bits] = self.epoch
            self.tested.append((self.model, self.scale_max))
            figures.update(self.evaluate())
        if len(set(epochs.values())) > 1:
            found = ", ".join(f"{bits} bits: {epoch}" for bits, epoch in epochs.items())
            warn(f"these models were trained for different numbers of epochs ({found})")
        return figures

    # --- results ------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def events(self):
        """The TensorBoard event file of the run."""
        try:
            from torch.utils.tensorboard import SummaryWriter  # here: it takes seconds to load
        except ImportError as error:
            raise InputError(f"--tensorboard true: {error}; pip install tensorboard, or leave it out") from None
        return SummaryWriter(self.run_dir / "tensorboard", purge_step=self.epoch)

    def record(self) -> None:
        """Write the epoch just done, with its evaluation if it had one, as TensorBoard events."""
        values = {f"training/{key}": value for key, value in self.log[-1].items() if key != "epoch"}
        if self.history and self.history[-1]["epoch"] == self.epoch:
            for name, figures in self.history[-1].items():
                if name != "epoch":
                    values |= {f"{name}/{kind}/{way}/{cut}": value for kind in ("unpaired", "paired", "partners")
                               for way, found in figures.get(kind, {}).items() for cut, value in found.items()}
        for name, value in values.items():
            self.events.add_scalar(name, value, self.epoch)
        self.events.flush()

    def details(self) -> dict:
        """For the report: ``curves`` of each code length (reporting/curves.py) and a ``gallery`` of retrievals (reporting/gallery.py)."""
        curves: dict = {}
        for model, scale in self.tested or [(self.model, self.scale_max)]:
            if not self.hashing:
                sides = [side for split in (self.data.query, self.data.retrieval)
                         for side in evaluation.embeddings(model, split)]
                continue
            found, codes = evaluation.model_curves(model, self.data, scale)
            curves |= found
            if str(max(self.lengths)) in found:
                sides = codes
        return {"curves": curves, "gallery": sample_retrievals(self.data, *sides, hashing=self.hashing)}

    def results(self) -> dict:
        """What metrics.json holds; of a test also how the models were ``trained``, with the settings they had then."""
        final = {key: value for key, value in self.history[-1].items() if key != "epoch"}
        return {"dataset": self.data.name, "task": self.config.task,
                "config": self.about()["config"] if self.training else vars(self.config),
                "environment": {**environment(self.device), "precision": self.precision,
                                "bfloat16_speedup": self.speedup, "processes": processes.size()},
                "fingerprint": self.data.fingerprint, "chosen": self.chosen, "trained": self.trained,
                "sizes": {name: len(getattr(self.data, name)) for name in ("train", "query", "retrieval")},
                "seconds": {"training": self.seconds}, "epochs": self.log, "history": self.history, "final": final,
                **self.details()}

    def report(self) -> dict:
        """Print the table of the last evaluation; write ``metrics.json``, whose path is the last line printed, and
        ``report.html`` beside it.
        """
        from reporting.page import write_report  # here: matplotlib takes a second to load

        results, path = self.results(), self.run_dir / "metrics.json"
        write_atomically(path, lambda file: json.dump(results, file, indent=1), "w")
        write_report(self.run_dir / "report.html", results)
        for line in table(results) + terminal_lines(results["gallery"]):
            say(line)
        say("Written, with the figures and sample retrievals as report.html beside it:")
        say(str(path))
        return results


STATISTICS = ("loss", "mean_abs", "saturation", "quantization_error", "bit_balance")  # of a step; of task 0 the first
WIDEST = 2**16  # of a hidden layer: more is a slip of the keyboard
SHOWN = (("loss", "loss"), ("mean |scale*x|", "mean_abs"), ("saturation", "saturation"),
         ("bit balance", "bit_balance"))  # of an epoch's log, on its line
ADVICE = "stopped, no trained model was replaced; try a smaller --lr or a larger --temperature"
SAME_DATA = ("dataset", "image_dim", "text_dim", "fingerprint")  # in the order that explains most
MAY_CHANGE = {"data_dir", "device", "results_dir", "checkpoint_dir", "run_name", "tensorboard", "resume"}  # on resuming


def say(line: str) -> None:
    """Print a line, above the progress bar if there is one."""
    tqdm.write(line)
    sys.stdout.flush()


def warn(line: str) -> None:
    """Print a warning, once however many processes there are."""
    if not processes.rank():
        print(f"warning: {line}", file=sys.stderr)


def unused(folder: Path) -> Path:
    """``folder``, or with -2, -3, ... at its end where another run has it; made, so that no other takes it."""
    for number in itertools.count(1):
        try:
            path = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            if not path.exists():  # a parent is a link to nowhere
                return folder
        except OSError:
            return folder  # where check_writable says why not


def derived_seed(*numbers: int) -> int:
    """A seed that depends on all the numbers, e.g. the run's seed and the epoch: also in a run that was interrupted."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def whole_batch(layer: torch.nn.Linear, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
    """Forward hook of a layer: in training, its output for the rows of all processes, in the precision of its weights.
    """
    return processes.gather(output.to(layer.weight.dtype)) if layer.training else None


def choose_device(name: str) -> torch.device:
    """``auto`` is the first GPU, or the CPU; with several processes, each has a GPU of its own. Raises
    :class:`InputError` for one that isn't there.
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


def environment(device: torch.device) -> dict:
    """What the figures were measured on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
            "platform": platform.platform(), "device": str(device), "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None}


def parse(argv: list[str] | None = None) -> Config:
    """The configuration from the command line; what it doesn't give keeps its default in :class:`Config`."""
    def boolean(text: str) -> bool:
        if text.lower() not in ("true", "false"):
            raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")
        return text.lower() == "true"

    parser = Parser(prog="ICMR.py", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in vars(Config()).items():
        if name == "resume":
            parser.add_argument("--resume", action="store_true", help=HELP[name])
            continue
        several = isinstance(default, list)
        parser.add_argument(f"--{name}", default=default, nargs="+" if several else None,
                            type=boolean if isinstance(default, bool) else int if several else type(default),
                            metavar="N" if several or type(default) is int else type(default).__name__.upper(),
                            help=f"{HELP[name]} (default: {' '.join(map(str, default)) if several else default!s})")
    return Config(**vars(parser.parse_args(argv)))


HELP = {
    "dataset": "name of a folder in data_dir, or path of a folder or file",
    "data_dir": "where the data sets are",
    "task": "0 train real, 1 train hash, 2 test real, 3 test hash",
    "hash_lens": "code lengths in bits",
    "epoch": "training epochs",
    "use_progressive_hash": "true: codes are tanh(scale * x) with a growing scale; false: tanh(x)",
    "scale_min": "scale in the first epoch",
    "scale_max": "scale in the last epoch and in tests",
    "scale_schedule": f"how the scale grows: {', '.join(SCHEDULES)}",
    "loss": "contrastive, or balanced: positives and negatives weighted against each other",
    "positive_weight": "weight of the positives in the balanced loss, 0 to 1",
    "temperature": "of the contrastive loss; 0: for each code length by how surely pairs can be told apart",
    "structure_start": "share of each target given to pairs that are alike in the first epoch, 0 to 1",
    "structure_end": "the same in the last epoch",
    "alike": "share of a batch that a pair is taken to be like, 0 to 1",
    "code_weight": "share of that given to the pairs with the nearest codes, the rest to those with like features",
    "fusion": "how items with both modalities get a code: late, or UCMFH's transformer",
    "hidden": "width of the hash heads' hidden layer",
    "batch_norm": "normalise each bit before the tanh",
    "centre": "subtract the training mean from each modality's features",
    "noise": "Gaussian noise added to training features, relative to their length",
    "batch_size": "pairs a step",
    "lr": "learning rate of the hash heads",
    "lr_fusion": "learning rate of the fusion Transformer",
    "seed": "every random choice depends on it",
    "device": "auto, cpu, cuda or cuda:N",
    "eval_every": "epochs between evaluations",
    "precision": "of the networks in training: float32, bfloat16, or auto: bfloat16 where it is measured to be faster",
    "results_dir": "where metrics.json goes",
    "checkpoint_dir": "where checkpoints go",
    "run_name": "folder of the run in results_dir/dataset; default: date, time, kind and seed",
    "tensorboard": "true: also write TensorBoard events, in the folder of the run",
    "resume": "resume the interrupted run of the same settings",
}


@exit_on_bad_input
def main(argv: list[str] | None = None) -> dict:
    with processes.processes():
        try:
            return Solver(parse(argv)).train()
        except (MemoryError, RuntimeError) as error:  # torch says so in words where the CPU's memory is short
            if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError) \
                    and "can't allocate memory" not in str(error):
                raise
            raise InputError("not enough memory: give a smaller --hidden or --batch_size, "
                             "or fewer --hash_lens") from error


if __name__ == "__main__":
    main()
