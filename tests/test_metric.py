"""The metrics against references that enumerate tie orders, sum place by place, or loop in plain Python."""

import itertools
import math
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from common import hamming_loops
import metric
from common.errors import InputError

# ----------------------------------------------------------------------- references, float64, no numpy tricks


def distances_and_relevance(query_code, query_label, codes, labels):
    distance = [sum(int(a != b) for a, b in zip(query_code, code)) for code in codes]
    relevant = [any(a and b for a, b in zip(query_label, label)) for label in labels]
    return distance, relevant


def tie_orders(distance, relevant):
    """Every ranking that sorts by distance, as lists of relevance: all permutations within each tie group."""
    groups = [[r for d, r in zip(distance, relevant) if d == level] for level in sorted(set(distance))]
    for order in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield list(itertools.chain.from_iterable(order))


def average_precision(ranking, topk=None):
    hits, total = 0, 0.0
    for place, relevant in enumerate(ranking[:topk], start=1):
        if relevant:
            hits += 1
            total += hits / place
    return total / hits if hits else 0.0


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def brute_force(query_codes, codes, query_labels, labels, score):
    """Mean over queries of the mean over all tie orders of ``score(ranking)``."""
    queries = zip(query_codes, query_labels)
    problems = (distances_and_relevance(code, label, codes, labels) for code, label in queries)
    return mean(mean(map(score, tie_orders(*problem))) for problem in problems)


def place_by_place(groups, topk):
    """Expected AP@topk of tie groups (size, relevant), from the chance of each place; no closed form."""
    total, before, found = 0.0, 0, 0
    for size, relevant in groups:
        places = min(size, topk - before)
        draws = range(max(0, places - (size - relevant)), min(relevant, places) + 1)
        chances = [math.comb(relevant, x) * math.comb(size - relevant, places - x) / math.comb(size, places)
                   for x in draws]
        sums = [total + sum(x / places * (found + 1 + (j * (x - 1) / (places - 1) if places > 1 else 0))
                            / (before + j + 1) for j in range(places)) for x in draws]
        if before + places == topk:
            return sum(p * s / (found + x) for p, s, x in zip(chances, sums, draws) if found + x)
        total, before, found = sums[0], before + size, found + relevant
    return total / found if found else 0.0


# ------------------------------------------------------------------------------------------------------- data


@st.composite
def small_problems(draw):
    """Few items and few bits, so that ties are the rule; up to three queries."""
    def matrix(rows, columns, values):
        return np.array(draw(st.lists(st.lists(st.sampled_from(values), min_size=columns, max_size=columns),
                                      min_size=rows, max_size=rows)))
    queries, items, bits, classes = (draw(st.integers(1, top)) for top in (3, 6, 3, 3))
    return (matrix(queries, bits, (-1, 1)), matrix(items, bits, (-1, 1)),
            matrix(queries, classes, (0, 1)), matrix(items, classes, (0, 1)))


def random_problem(queries, items, bits, classes, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((queries + items, classes)) < 0.2).astype(int)
    return (rng.choice([-1, 1], (queries, bits)), rng.choice([-1, 1], (items, bits)),
            labels[:queries], labels[queries:])


def peak_memory(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def plain_histogram(query_codes, codes, query_labels, labels):
    histogram = np.zeros((len(query_codes), codes.shape[1] + 1, 2), int)
    for counts, code, label in zip(histogram, query_codes, query_labels):
        for distance, relevant in zip(*distances_and_relevance(code, label, codes.tolist(), labels.tolist())):
            counts[distance, int(relevant)] += 1
    return histogram


# ---------------------------------------------------------------------------------------------- tie-aware mAP


@settings(max_examples=150, deadline=None)
@given(small_problems(), st.sampled_from([None, 1, 2, 3, 4, 5, 6, 7, 1000]))
def test_map_is_the_mean_over_all_tie_orders(problem, topk):
    expected = brute_force(*problem, lambda ranking: average_precision(ranking, topk))
    assert metric.mean_average_precision(*problem, topk=topk) == pytest.approx(expected, abs=1e-12)


def test_two_items_in_one_group_by_hand():
    """One relevant of two tied items: it is first or second, so AP is (1 + 1/2) / 2, and AP@1 is 1/2."""
    problem = [[1]], [[1], [1]], [[1, 0]], [[1, 0], [0, 1]]
    assert metric.evaluate(*problem, topks=(None, 1, 2)) == {"map": 0.75, "map@1": 0.5, "map@2": 0.75}


@pytest.mark.parametrize("topk", [None, 1, 7, 50, 700, 1999, 2000, 5000])
@pytest.mark.parametrize("bits, label_rate", [(1, 0.3), (16, 0.3), (16, 0.003), (16, 0.999), (64, 0.3)])
def test_map_of_large_tie_groups_place_by_place(bits, label_rate, topk):
    rng = np.random.default_rng(bits)
    size = rng.multinomial(2000, rng.dirichlet(np.ones(bits + 1)), size=3)
    relevant = rng.binomial(size, label_rate)
    expected = mean(place_by_place(list(zip(s.tolist(), r.tolist())), min(topk or 2000, 2000))
                    for s, r in zip(size, relevant))
    histogram = np.stack([size - relevant, relevant], axis=2)
    assert metric.map_from_histogram(histogram, topk) == pytest.approx(expected, rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("seed", range(5))
def test_map_without_ties_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    distance = rng.permutation(65)
    codes = np.where(np.arange(64) < distance[:, None], -1, 1)  # item i: distance[i] bits away
    labels = rng.permutation(np.eye(2, dtype=int)[np.arange(65) % 2])
    problem = np.ones((1, 64)), codes, [[1, 0]], labels
    expected = average_precision_score(labels[:, 0], -distance)
    assert metric.mean_average_precision(*problem) == pytest.approx(expected, abs=1e-12)
    assert metric.legacy_mean_average_precision(*problem, topk=None) == pytest.approx(expected, abs=1e-12)


def test_a_query_without_relevant_items_scores_zero_and_counts():
    codes, labels = [[1, 1], [1, -1], [-1, -1]], [[1, 0], [1, 0], [1, 0]]
    problem = [[1, 1], [1, 1]], codes, [[1, 0], [0, 1]], labels
    assert metric.evaluate(*problem, topks=(None, 2)) == {"map": 0.5, "map@2": 0.5}
    assert metric.legacy_mean_average_precision(*problem) == 0.5


def test_evaluate_is_one_pass_with_the_names_of_the_results_file():
    problem = random_problem(20, 300, 16, 6)
    scores = metric.evaluate(*problem)
    assert list(scores) == ["map", "map@50"]
    assert scores == {"map": metric.mean_average_precision(*problem),
                      "map@50": metric.mean_average_precision(*problem, topk=50)}
    assert all(type(score) is float for score in scores.values())


def test_map_is_the_mean_of_each_query():
    histogram = metric.hamming_histogram(*random_problem(300, 2000, 12, 6))
    for topk in (None, 1500):
        each = [metric.map_from_histogram(row[None], topk) for row in histogram]
        assert metric.map_from_histogram(histogram, topk) == pytest.approx(np.mean(each), abs=1e-13)


@settings(max_examples=100, deadline=None)
@given(small_problems(), st.integers(0, 3))
def test_map_within_a_radius_is_the_mean_over_all_tie_orders_of_what_lies_there(problem, radius):
    query_codes, codes, query_labels, labels = problem

    def score(code, label):
        near = [each for each in zip(*distances_and_relevance(code, label, codes, labels)) if each[0] <= radius]
        return mean(map(average_precision, tie_orders(*zip(*near)))) if near else 0.0

    found = metric.map_within_radius(metric.hamming_histogram(*problem), radius)
    assert found == pytest.approx(mean(map(score, query_codes, query_labels)), abs=1e-12)


def test_the_precision_of_each_query_is_what_the_map_is_the_mean_of():
    histogram = metric.hamming_histogram(*random_problem(9, 60, 6, 3))
    for topk in (None, 5):
        alone = [metric.map_from_histogram(histogram[row:row + 1], topk) for row in range(9)]
        assert metric.average_precision_by_query(histogram, topk).tolist() == alone
        assert metric.map_from_histogram(histogram, topk) == np.mean(alone)


@settings(max_examples=100, deadline=None)
@given(small_problems(), st.integers(1, 7))
def test_ndcg_is_the_mean_over_all_tie_orders(problem, topk):
    query_codes, codes, query_labels, labels = problem

    def gained(grades):
        return sum((2 ** grade - 1) / math.log2(place + 1) for place, grade in enumerate(grades[:topk], start=1))

    def score(code, label):
        grades = (labels @ label).tolist()
        distance, _ = distances_and_relevance(code, label, codes, labels)
        best = gained(sorted(grades, reverse=True))
        return mean(gained(order) / best for order in tie_orders(distance, grades)) if best else 0.0

    found = metric.ndcg(*problem, topks=[topk])
    assert found == {f"ndcg@{topk}": pytest.approx(mean(map(score, query_codes, query_labels)), abs=1e-12)}


@pytest.mark.parametrize("bits, classes", [(5, 3), (16, 70), (130, 130)])
def test_ndcg_of_large_tie_groups_is_scikit_learns(bits, classes, monkeypatch):
    monkeypatch.setattr(metric, "_CELLS", 1000)  # few queries at a time
    problem = query_codes, codes, query_labels, labels = random_problem(7, 900, bits, classes)
    gain, nearness = 2.0 ** (query_labels @ labels.T) - 1, query_codes @ codes.T
    assert metric.ndcg(*problem, topks=(1, 50, 5000)) == {
        f"ndcg@{topk}": pytest.approx(ndcg_score(gain, nearness, k=topk), rel=1e-10) for topk in (1, 50, 5000)}


@pytest.mark.parametrize("kind", ["int64", "uint8", "uint64", "float64", "U1"])
def test_texts_out_of_the_order_of_their_images_are_refused_in_every_type(kind):
    codes = [[1, 1], [1, -1], [-1, -1], [-1, 1]]
    with pytest.raises(InputError, match="image_of_text"):
        metric.partner_recall(codes[:3], codes, image_of_text=np.array([0, 2, 1, 2]).astype(kind))


@pytest.mark.parametrize("call", [
    lambda: metric.sign_codes([["a"]]), lambda: metric.quantization_error([["a"]]),
    lambda: metric.hamming_histogram([[1, 1], [1]], [[1, 1]], [[1], [1]], [[1]])])
def test_what_is_no_matrix_of_numbers_is_refused(call):
    with pytest.raises(InputError, match="expected"):
        call()


@pytest.mark.parametrize("classes", [1000, 1073, 1075, 3000])
def test_ndcg_does_not_underflow_beside_a_query_of_very_many_labels(classes):
    queries, items = np.zeros((2, classes), int), np.zeros((3, classes), int)
    queries[0], items[0], queries[1, 0], items[:, 0] = 1, 1, 1, 1
    codes = [[1, 1, 1], [1, 1, -1], [1, -1, -1]]
    assert metric.ndcg([[1, 1, 1]] * 2, codes, queries, items, [1, 2])["ndcg@2"] == 1


def test_ndcg_of_a_thousand_shared_labels_does_not_overflow():
    labels = np.ones((2, 3000), int)
    labels[1, 1:] = 0  # the second item shares one label, and is nearer
    assert metric.ndcg([[1, 1]], [[1, -1], [1, 1]], labels[:1], labels)["ndcg@50"] == pytest.approx(1 / math.log2(3))


# ------------------------------------------------------------------------------------------------- histograms


@pytest.mark.parametrize("classes", [1, 8, 24, 64, 65, 130])
@pytest.mark.parametrize("bits", [1, 7, 8, 9, 16, 31, 33, 64, 65, 128, 130, 300])
def test_histogram_of_any_code_length_and_number_of_classes(bits, classes):
    problem = random_problem(3, 25, bits, classes, seed=bits + classes)
    histogram = metric.hamming_histogram(*problem)
    assert histogram.dtype == np.int64
    np.testing.assert_array_equal(histogram, plain_histogram(*problem))


@pytest.mark.parametrize("bits", [127, 128, 255, 256, 300])
def test_the_largest_distance_is_counted(bits):
    histogram = metric.hamming_histogram(np.ones((1, bits)), np.full((2, bits), -1), [[1]], [[1], [0]])
    assert histogram[0, bits].tolist() == [1, 1] and histogram.sum() == 2
    assert metric.hamming_distance(np.ones((1, bits)), np.full((2, bits), -1)).tolist() == [[bits, bits]]


def test_only_the_last_of_many_classes_is_shared():
    labels = np.zeros((2, 130), int)
    labels[0, 129] = labels[1, 128] = 1
    histogram = metric.hamming_histogram([[1]], [[1], [1]], labels[:1], labels)
    assert histogram.tolist() == [[[1, 1], [0, 0]]]


@pytest.mark.parametrize("rows", [1, 7, 64, 100, 101, 1000])
def test_histogram_does_not_depend_on_the_chunk_size(monkeypatch, rows):
    problem = random_problem(5, 101, 20, 30)
    expected = plain_histogram(*problem)
    monkeypatch.setattr(metric, "_ROWS", rows)
    np.testing.assert_array_equal(metric.hamming_histogram(*problem), expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_histogram_of_many_items_in_several_threads(threads):
    query_codes, codes, query_labels, labels = problem = random_problem(130, 2 * hamming_loops._ITEMS + 5, 20, 6)
    relevant = query_labels.astype(int) @ labels.T > 0
    key = 2 * metric.hamming_distance(query_codes, codes) + relevant
    expected = [np.bincount(row, minlength=2 * 21).reshape(21, 2) for row in key]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        np.testing.assert_array_equal(metric.hamming_histogram(*problem), expected)
    finally:
        torch.set_num_threads(before)


def test_codes_too_long_to_count_are_refused():
    codes = np.ones((1, metric.MAX_BITS + 1), np.int8)
    with pytest.raises(InputError, match="codes have 32768 bits, expected at most 32767"):
        metric.hamming_histogram(codes, codes, [[1]], [[1]])
    assert metric.hamming_histogram(codes[:, 1:], -codes[:, 1:], [[1]], [[1]])[0, -1].tolist() == [0, 1]


def test_histograms_of_shards_add_up():
    query_codes, codes, query_labels, labels = random_problem(7, 100, 16, 10)
    shards = [metric.hamming_histogram(query_codes, codes[part], query_labels, labels[part])
              for part in (slice(0, 1), slice(1, 64), slice(64, 100))]
    whole = metric.hamming_histogram(query_codes, codes, query_labels, labels)
    np.testing.assert_array_equal(sum(shards), whole)


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint8, np.float16, np.float64])
def test_labels_of_any_type_and_codes_as_floats(kind):
    query_codes, codes, query_labels, labels = random_problem(4, 30, 16, 10)
    typed = metric.hamming_histogram(query_codes.astype(np.float32), codes.astype(np.int8),
                                     query_labels.astype(kind), labels.astype(kind))
    np.testing.assert_array_equal(typed, metric.hamming_histogram(query_codes, codes, query_labels, labels))


def test_memory_stays_flat():
    query_codes, codes, query_labels, labels = random_problem(100, 100_000, 128, 24)
    problem = query_codes, codes.astype(np.int8), query_labels, labels.astype(bool)
    assert peak_memory(lambda: metric.hamming_histogram(*problem)) < 30e6  # all distances as int64: 80e6


def test_memory_stays_flat_when_a_deep_cut_falls_into_a_large_group():
    histogram = np.full((100, 2, 2), 20_000)  # half of each group is relevant
    assert metric.map_from_histogram(histogram, 60_000) == pytest.approx(0.5, abs=1e-4)
    assert peak_memory(lambda: metric.map_from_histogram(histogram, 60_000)) < 10e6  # 100 x 20,001: 16e6


# ---------------------------------------------------------------------------------- precision, recall, legacy


@settings(max_examples=60, deadline=None)
@given(small_problems())
def test_precision_at_n_is_the_mean_over_all_tie_orders(problem):
    items = len(problem[1])
    ns = [*range(1, items + 1), items + 5]
    expected = [brute_force(*problem, lambda ranking: mean(ranking[:n])) for n in ns]  # past the end: all
    found = metric.precision_at_n(metric.hamming_histogram(*problem), ns)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(small_problems())
def test_precision_and_recall_within_each_radius(problem):
    query_codes, codes, query_labels, labels = problem
    precision, recall = metric.precision_recall(metric.hamming_histogram(*problem))
    assert precision.shape == recall.shape == (codes.shape[1] + 1,)
    for radius in range(codes.shape[1] + 1):
        precisions, recalls = [], []
        for code, label in zip(query_codes, query_labels):
            distance, relevant = distances_and_relevance(code, label, codes, labels)
            inside = [r for d, r in zip(distance, relevant) if d <= radius]
            precisions.append(mean(inside) if inside else 0)
            recalls.append(sum(inside) / sum(relevant) if any(relevant) else 0)
        assert precision[radius] == pytest.approx(mean(precisions), abs=1e-12)
        assert recall[radius] == pytest.approx(mean(recalls), abs=1e-12)


def test_a_radius_that_retrieves_nothing_has_precision_and_recall_zero():
    histogram = metric.hamming_histogram([[1, 1]], [[-1, -1], [-1, 1]], [[1]], [[1], [1]])
    precision, recall = metric.precision_recall(histogram)
    assert precision.tolist() == [0, 1, 1]
    assert recall.tolist() == [0, 0.5, 1]


@settings(max_examples=100, deadline=None)
@given(small_problems(), st.sampled_from([None, 1, 2, 3, 6, 50]))
def test_legacy_is_a_plain_loop_over_the_database_order(problem, topk):
    query_codes, codes, query_labels, labels = problem
    expected = []
    for code, label in zip(query_codes, query_labels):
        distance, relevant = distances_and_relevance(code, label, codes, labels)
        order = sorted(range(len(codes)), key=lambda item: distance[item])  # Python's sort is stable
        expected.append(average_precision([relevant[item] for item in order], topk))
    found = metric.legacy_mean_average_precision(*problem, topk=topk)
    assert found == pytest.approx(mean(expected), abs=1e-12)


def test_legacy_keeps_long_runs_of_ties_in_database_order():
    """Unstable sorts only show on longer arrays: all 3,000 items tie, so ranks are database positions."""
    labels = (np.arange(3000) % 3 == 2).astype(int)[:, None]  # ranks 3, 6, 9, ...: precision 1/3
    problem = [[1, 1]], np.full((3000, 2), -1), [[1]], labels
    assert metric.legacy_mean_average_precision(*problem) == pytest.approx(1 / 3)


def test_legacy_depends_on_the_database_order_and_the_tie_aware_map_does_not():
    query_codes, codes, query_labels, labels = random_problem(20, 500, 8, 6)
    relevant_first = np.argsort(-(labels @ query_labels.T).sum(axis=1), kind="stable")
    best, worst = ((query_codes, codes[order], query_labels, labels[order])
                   for order in (relevant_first, relevant_first[::-1]))
    assert metric.legacy_mean_average_precision(*best) > metric.legacy_mean_average_precision(*worst) + 0.1
    assert metric.evaluate(*best) == metric.evaluate(*worst)


# ------------------------------------------------------------------------------------------------------ codes


def test_sign_codes_put_zero_with_the_positive():
    codes = metric.sign_codes(np.array([[0.0, -0.0, 1e-30, -1e-30, 0.9, -0.9]], np.float32))
    assert codes.dtype == np.int8
    assert codes.tolist() == [[1, 1, 1, -1, 1, -1]]


@pytest.mark.parametrize("bits", [1, 8, 13, 64, 70])
def test_packed_layout_bit_by_bit(bits):
    codes = random_problem(6, 1, bits, 1)[0]
    packed = metric.pack_codes(codes)
    assert packed.dtype == np.uint8 and packed.shape == (6, math.ceil(bits / 8))
    for code, row in zip(codes, packed):
        assert [(int(row[j // 8]) >> j % 8) & 1 for j in range(8 * len(row))] == \
            [int(bit > 0) for bit in code] + [0] * (8 * len(row) - bits)


@pytest.mark.parametrize("bits", [1, 8, 13, 16, 40, 64, 70, 300])
def test_hamming_distance_of_codes_and_of_packed_codes(bits):
    query, codes = random_problem(5, 9, bits, 1)[:2]
    expected = (query[:, None] != codes[None]).sum(axis=2)
    np.testing.assert_array_equal(metric.hamming_distance(query, codes), expected)
    packed = metric.pack_codes(query), metric.pack_codes(codes)
    np.testing.assert_array_equal(metric.hamming_distance(*packed), expected)


def test_quantization_error():
    x = np.random.default_rng(0).uniform(-1, 1, (50, 16))
    assert metric.quantization_error(x) == pytest.approx(((metric.sign_codes(x) - x) ** 2).sum() / x.size)
    assert metric.quantization_error(np.sign(x)) == 0
    assert metric.quantization_error(np.full((2, 3), -0.02)) == pytest.approx(0.98 ** 2)
    half = np.full((300, 100), 0.3, np.float16)
    assert metric.quantization_error(half) == pytest.approx((1 - float(half[0, 0])) ** 2, rel=1e-6)


def test_bit_balance_and_saturation():
    codes = np.array([[1, 1, -1], [1, -1, -1], [1, 1, -1], [1, -1, 1]])
    assert metric.bit_balance(codes) == pytest.approx((1 + 0 + 0.5) / 3)
    outputs = [[0.95, -0.95, 0.9, -0.2]]
    assert metric.saturation(outputs) == 0.5
    assert metric.saturation(outputs, threshold=0.1) == 1


# -------------------------------------------------------------------------------------------------- bad input


GOOD = {"query_codes": np.ones((2, 4)), "retrieval_codes": np.ones((3, 4)),
        "query_labels": np.ones((2, 5)), "retrieval_labels": np.ones((3, 5))}


@pytest.mark.parametrize("change, message", [
    ({"query_codes": np.ones((2, 5))}, "query codes have 5 bits and retrieval codes 4"),
    ({"query_labels": np.ones((2, 6))}, "query labels have 6 classes and retrieval labels 5"),
    ({"query_labels": np.ones((4, 5))}, "query codes have 2 rows and query labels 4"),
    ({"retrieval_labels": np.ones((2, 5))}, "retrieval codes have 3 rows and retrieval labels 2"),
    ({"query_codes": np.full((2, 4), 0.5)}, "query codes: found 0.5 in row 0, column 0, expected only -1"),
    ({"retrieval_codes": np.zeros((3, 4))}, "retrieval codes: found 0.0 in row 0"),
    ({"retrieval_codes": [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, np.nan, 1]]}, "found nan in row 2, column 2"),
    ({"query_labels": np.full((2, 5), 3)}, "query labels: found 3 in row 0, column 0, expected only 0 and 1"),
    ({"retrieval_labels": np.full((3, 5), -1)}, "retrieval labels: found -1"),
    ({"query_labels": np.full((2, 5), np.nan)}, "query labels: found nan"),
    ({"query_labels": np.array([3, 1])}, "query labels: found shape (2,)"),
    ({"query_codes": np.ones((0, 4))}, "query codes: found shape (0, 4)"),
    ({"retrieval_codes": np.ones((3, 0))}, "retrieval codes: found shape (3, 0)"),
    ({"topk": 0}, "topk: found 0, expected a whole number of at least 1"),
    ({"topk": -5}, "topk: found -5"),
    ({"topk": 2.5}, "topk: found 2.5"),
])
def test_bad_input_is_one_clear_line(change, message):
    for function in (metric.mean_average_precision, metric.legacy_mean_average_precision):
        with pytest.raises(InputError) as error:
            function(**{**GOOD, **change})
        assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("labels, message", [
    ((np.ones((4, 2)), np.ones((7, 2))), "query embeddings have 5 rows and query labels 4"),
    ((np.ones((5, 2)), np.ones((6, 2))), "retrieval embeddings have 7 rows and retrieval labels 6"),
    ((np.ones((5, 2)), np.ones((7, 3))), "2 classes and retrieval labels 3"),
    ((np.full((5, 2), 0.5), np.ones((7, 2))), "found 0.5 in row 0")])
def test_labels_of_other_embeddings_are_refused(labels, message):
    random = np.random.default_rng(0)
    with pytest.raises(InputError, match=message):
        metric.evaluate_cosine(random.normal(size=(5, 3)), random.normal(size=(7, 3)), *labels)


def test_items_that_share_256_labels_are_relevant():
    labels = np.ones((1, 256), np.uint8), np.ones((3, 256), np.uint8)
    assert metric.evaluate_cosine(np.eye(1, 4), np.eye(3, 4), *labels)["map"] == 1


def test_a_wrong_value_far_down_is_named_by_its_row(monkeypatch):
    monkeypatch.setattr(metric, "_ROWS", 10)
    codes = np.ones((35, 4))
    codes[27, 3] = 2
    with pytest.raises(InputError, match="found 2.0 in row 27, column 3"):
        metric.pack_codes(codes)


@pytest.mark.parametrize("histogram", [
    np.zeros((2, 5)), np.zeros((2, 5, 3), int), np.ones((2, 5, 2)), np.zeros((2, 5, 2), int),
    np.array([[[1, 2]], [[3, 4]]]), np.array([[[-1, 2]]]), np.zeros((0, 5, 2), int)])
def test_what_is_not_a_histogram_is_refused(histogram):
    for function in (metric.map_from_histogram, metric.precision_recall,
                     lambda counts: metric.precision_at_n(counts, [1])):
        with pytest.raises(InputError, match="^histogram: found"):
            function(histogram)


def test_other_bad_arguments():
    with pytest.raises(InputError, match="radius: found -1, expected a whole number of at least 0"):
        metric.map_within_radius(np.ones((1, 2, 2), int), -1)
    with pytest.raises(InputError, match="N: found 0"):
        metric.precision_at_n(metric.hamming_histogram(**GOOD), [1, 0])
    for outputs in ([[0.1, np.nan]], [[np.inf, 0.1]]):
        for function in (metric.sign_codes, metric.quantization_error, metric.saturation):
            with pytest.raises(InputError, match="NaN or infinity"):
                function(outputs)
    with pytest.raises(InputError, match="expected only -1 and 1"):
        metric.bit_balance([[0.5, 1]])
    with pytest.raises(InputError, match="of one length"):
        metric.hamming_distance(np.ones((1, 8)), np.ones((1, 9)))
    with pytest.raises(InputError, match="both packed"):
        metric.hamming_distance(np.ones((1, 8)), np.ones((1, 8), np.uint8))


def test_partner_recall_is_the_recall_of_one_relevant_item():
    random = np.random.default_rng(3)
    pairs = 300  # more than are compared at once, and many ties
    images, texts = (random.choice([-1, 1], (pairs, 6)) for _ in range(2))
    own = np.eye(pairs, dtype=np.uint8)
    found = metric.partner_recall(images, texts, (1, 7, 300, 1000))
    for direction, (query, item) in {"i2t": (images, texts), "t2i": (texts, images)}.items():
        histogram = metric.hamming_histogram(query, item, own, own)
        assert found[direction].keys() == {"recall@1", "recall@7", "recall@300", "recall@1000"}
        for k in (1, 7, 300):
            assert found[direction][f"recall@{k}"] == pytest.approx(k * metric.precision_at_n(histogram, [k])[0])
        assert found[direction]["recall@300"] == found[direction]["recall@1000"] == 1
    assert metric.partner_recall([[1, 1], [1, 1], [-1, 1]], [[1, 1], [-1, -1], [-1, -1]], [1, 2]) == {
        "i2t": {"recall@1": pytest.approx((1 + 0 + 1 / 3) / 3), "recall@2": pytest.approx((1 + 1 / 2 + 2 / 3) / 3)},
        "t2i": {"recall@1": pytest.approx((1 / 2 + 0 + 1) / 3), "recall@2": pytest.approx((1 + 1 / 2 + 1) / 3)}}


def test_partner_recall_refuses_what_are_no_pairs():
    codes = np.ones((3, 4))
    for images, texts, ks, message in ((codes, codes[:2], [1], "differ: expected pairs"),
                                       (codes, codes[:, :2], [1], "differ"), (codes, codes, [0], "K: found 0"),
                                       (0 * codes, codes, [1], "found 0.0 in row 0")):
        with pytest.raises(metric.InputError, match=message):
            metric.partner_recall(images, texts, ks)


# ------------------------------------------------------------------------------------------ in another project


COPIED = """
import sys, numpy, metric
try:
    import torch
    raise SystemExit("torch can be imported")
except ImportError:
    pass
random = numpy.random.default_rng(0)
codes, labels = random.choice([-1, 1], (50, 24)), random.integers(0, 2, (50, 3))
print(metric.mean_average_precision(codes[:9], codes[9:], labels[:9], labels[9:], topk=20))
try:
    metric.mean_average_precision(codes[:9], codes[9:], labels[:9], labels[9:], topk=0)
except ValueError as error:
    print(error)
"""


def test_two_files_copied_into_another_project_work_without_torch(tmp_path):
    root = Path(metric.__file__).parent
    (tmp_path / "common").mkdir()
    for name in ("metric.py", "common/hamming_loops.py"):
        shutil.copy(root / name, tmp_path / name)
    (tmp_path / "torch.py").write_text("raise ImportError('there is no torch here')\n")
    result = subprocess.run([sys.executable, "-c", COPIED], cwd=tmp_path, capture_output=True, text=True,
                            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"})
    random = np.random.default_rng(0)
    codes, labels = random.choice([-1, 1], (50, 24)), random.integers(0, 2, (50, 3))
    expected = metric.mean_average_precision(codes[:9], codes[9:], labels[:9], labels[9:], topk=20)
    assert result.stderr == ""
    assert result.stdout.splitlines() == [str(expected), "topk: found 0, expected a whole number of at least 1"]


def test_the_number_of_threads_is_torchs_or_the_environments(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    torch.set_num_threads(3)
    try:
        assert hamming_loops.num_threads() == 3
    finally:
        torch.set_num_threads(before)
    monkeypatch.delitem(sys.modules, "torch")
    cores = range(1, os.cpu_count() + 1)  # a process may be allowed fewer than there are
    for value, expected in {"5": [5], "4,2": [4], "0": cores, "many": cores, "": cores}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert hamming_loops.num_threads() in expected
