"""What is measured after the last epoch beside mAP: in all four directions, and for each query in a file."""

import json

import h5py
import numpy as np
import pytest
import scipy.io

import ICMR
import metric
from load_data import load_dataset
from reporting import last_figures
from toy import toy_arguments, write_toy


def run(folder, *more):
    ICMR.main(toy_arguments(folder, "--run_name", "run", *more))
    where = folder / "results" / "toy" / "run"
    with np.load(where / last_figures.FILE, allow_pickle=False) as file:
        return json.loads((where / "metrics.json").read_text()), dict(file)


@pytest.fixture
def small(tmp_path):
    return write_toy(tmp_path, pairs=80, queries=12, shuffled=True)


@pytest.mark.parametrize("task, kinds", [("1", ["4", "8"]), ("0", ["real"])])
def test_the_map_of_a_run_is_the_mean_of_what_is_kept_of_each_query(small, task, kinds):
    results, kept = run(small, "--task", task)
    data = load_dataset("toy", small / "data")
    assert str(kept.pop("fingerprint")) == results["fingerprint"] == data.fingerprint
    for side in ("image", "text"):
        assert np.array_equal(kept.pop(f"rows/{side}"), data.query.index)
    assert list(results["final"]) == kinds and len(kept) == 8 * len(kinds)
    for name, values in kept.items():
        kind, protocol, direction, cut = name.split("/")
        assert len(values) == 12
        assert results["final"][kind][protocol][direction][cut] == pytest.approx(values.mean(), rel=1e-12)
    for kind in kinds:  # an evaluation in training is as cheap as before
        tested = results["history"][-1][kind]["unpaired"]
        assert {direction: set(figures) for direction, figures in tested.items()} == dict.fromkeys(
            ("i2t", "t2i"), {"map", "map@50"})


def test_each_direction_has_the_figures_of_its_sides(tmp_path):
    random = np.random.default_rng(0)
    write_toy(tmp_path, pairs=80, queries=12)
    data = load_dataset("toy", tmp_path / "data")
    codes = [[random.choice([-1, 1], (len(split), 8)) for _ in range(2)] for split in (data.query, data.retrieval)]
    figures, kept = last_figures.of_codes(data, *codes, bits=8)
    labels = data.query.label.numpy(), data.retrieval.label.numpy()
    for direction, sides in {"i2t": (0, 1), "t2i": (1, 0), "i2i": (0, 0), "t2t": (1, 1)}.items():
        pair = [side[number] for side, number in zip(codes, sides)]
        histogram = metric.hamming_histogram(*pair, *labels)
        assert figures[direction] == {**metric.maps_from_histogram(histogram), **metric.ndcg(*pair, *labels),
                                      "map@radius2": metric.map_within_radius(histogram)}
        assert np.array_equal(kept[f"8/unpaired/{direction}/map@50"], metric.average_precision_by_query(histogram, 50))


def test_the_codes_of_a_model_are_written_for_matlab(small):
    results, _ = run(small, "--codes_mat", "true")
    first = {bits: scipy.io.loadmat(small / "results" / "toy" / "run" / f"codes_{bits}.mat") for bits in (4, 8)}
    data = load_dataset("toy", small / "data")
    for bits, found in first.items():
        assert {name: each.dtype.kind for name, each in found.items() if not name.startswith("__")} == {
            "q_img": "f", "q_txt": "f", "r_img": "f", "r_txt": "f", "q_l": "f", "r_l": "f", "q_id": "i", "r_id": "i"}
        for direction, asked, stored in (("i2t", "img", "txt"), ("t2t", "txt", "txt")):
            ranking = found[f"q_{asked}"], found[f"r_{stored}"]
            assert results["final"][str(bits)]["unpaired"][direction]["map"] == metric.mean_average_precision(
                *ranking, found["q_l"], found["r_l"])
        assert found["q_id"].ravel().tolist() == data.query.index.tolist()
    run(small, "--task", "3", "--codes_mat", "true")  # of a trained model
    for bits, found in first.items():
        again = scipy.io.loadmat(small / "results" / "toy" / "run" / f"codes_{bits}.mat")
        assert all(np.array_equal(again[name], values) for name, values in found.items() if not name.startswith("__"))


def test_a_run_leaves_no_file_of_the_run_before(small):
    run(small, "--codes_mat", "true")
    with h5py.File(small / "data" / "toy" / "toy.h5", "r+") as file:
        del file["label"]
    ICMR.main(toy_arguments(small, "--run_name", "run", "--hash_lens", "4"))
    left = {path.name for path in (small / "results" / "toy" / "run").iterdir()}
    assert left == {".lock", "log.txt", "metrics.json", "report.html"}


def test_what_was_measured_before_stays_as_it_was():
    before = {"unpaired": {"i2t": {"map": 0.5}, "t2i": {"map": 0.25}}, "bit_balance": 0.1}
    found = {"i2t": {"map": 0.75, "ndcg@50": 0.1}, "t2i": {"map": 0.25}, "i2i": {"map": 1.0}}
    assert last_figures.merge(before, found) == {
        "unpaired": {"i2t": {"map": 0.5, "ndcg@50": 0.1}, "t2i": {"map": 0.25}, "i2i": {"map": 1.0}},
        "bit_balance": 0.1}
    assert last_figures.merge(before, {}) == before
