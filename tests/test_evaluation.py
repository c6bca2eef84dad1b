"""evaluation.py: what is reported of a model, against each ranking by itself."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch

import evaluation
import ICMR
import metric
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
