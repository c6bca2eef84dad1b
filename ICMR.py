"""Trains and tests cross-modal hashing: the settings, the training loop, and the command line.

    python ICMR.py --dataset openmoji --hash_lens 16 32 64 128 --epoch 100 --task 1

Tasks (UCMFH's numbers): 0 trains the real-valued fusion, 1 trains the hash functions, 2 tests the real-valued fusion,
3 tests the hash functions.
"""

from __future__ import annotations

import common.threads  # first: it sets how threads wait, before PyTorch loads

import contextlib
import functools
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import evaluation
import metric
from common import own_code, processes
from common.console import Log, progress_bar, say, warn
from common.errors import InputError, exit_on_bad_input
from load_data import load_dataset
from model import SCHEDULES, FusionModel, HashModel, scale_at, sign
from reporting import codes_mat
from reporting.results import collect, publish
from reporting.run_log import TensorBoardLog, require_tensorboard
from reporting.terminal import epoch_line, summary
from training import checkpoint, run_state
from training.checkpoint_schema import MAX_SCALE
from training.checks import check_data
from training.cuda_graph import Replayed
from training.device import choose_device, environment, exact_device, explanation
from training.interruption import Stopped, StopRequest, how_to_resume
from training.objective import Objective
from training.randomness import drawn_texts, kept, order_of_pairs, seed_process
from training.run_files import RunFiles
from training.run_state import ADVICE, SAME_DATA, RunState
from training.settings import Rule, Settings, at_least, between, one_of, positive

MAX_HIDDEN, MAX_EPOCHS = 2**16, 10**6  # units of the hidden layer, and epochs: more is a slip of the keyboard
SAVING = 60  # seconds between two states of a run at most, in whole epochs


class Config(Settings):
    """Every setting, with its default, its meaning and its bounds.

    Edit a default here, override it on the command line (``python ICMR.py --scale_max 8``), or in a program of your own:
    ``Solver(Config(dataset="openmoji", scale_max=8.0)).train()``.

    A setting is stated once: the assignment is its default and, by its type, says what it can be; ``means`` says in
    words what it does, and which rules hold for it. From these follow the command line, its ``--help`` in the groups
    named here, the messages for values that break a rule, and what has to be the same when a run is resumed or a
    training is used again: all but the settings with ``outcome=False``, which decide only where things are and go.
    A new setting is one such statement, and nothing else has to know of it: what needs a list of the settings
    derives it from here.

    Raises:
        InputError: an unknown setting, or a value of another type; :meth:`check` raises it for a broken rule.
    """

    def __init__(self, **given):
        super().__init__()

        self.group("Progressive hash learning: hash_code = tanh(scale * x)")
        self.use_progressive_hash = True
        self.means("true: the scale grows over the training; false: hash_code = tanh(x)")
        self.scale_min = 1.0
        self.means("scale in the first epoch", positive(up_to=MAX_SCALE), real=True)
        self.scale_max = 10.0
        self.means("scale in the last epoch, and in every test", positive(up_to=MAX_SCALE),
                   Rule(lambda value, config: value >= config.scale_min, "at least scale_min, which is {scale_min}"),
                   real=True)
        self.scale_schedule = "linear"
        self.means("how the scale grows: " + ", ".join(SCHEDULES), one_of(*SCHEDULES))

        self.group("What to run")
        self.dataset = "mirflickr"
        self.means("name of a folder in data_dir, or path of a folder or file")
        self.data_dir = "data"
        self.means("where the data sets are", outcome=False)
        self.task = 1
        self.means("0 train real, 1 train hash, 2 test real, 3 test hash",
                   Rule(lambda value, _: value in (0, 1, 2, 3),
                        "0 (train real), 1 (train hash), 2 (test real) or 3 (test hash)"))
        self.hash_lens = [16, 32, 64, 128]
        self.means("code lengths in bits",
                   Rule(lambda value, _: bool(value) and all(type(bits) is int and 1 <= bits <= metric.MAX_BITS
                                                             for bits in value) and len(set(value)) == len(value),
                        f"one or more different numbers of bits, each from 1 to {metric.MAX_BITS}"),
                   Rule(lambda value, config: not config.nested or list(value) == sorted(value),
                        "increasing numbers of bits, as each code is the beginning of the next, or --nested false"))
        self.nested = True
        self.means("true: the short codes are the first bits of the longest, in one checkpoint; false: every length "
                   "has bits and a checkpoint of its own")
        self.epoch = 100
        self.means("training epochs", between(1, MAX_EPOCHS))

        self.group("The loss")
        self.loss = "contrastive"
        self.means("contrastive; balanced: positives and negatives weighted against each other; or a class of your "
                   f"own, {own_code.FORMS} (docs/extending.md)",
                   Rule(lambda value, _: value in ("contrastive", "balanced") or own_code.is_own(value),
                        f"contrastive, balanced or a class of your own, {own_code.FORMS}"))
        self.positive_weight = 0.5
        self.means("weight of the positives in the balanced loss, 0 to 1; 0.5 is the plain loss", between(0, 1),
                   Rule(lambda value, config: value == 0.5 or config.loss == "balanced",
                        "0.5, unless --loss balanced is given"), real=True)
        self.temperature = 0.0
        self.means("of the contrastive loss; 0: for each code length by how surely pairs can be told apart",
                   Rule(lambda value, _: value == 0 or 1e-3 <= value < math.inf, "0, or 0.001 or more"), real=True)
        self.structure_start = 1.0
        self.means("mixing weight of a pair's neighbours against its partner in the first epoch, 0 to 1", between(0, 1),
                   real=True)
        self.structure_end = 0.0
        self.means("the same in the last epoch; both 0: partners only", between(0, 1), real=True)

        self.group("The networks")
        self.fusion = "late"
        self.means("how items with both modalities get a code: late, or UCMFH's transformer",
                   Rule(lambda value, _: value in ("late", "transformer"), "late or transformer"))
        self.hidden = 1024
        self.means("width of the hash heads' hidden layer", between(1, MAX_HIDDEN))
        self.batch_norm = True
        self.means("normalise each bit before the tanh")
        self.centre = True
        self.means("subtract the training mean from each modality's features")
        self.noise = 1.0
        self.means("Gaussian noise added to the features in training, relative to their length", at_least(0), real=True)

        self.group("The optimisation")
        self.batch_size = 128
        self.means("pairs a step", at_least(2, ": a contrastive loss needs another pair to contrast"))
        self.lr = 1e-3
        self.means("learning rate of the hash heads", positive(), real=True)
        self.lr_fusion = 1e-4
        self.means("learning rate of the fusion Transformer", positive(), real=True)
        self.seed = 0
        self.means("every random choice depends on it",
                   Rule(lambda value, _: 0 <= value < 2**63, "a whole number from 0 to 2^63 - 1"))
        self.device = "auto"
        self.means("auto (a CUDA GPU or the CPU), cpu, cuda, cuda:N or mps (Apple's GPU)", outcome=False)
        self.precision = "float32"
        self.means("of the networks' layers in training: float32 or bfloat16; the loss and the tests are in float32",
                   one_of("float32", "bfloat16"))

        self.group("The results")
        self.eval_every = 10
        self.means("epochs between evaluations", at_least(1))
        self.results_dir = "results"
        self.means("where metrics.json goes", outcome=False)
        self.checkpoint_dir = "checkpoints"
        self.means("where checkpoints go", outcome=False)
        self.run_name = ""
        self.means("folder of the run in results_dir/<dataset> (default: date, time, kind and seed)",
                   Rule(lambda value, _: not value or Path(value).parts and not Path(value).is_absolute()
                        and ".." not in Path(value).parts,
                        "the name of a folder inside results_dir/<dataset>"), outcome=False)
        self.codes_mat = False
        self.means("also write the codes of both splits as codes_<bits>.mat, in the folder of the run", outcome=False)
        self.tensorboard = False
        self.means("also write TensorBoard events, in the folder of the run", outcome=False)
        self.quiet = False
        self.means("print the final table only; log.txt in the folder of the run has every line", outcome=False)
        self.resume = False
        self.means("resume the interrupted run of the same settings", outcome=False)

        self.override(given)
        if own_code.is_own(self.loss):
            self.loss = own_code.pinned(self.loss)  # edited code is another setting

    @classmethod
    def refuse_code(cls, path: Path, settings: dict[str, object]) -> None:
        if own_code.is_own(settings.get("loss", "")):
            name = own_code.unpinned(settings["loss"])
            raise InputError(f"{path}: loss: {name} is code, which no file may ask to run; if you want it to, give it "
                             f"on the command line, too: --loss {name}")


class Solver:
    """Trains, saves and tests one model, as its :class:`Config` says.

    Raises:
        InputError: the settings or the data can't be right, or a folder can't be written to.
    """

    def __init__(self, config: Config):
        config.check()
        self.config = config
        self.scale_min = config.scale_min
        self.scale_max = config.scale_max  # a checkpoint that is tested brings its own
        self.device = choose_device(config.device, mps=True)
        self.exact = exact_device(self.device)
        self.training, self.hashing = config.task in (0, 1), config.task in (1, 3)
        self.run = RunState()
        self.tested: list[tuple[HashModel | FusionModel, float]] = []  # the models of a test, with their scales
        self.trained: dict[str, dict] = {}  # how each of them was trained
        self.chosen: dict = {}  # what follows from the training pairs: the temperatures
        self.bar = progress_bar(disable=True)  # until fit shows one
        self.stop = StopRequest()
        self.log = Log(config.quiet)
        self.saved = time.monotonic()  # when the state was
        with self.log:
            self.prepare()

    def prepare(self) -> None:
        """Read the data, build the model, and make the folders; everything is checked before the first is made."""
        config = self.config
        self.data = load_dataset(config.dataset, config.data_dir)
        check_data(config, self.data)
        if self.training:
            Objective.try_loss(config)
            if config.tensorboard:
                require_tensorboard()
        for warning in self.data.warnings:
            warn(warning)
        self.files = RunFiles(config, self.data.name)
        lengths = config.hash_lens if self.hashing else []
        self.models = [[bits] for bits in lengths] if self.hashing and not config.nested else [lengths]  # a file each
        self.written = [*map(self.files.model, self.models), self.files.state] if self.training else []
        resumes = config.resume and self.training
        if resumes and not self.files.state.is_file():
            raise InputError(f"{self.files.state}: no interrupted run of these settings; leave out --resume, or give "
                             f"the --checkpoint_dir and the --hash_lens of that run")
        for path in [] if self.training else map(self.files.model, self.models):
            checkpoint.check_exists(path)
        torch.manual_seed(config.seed)
        if self.training:
            self.build()
            seed_process(config.seed)
            self.restart_random_numbers = kept(self.device)  # to where train() begins, whatever is drawn before it
        if processes.rank() == 0:
            self.files.claim(self.written, run_state.run_of(self.files.state) if resumes else None)
            if not resumes:
                self.files.log.unlink(missing_ok=True)  # of the run that this one replaces, as its codes
                codes_mat.remove(self.files.results)
            self.log.keep_in(self.files.log)

    @property
    def use_progressive_hash(self) -> bool:
        """Whether the scale acts; the heads are built for it, so that it can't be set afterwards."""
        return self.config.use_progressive_hash

    @property
    def replays(self) -> bool:
        """Whether steps are recorded and replayed (training/cuda_graph.py)."""
        return self.device.type == "cuda" and processes.size() == 1

    @property
    def steps(self) -> int:
        """The steps of an epoch."""
        return len(self.data.train) // self.config.batch_size

    @property
    def progress(self) -> float:
        """How far the training is, by whole epochs: 0 in the first, 1 in the last."""
        return min(self.run.epoch / max(self.config.epoch - 1, 1), 1.0)

    def build(self) -> None:
        """Make the model, its objective and its optimizer, sizes following the data."""
        config, data = self.config, self.data
        inputs = dict(centre=config.centre, noise=config.noise)
        if self.hashing:
            self.model = HashModel(data.image_dim, data.text_dim, config.hash_lens, config.use_progressive_hash,
                                   config.fusion, hidden=config.hidden, batch_norm=config.batch_norm,
                                   nested=config.nested, **inputs)
            for head in (self.model.ImageMlp, self.model.TextMlp):
                head.tohash.register_forward_hook(whole_batch)
        else:
            self.model = FusionModel(data.image_dim, data.text_dim, **inputs)
        self.model.image_input.fit(data.train.image)
        self.model.text_input.fit(data.train.text)
        self.image, self.text = data.train.image, data.train.text
        self.text_of_image = data.train.first_text.clone()  # where images have several, drawn for each epoch
        self.move(self.exact)
        fusion = [p for name, p in self.model.named_parameters() if name.startswith("FuseTrans.")]
        heads = [p for name, p in self.model.named_parameters() if not name.startswith("FuseTrans.")]
        groups = [{"params": p, "lr": lr} for p, lr in ((fusion, config.lr_fusion), (heads, config.lr)) if p]
        self.optimizer = torch.optim.Adam(groups, betas=(0.5, 0.999),  # UCMFH's
                                          fused=True, capturable=self.replays)
        self.replayed = Replayed(self.device)
        self.model.eval()  # no noise
        with torch.no_grad():
            self.objective = Objective(config, self.model.image_input(self.image),
                                       self.model.text_input(self.text[self.text_of_image]),
                                       config.hash_lens if self.hashing else [], data.name)
        self.move(self.device)
        self.objective.to(self.device)
        self.chosen = self.objective.chosen

    def move(self, device: torch.device) -> None:
        """Bring the model and the training pairs to a device."""
        self.model.to(device)
        self.image, self.text, self.text_of_image = (each.to(device) for each in (self.image, self.text,
                                                                                  self.text_of_image))

    # --- the training loop --------------------------------------------------------------------------------------------

    def train(self) -> dict:
        """Run the task: train where it trains, then test, and write the results. Returns what metrics.json holds.

        Raises:
            InputError: another run is writing the same models, state or results.
        """
        with self.log, contextlib.nullcontext() if processes.rank() else self.files.locked(self.written):
            if self.training:
                self.fit()
            else:
                say("Final Testing...")
                figures = self.test()
                self.run.history.append({"epoch": self.run.epoch, **figures})
            if processes.rank():
                return {}
            if self.config.codes_mat and self.hashing:
                codes_mat.write(self.files.results, self.data, self.tested or [(self.model, self.scale_max)])
            return publish(self.data, self.results(), self.files.results)

    def fit(self) -> None:
        """Train to the last epoch, from the saved state with ``--resume``, and save the models."""
        self.restart_random_numbers()
        if self.config.resume:
            outcome = self.config.outcome() | {"scale_min": self.scale_min, "scale_max": self.scale_max}
            run_state.load(self.files.state, self.about(), outcome, self.run, self.model, self.optimizer,
                           bool(self.data.num_classes))
            self.replayed = Replayed(self.device)  # a record works on the tensors that were there before
            say(f"Resuming after {self.run.epoch} epochs and {self.run.step} steps, from {self.files.state}")
        if self.hashing and self.use_progressive_hash:
            say(f"✅ Using Progressive Hash Learning - Scale from {self.scale_min} to {self.scale_max}")
        say("Training Hash Function..." if self.hashing else "Training Fusion Transformer...")
        with self.log, self.stop, self.progress_bar() as self.bar:
            try:
                self.run_epochs()
            except Stopped:
                self.save_state()
                say(f"Stopped in epoch {self.run.epoch + 1} after {self.run.step} of its {self.steps} steps; the state "
                    f"is saved. To resume:", final=True)
                for line in how_to_resume(self.config.resume):
                    say(line, final=True)
                raise SystemExit(128 + (self.stop.signal or signal.SIGTERM)) from None
        self.model.to(self.exact)
        self.save()
        temperatures = ", ".join(f"{bits}: {value:.3f}" for bits, value in self.chosen["temperature"].items())
        say(f"Trained in {self.config.precision}, in {self.run.seconds:.2f} s; temperature by code length: {temperatures}"
            + ("" if self.config.temperature else ", from the training pairs"))

    def run_epochs(self) -> None:
        """The training loop. Raises :class:`Stopped` between two steps if the program is asked to stop."""
        config, run = self.config, self.run
        while run.epoch < config.epoch:
            say(f"epoch: {run.epoch + 1}")
            if self.hashing:
                scale = scale_at(self.progress, self.scale_min, self.scale_max, config.scale_schedule)
                if self.use_progressive_hash:
                    say(f"  Progressive scale: {scale:.2f} (progress: {100 * self.progress:.1f}%)")
                self.trainhash(scale)
            else:
                self.trainfusion()
            say("  " + epoch_line(run.log[-1]))
            if run.epoch % config.eval_every == 0 or run.epoch == config.epoch:
                say("Testing...")
                run.history.append({"epoch": run.epoch, **self.evaluate()})
                for line in summary(run.history[-1]):
                    say("  " + line)
                self.save_state()
            elif run.epoch == 1 or processes.any_of_all(time.monotonic() - self.saved > SAVING):
                self.save_state()  # so that a kill loses little
            if config.tensorboard and processes.rank() == 0:
                tested = run.history[-1] if run.history and run.history[-1]["epoch"] == run.epoch else None
                self.events.write(run.log[-1], tested)

    def trainhash(self, scale: float) -> float:
        """Train the hash functions for one epoch at ``scale``; returns its mean loss."""
        for rows in self.batches():
            self.take(self.hash_step, rows, scale)
        return self.run.end_epoch(**{"scale": scale} if self.use_progressive_hash else {})["loss"]

    def hash_step(self, rows: Tensor, weight: float | Tensor, scale: float | Tensor) -> Tensor:
        """One step of the hash functions on the training pairs ``rows`` (B,); returns its statistics.

        Args:
            weight: of the neighbours in the targets.
        """
        model, neighbours = self.model, self.objective.neighbours(rows)
        rows = rows[processes.part(len(rows))]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            image, text = model.fuse(self.image[rows], self.text[self.text_of_image[rows]])
            codes = model.ImageMlp(image, scale), model.TextMlp(text, scale)  # tanh(scale * x)
            loss = self.objective.of_codes(*map(model.split, codes), neighbours, weight)
            if self.config.fusion == "transformer":
                loss = self.objective.of_fused(image, text, neighbours, weight) + 0.5 * loss
        self.descend(loss)
        return self.observe(loss.detach(), codes)

    def descend(self, loss: Tensor) -> None:
        """Step down the gradient of the loss."""
        self.optimizer.zero_grad()
        loss.backward()
        processes.average_gradients(self.model.parameters())
        self.optimizer.step()

    def batches(self) -> Iterator[Tensor]:
        """The training pairs of each batch of an epoch, or of the rest of one that was interrupted: rows, (B,).

        The order depends on the seed and the epoch alone. The pairs left over after the last whole batch sit out this
        epoch; the next order leaves out others. Nothing waits for the device before the epoch is over.

        Raises:
            Stopped: the program was asked to stop.
        """
        run, batch, started = self.run, self.config.batch_size, time.perf_counter()
        order = order_of_pairs(len(self.image), self.config.seed, run.epoch).to(self.device)
        if (train := self.data.train).texts is not None:
            self.text_of_image.copy_(drawn_texts(train.image_of_text, train.first_text, self.config.seed, run.epoch))
        self.model.train()
        while run.step < self.steps:
            yield order[run.step * batch:(run.step + 1) * batch]
            run.step += 1
            self.bar.update()
            if processes.any_of_all(self.stop.signal is not None):
                run.means()  # waits for the device
                run.seconds += time.perf_counter() - started
                raise Stopped
        run.means()  # waits for the device
        run.seconds += time.perf_counter() - started

    def take(self, step, rows: Tensor, *scale: float) -> None:
        """Take a step; where it can be, on a GPU, it is recorded once and replayed (training/cuda_graph.py)."""
        arguments = rows, self.objective.weight(self.progress), *scale
        self.run.statistics.append(self.replayed(step, *arguments) if self.replays else step(*arguments))

    def observe(self, loss: Tensor, codes: tuple[Tensor, Tensor]) -> Tensor:
        """The STATISTICS of a step, on the device: its loss, and how the codes of images and texts (B, bits) are."""
        with torch.no_grad():
            argument = torch.cat([head.scale * head.x for head in (self.model.ImageMlp, self.model.TextMlp)])
            values = torch.cat(codes).abs()
            balance = torch.stack([sign(side).mean(dim=0) for side in codes])
            return torch.stack([loss, argument.abs().mean(), (values > 0.9).float().mean(), ((values - 1) ** 2).mean(),
                                balance.abs().mean()])

    def trainfusion(self) -> float:
        """Train the real-valued fusion for one epoch; returns its mean loss."""
        for rows in self.batches():
            self.take(self.fusion_step, rows)
        return self.run.end_epoch()["loss"]

    def fusion_step(self, rows: Tensor, weight: float | Tensor) -> Tensor:
        """One step of the real-valued fusion on the training pairs ``rows`` (B,), the loss being the sum over the
        protocols; returns its statistics.
        """
        neighbours, rows = self.objective.neighbours(rows), rows[processes.part(len(rows))]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            loss = sum(self.objective.of_fused(*sides, neighbours, weight)
                       for sides in self.model(self.image[rows], self.text[self.text_of_image[rows]]).values())
        self.descend(loss)
        return torch.stack([loss.detach()])

    # --- testing ------------------------------------------------------------------------------------------------------

    def evaluate(self) -> dict:
        """What :func:`evaluation.evaluate_codes` says, ``["16"]["unpaired"]["i2t"]["map@50"]``; for the real-valued
        fusion what :func:`evaluation.evaluate_real` says, under ``"real"``.

        The code of an item doesn't depend on the other items. Signs are those of x, hence of tanh(scale * x) at any
        scale; the quantization error is that of the database's unpaired codes at the largest scale.
        """
        if self.exact != self.device and self.training:
            self.move(self.exact)
        if self.training and self.hashing:
            image_of_text = self.data.train.image_of_text.to(self.exact)
            self.model.calibrate((self.image[rows], text) for rows, text in zip(image_of_text.split(evaluation.ROWS),
                                                                               self.text.split(evaluation.ROWS)))
        try:
            if self.hashing:
                return evaluation.evaluate_codes(self.model, self.data, self.scale_max)
            return {"real": evaluation.evaluate_real(self.model, self.data)}
        except evaluation.NotFinite as error:
            raise InputError(f"{error} after epoch {self.run.epoch}: {ADVICE}") from error
        finally:
            if self.exact != self.device and self.training:
                self.move(self.device)

    def test(self) -> dict:
        """Test the trained models of the checkpoint folder: one file, or one a code length."""
        about = self.about()
        figures, epochs = {}, {}
        for lengths in self.models:
            path = self.files.model(lengths)
            self.model, content = checkpoint.load_trained(path, lengths, {key: about[key] for key in SAME_DATA})
            say(f"Loaded {path} (epoch {content['epoch']}, scale {content['scale']:g})")
            self.model.to(self.exact)
            self.run.epoch = epochs[str(lengths)] = content["epoch"]
            self.scale_max = content["config"]["scale_max"]
            self.trained |= {name: {key: content[key] for key in ("epoch", "config", "chosen")}
                             for name in map(str, lengths or ["real"])}
            self.tested.append((self.model, self.scale_max))
            figures.update(self.evaluate())
        if len(set(epochs.values())) > 1:
            found = ", ".join(f"{lengths.strip('[]')} bits: {epoch}" for lengths, epoch in epochs.items())
            warn(f"these models were trained for different numbers of epochs ({found})")
        return figures

    # --- saving -------------------------------------------------------------------------------------------------------

    def about(self) -> dict:
        """What every checkpoint says of the training and the data behind it."""
        config = vars(self.config) | {"scale_min": self.scale_min, "scale_max": self.scale_max}
        return {"dataset": self.data.name, "fingerprint": self.data.fingerprint, "image_dim": self.data.image_dim,
                "text_dim": self.data.text_dim, "config": config, "epoch": self.run.epoch,
                "scale": self.run.log[-1].get("scale", 1.0) if self.run.log else self.scale_min, "chosen": self.chosen}

    def save(self) -> None:
        """Save the trained model: one file, or one a code length."""
        for lengths in self.models if processes.rank() == 0 else ():
            model = self.model.only(lengths) if self.hashing else self.model
            if old := checkpoint.keep_replaced(path := self.files.model(lengths), model):
                say(f"Replacing {path}, which is kept as {old.name}")
            checkpoint.save_model(path, model, **self.about())

    def save_state(self) -> None:
        """Save everything that the rest of the run depends on."""
        run_state.save(self.files.state, self.about() | {"run": self.files.run}, self.run, self.model, self.optimizer)
        self.saved = time.monotonic()

    def progress_bar(self):
        """A bar of all steps."""
        return progress_bar(total=self.config.epoch * self.steps, initial=self.run.epoch * self.steps + self.run.step,
                            unit="step", **{"disable": True} if processes.rank() else {})

    @functools.cached_property
    def events(self) -> TensorBoardLog:
        """The TensorBoard events of the run."""
        return TensorBoardLog(self.files.results / "tensorboard", self.run.epoch)

    def results(self) -> dict:
        """What metrics.json holds; of a test also how the models were ``trained``, with the settings they had then."""
        return collect(self.data, self.run, self.tested or [(self.model, self.scale_max)], task=self.config.task,
                       config=self.about()["config"] if self.training else vars(self.config),
                       environment={**environment(self.device), "precision": self.config.precision,
                                    "processes": processes.size()},
                       chosen=self.chosen, trained=self.trained)


def whole_batch(layer: torch.nn.Linear, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
    """Forward hook of a layer: in training, its output for the rows of all processes, in the precision of its weights.
    """
    return processes.gather(output.to(layer.weight.dtype)) if layer.training else None


def parse(argv: list[str] | None = None, **defaults: object) -> Config:
    """The settings of a command line, with ``defaults`` in the place of those of :class:`Config`."""
    return Config.parse(argv, "ICMR.py", __doc__, **defaults)


@exit_on_bad_input
def main(argv: list[str] | None = None) -> dict:
    """Run the task of a command line; returns what metrics.json holds, in all processes but the first nothing."""
    with processes.joined():
        try:
            return Solver(parse(argv)).train()
        except (MemoryError, RuntimeError, TypeError) as error:
            if message := explanation(error):
                raise InputError(message) from error
            raise


if __name__ == "__main__":
    main()
