"""Pairs without labels: training doesn't need them, and tests count how often a query finds its own partner."""

import re

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import benchmark
import demo_progressive_vs_original
import ICMR
import report
import search
from toy import toy_arguments, write_toy


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same pairs with their labels and without, and what a training on each gave and printed."""
    captions = np.array([f"pair {row}" for row in range(90)], "S")
    made = {}
    for name, changes in (("with", {}), ("without", {"label": None})):
        folder = write_toy(tmp_path_factory.mktemp(name), pairs=90, queries=20, caption=captions, **changes)
        made[name] = folder, ICMR.main(toy_arguments(folder, "--eval_every", "1", "--run_name", "one"))
    return made


def test_training_uses_no_labels(folders):
    first, second = (torch.load(folder / "checkpoints" / "hash" / "toy_hash.pth", weights_only=True)
                     for folder, _ in folders.values())
    for head in ("ImageMlp", "TextMlp"):
        assert first[head].keys() == second[head].keys()
        assert all(torch.equal(value, second[head][key]) for key, value in first[head].items())


def test_figures_are_those_of_the_same_pairs_with_labels_but_for_map(folders):
    first, second = (results for _, results in folders.values())
    assert len(second["history"]) == 3
    for old, new in zip(first["history"], second["history"]):
        for bits in ("4", "8"):
            assert new[bits].keys() == {"partners", "quantization_error", "bit_balance"}
            assert new[bits] == {key: old[bits][key] for key in new[bits]}
    assert {key: value.keys() for key, value in second["curves"].items()} == {"4": {"code_histogram"},
                                                                               "8": {"code_histogram"}}
    items = [{**item, "labels": [], "relevant": None} for item in first["gallery"]["i2t"][0]["items"]]
    assert second["gallery"]["i2t"][0]["items"] == items


def test_a_run_prints_and_draws_the_recall_of_the_partner(folders, capsys):
    folder, trained = folders["without"]
    results = ICMR.main(toy_arguments(folder, "--task", "3", "--run_name", "tested"))
    assert [figures["partners"] for figures in results["final"].values()] == [
        figures["partners"] for figures in trained["final"].values()]
    printed = capsys.readouterr()
    assert printed.err == ("warning: no labels (columns found: caption): tests count how often a query finds its own "
                           "partner, and give no mAP\n")
    recall = results["final"]["8"]["partners"]
    row = "  ".join(f"{recall['i2t'][f'recall@{k}']:.4f}" for k in (1, 5, 10))
    assert f"   8  {row}    " in printed.out
    assert re.search(rf"^   8 .* {results['final']['8']['quantization_error']:.3f}$", printed.out, re.MULTILINE)
    assert "70 items" not in printed.out and "mAP" not in printed.out and "label" not in printed.out
    page = report.main([str(folder / "results" / "toy" / "one")]).read_text(encoding="utf-8")
    assert f"<td>{recall['t2i']['recall@5']:.4f}</td>" in page
    assert f"<td>{trained['final']['8']['bit_balance']:.3f}</td>" in page
    titles = re.findall(r'role="img" aria-label="([^"]*)"', page)
    assert titles[:4] == ["R@10 against code length, last epoch", "R@10 against the epoch, image to text",
                          "R@10 against the epoch, text to image", "Values of the database&#39;s codes before the sign"]
    shown = re.split("<h2[^>]*>Settings", re.sub(r'"data:[^"]*"', "", page.partition("</style>")[2]))[0]
    assert not re.search("mean average|mAP|(?<!aria-)label", shown, re.IGNORECASE)


def test_an_evaluation_line_and_the_best_epoch_are_of_the_recall(folders, capsys):
    folder, _ = folders["without"]
    results = ICMR.main(toy_arguments(folder, "--eval_every", "1", "--run_name", "two", "--tensorboard", "true"))
    printed = capsys.readouterr().out
    i2t, t2i = ([entry["4"]["partners"][way] for entry in results["history"]] for way in ("i2t", "t2i"))
    assert (f"  4:    R@1 / R@10 of the partner I2T {i2t[0]['recall@1']:.4f} / {i2t[0]['recall@10']:.4f}, "
            f"T2I {t2i[0]['recall@1']:.4f} / {t2i[0]['recall@10']:.4f}\n") in printed
    best = max((first["recall@10"] + second["recall@10"]) / 2 for first, second in zip(i2t, t2i))
    assert re.search(rf"chosen with the queries' partners:\n +R@10, .*\nbits.*\n   4  0\.\d+  {best:.4f} ", printed)
    events = EventAccumulator(str(folder / "results" / "toy" / "two" / "tensorboard"))
    events.Reload()
    values = [event.value for event in events.Scalars("4/partners/i2t/recall@1")]
    assert values == pytest.approx([figures["recall@1"] for figures in i2t])


def test_sample_retrievals_mark_no_labels(tmp_path, capsys):
    folder = write_toy(tmp_path, pairs=90, queries=20, label=None, caption=np.array(["pair"] * 90, "S"),
                       emoji=np.array(["😀".encode()] * 90))
    ICMR.main(toy_arguments(folder))
    printed = capsys.readouterr().out
    assert "Sample retrievals, 8 bits, unpaired (- has no common glyph):\n" in printed and "😀*" not in printed


def test_an_index_is_evaluated_by_its_nearest_items_alone(folders, tmp_path, monkeypatch, capsys):
    folder, _ = folders["without"]
    monkeypatch.chdir(tmp_path)
    search.main(["build", "--checkpoint", str(folder / "checkpoints" / "hash" / "toy_hash.pth"), "--dataset", "toy",
                 "--data_dir", str(folder / "data")])
    capsys.readouterr()
    search.main(["evaluate", "--rerank", "60"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == "Hamming, ties averaged -".split()
    assert re.fullmatch(r"Hamming, ties by id +- +0\.\d{4} +\d+\.\d%", lines[3])
    assert re.fullmatch(r"the best 60 reranked +- +0\.\d{4} +\d+\.\d%", lines[4])


@pytest.mark.parametrize("command, why", [
    (lambda data: ICMR.main(["--dataset", "toy", "--data_dir", data, "--task", "0"]), "(--task 0) is tested by mAP"),
    (lambda data: ICMR.main(["--dataset", "toy", "--data_dir", data, "--task", "2"]), "(--task 2) is tested by mAP"),
    (lambda data: benchmark.main(["--datasets", "toy", "--data_dir", data]), "the benchmark measures mAP"),
    (lambda data: demo_progressive_vs_original.main(["--dataset", "toy", "--data_dir", data]), "is of mAP"),
])
def test_what_measures_map_alone_refuses(folders, tmp_path, monkeypatch, capsys, command, why):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command(str(folders["without"][0] / "data"))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert "toy.h5: found no labels; " in error and why in error
    assert list(tmp_path.iterdir()) == []
