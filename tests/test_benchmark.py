"""The benchmark: what it trains, keeps and writes; and the gain that progressive hashing must not lose."""

import contextlib
import dataclasses
import io
import json
import multiprocessing
import os
import statistics
import sys
import tarfile
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import benchmark
import ICMR
import metric
from benchmarks import check, datasets, records, tables, trainings
from benchmarks.baselines import base
from benchmarks.methods import METHODS
from benchmarks.sources import icons, views
from benchmarks.studies import DEFAULT, OFF, STUDIES
from common import json_text
from common.errors import InputError
from load_data import load_dataset
from toy import write_toy

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def one_thread():
    """As the benchmark's own processes have; given back, as other tests compare runs bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Here:
    """Stands in for the processes that train: what it is given is done at once, in this one."""

    def __init__(self, processes, context):
        pass

    def submit(self, function, *arguments):
        done = Future()
        try:
            done.set_result(function(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done

    def shutdown(self, **more):
        pass


@pytest.fixture
def folder(tmp_path):
    return write_toy(tmp_path, pairs=90, queries=20, text_width=6)


def arguments(folder, *more):
    return ["--datasets", "toy", "--data_dir", str(folder / "data"), "--results_dir", str(folder / "results"),
            "--hash_lens", "4", "6", "--epoch", "3", "--eval_every", "1", "--device", "cpu", "--jobs", "1", *more]


def test_a_benchmark_trains_tests_keeps_and_writes(folder, capsys, monkeypatch):
    methods = ["--methods", "CCA-ITQ", OFF, DEFAULT]
    toy = ["--seeds", "2", *methods]
    with pytest.raises(SystemExit) as stop:  # the default batch doesn't fit 70 pairs
        benchmark.main(arguments(folder, "--seeds", "1", "--methods", DEFAULT))
    assert stop.value.code == 2 and "--batch_size" in capsys.readouterr().err

    monkeypatch.setitem(STUDIES, "methods", {
        OFF: {"use_progressive_hash": False, "batch_size": 16, "hidden": 8},
        DEFAULT: {"batch_size": 16, "hidden": 8}})
    output = benchmark.main(arguments(folder, *toy))
    first = capsys.readouterr().out
    assert "8 trainings, 0 of them found finished" in first
    found = output["toy"]["methods"]
    assert {label: {bits: len(entries) for bits, entries in lengths.items()} for label, lengths in found.items()} == {
        label: {"4": 2, "6": 2} for label in ("CCA-ITQ", OFF, DEFAULT)}

    # the same figures as from ICMR.py and from the method itself
    with contextlib.redirect_stdout(io.StringIO()):
        ours = ICMR.main(["--dataset", "toy", "--data_dir", str(folder / "data"), "--results_dir", str(folder / "own"),
                          "--checkpoint_dir", str(folder / "c"), "--hash_lens", "4", "6", "--epoch", "3",
                          "--eval_every", "1", "--precision", "float32", "--device", "cpu", "--batch_size", "16",
                          "--hidden", "8", "--seed", "1"])
    for bits in ("4", "6"):
        entry = found[DEFAULT][bits][1]
        assert {name: entry[name] for name in ours["final"][bits]} == ours["final"][bits]
    data = load_dataset("toy", folder / "data")
    method = METHODS["CCA-ITQ"](4, seed=1)
    method.fit(data.train.image, data.train.text)
    expected = metric.evaluate(metric.sign_codes(method.encode_image(data.query.image).numpy()),
                               metric.sign_codes(method.encode_text(data.retrieval.text).numpy()),
                               data.query.label.numpy(), data.retrieval.label.numpy())
    measured = found["CCA-ITQ"]["4"][1]["unpaired"]
    assert {name: measured["i2t"][name] for name in expected} == expected
    assert all(figures.keys() == measured["i2t"].keys() > expected.keys() for figures in measured.values())
    assert list(measured) == ["i2t", "t2i", "i2i", "t2t"]
    tables = {path.name for path in (folder / "results" / "toy" / "benchmark").iterdir()}
    assert {"methods_unpaired.tex", "methods_unpaired.csv", "methods_in_full.csv"} <= tables

    # the table holds their means, the figures are there
    where = folder / "results" / "toy" / "benchmark"
    written = (where / "methods.md").read_text()
    cells = [100 * sum(entry["unpaired"][way]["map"] for way in ("i2t", "t2i")) / 2 for entry in found["CCA-ITQ"]["4"]]
    assert f"| CCA-ITQ | **{statistics.mean(cells):.1f} ± {statistics.stdev(cells):.1f}** |" in written
    assert json.loads((where / "methods.json").read_text()) == output["toy"]
    for name in ("map_bits", "map50_bits", "precision_recall", "precision_at_n", "map_epoch"):
        assert (where / f"methods_{name}.png").stat().st_size > 5000

    # nothing is trained twice; other settings are
    monkeypatch.setattr(benchmark, "draw", lambda *found: [])
    monkeypatch.setattr(trainings, "ProcessPoolExecutor", Here)
    assert benchmark.main(arguments(folder, *toy)) == output
    assert "8 trainings, 8 of them found finished\n" in capsys.readouterr().out
    benchmark.main(arguments(folder, "--seeds", "1", "--epoch", "2", *methods))
    assert "4 trainings, 2 of them found finished" in capsys.readouterr().out
    path = where / "CCA-ITQ-4-seed0" / "result.json"
    path.write_text(path.read_text()[:100])
    path = where / "CCA-ITQ-6-seed0" / "result.json"
    path.write_text(json.dumps(json_text.read(path) | {"code": "0" * 64}))
    benchmark.main(arguments(folder, "--seeds", "1", "--methods", "CCA-ITQ"))
    assert ("2 trainings, 0 of them found finished; 2 are trained again: 1 damaged or of an older version, 1 trained "
            "by other code\n") in capsys.readouterr().out
    assert not list(folder.rglob("*.pth")) or all(path.parts[-3] == "c" for path in folder.rglob("*.pth"))


def test_figures_beside_the_map_are_those_of_single_modalities(folder):
    class Method:  # whose codes depend on what it sees
        paired = bounded = True

        def encode_image(self, image, text=None):
            return torch.tanh(image[:, :4] if text is None else text[:, :4] - 0.5)

        def encode_text(self, text, image=None):
            return torch.tanh(text[:, 1:5] if image is None else image[:, :4] - 0.5)

    data = load_dataset("toy", folder / "data")
    found, curves = base.evaluate(Method(), data)
    images, texts = (torch.tanh(side).numpy() for side in (data.query.image[:, :4], data.query.text[:, 1:5]))
    assert found["partners"] == metric.partner_recall(metric.sign_codes(images), metric.sign_codes(texts))
    assert found["partners"]["i2t"] != found["partners"]["t2i"]
    stored = torch.cat([data.retrieval.image[:, :4], data.retrieval.text[:, 1:5]])
    assert found["quantization_error"] == pytest.approx(metric.quantization_error(torch.tanh(stored).numpy()))
    assert found.keys() - curves.keys() == {"partners", "quantization_error"}


@pytest.mark.parametrize("device, more, processes", [("cpu", [], "cores"), ("cpu", ["--jobs", "3"], 3),
                                                     ("cuda", [], 1), ("cuda", ["--jobs", "3"], 3)])
def test_trainings_at_a_time(folder, monkeypatch, device, more, processes):
    class Asked(Exception):
        pass

    def run_all(jobs, results, number):
        assert number == (os.cpu_count() if processes == "cores" else processes)
        raise Asked

    monkeypatch.setattr(benchmark, "choose_device", lambda name: torch.device(device))
    monkeypatch.setattr(trainings, "run_all", run_all)
    without = arguments(folder)
    without = without[:without.index("--jobs")]
    with pytest.raises(Asked):
        benchmark.main([*without, *more])


def test_what_a_method_cannot_do_is_said_in_the_table(folder, capsys, monkeypatch):
    monkeypatch.setattr(trainings, "ProcessPoolExecutor", Here)
    output = benchmark.main(arguments(folder, "--seeds", "1", "--hash_lens", "4", "8", "--methods", "CCA", "LSH"))
    assert list(output["toy"]["skipped"]) == ["CCA, 8 bits"]  # the texts have 6 dimensions
    assert "- CCA, 8 bits: " in capsys.readouterr().out
    assert list(output["toy"]["methods"]["LSH"]) == ["4", "8"] and list(output["toy"]["methods"]["CCA"]) == ["4"]


@pytest.mark.parametrize("wrong, complaint", [
    (["--seeds", "0"], "--seeds"), (["--methods", "mine"], "mine"), (["--datasets", "nowhere"], "nowhere"),
    (["--epoch", "0"], "--epoch"), (["--hash_lens", "0"], "--hash_lens"), (["nothing"], "nothing"),
    (["--jobs", "0"], "--jobs"), (["speed"], "give it first")])
def test_bad_arguments_end_in_one_line(folder, capsys, wrong, complaint):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(arguments(folder, *wrong))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and complaint in error


# --- records and what is made of them -----------------------------------------------------------------------------


@pytest.fixture
def committed(monkeypatch):
    """The code counts as committed."""
    monkeypatch.setattr(records, "committed", lambda module: ("c" * 40, ""))
    monkeypatch.setattr(trainings, "ProcessPoolExecutor", Here)


@pytest.fixture
def recorded(folder, committed, monkeypatch):
    """Records of one other method and of ours, two seeds each."""
    monkeypatch.setitem(STUDIES, "methods", {DEFAULT: {"batch_size": 16, "hidden": 8}})
    monkeypatch.setattr(benchmark, "draw", lambda *found: [])
    benchmark.main(arguments(folder, "--seeds", "2", "--methods", "CCA-ITQ", "CCA", DEFAULT, "--hash_lens", "4", "8",
                             *recording(folder)))
    return folder


def recording(folder):
    return ["--record", "--records_dir", str(folder / "records")]


def test_what_is_recorded_is_what_was_trained(recorded):
    ours = records.read(recorded / "records" / "toy" / "ours.jsonl")
    data = load_dataset("toy", recorded / "data")
    for seed, record in enumerate(ours):
        result = json.loads((next((recorded / "results").rglob(f"*hidden=8*-seed{seed}")) / "result.json").read_text())
        assert record["seed"] == seed and record["bits"] is None and record["hash_lens"] == [4, 8]
        assert {name: value for name, value in record["settings"].items() if name != "precision"} == {
            "batch_size": 16, "epoch": 3, "hidden": 8}
        assert record["fingerprint"] == data.fingerprint and record["commit"] == "c" * 40
        assert record["code"] == records.code_digest("ICMR") == result["code"]
        assert record["sizes"] == {"train": 70, "query": 20, "retrieval": 70}
        for bits in ("4", "8"):
            for direction in ("i2t", "t2i"):
                assert record["final"][bits]["paired"][direction]["map@50"] == pytest.approx(
                    result["final"][bits]["paired"][direction]["map@50"], abs=1e-6)
            assert record["history"]["map"][bits][-1] == pytest.approx(np.mean(
                [result["final"][bits]["unpaired"][direction]["map"] for direction in ("i2t", "t2i")]), abs=1e-5)
        assert record["history"]["epoch"] == [1, 2, 3]
        assert record["loss"] == pytest.approx([epoch["loss"] for epoch in result["epochs"]], rel=1e-5)
    others = records.read(recorded / "records" / "toy" / "CCA.jsonl")
    assert [(record["bits"], record["hash_lens"], "skipped" in record) for record in others] == [
        (4, [4], False), (4, [4], False), (8, [8], True), (8, [8], True)]
    assert others[0]["settings"] == {} and others[0]["code"] == records.code_digest("benchmarks.baselines.shallow")


def test_recording_again_takes_the_place_of_the_same_trainings(recorded, capsys):
    path = recorded / "records" / "toy" / "ours.jsonl"
    before = path.read_text()
    more = ["--methods", DEFAULT, "--hash_lens", "4", "8", *recording(recorded)]
    benchmark.main(arguments(recorded, "--seeds", "2", *more))
    assert path.read_text() == before and str(path) in capsys.readouterr().out
    benchmark.main(arguments(recorded, "--seeds", "1", "--epoch", "2", "--eval_every", "2", *more))
    assert [record["settings"]["epoch"] for record in records.read(path)] == [2, 3, 3]


def test_eval_every_is_no_difference_between_records(recorded):
    benchmark.main(arguments(recorded, "--seeds", "1", "--methods", DEFAULT, "--hash_lens", "4", "8", "--eval_every",
                             "3", *recording(recorded)))
    histories = [record["history"]["epoch"] for record in
                 records.read(recorded / "records" / "toy" / "ours.jsonl")]
    assert histories == [[3], [1, 2, 3]]


def test_code_that_is_not_committed_is_not_recorded(folder, capsys, monkeypatch):
    monkeypatch.setattr(trainings, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(records, "committed", lambda module: (None, "uncommitted changes in loss.py"))
    one = arguments(folder, "--seeds", "1", "--methods", "LSH", "--hash_lens", "4")
    with pytest.raises(SystemExit) as stop:
        benchmark.main([*one, *recording(folder)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "uncommitted changes in loss.py" in error
    assert not list((folder / "results").rglob("result.json"))
    benchmark.main(one)
    capsys.readouterr()
    monkeypatch.setattr(records, "committed", lambda module: ("c" * 40, ""))
    with pytest.raises(SystemExit) as stop:
        benchmark.main([*one, *recording(folder)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "1 finished trainings are of code that was not committed" in error
    assert not list((folder / "records").rglob("*.jsonl"))


def check_arguments(folder, *more):
    return ["check", "--records_dir", str(folder / "records"), "--data_dir", str(folder / "data"), "--device", "cpu",
            "--jobs", "1", *more]


def test_a_check_trains_again_and_finds_the_same(recorded, capsys):
    before = {path: path.read_bytes() for path in recorded.rglob("*") if path.is_file()}
    rows = benchmark.main(check_arguments(recorded, "--count", "9"))
    assert len(rows) == 6 and all(row["difference"] < 1e-3 and row["same"] and not row["other_code"] for row in rows)
    assert {path: path.read_bytes() for path in recorded.rglob("*") if path.is_file()} == before
    capsys.readouterr()
    chosen = [benchmark.main(check_arguments(recorded, "--count", "1", "--seed", seed))[0]["record"]
              for seed in ("1", "1", "2", "3", "4")]
    assert chosen[0] == chosen[1] and len(set(chosen)) > 1


def test_a_check_finds_what_differs_and_says_what_is_of_other_code(recorded, capsys):
    path = recorded / "records" / "toy" / "ours.jsonl"
    lines = records.read(path)
    lines[0]["final"]["8"]["unpaired"]["i2t"]["map"] *= 0.5
    lines[0]["code"] = lines[1]["code"] = "0" * 64
    path.write_text(json.dumps(lines[0]) + "\n")  # of few seeds 1 point is allowed
    with pytest.raises(SystemExit) as stop:
        benchmark.main(check_arguments(recorded, "--method", "ours"))
    printed = capsys.readouterr().out
    assert stop.value.code == 1 and "DIFFERS  recorded by other code" in printed and "few seeds" in printed


@pytest.mark.parametrize("wrong, complaint", [
    (["--count", "0"], "--count"), (["--seed", "-1"], "--seed"), (["--method", "mine"], "no such record"),
    (["--data_dir", "nowhere"], "nowhere")])
def test_a_check_refuses_in_one_line(recorded, capsys, wrong, complaint):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        benchmark.main(check_arguments(recorded, *wrong))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and complaint in error


def test_a_check_wants_the_very_data(recorded, capsys):
    path = recorded / "records" / "toy" / "ours.jsonl"
    path.write_text("".join(json.dumps(record | {"fingerprint": "0" * 64}) + "\n"
                            for record in records.read(path)))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        benchmark.main(check_arguments(recorded, "--method", "ours"))
    assert stop.value.code == 2 and "expected the same data" in capsys.readouterr().err


def test_the_spread_is_over_the_seeds_of_one_training():
    def record(seed, value, **settings):
        figures = {direction: {"map": value} for direction in ("i2t", "t2i")}
        return {"dataset": "toy", "method": "ours", "fingerprint": "", "settings": settings, "bits": None,
                "hash_lens": [4], "seed": seed, "final": {"4": {"unpaired": figures}}}

    known = [record(0, 0.50), record(1, 0.52), record(2, 0.54), record(0, 0.9, epoch=2), record(1, 0.9, epoch=2)]
    assert check.spread(known[0], known) == pytest.approx(2)
    assert check.spread(known[3], known) is None
    again = {"final": record(0, 0.58)["final"], "code": "now"}
    for each in known:
        each["code"] = "now"
    assert check.compared(known[0], again, known)["same"]  # 8 points apart; 3 * sqrt(2) * 2 are allowed
    again["final"] = record(0, 0.59)["final"]
    assert not check.compared(known[0], again, known)["same"]


# --- data ---------------------------------------------------------------------------------------------------------


def test_the_digits_are_made_as_the_records_have_them(tmp_path, capsys, monkeypatch):
    benchmark.main(["data", "digits", "--data_dir", str(tmp_path)])
    printed = capsys.readouterr()
    made = load_dataset("digits", tmp_path)
    assert made.fingerprint == datasets.RECIPES["digits"].fingerprint and made.fingerprint in printed.out
    assert printed.err == "" and len(made.train) == len(made.retrieval) == 1497
    digit = load_digits().images[made.query.index[0]]
    assert np.array_equal(np.hstack([made.query.image[0].reshape(8, 4), made.query.text[0].reshape(8, 4)]), digit)

    monkeypatch.setitem(datasets.RECIPES, "digits", dataclasses.replace(datasets.RECIPES["digits"], fingerprint="0"))
    benchmark.main(["data", "digits", "--data_dir", str(tmp_path)])
    error = capsys.readouterr().err
    assert error.startswith("warning: ") and error.count("\n") == 1 and "fingerprint 0" in error


def test_the_data_sets_are_listed(capsys):
    benchmark.main(["data"])
    printed = capsys.readouterr().out
    assert load_dataset("openmoji", ROOT / "data").fingerprint in printed
    assert all(f"{name:9} {recipe.pairs:6,}" in printed for name, recipe in datasets.RECIPES.items())


def icon_package(path, version="7.3.1", **replaced):
    count = icons.FEWEST + 5
    files = {"package.json": json.dumps({"name": "@fortawesome/fontawesome-free", "version": version}),
             "metadata/icons.yml": "".join(f"'i{n}':\n  label: Icon {n}\n  search:\n    terms:\n      - '{n}'\n"
                                           for n in range(count)) + "none:\n  label: No category\n",
             "metadata/categories.yml": "a:\n  label: A\n  icons: [" + ", ".join(f"i{n}" for n in range(count)) +
                                        "]\nb:\n  label: B\n  icons: [i1]\n"}
    files |= {f"svgs/solid/{name}.svg": f"<svg id='{name}'/>" for name in
              (*(f"i{n}" for n in range(1, count)), "none")}  # i0 is not a solid one
    with tarfile.open(path, "w:gz") as archive:
        for name, text in (files | replaced).items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def test_the_icons_of_a_package_are_those_that_are_solid_and_have_a_category(tmp_path):
    pytest.importorskip("yaml", reason="not installed (requirements-extract.txt)")
    found = icons.FONT_AWESOME.read(icon_package(tmp_path / "icons.tgz"))
    assert len(found) == icons.FEWEST + 4
    assert found[0] == icons.Icon("i1", "Icon 1, 1", ["A", "B"], "<svg id='i1'/>")


@pytest.mark.parametrize("more, complaint", [
    ({"version": "6.0.0"}, "fontawesome-free@6.0.0; expected"), ({"metadata/icons.yml": "a: ["}, "not the npm package"),
    ({"metadata/icons.yml": "a: {}"}, "0 solid icons"), ({"metadata/categories.yml": "a: 3"}, "not the npm package")])
def test_another_package_is_refused_in_one_line(tmp_path, capsys, monkeypatch, more, complaint):
    pytest.importorskip("yaml", reason="not installed (requirements-extract.txt)")
    monkeypatch.setattr(icons, "optional", lambda module: __import__(module) if module == "yaml" else None)
    archive = icon_package(tmp_path / "icons.tgz", **more)
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["data", "icons", "--archive", str(archive), "--data_dir", str(tmp_path)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and complaint in error
    assert not (tmp_path / "icons" / "icons.h5").exists()


@pytest.mark.parametrize("arguments, complaint", [
    (["openmoji"], "comes with the code"), (["letters"], "letters"), (["digits", "--archive", "x.tgz"], "--archive")])
def test_data_that_cannot_be_made_is_one_line(tmp_path, capsys, arguments, complaint):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["data", *arguments, "--data_dir", str(tmp_path)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and complaint in error


def test_a_missing_package_for_the_icons_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["data", "icons", "--data_dir", str(tmp_path)])
    assert stop.value.code == 2 and "pip install -r requirements-extract.txt" in capsys.readouterr().err


def last_evaluation(folder, progressive):
    torch.set_num_threads(1)
    own = str(folder / str(progressive))
    solver = ICMR.Solver(ICMR.Config(
        dataset=str(folder / "digits.npz"), epoch=40, eval_every=40, device="cpu", precision="float32",
        use_progressive_hash=progressive, results_dir=own, checkpoint_dir=own))
    with contextlib.redirect_stdout(io.StringIO()):
        solver.fit()
    return solver.run.history[-1]


@pytest.mark.slow
def test_progressive_hashing_keeps_its_gain(tmp_path):
    """On the halves of handwritten digits, the mean of four code lengths, after 40 epochs, where it is 2.8 points;
    RESULTS.md has the gain of whole trainings."""
    views.make_digits(tmp_path / "digits.npz")
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as side_by_side:
        last = dict(zip((True, False), side_by_side.map(last_evaluation, [tmp_path] * 2, (True, False))))
    lengths = ("16", "32", "64", "128")

    def mean(progressive):
        return 100 * np.mean([last[progressive][bits]["unpaired"][way]["map"]
                              for bits in lengths for way in ("i2t", "t2i")])

    assert mean(True) > mean(False) + 1.5
    for bits in lengths:
        assert last[True][bits]["quantization_error"] < last[False][bits]["quantization_error"] / 10


# --- the whole bench ----------------------------------------------------------------------------------------------


def recipe(data, **more):
    about = dict(half="unseen", pairs=90, classes=3, about="toys", needs="a toy box", fingerprint=data.fingerprint,
                 file="toy/toy.h5", make=None)
    return datasets.Recipe(**about | more)


def test_what_is_missing_of_the_bench_is_named_and_the_rest_is_measured(folder, capsys, monkeypatch):
    data = load_dataset("toy", folder / "data")
    bench = {"toy": recipe(data), "gone": recipe(data, needs="a wheel"), "other": recipe(data, half="selection")}
    (folder / "data" / "other").mkdir()
    (folder / "data" / "other" / "other.h5").write_bytes((folder / "data" / "toy" / "toy.h5").read_bytes())
    for module in (benchmark, datasets):
        monkeypatch.setattr(module, "RECIPES", bench)
    monkeypatch.setattr(benchmark, "draw", lambda *found: [])
    monkeypatch.setattr(trainings, "ProcessPoolExecutor", Here)

    def run(name):
        asked = arguments(folder, "--seeds", "1", "--methods", "LSH")
        with pytest.raises(SystemExit) as stop:
            benchmark.main(["--datasets", name, *asked[2:]])
        assert stop.value.code == 2
        return capsys.readouterr()

    printed = run("unseen")
    missing, last = [line for line in printed.err.splitlines() if line.startswith("error")]
    assert missing.startswith("error: gone: ")
    assert missing.endswith("python benchmark.py data gone makes it; needs a wheel")
    assert last.startswith("error: not measured: gone,") and "# toy: methods" in printed.out
    assert "# other" not in printed.out
    bench["other"] = recipe(data, half="selection", pairs=91)
    printed = run("all")
    assert "error: other: " in printed.err and "another version" in printed.err and "# other" not in printed.out
    assert "# toy: methods" in printed.out and "not measured: gone, other," in printed.err


def test_features_in_other_digits_are_measured_and_not_recorded(folder, capsys, monkeypatch):
    data = load_dataset("toy", folder / "data")
    monkeypatch.setattr(benchmark, "RECIPES", {"toy": recipe(data, fingerprint="1" * 64)})
    assert benchmark.load_all(["toy"], folder / "data")[1] == []
    with pytest.raises(InputError, match="toy.h5: has the name of toy, toy, and would replace its results"):
        benchmark.load_all(["toy", str(folder / "data" / "toy" / "toy.h5")], folder / "data")
    with pytest.raises(InputError, match="^--datasets toy: has the name of .*toy.h5, toy, and would replace its results"):
        benchmark.load_all([str(folder / "data" / "toy" / "toy.h5"), "toy"], folder / "data")  # one of the bench second
    assert "another processor" in capsys.readouterr().err
    with pytest.raises(InputError, match="measure without --record"):
        benchmark.load_all(["toy"], folder / "data", record=True)


def test_a_training_is_tested_with_the_finer_labels_too(folder, monkeypatch):
    data = load_dataset("toy", folder / "data")
    for split in (data.train, data.query, data.retrieval):
        split.meta["kind"] = np.array([f"kind {row % 7}" for row in split.index])
    monkeypatch.setitem(datasets.RECIPES, "toy", recipe(data, finer=datasets.Finer("kind", 7)))
    finer = datasets.with_finer_labels(data)
    assert finer.label_names == [f"kind {kind}" for kind in range(7)]
    assert torch.equal(finer.query.label.argmax(dim=1), torch.from_numpy(data.query.index % 7))
    assert (finer.retrieval.label.sum(dim=1) == 1).all() and torch.equal(finer.query.image, data.query.image)

    monkeypatch.setattr(trainings, "loaded", lambda path, data_dir: (data, finer))
    job = trainings.Job("toy", "LSH", 0, 8, {"device": "cpu", "data_dir": str(folder / "data")}, str(folder / "job"))
    result = trainings.run(job)
    method = METHODS["LSH"](8, seed=0)
    method.fit(data.train.image, data.train.text)
    expected = metric.evaluate(metric.sign_codes(method.encode_image(data.query.image).numpy()),
                               metric.sign_codes(method.encode_text(data.retrieval.text).numpy()),
                               finer.query.label.numpy(), finer.retrieval.label.numpy())
    assert result["finer"]["8"]["unpaired"]["i2t"] == expected != result["final"]["8"]["unpaired"]["i2t"]
    del data.query.meta["kind"]
    with pytest.raises(InputError, match="no column 'kind'"):
        datasets.with_finer_labels(data)
