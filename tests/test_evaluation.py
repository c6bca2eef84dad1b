"""evaluation.py: what is reported of a model, against each ranking by itself."""

from __future__ import annotations

import statistics
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import evaluation
import ICMR
import metric
from common import hamming_products
from reporting.curves import curves_of, model_curves
from toy import toy_arguments, write_toy


@pytest.fixture
def small(tmp_path):
    return write_toy(tmp_path, pairs=80, queries=12, shuffled=True)


@pytest.mark.parametrize("settings", [[], ["--fusion", "transformer", "--batch_norm", "false"]])
def test_evaluation_in_one_pass_gives_the_figures_of_each_ranking_alone(small, settings):
    solver = ICMR.Solver(ICMR.parse(toy_arguments(small, *settings)))
    solver.trainhash(2.0)
    figures = solver.evaluate()
    data = solver.data
    with torch.no_grad():
        query, retrieval = (solver.model.eval()(split.image, split.text, 10.0)
                            for split in (data.query, data.retrieval))
    for bits in (4, 8):
        for protocol in ("unpaired", "paired"):
            for way, side, item in (("i2t", 0, 1), ("t2i", 1, 0)):
                pair = [metric.sign_codes(solver.model.split(x)[bits].numpy())
                        for x in (query[protocol][side], retrieval[protocol][item])]
                alone = metric.evaluate(*pair, data.query.label, data.retrieval.label)
                assert figures[str(bits)][protocol][way] == alone
        codes = (metric.sign_codes(solver.model.split(x)[bits].numpy()) for x in query["unpaired"])
        assert figures[str(bits)]["partners"] == metric.partner_recall(*codes)
        outputs = torch.cat([solver.model.split(x)[bits] for x in retrieval["unpaired"]]).numpy()
        assert figures[str(bits)]["quantization_error"] == pytest.approx(metric.quantization_error(outputs), rel=1e-9)
        balance = statistics.mean(metric.bit_balance(metric.sign_codes(side)) for side in np.split(outputs, 2))
        assert figures[str(bits)]["bit_balance"] == pytest.approx(balance, rel=1e-9)


def test_outputs_in_blocks_are_those_of_the_whole_split(small):
    solver = ICMR.Solver(ICMR.parse(toy_arguments(small)))
    whole, blocks = (list(evaluation.outputs(solver.model, solver.data.retrieval, rows=rows)) for rows in (1000, 16))
    assert len(whole) == 1 and len(blocks) == 5
    assert len(whole[0]["paired"]) == 1 and len(whole[0]["unpaired"]) == 2  # late fusion: one code for both sides
    for protocol, sides in whole[0].items():
        for side, x in enumerate(sides):
            assert torch.allclose(torch.cat([block[protocol][side] for block in blocks]), x, atol=1e-6)


def test_the_real_valued_figures_are_those_of_each_cosine_ranking(small):
    solver = ICMR.Solver(ICMR.parse(toy_arguments(small, "--task", "0")))
    solver.trainfusion()
    figures, data = solver.evaluate()["real"], solver.data
    with torch.no_grad():
        query, retrieval = (solver.model.eval()(split.image, split.text) for split in (data.query, data.retrieval))
    for protocol in ("unpaired", "paired"):
        for way, side, item in (("i2t", 0, 1), ("t2i", 1, 0)):
            alone = metric.evaluate_cosine(query[protocol][side].numpy(), retrieval[protocol][item].numpy(),
                                           data.query.label, data.retrieval.label)
            assert figures[protocol][way] == pytest.approx(alone, abs=1e-6)


def test_curves_and_codes_are_those_of_the_model(small):
    solver = ICMR.Solver(ICMR.parse(toy_arguments(small)))
    solver.trainhash(2.0)
    data, model = solver.data, solver.model
    found, codes = model_curves(model, data, 2.0)
    with torch.no_grad():
        sides = [code.numpy() for split in (data.query, data.retrieval)
                 for code in model(split.image, split.text, 2.0)["unpaired"]]
    for code, x in zip(codes, sides):  # of the longest length, which is the whole output
        np.testing.assert_array_equal(code, metric.sign_codes(x))
    assert found.keys() == {"4", "8"}
    for way, asked, stored in (("i2t", 0, 3), ("t2i", 1, 2)):
        histogram = metric.hamming_histogram(codes[asked], codes[stored], data.query.label, data.retrieval.label)
        assert found["8"]["unpaired"][way] == curves_of(histogram)
    outputs = np.concatenate(sides[2:])[:, :4]  # the database's, as the quantization error is
    shares, edges = np.histogram(outputs, bins=found["4"]["code_histogram"]["edges"])
    assert found["4"]["code_histogram"]["share"] == pytest.approx(shares / outputs.size, abs=1e-2)


def test_outputs_that_are_not_finite_are_refused(small):
    solver = ICMR.Solver(ICMR.parse(toy_arguments(small)))
    with torch.no_grad():
        solver.model.TextMlp.fc1.weight[0, 0] = float("nan")
    with pytest.raises(evaluation.NotFinite):
        evaluation.evaluate_codes(solver.model, solver.data, 2.0)


def test_outputs_whose_tanh_alone_is_finite_are_refused(small):
    solver = ICMR.Solver(ICMR.parse(toy_arguments(small, "--batch_norm", "false")))
    with torch.no_grad():
        solver.model.TextMlp.tohash.bias[0] = float("inf")
    with pytest.raises(evaluation.NotFinite):
        evaluation.evaluate_codes(solver.model, solver.data, 2.0)


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), queries=st.integers(1, 9), items=st.integers(1, 40), classes=st.integers(1, 70),
       lengths=st.lists(st.integers(1, 140), min_size=1, max_size=4), pairs=st.integers(1, 400))
def test_matrix_products_count_as_the_loops_do(seed, queries, items, classes, lengths, pairs):
    random = np.random.default_rng(seed)
    labels = [(random.random((rows, classes)) < 1.5 / classes).astype(np.uint8) for rows in (queries, items)]
    ranked = [[random.choice(np.array([-1, 1], np.int8), (rows, bits)) for rows in (queries, items)]
              for bits in lengths]
    assert_same_histograms(ranked, labels, pairs)


@pytest.mark.parametrize("bits", [255, 256, 1023, 1024, 2048, 2049, 32767])
def test_matrix_products_are_exact_at_every_distance_of_long_codes(bits):
    distances = np.r_[np.arange(min(bits, 40)), bits // 2, np.arange(max(bits - 40, 0), bits + 1)]
    query, items = np.ones((1, bits), np.int8), np.where(np.arange(bits) < distances[:, None], -1, 1).astype(np.int8)
    labels = np.ones((1, 1), np.uint8), (np.arange(len(items)) % 2).astype(np.uint8)[:, None]
    assert_same_histograms([(query, items), (query, items[::-1].copy()), (-query, items)], labels, 2**24)


def test_matrix_products_see_one_shared_label_among_very_many():
    labels = np.zeros((3, 70_000), np.uint8)  # more than float16 counts to
    labels[0], labels[1, -1] = 1, 1
    assert_same_histograms([(np.ones((1, 2), np.int8), np.ones((3, 2), np.int8))], (labels[:1], labels), 2**24)


def assert_same_histograms(ranked, labels, pairs):
    found = hamming_products.hamming_histograms([tuple(torch.tensor(side) for side in sides) for sides in ranked],
                                                *map(torch.from_numpy, labels), pairs=pairs)
    for one, other in zip(found, metric.hamming_histograms(ranked, *labels), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("texts", [None, [2, 1, 3]])
def test_a_gpu_counts_the_same_figures(tmp_path, monkeypatch, texts):
    """The codes stay on what counts as a GPU, here the CPU, where the loops must not be called."""
    columns = {}
    if texts:  # of the images in turn
        owners = np.repeat(np.arange(80), np.resize(texts, 80))
        text = np.random.default_rng(1).normal(size=(len(owners), 5)).astype("f4")
        columns = dict(text=text, image_of_text=owners)
    solver = ICMR.Solver(ICMR.parse(toy_arguments(write_toy(tmp_path, pairs=80, queries=12, **columns))))
    solver.trainhash(2.0)
    expected = solver.evaluate()
    monkeypatch.setattr(evaluation, "histograms_of", hamming_products.hamming_histograms)
    monkeypatch.setattr(metric, "hamming_histograms", None)
    assert solver.evaluate() == expected


@pytest.mark.parametrize("device, counts", [("cpu", "cpu"), ("mps:0", "cpu"), ("cuda:1", "cuda:1")])
def test_a_model_on_a_cuda_gpu_keeps_its_codes_there(device, counts):
    parameter = SimpleNamespace(device=torch.device(device))
    assert evaluation.counting_device(SimpleNamespace(parameters=lambda: iter([parameter]))) == torch.device(counts)


def test_codes_are_counted_where_they_lie():
    """On the meta device, whose tensors have no values to read."""
    with torch.device("meta"):
        codes, labels = torch.ones(2, 4, dtype=torch.int8), torch.ones(2, 1)
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):  # once all has been counted
        evaluation.histograms_of([(codes, codes)], labels, labels)
