"""Comparing finished runs: what differs, and whether it is significant."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import benchmark
import ICMR
from benchmarks import compare, trainings
from common import json_text
from common.errors import InputError
from reporting import page
from toy import toy_arguments, write_toy


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of ours with the scale and without, and two runs of another method as the benchmark keeps them."""
    folder = write_toy(tmp_path_factory.mktemp("runs"), pairs=80, queries=12, shuffled=True)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:  # no pages, no figures, no processes: they are tested elsewhere
        patch.setattr(page, "write_report", lambda path, results: None)
        patch.setattr(benchmark, "draw", lambda *found: [])
        patch.setattr(trainings, "run_all", lambda jobs, results, processes: [*map(trainings.run, jobs)])
        for scale, seed in itertools.product(("true", "false"), ("0", "1")):
            ICMR.main(toy_arguments(folder, "--run_name", f"{scale}-{seed}", "--seed", seed,
                                    "--use_progressive_hash", scale))
        benchmark.main(["--datasets", "toy", "--data_dir", str(folder / "data"), "--results_dir",
                        str(folder / "results"), "--hash_lens", "4", "8", "--device", "cpu", "--methods", "LSH",
                        "--seeds", "1"])
    torch.set_num_threads(threads)
    return folder / "results" / "toy"


def refused(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["compare", *map(str, arguments)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    return error


def test_seeds_and_code_lengths_are_gathered_and_compared(runs, tmp_path, capsys):
    paths = [runs / "true-0", runs / "true-1" / "metrics.json", runs / "false-0", runs / "false-1", runs / "benchmark"]
    found = benchmark.main(["compare", *map(str, paths), "--out", str(tmp_path / "c.md"), "--figures", "map", "ndcg@50",
                            "--directions", "i2t", "t2t"])
    printed = capsys.readouterr().out
    assert "| use_progressive_hash | true | false | – |" in printed and "| seeds | 0, 1 | 0, 1 | 0 |" in printed
    assert "Corrected by Holm's method for the methods" in printed and "No p-values" not in printed
    assert len(found) == 2 * 2 * 2 * 2  # methods, lengths, directions, figures
    final = {name: json.loads((runs / name / "metrics.json").read_text())["final"]["8"]["unpaired"]["t2t"]["map"]
             for name in ("true-0", "true-1", "false-0", "false-1")}
    row = next(row for row in found if (row["bits"], row["direction"], row["figure"]) == ("8", "t2t", "map"))
    gain = 50 * (final["false-0"] + final["false-1"] - final["true-0"] - final["true-1"])
    assert row["difference"] == pytest.approx(gain) and 0 < row["queries"] <= 1 and 0 < row["seeds"] <= 1
    assert all((row["queries"] is None) == (row["figure"] == "ndcg@50") for row in found)
    assert all(row["seeds"] is None for row in found if row["method"] == "LSH")  # one seed
    assert (tmp_path / "c.md").read_text() in printed
    assert {path.name for path in tmp_path.iterdir()} == {"c.md"} | {
        f"c_{table.name}.{ending}" for ending in ("tex", "csv") for table in compare.exports.tables_of(printed)}


def test_p_values_are_those_of_all_signs_and_divisions():
    random = np.random.default_rng(0)
    first, other = random.normal(size=(3, 8)), random.normal(0.4, size=(3, 8))
    gains = (other - first).mean(axis=0)
    of_signs = [abs(np.mean(gains * signs)) for signs in itertools.product((-1, 1), repeat=8)]
    means = [*first.mean(axis=1), *other.mean(axis=1)]
    of_divisions = [abs(sum(means[i] for i in chosen) - sum(means[i] for i in range(6) if i not in chosen)) / 3
                    for chosen in itertools.combinations(range(6), 3)]
    expected = [np.mean(np.array(drawn) >= abs(gains.mean()) - 1e-12) for drawn in (of_signs, of_divisions)]
    assert compare.p_values(first, other) == pytest.approx(expected, abs=1e-12)
    assert compare.p_values(first, first)[0] == 1 and compare.p_values(first[:1], other)[1] is None
    assert compare.p_values(first[:, :1], other[:, :1])[0] is None and compare.p_values(first[:1, :1], other)[1] is None


def test_of_equal_methods_few_differences_are_significant():
    random = np.random.default_rng(1)
    found = [compare.p_values(*random.random((2, 1, 30)))[0] for _ in range(30)]
    assert 0 < np.mean(np.array(found) < 0.2) < 0.5
    assert compare.p_values(np.zeros((1, 30)), random.random((1, 30)))[0] == pytest.approx(2 / (compare.RESAMPLES + 1))


def test_holm_by_hand():
    assert compare.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert compare.holm([0.9, 0.8]) == [1.0, 1.0] and compare.holm([]) == []


def test_the_same_seed_twice_is_two_methods_and_other_data_give_no_differences(runs, tmp_path, capsys):
    again = shutil.copytree(runs / "true-0", tmp_path / "again")
    found = benchmark.main(["compare", str(runs / "true-0"), str(again), "--figures", "map"])
    printed = capsys.readouterr().out
    assert "(true-0)" in printed and "(again)" in printed and {row["difference"] for row in found} == {0.0}
    assert {row["queries"] for row in found} == {1.0}

    (again / "average_precision.npz").unlink()
    assert {row["queries"] for row in benchmark.main(["compare", str(runs / "true-0"), str(again)])} == {None}
    assert "No p-values of ours" in capsys.readouterr().out

    path = again / "metrics.json"
    path.write_text(json.dumps(json_text.read(path) | {"fingerprint": "0"}))
    assert benchmark.main(["compare", str(runs / "true-0"), str(again)]) == []
    printed = capsys.readouterr().out
    assert compare.NO_DIFFERENCES in printed and "**" not in printed


def test_a_flipped_bit_is_noticed(runs, tmp_path):
    run = shutil.copytree(runs / "true-0", tmp_path / "run")
    known = compare.read(run / "metrics.json")
    for name in ("metrics.json", "average_precision.npz"):
        sound = (run / name).read_bytes()
        for at in range(0, len(sound), len(sound) // 200):
            (run / name).write_bytes(sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1:])
            try:
                found = compare.read(run / "metrics.json")
            except InputError:
                continue
            assert (found.final, found.settings, found.fingerprint) == (known.final, known.settings, known.fingerprint)
            assert found.precision.keys() == known.precision.keys(), f"{name}, byte {at}"
            for figure, values in known.precision.items():
                np.testing.assert_array_equal(found.precision[figure], values, err_msg=f"{name}, byte {at}")
        (run / name).write_bytes(sound)


def test_the_data_of_a_run_are_named_wherever_it_is_compared_from(runs, monkeypatch):
    job = next((runs / "benchmark").glob("*/result.json"))
    assert compare.read(job).dataset == "toy" == json_text.read(job)["dataset"]
    job.write_text(json.dumps({key: value for key, value in json_text.read(job).items() if key != "dataset"}))
    monkeypatch.chdir(job.parents[1])  # of a version that did not write it
    assert compare.read(Path(job.parent.name) / job.name).dataset == "toy"


def test_what_cannot_be_compared_is_refused_in_one_line(runs, tmp_path, capsys):
    assert "runs of one method" in refused(capsys, runs / "true-0", runs / "true-1")
    assert "no finished run" in refused(capsys, runs / "true-0", tmp_path)
    assert "expected the name of a .md file" in refused(capsys, runs / "true-0", runs / "false-0", "--out", "x.tex")
    other = shutil.copytree(runs / "false-0", tmp_path / "other")
    shutil.copy(runs / "true-0" / "average_precision.npz", other)
    assert "of another run" in refused(capsys, runs / "true-0", other)
    (other / "average_precision.npz").write_bytes(b"PK\x03\x04 no zip")
    assert "not the average precision" in refused(capsys, runs / "true-0", other)
    found = json.loads((other / "metrics.json").read_text())
    found.pop("sha256")
    found["final"]["4"]["unpaired"] = 0.5
    (other / "metrics.json").write_text(json.dumps(found))
    assert "final[...].unpaired: Expected `object`" in refused(capsys, runs / "true-0", other)
    (other / "metrics.json").write_text('{"final": []}')
    assert "expected the metrics of a finished run" in refused(capsys, runs / "true-0", other)
