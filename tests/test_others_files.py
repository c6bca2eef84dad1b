"""Files as other projects give them, made small: names, keys, orientation and types are theirs.

Each made pair carries its number in its image, its text and its labels, so that a row that slips is seen.
"""

import pickle

import h5py
import numpy as np
import pytest
import scipy.io

from common.errors import InputError
from load_data import SPLITS, load_dataset, main
from test_load_data import write_mat73


def pairs(numbers, classes=24, dtype=np.float64):
    """The fields of the pairs of these numbers: features that begin with the number, labels that are its bits."""
    numbers = np.asarray(numbers)
    image, text = (np.random.default_rng(width).random((len(numbers), width)).astype(dtype) for width in (7, 5))
    image[:, 0], text[:, 0] = numbers, numbers + 0.5
    return {"image": image, "text": text, "label": bits(numbers, classes)}


def bits(numbers, classes):
    return ((np.asarray(numbers)[:, None] + 1) >> np.arange(classes) % 13 & 1).astype(np.uint8)


def assert_pairs(dataset, **numbers):
    """Each split has the pairs of these numbers, in this order, whole."""
    for name in SPLITS:
        split = getattr(dataset, name)
        assert split.image[:, 0].tolist() == list(numbers[name])
        assert (split.text[:, 0] - 0.5).tolist() == list(numbers[name])
        assert np.array_equal(split.label, bits(numbers[name], dataset.num_classes))
    assert (dataset.image_dim, dataset.text_dim) == (7, 5)


def classic(split, fields):
    return {f"{key}_{split}": fields[field] for key, field in zip("ITL", ("image", "text", "label"))}


def whole(fields):
    return {key: fields[field] for key, field in zip(("XAll", "YAll", "LAll"), ("image", "text", "label"))}


def write_mat(path, arrays, seven):
    if seven:
        write_mat73(path, arrays)
    else:
        scipy.io.savemat(path, arrays)


# --- CIRH: mir_train.mat, mir_query.mat, mir_database.mat -------------------------------------------------------


CIRH = {"train": ("tr", range(20, 40)), "query": ("te", range(8)), "database": ("db", range(8, 60))}


@pytest.mark.parametrize("prefix, seven", [("mir", ()), ("nus", ()), ("COCO", ("database",)),
                                           ("coco", ("train", "query", "database"))])
def test_the_three_files_of_cirh_are_one_data_set(tmp_path, prefix, seven):
    for name, (split, numbers) in CIRH.items():
        write_mat(tmp_path / f"{prefix}_{name}.mat", classic(split, pairs(numbers)), name in seven)
    dataset = load_dataset(tmp_path)
    assert_pairs(dataset, train=range(20, 40), query=range(8), retrieval=range(8, 60))
    assert dataset.path == tmp_path and dataset.warnings == []


def test_a_file_that_is_transposed_without_saying_so_is_turned(tmp_path):
    for name, (split, numbers) in CIRH.items():
        arrays = classic(split, pairs(numbers))
        with h5py.File(tmp_path / f"COCO_{name}.h5", "w") as file:
            for key, array in arrays.items():
                file[key] = array.T if name == "database" else array
    dataset = load_dataset(tmp_path)
    assert_pairs(dataset, train=range(20, 40), query=range(8), retrieval=range(8, 60))
    assert sorted(dataset.warnings) == [f"{tmp_path}/COCO_database.h5: {key}_db: lies transposed in its file, and is "
                                        f"read as 52 rows" for key in "ILT"]


def test_one_of_the_three_files_is_not_enough(tmp_path):
    for name, (split, numbers) in list(CIRH.items())[:2]:
        write_mat(tmp_path / f"mir_{name}.mat", classic(split, pairs(numbers)), False)
    with pytest.raises(InputError, match="mir_train.mat: no query split: found tr; expected train, query.*one folder"):
        load_dataset(tmp_path / "mir_train.mat")
    (tmp_path / "mir_query.mat").unlink()
    with pytest.raises(InputError, match="no query split: found tr"):
        load_dataset(tmp_path)


def test_two_data_sets_in_a_folder_are_refused(tmp_path):
    for name in ("a.mat", "b.mat"):
        write_mat(tmp_path / name, whole(pairs(range(30))), False)
    with pytest.raises(InputError, match="found XAll in a.mat and XAll in b.mat; expected files that are one data set "
                                         "together, or the path of one") as caught:
        load_dataset(tmp_path)
    assert "\n" not in str(caught.value)
    np.savez(tmp_path / "a.npz", **pairs(range(30)))
    (tmp_path / "b.mat").unlink()
    with pytest.raises(InputError, match="found XAll in a.mat and image in a.npz; expected"):
        load_dataset(tmp_path)


# --- UCCH: -iall-vgg.mat, -yall.mat, -lall.mat, and HDF5 --------------------------------------------------------


UCCH = {"mirflickr25k": ("mirflickr25k-iall-vgg.mat", "mirflickr25k-yall.mat", "mirflickr25k-lall.mat", 24, 2000),
        "rand": ("mirflickr25k-iall-vgg-rand.mat", "mirflickr25k-yall-rand.mat", "mirflickr25k-lall-rand.mat", 24,
                 2000),
        "nus-wide-tc10": ("nus-wide-tc10-xall-vgg.mat", "nus-wide-tc10-yall.mat", "nus-wide-tc10-lall.mat", 10, 2100)}


@pytest.mark.parametrize("seven", [(), ("YAll",)], ids=["MATLAB 5", "texts in MATLAB 7.3"])
@pytest.mark.parametrize("trio", UCCH)
def test_the_last_rows_of_the_trio_of_ucch_are_the_queries(tmp_path, trio, seven, capsys):
    *names, classes, queries = UCCH[trio]
    count = queries + 300
    for name, (key, array) in zip(names, whole(pairs(range(count), classes, np.float32)).items()):
        write_mat(tmp_path / name, {key: array}, key in seven)
    dataset = load_dataset(tmp_path)
    assert_pairs(dataset, train=range(300), query=range(300, count), retrieval=range(300))
    assert dataset.num_classes == classes and dataset.train.image.data_ptr() == dataset.retrieval.image.data_ptr()
    rule, = (warning for warning in dataset.warnings if "split" in warning)
    assert rule == (f"{tmp_path}: no split is given: the last {queries:,} rows are query, the others train and "
                    f"retrieval, as in UCCH's code")
    main([str(tmp_path)])
    assert rule in capsys.readouterr().out
    np.savez(tmp_path / "split.npz", query_idx=[5, 2], retrieval_idx=[7, 8, 9], train_idx=[9, 7])  # one's own
    assert_pairs(load_dataset(tmp_path), train=[9, 7], query=[5, 2], retrieval=[7, 8, 9])


@pytest.mark.parametrize("turned", [False, True])
def test_the_hdf5_of_ucch(tmp_path, turned):
    path = tmp_path / "MSCOCO_deep_doc2vec_data_rand.h5py"
    with h5py.File(path, "w") as file:
        for key, array in whole(pairs(range(5100), 80, np.float32)).items():
            file[key] = array.T if turned else array
    for place in (path, tmp_path):
        dataset = load_dataset(place)
        assert_pairs(dataset, train=range(100), query=range(100, 5100), retrieval=range(100))
    assert sum("lies transposed" in warning for warning in dataset.warnings) == 3 * turned


def test_other_names_of_ucch_that_say_the_split(tmp_path):
    (query, train) = (pairs(numbers) for numbers in (range(9), range(9, 30)))
    scipy.io.savemat(tmp_path / "iapr-tc12-rand.mat", {
        "VDatabase": train["image"], "YDatabase": train["text"], "databaseL": train["label"],
        "VTest": query["image"], "YTest": query["text"], "testL": query["label"]})
    with h5py.File(tmp_path / "MSCOCO_deep_doc2vec_data.h5py", "w") as file:
        for split, fields in (("train", train), ("test", query)):
            for key, field in (("imgs_deep", "image"), ("text", "text"), ("imgs_labels", "label")):
                file[f"{split}_{key}"] = fields[field]
    for path in tmp_path.iterdir():
        assert_pairs(load_dataset(path), train=range(9, 30), query=range(9), retrieval=range(9, 30))


def test_a_split_that_cannot_be_known_is_asked_for(tmp_path):
    path = tmp_path / "mine.mat"
    write_mat(path, whole(pairs(range(30))), False)
    with pytest.raises(InputError, match="nothing says which rows are in which split: found keys LAll, XAll, YAll and "
                                         "30 rows; expected train_idx, .*such as a split.npz"):
        load_dataset(path)
    path.rename(tmp_path / "mirflickr25k-all.mat")  # as many rows as there should be queries, or fewer
    with pytest.raises(InputError, match="nothing says which rows are in which split: .* 30 rows; expected train_idx"):
        load_dataset(tmp_path)


def test_pixels_are_not_features(tmp_path):
    fields = pairs(range(30))
    with h5py.File(tmp_path / "mirflickr25k-iall.mat", "w") as file:
        file["IAll"] = np.zeros((30, 3, 4, 4), np.uint8)
    for name, key, field in (("y", "YAll", "text"), ("l", "LAll", "label")):
        write_mat(tmp_path / f"mirflickr25k-{name}all.mat", {key: fields[field]}, False)
    with pytest.raises(InputError, match=r"found pixels \(keys IAll, LAll, YAll\), no features; expected features, "
                                         "which python extract_features.py mirflickr --root DIR makes"):
        load_dataset(tmp_path)


# --- DCMHT: index.mat, caption.mat, label.mat -------------------------------------------------------------------


@pytest.mark.parametrize("classes, command", [(24, "mirflickr"), (80, "coco"), (10, "nus-wide"),
                                              (21, "nus-wide --concepts 21"), (7, r"mirflickr \| nus-wide \| coco")])
def test_paths_and_captions_of_dcmht_are_not_features(tmp_path, classes, command):
    scipy.io.savemat(tmp_path / "index.mat", {"index": [f"/data/images/im{row}.jpg" for row in range(90)]})
    scipy.io.savemat(tmp_path / "caption.mat", {"caption": np.array([[f"sea {row}"] for row in range(90)], object)})
    scipy.io.savemat(tmp_path / "label.mat", {"category": bits(range(90), classes)})
    with pytest.raises(InputError, match=f"found paths of pictures and captions .*, no features; expected features, "
                                         f"which python extract_features.py {command} --root DIR") as caught:
        load_dataset(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="index.mat: found paths of pictures .*mirflickr . nus-wide . coco --root"):
        load_dataset(tmp_path / "index.mat")


@pytest.mark.parametrize("key", ["category", "label"])
@pytest.mark.parametrize("turned", [False, True])
def test_features_in_the_files_of_dcmht(tmp_path, key, turned):
    fields = pairs(range(30))
    for name, array in (("index", "image"), ("caption", "text"), ("label", "label")):
        values = fields[array].T if turned else fields[array]
        scipy.io.savemat(tmp_path / f"{name}.mat", {key if name == "label" else name: values})
    with pytest.raises(InputError, match="nothing says which rows are in which split"):
        load_dataset(tmp_path)  # the split of DCMHT's code is drawn when it runs
    np.savez(tmp_path / "split.npz", query_idx=range(20, 30), retrieval_idx=range(20), train_idx=range(5, 15))
    assert_pairs(load_dataset(tmp_path), train=range(5, 15), query=range(20, 30), retrieval=range(20))


# --- UCMFH and LCFH: train.pkl, query.pkl, retrieval.pkl --------------------------------------------------------


@pytest.mark.parametrize("third", ["retrieval", "retrival"])
def test_the_pickles_of_lcfh(tmp_path, third):
    """CLIP's features in float64, the labels in float32, and in train the labels that were generated."""
    for name, numbers in (("train", range(8, 20)), ("query", range(8)), (third, range(8, 60))):
        fields = pairs(numbers) | {"label": bits(numbers, 24).astype(np.float32)}
        if name == "train":
            fields["label_g"] = bits(range(len(numbers)), 3).astype(np.int64)
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(fields))
    dataset = load_dataset(tmp_path)
    assert_pairs(dataset, train=range(8, 20), query=range(8), retrieval=range(8, 60))
    note, = dataset.warnings
    assert note.startswith(f"{tmp_path}/train.pkl: label_g: int64 of shape (12, 3) is no column of the 12 rows")


def test_transposed_pickles(tmp_path):
    for name, numbers in (("train", range(8, 20)), ("query", range(8)), ("retrieval", range(8, 60))):
        fields = pairs(numbers)
        turned = {key: fields[key].T if key != "label" else fields[key] for key in fields}
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(turned))
    assert_pairs(load_dataset(tmp_path), train=range(8, 20), query=range(8), retrieval=range(8, 60))


def test_an_axis_that_may_be_either_is_not_guessed(tmp_path):
    arrays = {f"{split}_{key}": np.ones(shape) for split in ("train", "query", "retrieval")
              for key, shape in (("image", (5, 7)), ("text", (7, 5)))}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=r"text: found shape \(7, 5\); expected 5 rows, as .*image has"):
        load_dataset(tmp_path)
