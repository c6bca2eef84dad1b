"""The guide's promises: how they are measured and judged, and the report of a benchmark that holds them."""

import json

import numpy as np
import pytest

from benchmarks import promises, tables


# --- measuring --------------------------------------------------------------------------------------------------------


def test_a_goal_is_reached_at_the_first_epoch_that_has_it():
    assert promises.reached([2, 4, 6], [0.5, 0.7, 0.6], 0.7) == 4
    assert promises.reached([2, 4, 6], [0.5, 0.7, 0.6], 0.8) == float("inf")


def test_roughness_of_a_line_is_0_and_of_a_zigzag_is_not():
    assert promises.roughness(np.linspace(1, 9, 20)) == pytest.approx(0, abs=1e-9)
    assert promises.roughness([9.0, 0.0, 0.0, 9.0] + [1.0, 3.0] * 4) == pytest.approx(4)  # the second half alone counts
    assert np.isnan(promises.roughness([1.0, 2.0])) and np.isnan(promises.level([0.0] * 20))


def figures(score):
    maps = {"i2t": {"map": score, "map@50": score + 0.1}, "t2i": {"map": score + 0.2, "map@50": score + 0.3}}
    return {"unpaired": maps, "quantization_error": 0.1 + score}


def test_a_run_and_its_record_are_one_training():
    history = [{"epoch": epoch, "16": figures(score), "64": figures(score + 0.1)}
               for epoch, score in ((2, 0.3), (4, 0.4), (5, 0.5))]
    final = {bits: history[-1][bits] for bits in ("16", "64")}
    run = {"history": history, "final": final,
           "epochs": [{"loss": loss, "seconds": 2.0} for loss in (5.0, 4.0, 3.0, 2.5, 2.25)]}
    record = {"final": final, "loss": [5.0, 4.0, 3.0, 2.5, 2.25], "seconds": 10.0,
              "history": {"epoch": [2, 4, 5], "map": {"16": [0.4, 0.5, 0.6], "64": [0.5, 0.6, 0.7]}}}
    first, second = promises.of_metrics(run), promises.of_record(record)
    assert first.tested == second.tested == [2, 4, 5] and first.loss == second.loss
    assert first.seconds == second.seconds == 2
    assert first.map == pytest.approx([45, 55, 65]) and second.map == pytest.approx(first.map)
    assert first.last == second.last == pytest.approx({"map": 65, "map@50": 75, "quantization_error": 0.65})


# --- judging ----------------------------------------------------------------------------------------------------------


def training(score=50.0, loss=(5.0, 4.0, 3.0, 2.0, 1.5, 1.2, 1.1, 1.0), curve=None, tested=None, error=0.1,
             seconds=1.0):
    curve = curve or [score / 2, score]
    return promises.Training(tested or list(range(1, len(curve) + 1)), curve, list(loss),
                             {"map": score, "map@50": score, "quantization_error": error}, seconds)


def verdicts(progressive, original):
    return {row["measure"]: row["verdict"] for row in promises.compare(progressive, original)}


@pytest.mark.parametrize("gains, expected", [
    ([4.2, 4.4, 4.6], promises.KEPT), ([0.8, 0.9, 1.0], promises.BELOW), ([-0.3, 0.1, 0.2], promises.NOT_KEPT),
    ([-1.1, -1.0, -0.9], promises.NOT_KEPT), ([0.0, 0.0, 0.0], promises.NOT_KEPT), ([1.9, 2.3, 2.5], promises.UNCLEAR),
    ([-3.0, 4.0, 8.0], promises.UNCLEAR), ([30.0], promises.UNCLEAR)])
def test_a_verdict_needs_the_whole_confidence_interval(gains, expected):
    row = promises.compare([training(50 + gain) for gain in gains], [training() for _ in gains])[0]
    assert row["verdict"] == expected and row["change"] == pytest.approx(np.mean(gains))
    assert row["change_by_seed"] == pytest.approx(gains)


@pytest.mark.parametrize("low, high, least, expected", [
    (0.5, 1.0, 0.0, promises.KEPT), (0.0, 0.0, 0.0, promises.NOT_KEPT), (-1.0, -0.1, 0.0, promises.NOT_KEPT),
    (-1.0, 0.1, 0.0, promises.UNCLEAR), (-0.9, 0.5, -1.0, promises.KEPT), (-3.0, -0.5, -1.0, promises.UNCLEAR),
    (-3.0, -1.5, -1.0, promises.NOT_KEPT), (float("nan"), float("nan"), 2.0, promises.UNMEASURABLE)])
def test_a_verdict_of_a_bound(low, high, least, expected):
    assert promises.verdict(low, high, least) == expected


def test_each_promise_is_judged_in_its_own_direction():
    original = [training(error=0.2 + seed / 1000, curve=[10, 20, 30, 40, 49, 50, 40, 50, 40, 50]) for seed in range(3)]
    better = [training(54, loss=range(9, 1, -1), curve=[10, 50, 51, 52, 53, 54, 54, 54, 54, 54], error=0.01)
              for _ in range(3)]
    assert set(verdicts(better, original).values()) == {promises.KEPT}
    assert set(verdicts(original, better).values()) == {promises.NOT_KEPT, promises.KEPT}  # the same time
    slower = [training(seconds=1.2) for _ in range(3)]
    assert verdicts(slower, [training() for _ in range(3)])["seconds"] == promises.NOT_KEPT


def test_epochs_without_a_test_leave_convergence_open():
    every, tenth = ([training(curve=[30, 40, 50, 50], tested=tested) for _ in range(3)]
                    for tested in ([1, 2, 3, 4], [10, 20, 30, 40]))
    sooner = ([training(curve=[30, 50, 50, 50], tested=tested) for _ in range(3)]
              for tested in ([1, 2, 3, 4], [10, 20, 30, 40]))
    assert [verdicts(new, old)["epochs_to_95"] for new, old in zip(sooner, (every, tenth))] == [promises.KEPT,
                                                                                              promises.UNCLEAR]


def test_a_curve_is_measured_only_if_all_were_tested_after_the_same_epochs():
    def run(tested):
        return training(curve=[30, 40, 45, 50, 46, 50, 47, 50], tested=tested)

    every, tenth = range(1, 9), range(10, 81, 10)
    same = promises.compare([run([*every])] * 3, [run([*every])] * 3)
    for progressive, original in (([tenth] * 3, [every] * 3), ([every, every, tenth], [every, every, tenth])):
        rows = promises.compare([run([*each]) for each in progressive], [run([*each]) for each in original])
        for row, usual in zip(rows, same):
            if row["measure"] in ("map_roughness", "epochs_to_95"):
                assert row["verdict"] == promises.UNMEASURABLE != usual["verdict"]
                assert row["original"] is row["change"] is None and row["change_by_seed"] == [None] * 3
            else:
                assert row == usual
        json.dumps(rows, allow_nan=False)


def test_what_is_never_reached_or_too_short_is_none():
    rows = {row["measure"]: row for row in promises.compare([training(20, loss=[1.0] * 3)] * 2, [training()] * 2)}
    assert rows["epochs_to_95"]["verdict"] == promises.NOT_KEPT and rows["epochs_to_95"]["change"] is None
    assert rows["loss_roughness"]["verdict"] == promises.UNMEASURABLE and rows["loss_roughness"]["change"] is None
    json.dumps(list(rows.values()), allow_nan=False)


# --- the report of a benchmark ----------------------------------------------------------------------------------------


def entry(value, error, losses, history, seed=0):
    figures = {direction: {"map": value, "map@50": value + 0.1} for direction in ("i2t", "t2i")}
    return {"unpaired": figures, "paired": figures, "quantization_error": error, "seconds": 10.0, "seed": seed,
            "epochs": [{"loss": loss, "seconds": 2.0} for loss in losses],
            "history": [{"epoch": number, "unpaired": {direction: {"map": each} for direction in ("i2t", "t2i")}}
                        for number, each in enumerate(history, 1)]}


def test_the_effects_of_the_scale():
    straight, jumping = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0], [8.0, 7.0, 6.0, 4.0, 6.0, 4.0]
    off = {"16": [entry(0.40, 0.2, jumping, [.1, .2, .3, .39, .38, .40]),
                  entry(0.41, 0.2, jumping, [.1, .2, .3, .4, .3, .41], seed=1)]}
    on = {"16": [entry(0.43, 0.01, straight, [.1, .39, .4, .41, .42, .43]),
                 entry(0.46, 0.01, straight, [.1, .4, .4, .41, .42, .43], seed=1)]}
    text = "\n".join(tables.effects(on, off))
    assert "| mAP@all, unpaired | +4.00 ± 1.00 | +4.00 ± 1.00 |" in text  # +3 and +5; their standard error is 1
    assert "| quantization error, ratio | 0.050 | 0.050 |" in text
    assert "| mAP@all, points | +2 to +5 | unclear | 40.5 | 44.5 | +4.0 ± 1.0 points |" in text
    assert "| epochs to 95 % mAP | -5 to -10 % | kept | 4 | 2 | -50.0 ± 0.0 % |" in text
    assert "| loss roughness, % | smoother | kept | 85.71 | 0 | -100.0 ± 0.0 % |" in text
    assert "| quantization error | halved | kept | 0.2 | 0.01 | -95.0 ± 0.0 % |" in text


def test_the_recall_of_partners_where_it_was_measured():
    def found(*recalls):
        return {"16": [entry(0.4, 0.2, [8.0] * 6, [.1] * 6) | {"partners": {
            direction: {"recall@1": recall, "recall@10": recall + more}
            for direction, more in (("i2t", 0.1), ("t2i", 0.2))}, "seed": seed} for seed, recall in enumerate(recalls)]}

    on, off, other = found(0.3, 0.5), found(0.4, 0.5), {"16": [entry(0.4, 0.2, [8.0] * 6, [.1] * 6)]}
    assert tables.effects({"16": [each | {"seed": 7} for each in on["16"]]}, off)[0].startswith("No seed was trained")
    later = tables.effects({"16": [found(0.9, 0.9, 0.9)["16"][2], *on["16"][::-1]]}, off)  # a seed more, another order
    assert later == tables.effects(on, off)
    text = "\n".join(tables.effects(on, off))
    assert "| R@1 of the partner | -5.00 ± 5.00 | -5.00 ± 5.00 |" in text
    assert "partner" not in "\n".join(tables.effects(on, other))
    rows = tables.recalls({"ours": on, "older": other}, ["16"])
    assert rows[0] == "|  | R@1 16 | R@10 16 |"
    assert rows[2:] == ["| ours | 40.0 ± 14.1 | 55.0 ± 14.1 |", "| older |  |  |"]
