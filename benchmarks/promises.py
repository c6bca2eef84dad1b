"""What the quick-start guide promised of the progressive scale, and how each promise is measured and judged.

The guide asked for progressive hashing and, citing HashNet, made six promises. :data:`PROMISES` holds the seven figures
of five of them; the sixth, the balanced loss, is in benchmarks/blocks.py. Each figure is measured seed by seed, with
the scale against without it, nothing else changed. The demonstration
(demo_progressive_vs_original.py), the report of a benchmark (benchmarks/tables.py) and the documents
(benchmarks/documents.py) all measure here: :func:`of_metrics` and :func:`of_record` bring a training into one form, and
:func:`compare` gives the table of promises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

DIRECTIONS = ("i2t", "t2i")
KEPT, BELOW, NOT_KEPT, UNCLEAR, UNMEASURABLE = ("kept", "below the promise", "not kept", "unclear", "not measurable")


@dataclass(frozen=True)
class Promise:
    """A figure that the guide promised something of.

    Args:
        measure: the figure of :func:`measures` that it is about.
        label: that figure in words, with its unit.
        promised: the change that was promised, in words.
        unit: of the change: ``points`` is a difference, ``%`` a difference relative to the original.
        more_is_better: whether the promise is kept by a larger figure.
        least: the least improvement that keeps the promise, in the unit; negative where only a cost is limited.
    """

    measure: str
    label: str
    promised: str
    unit: str
    more_is_better: bool
    least: float


PROMISES = (
    Promise("map", "mAP@all, points", "+2 to +5", "points", True, 2.0),
    Promise("map@50", "mAP@50, points", "+2 to +5", "points", True, 2.0),
    Promise("loss_roughness", "loss roughness, %", "smoother", "%", False, 0.0),
    Promise("map_roughness", "mAP roughness, pts", "smoother", "%", False, 0.0),
    Promise("epochs_to_95", "epochs to 95 % mAP", "-5 to -10 %", "%", False, 5.0),
    Promise("quantization_error", "quantization error", "halved", "%", False, 50.0),
    Promise("seconds", "time an epoch, s", "under +1 %", "%", False, -1.0),
)
OF_THE_CURVE = ("map_roughness", "epochs_to_95")  # figures that depend on the epochs after which mAP was tested


# --- a training in one form -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """What the promises are about. mAP is unpaired, in points, the mean of both directions and of all code lengths.

    Args:
        tested: epochs after which the training was tested, the last one included.
        map: mAP@all at each of them.
        loss: mean of each epoch.
        last: mAP@all (``map``), mAP@50 (``map@50``) and the quantization error after the last epoch.
        seconds: of training, an epoch.
    """

    tested: list[int]
    map: list[float]
    loss: list[float]
    last: dict[str, float]
    seconds: float


def of_metrics(run: dict) -> Training:
    """From what a run's ``metrics.json`` holds under ``history``, ``epochs`` and ``final``."""
    lengths = list(run["final"])
    return Training(
        tested=[test["epoch"] for test in run["history"]],
        map=[float(np.mean([in_points(test[bits], "unpaired", "map") for bits in lengths])) for test in run["history"]],
        loss=[epoch["loss"] for epoch in run["epochs"]], last=_last(run["final"]),
        seconds=float(np.mean([epoch["seconds"] for epoch in run["epochs"]])))


def of_record(record: dict) -> Training:
    """From a record of ours (``docs/results/<data set>/ours.jsonl``)."""
    return Training(
        tested=record["history"]["epoch"],
        map=(100 * np.mean([record["history"]["map"][bits] for bits in record["final"]], axis=0)).tolist(),
        loss=record["loss"], last=_last(record["final"]), seconds=record["seconds"] / len(record["loss"]))


def _last(final: dict[str, dict]) -> dict[str, float]:
    figures = {cut: np.mean([in_points(each, "unpaired", cut) for each in final.values()]) for cut in ("map", "map@50")}
    figures["quantization_error"] = np.mean([each["quantization_error"] for each in final.values()])
    return {name: float(value) for name, value in figures.items()}


def in_points(figures: dict, protocol: str, cut: str) -> float:
    """mAP (of ``partners``: recall, in percent) of one code length in points, the mean of I2T and T2I."""
    return 100 * sum(figures[protocol][direction][cut] for direction in DIRECTIONS) / len(DIRECTIONS)


# --- measuring --------------------------------------------------------------------------------------------------------


def measures(training: Training, original: Training) -> dict[str, float]:
    """The figures that the promises are about, of a training and the one without the scale of the same seed.

    Infinite where mAP never reaches the goal, NaN where the training is too short for a roughness.
    """
    goal = 0.95 * original.last["map"]  # one for both: a training that gets worse reaches 95 % of its own end early
    return {**training.last, "loss_roughness": 100 * roughness(training.loss) / level(training.loss),
            "map_roughness": roughness(training.map), "epochs_to_95": reached(training.tested, training.map, goal),
            "seconds": training.seconds}


def reached(epochs: Sequence[int], curve: Sequence[float], goal: float) -> float:
    """The first of the ``epochs`` at which ``curve`` has at least ``goal``; infinite if there is none."""
    return next((float(epoch) for epoch, value in zip(epochs, curve) if value >= goal), float("inf"))


def roughness(curve: Sequence[float]) -> float:
    """The mean absolute second difference in the second half of a curve, which is 0 for a straight line; NaN with fewer
    than three values there.
    """
    half = np.array(curve[len(curve) // 2:])
    return float(np.abs(np.diff(half, 2)).mean()) if len(half) > 2 else float("nan")


def level(curve: Sequence[float]) -> float:
    """The mean absolute value in the second half of a curve; NaN where that is 0, so that nothing is divided by it."""
    return float(np.mean(np.abs(curve[len(curve) // 2:]))) or float("nan")


# --- judging ----------------------------------------------------------------------------------------------------------


def compare(progressive: Sequence[Training], original: Sequence[Training]) -> list[dict]:
    """The table of promises: for each what was promised, what was measured, and a verdict.

    Args:
        progressive, original: trainings with and without the scale, a pair a seed.

    Returns:
        For each promise its ``measure``, ``label``, ``promised`` and ``unit``; the means over seeds as ``original`` and
        ``progressive``; their difference, seed by seed, as ``change_by_seed``, with its mean ``change``, the
        ``standard_error`` of that and its 95 % confidence ``interval``; the ``verdict``; and the figures of each seed,
        as ``original_by_seed`` and ``progressive_by_seed``. What can't be measured is None: so are the figures of the
        curve of mAP, unless all trainings were tested after the same epochs.
    """
    tested_alike = len({tuple(run.tested) for run in (*progressive, *original)}) == 1
    old, new = ([measures(run, paired) for run, paired in zip(runs, original, strict=True)]
                for runs in (original, progressive))
    rows = []
    for promise in PROMISES:
        measurable = tested_alike or promise.measure not in OF_THE_CURVE
        before, after = (np.array([run[promise.measure] if measurable else np.nan for run in runs])
                         for runs in (old, new))
        with np.errstate(divide="ignore", invalid="ignore"):
            change = after - before if promise.unit == "points" else 100 * (after / before - 1)
        between = original[0].tested[0] - 1 if promise.measure == "epochs_to_95" else 0  # epochs without a test
        low, high = interval(change, 100 * between / before.mean() if between else 0.0)
        better, worse = (low, high) if promise.more_is_better else (-high, -low)
        rows.append({"measure": promise.measure, "label": promise.label, "promised": promise.promised,
                     "unit": promise.unit, "original": _finite(before.mean()), "progressive": _finite(after.mean()),
                     "change": _finite(change.mean()), "standard_error": _finite(standard_error(change)),
                     "interval": [_finite(low), _finite(high)], "verdict": verdict(better, worse, promise.least),
                     **{f"{name}_by_seed": [_finite(each) for each in values]
                        for name, values in (("change", change), ("original", before), ("progressive", after))}})
    return rows


def added_percent(seconds: dict[str, list[float]]) -> np.ndarray:
    """What the scale adds to the time of an epoch, in percent, turn by turn, from the ``seconds`` of epochs with it
    (``on``) and without it (``off``) that benchmarks/speed.py measures.
    """
    return 100 * (np.array(seconds["on"]) / np.array(seconds["off"]) - 1)


def standard_error(values: np.ndarray) -> float:
    """Of the mean of one value a seed; NaN of a single seed, and where a value is not finite."""
    if len(values) < 2 or not np.isfinite(values).all():
        return float("nan")
    return float(np.std(values, ddof=1) / len(values)**0.5)


def interval(values: np.ndarray, unresolved: float = 0.0) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of one value a seed, by Student's t; unbounded of a single seed.

    ``unresolved`` is added on both sides: what the measurement itself leaves open. (NaN, NaN) if a value is NaN,
    (inf, inf) if one is infinite.
    """
    if not np.isfinite(values).all():
        return float(np.mean(values)), float(np.mean(values))
    if len(values) < 2:
        return -np.inf, np.inf
    half = student.ppf(0.975, len(values) - 1) * standard_error(values) + unresolved
    return float(values.mean() - half), float(values.mean() + half)


def verdict(low: float, high: float, least: float) -> str:
    """Judge an improvement that lies between ``low`` and ``high``, where ``least`` was promised.

    It is "kept" or "not kept" only where the whole interval says so, "below the promise" where there surely is an
    improvement and surely less than promised, and "unclear" where the seeds leave it open.
    """
    if np.isnan(low) or np.isnan(high):
        return UNMEASURABLE
    if low >= least and (low > 0 or least < 0):  # a promise of some improvement is not kept by none
        return KEPT
    if high < least or high == least == 0:
        return BELOW if low > 0 else NOT_KEPT
    return UNCLEAR


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
