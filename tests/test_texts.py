"""Images with several texts: read, trained, tested and searched with every text where its image is."""

from __future__ import annotations

import ICMR

import h5py
import numpy as np
import pytest
import torch

import metric
import search
from benchmarks import search_speed
from benchmarks.baselines.base import evaluate
from benchmarks.methods import METHODS
from common.errors import InputError
from load_data import dataset_from_arrays, load_dataset, save_hdf5
from reporting import terminal
from reporting.inspection import inspect
from training import checkpoint
from training.randomness import drawn_texts

IMAGES, QUERIES = 150, 30


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """150 images with one to three texts each. Feature 0 of both is the row of the image, a hundredth of it."""
    random = np.random.default_rng(0)
    owner = np.repeat(np.arange(IMAGES), random.integers(1, 4, IMAGES))
    label = random.integers(0, 4, IMAGES)
    about = np.eye(4)[label] + 0.3 * random.normal(size=(IMAGES, 4))
    image = np.column_stack([np.arange(IMAGES) / 100, about @ random.normal(size=(4, 9))])
    text = np.column_stack([np.arange(IMAGES) / 100, about])[owner]
    text[:, 1:] += 0.1 * random.normal(size=(len(owner), 4))
    rows = random.permutation(IMAGES)
    path = tmp_path_factory.mktemp("texts") / "several.h5"
    with h5py.File(path, "w") as out:
        out.update({"image": image, "text": text, "label": label, "image_of_text": owner,
                    "image_file": np.array([f"{row}.png" for row in range(IMAGES)], "S"),
                    "caption": np.array([f"text {number} of {row}" for number, row in enumerate(owner)], "S"),
                    "query_idx": rows[:QUERIES], "retrieval_idx": rows[QUERIES:], "train_idx": rows[QUERIES:]})
    return path


@pytest.fixture(scope="module")
def data(file):
    return load_dataset(file)


@pytest.fixture(scope="module")
def trained(file):
    """The results of a training, and the folder it is in."""
    folder = file.parent
    config = ICMR.Config(dataset=str(file), hash_lens=[8, 16], epoch=3, eval_every=1, batch_size=32, hidden=32,
                         results_dir=str(folder / "r"), checkpoint_dir=str(folder / "c"))
    return ICMR.Solver(config).train(), folder


def changed(file, out, **arrays):
    with h5py.File(file) as old, h5py.File(out, "w") as new:
        for key in old:
            value = arrays[key](old[key][()]) if key in arrays else old[key][()]
            if value is not None:
                new[key] = value
    return out


def test_every_text_is_read_with_its_image(file, data):
    with h5py.File(file) as content:
        owner = content["image_of_text"][()]
    for split in (data.train, data.query, data.retrieval):
        numbers, images = split.texts.index, split.index[split.image_of_text.numpy()]
        assert np.array_equal(owner[numbers], images) and len(split.text) == np.isin(owner, split.index).sum()
        assert np.allclose(split.text[:, 0], images / 100) and np.allclose(split.image[:, 0], split.index / 100)
        texts, pictures = split.items("text"), split.items("image")
        assert texts.columns["caption"].tolist() == [f"text {number} of {image}"
                                                     for number, image in zip(numbers, images)]
        assert texts.columns["image_file"].tolist() == [f"{image}.png" for image in images]
        assert all(int(caption.split()[-1]) == image for caption, image in zip(pictures.columns["caption"],
                                                                               split.index))
        assert torch.equal(texts.label, split.label[split.image_of_text])
        assert torch.equal(split.image_of_text[split.first_text], torch.arange(len(split)))


def test_a_split_with_one_text_an_image_is_written_like_those_with_several(tmp_path, data):
    tables = {}
    for name in ("train", "query", "retrieval"):
        part = getattr(data, name)
        texts = {"text": part.text.numpy(), "caption": part.items("text").columns["caption"]}
        if name == "query":
            texts = {key: column[part.first_text.numpy()] for key, column in texts.items()}
        else:
            texts["image_of_text"] = part.image_of_text.numpy()
        tables[name] = {"image": part.image.numpy(), "label": part.label.numpy(), **texts}
    mixed = dataset_from_arrays(**tables)
    save_hdf5(mixed, tmp_path / "mixed.h5")
    again = load_dataset(tmp_path / "mixed.h5")
    assert again.fingerprint == mixed.fingerprint and len(mixed.query.text) == QUERIES
    for split in tables:
        captions = [getattr(each, split).items("text").columns["caption"].tolist() for each in (again, mixed)]
        assert captions[0] == captions[1] == list(tables[split]["caption"])


def test_a_column_by_text_in_one_split_and_by_pair_in_another_is_left_out(tmp_path, data):
    tables = {}
    for name, by_text in (("train", True), ("query", False), ("retrieval", True)):
        part = getattr(data, name)
        tables[name] = {"image": part.image.numpy(), "text": part.text.numpy(), "label": part.label.numpy(),
                        "image_of_text": part.image_of_text.numpy(),
                        "note": np.arange(len(part.text if by_text else part.image))}
    mixed = dataset_from_arrays(**tables)
    save_hdf5(mixed, tmp_path / "mixed.h5")
    again = load_dataset(tmp_path / "mixed.h5")
    assert again.fingerprint == mixed.fingerprint and again.warnings == mixed.warnings
    assert "note" not in again.train.items("text").columns


def test_one_text_an_image_is_the_usual_data_set(file, tmp_path, data):
    with h5py.File(file) as content:
        first = np.unique(content["image_of_text"][()], return_index=True)[1]
    one = {"text": lambda text: text[first], "caption": lambda caption: caption[first]}
    stated = load_dataset(changed(file, tmp_path / "a.h5", image_of_text=lambda owner: np.arange(IMAGES), **one))
    plain = load_dataset(changed(file, tmp_path / "b.h5", image_of_text=lambda owner: None, **one))
    assert stated.fingerprint == plain.fingerprint != data.fingerprint and stated.train.texts is None
    assert "caption" in plain.train.meta


def test_what_is_read_is_written_again(tmp_path, data):
    save_hdf5(data, tmp_path / "again.h5")
    again = load_dataset(tmp_path / "again.h5")
    assert again.fingerprint == data.fingerprint
    for split in ("train", "query", "retrieval"):
        texts = [getattr(each, split).items("text").columns["caption"].tolist() for each in (again, data)]
        assert texts[0] == texts[1]
    tables = [{"image": part.image.numpy(), "text": part.text.numpy(), "label": part.label.numpy(),
               "image_of_text": part.image_of_text.numpy()} for part in (data.train, data.query, data.retrieval)]
    assert dataset_from_arrays(*tables).fingerprint == data.fingerprint


@pytest.mark.parametrize("key, change, message", [
    ("image_of_text", lambda owner: owner[::-1], "image_of_text: found int64 of shape .*, whose numbers fall"),
    ("image_of_text", lambda owner: np.where(owner == 3, 2, owner), "image_of_text: image 3 has no text"),
    ("image_of_text", lambda owner: owner[1:], "text: found shape .* expected .* rows, as .*image_of_text has"),
    ("image_of_text", lambda owner: owner + 1, "image_of_text: found 150 in row"),
    ("image_of_text", lambda owner: None, "text: found shape .* expected 150 rows, as .*image has")])
def test_texts_that_fit_no_image_are_refused(file, tmp_path, key, change, message):
    with pytest.raises(InputError, match=message):
        load_dataset(changed(file, tmp_path / "bad.h5", **{key: change}))


def test_an_epoch_draws_one_of_the_texts_of_each_image(data):
    train = data.train
    drawn = [drawn_texts(train.image_of_text, train.first_text, 0, epoch) for epoch in range(60)]
    assert all(torch.equal(train.image_of_text[rows], torch.arange(len(train))) for rows in drawn)
    assert torch.equal(drawn[3], drawn_texts(train.image_of_text, train.first_text, 0, 3))
    counts = torch.bincount(torch.cat(drawn), minlength=len(train.text)) / 60
    share = 1 / torch.bincount(train.image_of_text)[train.image_of_text]
    assert (counts > 0).all() and ((counts - share).abs() < 0.35).all()


def test_tests_rank_images_for_texts_and_texts_for_images(trained, data):
    results, folder = trained
    model, _ = checkpoint.load_model(folder / "c" / "hash" / "several_hash.pth")
    query, retrieval = ([metric.sign_codes(model.encode(**{side: getattr(split, side)})[1].detach().numpy())
                         for side in ("image", "text")] for split in (data.query, data.retrieval))
    final = results["final"]["16"]
    for direction, asked, found in (("i2t", 0, 1), ("t2i", 1, 0), ("i2i", 0, 0), ("t2t", 1, 1)):
        labels = [(split.label[split.image_of_text] if side else split.label).numpy()
                  for split, side in ((data.query, asked), (data.retrieval, found))]
        expected = metric.mean_average_precision(query[asked], retrieval[found], *labels)
        assert final["unpaired"][direction]["map"] == pytest.approx(expected)
    assert final["partners"] == metric.partner_recall(*query, image_of_text=data.query.image_of_text)
    assert {"row", "text"} <= results["gallery"]["i2t"][0]["items"][0].keys()
    item = results["gallery"]["i2t"][0]["items"][0]
    assert item["text"].startswith(f"text {item['row']} of ")  # a text is shown with its own number and words
    assert results["gallery"]["t2i"][0]["items"][0]["text"].split()[-1] == str(
        results["gallery"]["t2i"][0]["items"][0]["row"])


def test_a_run_says_how_many_images_and_texts_were_asked_for(trained, data):
    results, folder = trained
    assert results["sizes"] == {"train": IMAGES - QUERIES, "query": QUERIES, "retrieval": IMAGES - QUERIES,
                                "query_texts": len(data.query.text), "retrieval_texts": len(data.retrieval.text)}
    printed = "\n".join(terminal.table(results))
    assert f"{QUERIES} image and {len(data.query.text)} text queries x " in printed
    assert f"among the {QUERIES} image and {len(data.query.text)} text queries of the other modality" in printed
    page = next((folder / "r").rglob("report.html")).read_text(encoding="utf-8")
    assert f"their texts are {len(data.query.text)} queries and {len(data.retrieval.text)} database items." in page


def test_reranking_is_measured_in_both_directions(trained, file, tmp_path, monkeypatch):
    monkeypatch.setattr(search_speed, "SECONDS", 0.001)
    rows = search_speed.reranking(trained[1] / "c" / "hash" / "several_hash.pth", str(file), "data", tmp_path)
    assert {row["query"] for row in rows} == {"image", "text"} and all(0 < row["map@50"] <= 1 for row in rows)


def test_few_queries_are_warned_of_by_what_is_searched(data):
    part = {"image": data.query.image[:5].numpy(), "text": data.query.text[:15].numpy(),
            "image_of_text": np.repeat(np.arange(5), 3)}
    rest = {"image": data.train.image.numpy(), "text": data.train.text.numpy(),
            "image_of_text": data.train.image_of_text.numpy()}
    warned = dataset_from_arrays(rest, part, rest).warnings
    assert "query: with 5 rows, R@10 of texts that ask for images is 1 whatever the codes" in warned


def test_recall_counts_any_text_of_an_image(data):
    random = np.random.default_rng(1)
    owner = data.query.image_of_text.numpy()
    images, texts = (random.choice([-1, 1], (count, 4)) for count in (QUERIES, len(owner)))
    found = metric.partner_recall(images, texts, [1, 5], owner)
    distance = (images[:, None] != texts).sum(axis=2)
    expected = {1: 0.0, 5: 0.0}
    for _ in range(3000):
        order = np.argsort(distance + random.random(distance.shape), axis=1)
        for k in expected:
            expected[k] += (owner[order[:, :k]] == np.arange(QUERIES)[:, None]).any(axis=1).mean() / 3000
    assert found["i2t"]["recall@1"] == pytest.approx(expected[1], abs=0.01)
    assert found["i2t"]["recall@5"] == pytest.approx(expected[5], abs=0.01)
    with pytest.raises(InputError, match="never falling"):
        metric.partner_recall(images, texts, [1], owner[::-1])


def test_a_resumed_training_draws_the_same_texts(trained, file, tmp_path, monkeypatch):
    results, _ = trained
    config = dict(dataset=str(file), hash_lens=[8, 16], epoch=3, eval_every=1, batch_size=32, hidden=32,
                  results_dir=str(tmp_path / "r"), checkpoint_dir=str(tmp_path / "c"))
    solver = ICMR.Solver(ICMR.Config(**config))
    step = solver.hash_step

    def stopping(*arguments):
        if solver.run.epoch == 1 and solver.run.step == 1:
            solver.stop.signal = 2
        return step(*arguments)

    monkeypatch.setattr(solver, "hash_step", stopping)
    with pytest.raises(SystemExit):
        solver.train()
    resumed = ICMR.Solver(ICMR.Config(**config, resume=True)).train()
    assert resumed["final"] == results["final"]


def test_an_index_holds_either_side(trained, file, capsys):
    _, folder = trained
    model = str(folder / "c" / "hash" / "several_hash.pth")
    data = load_dataset(file)
    for modality, count, other in (("image", len(data.retrieval), "text"), ("text", len(data.retrieval.text), "image")):
        index = str(folder / f"index-{modality}")
        search.main(["build", "--checkpoint", model, "--dataset", str(file), "--modality", modality,
                     "--folder", index])
        capsys.readouterr()
        search.main(["query", "--folder", index, "--item", "3", "--topk", "2"])
        assert "text" in capsys.readouterr().out
        search.main(["evaluate", "--folder", index])
        printed = capsys.readouterr().out
        asked = len(getattr(data.query, other))
        assert f"{asked:,} {other} queries x {count:,} items" in printed


def test_other_methods_see_every_text(data):
    method = METHODS["CCA"](bits=4, seed=0)
    method.fit(data.train.image[data.train.image_of_text], data.train.text)
    found, _ = evaluate(method, data)
    codes = [metric.sign_codes(encode(getattr(split, side)).numpy()) for split in (data.query, data.retrieval)
             for encode, side in ((method.encode_image, "image"), (method.encode_text, "text"))]
    assert found["unpaired"]["t2i"]["map"] == pytest.approx(metric.mean_average_precision(
        codes[1], codes[2], data.query.text_label.numpy(), data.retrieval.label.numpy()))


def test_the_look_into_a_data_set_takes_the_first_texts(data):
    lines = inspect(data)
    assert f"{len(data.query.text) + len(data.retrieval.text):,} texts of 150 images" in lines[0]
    assert lines[-1] == "Not fit to train on: the text features all but repeat the image features."
