"""What makes the code fast changes no figure: one pass of evaluation, the precisions, and the benchmark's reference."""

import contextlib
import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import torch

from benchmarks import records, reference, speed
import ICMR
import load_data
import metric
from loss import ContrastiveLoss
from toy import toy_arguments, write_toy


@pytest.fixture
def small(tmp_path):
    return write_toy(tmp_path, pairs=90, queries=20)


def codes(random, rows, bits):
    return random.choice([-1, 1], (rows, bits))


@pytest.mark.parametrize("settings", [[], ["--fusion", "transformer"], ["--loss", "balanced", "--structure_end", "0"],
                                      ["--batch_norm", "false"], ["--structure_start", "0", "--structure_end", "0"],
                                      ["--task", "0"]])
def test_training_waits_for_no_number_from_the_device_before_the_epoch_is_over(small, monkeypatch, settings):
    """On the meta device, whose tensors have no values to read, and which computes with no other device's tensors."""
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **more: contextlib.nullcontext())  # it knows no meta
    solver = ICMR.Solver(ICMR.parse(toy_arguments(small, *settings)))
    solver.device = torch.device("meta")
    solver.model.to("meta")
    solver.image, solver.text = solver.image.to("meta"), solver.text.to("meta")
    if solver.objective.shared:
        solver.objective.shared = tuple(side.to("meta") for side in solver.objective.shared)
    solver.optimizer = torch.optim.Adam(solver.model.parameters())
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        solver.trainhash(2.0) if solver.hashing else solver.trainfusion()
    assert solver.run.step == 70 // 16


def test_several_rankings_at_once_are_the_single_ones(monkeypatch):
    monkeypatch.setattr(metric, "_ROWS", 16)  # packed in several parts
    random = np.random.default_rng(1)
    labels = [(random.random((rows, 70)) < 0.02).astype(np.uint8) for rows in (10, 53)]
    rankings = [(codes(random, 10, bits), codes(random, 53, bits)) for bits in (5, 16, 128, 200, 16)]
    for (query, retrieval), histogram in zip(rankings, metric.hamming_histograms(rankings, *labels)):
        expected = np.zeros_like(histogram)
        for row, item in np.ndindex(10, 53):
            expected[row, (query[row] != retrieval[item]).sum(), int((labels[0][row] & labels[1][item]).any())] += 1
        assert np.array_equal(histogram, expected)


def test_rankings_of_other_rows_than_the_labels_are_refused():
    random = np.random.default_rng(1)
    labels = [np.ones((rows, 2), np.uint8) for rows in (4, 6)]
    good = codes(random, 4, 8), codes(random, 6, 8)
    with pytest.raises(metric.InputError, match="retrieval codes have 5 rows and retrieval labels 6"):
        metric.hamming_histograms([good, (good[0], codes(random, 5, 8))], *labels)


def test_memory_of_the_counting_does_not_grow_with_the_database():
    random = np.random.default_rng(0)
    peaks = []
    for items in (50_000, 200_000):
        rankings = [(codes(random, 5, 128).astype(np.int8), codes(random, items, 128).astype(np.int8))]
        labels = [np.ones((rows, 10), np.uint8) for rows in (5, items)]
        packed = items * (16 + 4)  # bytes of the packed codes and labels, which are part of the data
        tracemalloc.start()
        metric.hamming_histograms(rankings, *labels)
        peaks.append((tracemalloc.get_traced_memory()[1] - packed) / 2**20)
        tracemalloc.stop()
    assert max(peaks) < 32 and peaks[1] < peaks[0] + 8


# --- data larger than memory ------------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path):
    """An uncompressed float32 file: two megabytes of images, its query rows last, train the beginning of retrieval."""
    random = np.random.default_rng(0)
    path = tmp_path / "large.h5"
    with h5py.File(path, "w") as file:
        file["image"] = random.normal(size=(4000, 128)).astype("f4")
        file["text"] = random.normal(size=(4000, 16)).astype("f4")
        file["label"] = np.eye(3, dtype=np.uint8)[random.integers(0, 3, 4000)]
        file["query_idx"], file["retrieval_idx"], file["train_idx"] = (
            np.arange(3800, 4000), np.arange(3800), np.arange(64))
    return path


def test_large_features_stay_in_their_file(large, monkeypatch, tmp_path):
    read = load_data.load_dataset(large)
    monkeypatch.setattr("pairs.rows.MAPPED_BYTES", 2_000_000)  # the images are larger, the texts smaller
    tracemalloc.start()
    mapped = load_data.load_dataset(large)
    assert tracemalloc.get_traced_memory()[0] < 1_000_000  # the images alone would be two
    tracemalloc.stop()
    assert mapped.fingerprint == read.fingerprint
    assert mapped.train.image.data_ptr() == mapped.retrieval.image.data_ptr()
    before = large.read_bytes()
    mapped.retrieval.image[0] = 7.0
    assert large.read_bytes() == before  # what a program does to its tensors is its own affair

    weights = []
    for size in (2_000_000, 1 << 40):
        monkeypatch.setattr("pairs.rows.MAPPED_BYTES", size)
        ICMR.main(["--dataset", str(large), "--results_dir", str(tmp_path), "--checkpoint_dir", str(tmp_path),
                   "--epoch", "1", "--hash_lens", "8", "--hidden", "8", "--batch_size", "32", "--device", "cpu"])
        weights.append(torch.load(tmp_path / "hash" / "large_hash.pth", weights_only=True)["ImageMlp"]["fc1.weight"])
    assert torch.equal(*weights)


def test_mapped_features_are_checked_and_scattered_rows_are_read(large, monkeypatch):
    monkeypatch.setattr("pairs.rows.MAPPED_BYTES", 0)
    with h5py.File(large, "r+") as file:
        shuffled = np.random.default_rng(0).permutation(3800)
        file["retrieval_idx"][:] = shuffled
    scattered = load_data.load_dataset(large)
    with h5py.File(large) as file:
        assert np.array_equal(scattered.retrieval.image.numpy(), file["image"][:3800][shuffled])
    with h5py.File(large, "r+") as file:
        file["retrieval_idx"][:] = np.arange(3800)
        file["image"][777, 3] = np.nan
    with pytest.raises(load_data.InputError, match="image: found nan in row 777"):
        load_data.load_dataset(large)


# --- precision --------------------------------------------------------------------------------------------------------


def trained(small, *more):
    results = ICMR.main(toy_arguments(small, *more))
    path = small / "checkpoints" / "hash" / "toy_hash.pth"
    return results, torch.load(path, weights_only=True)["ImageMlp"]


def test_both_precisions_train_alike_and_repeat_to_the_bit(small, capsys):
    (full, full_weights), (half, half_weights) = (
        trained(small, "--precision", each) for each in ("float32", "bfloat16"))
    assert "Trained in bfloat16" in capsys.readouterr().out
    assert [r["environment"]["precision"] for r in (full, half)] == ["float32", "bfloat16"]
    assert half_weights["fc1.weight"].dtype == torch.float32
    difference = (half_weights["fc1.weight"] - full_weights["fc1.weight"]).abs().max()
    assert 0 < difference < 0.05
    for ours, theirs in zip(full["epochs"], half["epochs"]):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=0.02)
    again, again_weights = trained(small, "--precision", "bfloat16")
    assert torch.equal(again_weights["fc1.weight"], half_weights["fc1.weight"]) and again["final"] == half["final"]


def test_the_same_command_gives_the_same_weights_however_busy_the_machine_is(small):
    """Nothing that is measured decides what is computed: the default is one precision everywhere."""
    (first, weights), (second, others) = trained(small), trained(small)
    assert first["environment"]["precision"] == second["environment"]["precision"] == "float32"
    assert torch.equal(weights["fc1.weight"], others["fc1.weight"])


# --- the benchmark ----------------------------------------------------------------------------------------------------


def test_the_references_loss_is_ours():
    torch.manual_seed(0)
    image, text = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    assert reference.reference_loss(image, text).item() == pytest.approx(
        ContrastiveLoss(temperature=0.5)(image, text).item(), rel=1e-12)


def test_the_references_map_is_ours_where_nothing_ties():
    random = np.random.default_rng(0)
    query = codes(random, 4, 60).astype(np.float32)
    labels = (random.random((4, 3)) < 0.5).astype(np.float32), (random.random((61, 3)) < 0.5).astype(np.float32)
    for row in range(4):
        flipped = np.arange(60) < np.arange(61)[:, None]  # item j differs in j bits
        retrieval = np.where(flipped, -query[row], query[row])[random.permutation(61)]
        one = query[row:row + 1], retrieval, labels[0][row:row + 1], labels[1]
        assert reference.reference_map(*one) == pytest.approx(metric.mean_average_precision(*one), rel=1e-12)


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(speed, "ProcessPoolExecutor", lambda count, context: ThreadPoolExecutor(count))
    results = speed.main(["--quick", "--device", "cpu", "--results_dir", str(tmp_path)])
    assert json.loads((tmp_path / "speed.json").read_text()) == results
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "speed.json")
    assert all(np.isfinite(ratio) and ratio > 0 for ratio in results["ratios"].values())
    assert {"training", "evaluation", "growth", "memory", "utilisation", "environment"} <= results.keys()


@pytest.mark.parametrize("wrong, complaint", [(["--turns", "0"], "--turns"), (["--quick", "--record"], "--quick"),
                                              (["--record"], "uncommitted changes in loss.py")])
def test_the_benchmark_refuses_in_one_line(tmp_path, capsys, monkeypatch, wrong, complaint):
    monkeypatch.setattr(records, "committed", lambda module: (None, "uncommitted changes in loss.py"))
    with pytest.raises(SystemExit) as stop:
        speed.main([*wrong, "--results_dir", str(tmp_path)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and complaint in error
    assert not list(tmp_path.iterdir())
