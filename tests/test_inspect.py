"""What `extract_features.py inspect` finds in data sets that are sound, and in ones spoilt in one way each."""

import re

import h5py
import numpy as np
import pytest

from extract_features import main
from load_data import dataset_from_arrays
from reporting import inspection

PAIRS, QUERIES = 900, 300
STEP = "the rows of {} are out of step with those of {} and label, or say nothing of them"


@pytest.fixture
def arrays():
    """Pairs that show the same ten things in two ways, with noise; the label is the greatest of the first five."""
    random = np.random.default_rng(0)
    shown = random.standard_normal((PAIRS, 10))
    image, text = (shown @ random.standard_normal((10, width)) + 2 * random.standard_normal((PAIRS, width))
                   for width in (20, 12))
    return {"image": image, "text": text, "label": np.eye(5, dtype=int)[shown[:, :5].argmax(axis=1)]}


def split(arrays):
    query, rest = ({key: array[rows] for key, array in arrays.items()}
                   for rows in (slice(QUERIES), slice(QUERIES, None)))
    return dataset_from_arrays(rest, query, rest)


def shuffled(array):
    return np.random.default_rng(1).permutation(array)


def verdict(arrays):
    lines = inspection.inspect(split(arrays))
    assert not any("\n" in line or "nan" in line for line in lines)
    return lines[-1]


def test_a_sound_data_set(arrays):
    lines = inspection.inspect(split(arrays))
    assert lines[-1] == "Fit to train on."
    nearest = [re.fullmatch(r"  of the 50 .*, ([\d.]+)% have .*; by chance ([\d.]+)%", line) for line in lines]
    shares = [tuple(map(float, match.groups())) for match in nearest if match]
    assert len(shares) == 2 and all(share > chance + 5 for share, chance in shares)
    label = arrays["label"]
    assert shares[0][1] == shares[1][1] == round(100 * (label[:QUERIES] @ label[QUERIES:].T).mean(), 1)
    recalls = next(map(float, match.groups()) for line in lines
                   if (match := re.search(r"R@10 ([\d.]+)% image to text, ([\d.]+)% text to image among 300 pairs; by "
                                          r"chance 3.3%", line)))
    assert all(recall > 10 for recall in recalls)


def test_few_items_are_not_all_taken_for_neighbours(arrays):
    query, rest = ({key: array[rows] for key, array in arrays.items()} for rows in (slice(300), slice(300, None)))
    few = {key: array[:50] for key, array in rest.items()}
    lines = inspection.inspect(dataset_from_arrays(rest, query, few))
    assert lines[-1] == "Fit to train on." and any(line.startswith("  of the 12 image features") for line in lines)


@pytest.mark.parametrize("name, other", [("text", "image"), ("image", "text")])
def test_rows_of_one_modality_that_are_shuffled(arrays, name, other):
    arrays[name] = shuffled(arrays[name])
    assert verdict(arrays) == f"Not fit to train on: {STEP.format(name, other)}."


def test_labels_that_nothing_predicts(arrays):
    arrays["label"] = shuffled(arrays["label"])
    assert verdict(arrays).startswith("Not fit to train on: the labels are such that nothing predicts them")


@pytest.mark.parametrize("place, rows", [("retrieval", slice(600, 900)), ("query", slice(100, 300))])
def test_rows_that_slip_in_one_place(arrays, place, rows):
    """By one only: each text is its neighbour's."""
    arrays["text"][rows] = np.roll(arrays["text"][rows], 1, axis=0)
    found = re.fullmatch(rf"Not fit to train on: image and text are out of step in rows (.*) of {place}\.",
                         verdict(arrays))
    start, stop = (row - QUERIES * (place == "retrieval") for row in (rows.start, rows.stop))
    named = [range(int(first), int(last) + 1) for first, last in re.findall(r"(\d+) to (\d+)", found[1])]
    assert all(start - 60 <= run[0] and run[-1] < stop + 60 for run in named)  # a tenth of the split, or two
    assert sum(map(len, named)) > (stop - start) / 2


def test_constant_features(arrays):
    arrays["image"][:] = arrays["image"][0]
    assert verdict(arrays) == ("Not fit to train on: the image features are the same in every row of train, query, "
                               "retrieval.")


def test_too_few_queries(arrays):
    few = {key: array[QUERIES - 4:] for key, array in arrays.items()}
    query, rest = ({key: array[rows] for key, array in few.items()} for rows in (slice(4), slice(4, None)))
    assert inspection.inspect(dataset_from_arrays(rest, query, rest))[-1] == (
        "Not fit to train on: 4 queries are too few to tell anything from chance.")


def test_modalities_that_repeat_each_other(arrays):
    random = np.random.default_rng(2)
    noise = 0.05 * random.standard_normal(arrays["image"].shape)
    arrays["text"] = arrays["image"] @ random.standard_normal((20, 20)) + noise
    assert verdict(arrays) == "Not fit to train on: the image features all but repeat the text features."


def test_features_that_say_nothing_of_the_labels(arrays):
    random = np.random.default_rng(2)
    own = random.standard_normal((PAIRS, 6))  # what image and text share is not what the labels are of
    arrays["text"] = own @ random.standard_normal((6, 12))
    arrays["image"] = np.hstack([arrays["image"], 3 * own + random.standard_normal((PAIRS, 6))])
    assert verdict(arrays) == "Not fit to train on: the text features say nothing of the labels."


def test_without_labels(arrays):
    del arrays["label"]
    lines = inspection.inspect(split(arrays))
    assert lines[-1] == "Fit to train on." and not any("mAP@all" in line or "nearest" in line for line in lines)
    arrays["text"] = shuffled(arrays["text"])
    assert verdict(arrays) == ("Not fit to train on: the rows of image and text are out of step, or have nothing in "
                               "common.")


def test_duplicates_are_counted(arrays):
    arrays["image"][[0, 1]] = arrays["image"][[400, 401]]  # two queries have the image of an item
    arrays["text"][0] = arrays["text"][400]  # and one of them its text
    arrays["text"][500:503] = arrays["text"][503]
    lines = inspection.inspect(split(arrays))
    assert any(line.endswith("): image 2 (2 queries), text 4 (1 queries), both 1 (1 queries)") for line in lines)
    assert lines[-1] == "Fit to train on, though 1 of 300 queries are in the database as they are."


def test_large_data_are_sampled_and_wide_features_narrowed(arrays, monkeypatch):
    for name, value in (("QUERIES", 200), ("PRODUCTS", 150 * 600 * 20), ("FIT_PAIRS", 400), ("MAP_ITEMS", 300),
                        ("WIDTH", 16), ("ROWS", 128)):
        monkeypatch.setattr(inspection, name, value)
    lines = inspection.inspect(split(arrays))
    assert lines[-1] == "Fit to train on." and lines == inspection.inspect(split(arrays))
    text = "\n".join(lines)
    for words in ("measured with 150 of 300 queries, and random draws of seed 0", "by chance 6.7%",
                  "CCA fitted on 400 of 600 train pairs, 16 random directions of image:",
                  "mAP@all over 300 of 600 items"):
        assert words in text


def test_the_command(tmp_path, arrays, capsys):
    with h5py.File(tmp_path / "made.h5", "w") as file:
        for key, array in arrays.items():
            file[key] = array.astype("f2") if key != "label" else array
        file["label_names"] = ["sea", "sky", "tree", "dog", "night"]
        file["query_idx"], file["train_idx"] = np.arange(QUERIES), np.arange(QUERIES, PAIRS)
        file["retrieval_idx"] = file["train_idx"][:]
    main(["inspect", str(tmp_path / "made.h5")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"made ({tmp_path / 'made.h5'}): 600 train, 300 query, 600 retrieval pairs"
    assert "image: 20 features a row, float16 as stored" in lines
    label, = (line for line in lines if line.startswith("label: 5 classes, 1.00 a row (1 to 1); "))
    counts = dict(zip(("sea", "sky", "tree", "dog", "night"), arrays["label"].sum(axis=0)))
    assert all(f"{name} {count}" in label for name, count in counts.items())
    assert lines[-1] == "Fit to train on."
    with pytest.raises(SystemExit) as caught:
        main(["inspect", str(tmp_path / "none.h5")])
    assert caught.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_what_is_printed_gives_the_terminal_no_orders(monkeypatch, capsys):
    monkeypatch.setattr(inspection, "load_dataset", lambda dataset, data_dir: None)
    monkeypatch.setattr(inspection, "inspect", lambda data: ["label: a\x1b[31m 3", "Fit to train on."])
    inspection.run("toy")
    assert capsys.readouterr().out == "label: a\ufffd[31m 3\nFit to train on.\n"
