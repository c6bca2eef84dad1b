"""What the progressive scale does, in three charts from one short training on real data.

    python test_progressive_hash.py
    python test_progressive_hash.py --scale_max 8 --epoch 100 --lang zh --show

1. How the codes tanh(scale * x) sharpen at six epochs of the training.
2. The codes of the trained model at different scales: what the scale alone does.
3. Scale, saturation, quantization error and bit balance against the epoch.

The reference curves are those of normally distributed x: then P(|tanh(s x)| > t) = 2 Phi(-artanh(t) / s), and the
quantization error is E (|tanh(s x)| - 1)^2. Batch normalisation gives x that mean and deviation, not that shape: a
training drives x away from 0, so that the measured codes end sharper than the reference.

All settings of ICMR.py can be given too, with one code length. The charts are written to the folder of the run, as PNG,
SVG and PDF.
"""

from __future__ import annotations

import ICMR  # first: it sets how threads wait, before torch loads

import argparse
import contextlib
import io
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import norm

import metric
from common.errors import InputError, Parser, exit_on_bad_input
from load_data import load_dataset
from model import scale_at
from reporting import language, plots
from reporting.curves import code_histogram
from reporting.language import tr
from reporting.styles import BLUE, RED

DEFAULTS = {"dataset": "openmoji", "hash_lens": [64], "epoch": 40, "run_name": "test_progressive_hash"}
STAGES = 6  # epochs whose codes are drawn, from the first to the last
SCALES = (1.0, 2.0, 5.0, 10.0)  # at which the codes of the trained model are drawn
SATURATION_THRESHOLD = 0.9  # the one of metric.saturation


class Observed(ICMR.Solver):
    """A solver that keeps the codes (2B, bits) of every training batch, images then texts, at some epochs.

    It needs :meth:`observe` to be called with the codes of each batch, and :meth:`trainhash` once an epoch.
    """

    replays = False  # steps replayed on a GPU would not call observe

    def __init__(self, config: ICMR.Config):
        super().__init__(config)
        self.codes: list[np.ndarray] = []  # of the epoch in progress, (2B, bits) each
        self.stages: dict[int, tuple[float, np.ndarray]] = {}  # epoch: its scale and codes (2B x batches, bits)
        self.stage_epochs = set(np.linspace(1, config.epoch, STAGES).round().astype(int).tolist())

    def trainhash(self, scale: float) -> float:
        loss = super().trainhash(scale)
        epoch = self.run.epoch
        if epoch in self.stage_epochs:
            self.stages[epoch] = scale, np.concatenate(self.codes)
            self.codes = []
            print(f"epoch {epoch} of {self.config.epoch}, scale {scale:.2f}, loss {loss:.4f}", file=sys.stderr)
        return loss

    def observe(self, loss: torch.Tensor, codes: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        if self.run.epoch + 1 in self.stage_epochs:
            self.codes.append(torch.cat(codes).detach().cpu().numpy())
        return super().observe(loss, codes)


# --- the reference: normally distributed x -----------------------------------------------------------------------


def expected_saturation(scale: np.ndarray) -> np.ndarray:
    """P(|tanh(scale * x)| > 0.9) at each scale (n,), for x of the standard normal distribution."""
    return 2 * norm.sf(np.arctanh(SATURATION_THRESHOLD) / np.asarray(scale))


def expected_quantization_error(scale: np.ndarray) -> np.ndarray:
    """E (|tanh(scale * x)| - 1)^2 at each scale (n,), for x of the standard normal distribution."""
    x = norm.isf((np.arange(20_000) + 0.5) / 40_000)  # quantiles of |x|
    return np.array([np.mean((np.tanh(s * x) - 1) ** 2) for s in np.atleast_1d(scale)])


def expected_shares(scale: float, edges: np.ndarray) -> np.ndarray:
    """P(edges[i] < tanh(scale * x) < edges[i + 1]) for each bin, for x of the standard normal distribution."""
    with np.errstate(divide="ignore"):  # artanh(1) is infinite
        return np.diff(norm.cdf(np.arctanh(edges) / scale))


# --- the three charts ---------------------------------------------------------------------------------------------


@plots.styled
def draw_stages(stages: dict[int, tuple[float, np.ndarray]], normalised: bool) -> Figure:
    """Histograms of the training codes at each stage (:class:`Observed`), with the reference if x is normalised."""
    rows = -(-len(stages) // 3)
    figure, axes = plots.new_figure(rows, min(3, len(stages)), height=0.5 + 1.7 * rows, sharex=True, sharey=True)
    for ax in axes.flat[len(stages):]:
        ax.set_visible(False)
    for ax, (epoch, (scale, codes)) in zip(axes.flat, stages.items()):
        histogram = code_histogram(codes)
        ax.stairs(100 * np.array(histogram["share"]), histogram["edges"], fill=True, color=BLUE, alpha=0.7,
                  label=tr("measured"))
        if normalised:
            ax.stairs(100 * expected_shares(scale, np.array(histogram["edges"])), histogram["edges"], color=RED,
                      linewidth=0.9, label=tr("if x were normal"))
        ax.set_title(tr("epoch {}, scale {:.2f}").format(epoch, scale))
        ax.set_yscale("symlog", linthresh=1)
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_xlim(-1, 1)
    for ax in axes[-1]:
        ax.set_xlabel(tr("code value tanh(scale · x)"))
    for ax in axes[:, 0]:
        ax.set_ylabel(tr("share of code values (%)"))
    plots.add_legend(figure, axes[0, 0])
    return plots.finish(figure)


@plots.styled
def draw_scales(x: np.ndarray, normalised: bool) -> Figure:
    """The codes of the same x (items, bits) at different scales: the function, their values, and two measures of them.
    """
    figure, axes = plots.new_figure(2, 2, height=4)
    line = np.linspace(-3, 3, 301)
    label = tr("scale {:g}")
    plots.draw_series(axes[0, 0], {label.format(s): {"x": line, "y": [np.tanh(s * line)]} for s in SCALES})
    axes[0, 0].set(xlabel="x", ylabel=tr("tanh(scale · x)"))
    axes[0, 0].legend()
    plots.draw_histograms(axes[0, 1], {label.format(s): code_histogram(np.tanh(s * x)) for s in SCALES})
    axes[0, 1].set_yscale("symlog", linthresh=1)
    axes[0, 1].yaxis.set_major_formatter("{x:g}")
    scales = np.linspace(1, 12, 23)
    for ax, measure, formula, name in (
            (axes[1, 0], metric.saturation, expected_saturation, "share with |code| > 0.9"),
            (axes[1, 1], metric.quantization_error, expected_quantization_error, "mean of (|code| - 1)²")):
        series = {tr("measured"): {"x": scales, "y": [[measure(np.tanh(s * x)) for s in scales]]}}
        if normalised:
            series[tr("if x were normal")] = {"x": scales, "y": [formula(scales)]}
        plots.draw_series(ax, series)
        ax.set(xlabel=tr("scale"), ylabel=tr(name), ylim=(0, None))
        ax.legend()
    return plots.finish(figure)


@plots.styled
def draw_epochs(log: list[dict], config: ICMR.Config) -> Figure:
    """The training log, an entry an epoch, with a reference where there is a formula."""
    figure, axes = plots.new_figure(2, 2, height=3.6, sharex=True)
    epochs = np.array([entry["epoch"] for entry in log])
    scale = np.array([scale_at((epoch - 1) / max(config.epoch - 1, 1), config.scale_min, config.scale_max,
                               config.scale_schedule) for epoch in epochs])
    formulas, reference = {"scale": scale}, tr("reference: the schedule")
    if config.batch_norm:
        reference = tr("reference: (a) the schedule, (b), (c) normal x, (d) fair signs")
        formulas |= {"saturation": expected_saturation(scale),
                     "quantization_error": expected_quantization_error(scale),
                     # E |mean of B fair signs|, by the central limit theorem
                     "bit_balance": np.full(len(epochs), (2 / (np.pi * config.batch_size)) ** 0.5)}
    labels = {"scale": "scale", "saturation": "share with |code| > 0.9", "quantization_error": "mean of (|code| - 1)²",
              "bit_balance": "mean |mean of a bit|"}
    for ax, (key, label) in zip(axes.flat, labels.items()):
        series = {tr("measured"): {"x": epochs, "y": [[entry[key] for entry in log]]}}
        if key in formulas:
            series[reference] = {"x": epochs, "y": [formulas[key]]}
        plots.draw_series(ax, series)
        ax.set_ylabel(tr(label))
        ax.set_ylim(0, None)
    for ax in axes[1]:
        plots.set_epochs(ax)
    plots.add_legend(figure, axes[0, 0])
    return plots.finish(figure)


# --- the script ---------------------------------------------------------------------------------------------------


def explain(solver: Observed, x: np.ndarray, names: list[str]) -> list[str]:
    """The lines to print: what to see in each chart, with the measured numbers, and a verdict.

    Args:
        x: (items, bits), the trained model's codes before scale and tanh.
        names: of the three charts.
    """
    first, last = solver.run.log[0], solver.run.log[-1]
    dull, sharp = [metric.quantization_error(np.tanh(s * x)) for s in (SCALES[0], SCALES[-1])]
    changed = int(np.sum(metric.sign_codes(np.tanh(SCALES[-1] * x)) != metric.sign_codes(x)))
    before, after = first["quantization_error"], last["quantization_error"]
    rows = (("chart", "what to see, and what was measured"),
            (names[0], "the codes gather at -1 and +1 as the scale grows: share with"),
            ("", f"|code| > 0.9 from {first['saturation']:.2f}, first epoch, to {last['saturation']:.2f}, last epoch"),
            (names[1], "the scale alone makes the same codes sharper, and changes no bit:"),
            ("", f"quantization error {dull:.3f} at scale {SCALES[0]:g}, {sharp:.3f} at scale {SCALES[-1]:g};"),
            ("", f"{changed} of {x.size:,} bits differ"),
            (names[2], f"scale from {first['scale']:.2f} to {last['scale']:.2f}; quantization error from {before:.3f}"),
            ("", f"to {after:.3f}; bit balance from {first['bit_balance']:.3f} to {last['bit_balance']:.3f}"),
            ("", "(0: both signs come as often)"))
    if after <= before / 2:
        verdict = ("the training made the codes binary: their quantization error",
                   f"fell by {100 * (1 - after / before):.0f} %. Whether that finds more is another question, which",
                   "demo_progressive_vs_original.py answers.")
    else:
        verdict = (f"no improvement, the quantization error went from {before:.3f} to {after:.3f}: less",
                   "than a half off. The scale acts when x is normalised (--batch_norm true) and",
                   "grows far enough (--scale_max).")
    return ["", *(f"{chart:8}  {text}" for chart, text in rows), "", f"Verdict: {verdict[0]}", *verdict[1:], ""]


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, ICMR.Config]:
    """The options of this script, and the settings of the training.

    Raises:
        InputError: they are not those of one progressive training of one code length.
    """
    parser = Parser(prog="test_progressive_hash.py", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lang", choices=("en", "zh"), default="en", help="language of the figures' labels")
    parser.add_argument("--show", action="store_true", help="also open a window with the charts")
    options, settings = parser.parse_known_args(argv)
    config = ICMR.parse(settings, **DEFAULTS)
    if config.task != 1 or config.resume or not config.use_progressive_hash or len(config.hash_lens) != 1:
        raise InputError("the charts show one progressive training of one code length from its start: leave out "
                         "--task, --resume and --use_progressive_hash, and give --hash_lens one number")
    config.eval_every = config.epoch
    if config.checkpoint_dir == ICMR.Config().checkpoint_dir:  # a demonstration doesn't replace trained models
        config.check()
        name = load_dataset(config.dataset, config.data_dir).name
        config.checkpoint_dir = str(Path(config.results_dir) / name / config.run_name / "checkpoints")
    return options, config


@exit_on_bad_input
def main(argv: list[str] | None = None) -> list[Path]:
    options, config = parse(argv)
    if options.show:
        plots.check_display()
    if note := language.set_language(options.lang):
        print(note, file=sys.stderr)
    solver = Observed(config)
    print(f"Training {config.hash_lens[0]} bits on {solver.data.name} for {config.epoch} epochs; "
          f"its log: {solver.files.log}")
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            solver.train()
        except SystemExit:
            print("Stopped; the same command starts over.", file=sys.stderr)
            raise
    retrieval = solver.data.retrieval
    with torch.no_grad():
        x = np.concatenate([solver.model.encode(**side)[1].cpu().numpy() for side in (
            {"image": retrieval.image.to(solver.device)}, {"text": retrieval.text.to(solver.device)})])
    charts = {"1_stages": draw_stages(solver.stages, config.batch_norm),
              "2_scales": draw_scales(x, config.batch_norm),
              "3_epochs": draw_epochs(solver.run.log, config)}
    written = [path for name, figure in charts.items() for path in plots.save(figure, solver.files.results / name)]
    for line in explain(solver, x, list(charts)):
        print(line)
    for path in written:
        print(path)
    if options.show:
        plots.show(list(charts.values()))
    return written


if __name__ == "__main__":
    main()
