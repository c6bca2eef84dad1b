"""Every format and layout gives the same tensors; whatever is wrong with a file is one clear InputError."""

import os
import pickle
import resource
import struct
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formats.reading import open_arrays
from common.errors import InputError
from load_data import SPLITS, Dataset, attributes, dataset_from_arrays, load_dataset, main, save_hdf5

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
Tables = dict[str, dict[str, np.ndarray]]


def real_file(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def table(
    rng: np.random.Generator, rows: int, image: int = 7, text: int = 5, classes: int = 4
) -> dict[str, np.ndarray]:
    label = (rng.random((rows, classes)) < 0.4).astype(np.uint8)
    label[np.arange(rows), rng.integers(classes, size=rows)] = 1
    return {
        "image": rng.standard_normal((rows, image)).astype(np.float32),
        "text": rng.standard_normal((rows, text)).astype(np.float32),
        "label": label,
        "caption": np.array([f"pair {row} é😀" for row in range(rows)]),
        "item": np.arange(rows) + 100,
    }


@pytest.fixture
def tables() -> Tables:
    """Train is the first 12 rows of retrieval, as UCMFH has it."""
    rng = np.random.default_rng(0)
    retrieval = table(rng, 20)
    return {
        "train": {key: array[:12] for key, array in retrieval.items()},
        "query": table(rng, 6),
        "retrieval": retrieval,
    }


# --- one writer for each format and layout ------------------------------------------------------------------


def write_pickles(path: Path, tables: Tables, protocol: int) -> Path:
    path.mkdir(exist_ok=True)
    for split, arrays in tables.items():
        (path / f"{split}.pkl").write_bytes(pickle.dumps(arrays, protocol=protocol))
    return path


def flat(tables: Tables, pattern: str) -> dict[str, np.ndarray]:
    return {
        pattern.format(split=split, field=key): array
        for split, arrays in tables.items()
        for key, array in arrays.items()
    }


def classic(tables: Tables) -> dict[str, np.ndarray]:
    names = {"image": "I", "text": "T", "label": "L"}, {"train": "tr", "query": "te", "retrieval": "db"}
    return {
        f"{names[0][key]}_{names[1][split]}": array
        for split, arrays in tables.items()
        for key, array in arrays.items()
        if key in names[0]
    }


def indexed(tables: Tables, order: str = "shuffled") -> dict[str, np.ndarray]:
    """Whole arrays, the rows of query and retrieval mixed, and their row numbers."""
    query, retrieval = tables["query"], tables["retrieval"]
    count = len(query["image"]) + len(retrieval["image"])
    place = np.random.default_rng(1).permutation(count)
    whole = {}
    for key in query:
        both = np.concatenate([query[key], retrieval[key]])
        whole[key] = np.empty_like(both)
        whole[key][place] = both
    rows = len(query["image"])
    return whole | {
        "query_idx": place[:rows],
        "retrieval_idx": place[rows:],
        "train_idx": place[rows : rows + len(tables["train"]["image"])],
    }


def write_hdf5(path: Path, arrays: dict[str, np.ndarray], **options: object) -> Path:
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            text = array.dtype.kind == "U"
            file.create_dataset(
                key,
                data=array.astype(object) if text else array,
                dtype=h5py.string_dtype() if text else None,
                **({} if text else options),
            )
    return path


def write_npz(path: Path, arrays: dict[str, np.ndarray], save=np.savez) -> Path:
    save(path, **arrays)
    return path


def write_mat5(path: Path, arrays: dict, compress: bool = False) -> Path:
    scipy.io.savemat(
        path,
        {
            key: (
                value.astype(object)[:, None] if getattr(value, "dtype", np.dtype(int)).kind == "U" else value
            )
            for key, value in arrays.items()
        },
        do_compression=compress,
        oned_as="column",
    )
    return path


def write_mat73(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """As MATLAB does: a 512-byte header before the HDF5 data, transposed matrices, cells of UTF-16 text."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for key, array in arrays.items():
            if array.dtype.kind == "U":
                cells = [
                    file.create_dataset(
                        f"#refs#/{key.replace('/', '_')}{i}",
                        data=np.frombuffer(text.encode("utf-16-le"), np.uint16)[:, None],
                    )
                    for i, text in enumerate(array)
                ]
                for cell in cells:
                    cell.attrs["MATLAB_class"] = np.bytes_("char")
                dataset = file.create_dataset(
                    key, data=np.array([[cell.ref for cell in cells]], h5py.ref_dtype)
                )
                dataset.attrs["MATLAB_class"] = np.bytes_("cell")
                continue
            matrix = array if array.ndim == 2 else array[:, None]
            dataset = file.create_dataset(
                key, data=matrix.astype(np.float64).T if key[0] == "L" else matrix.T
            )
            dataset.attrs["MATLAB_class"] = np.bytes_("double" if key[0] == "L" else "single")
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


WRITERS = {  # name: (writes tables and returns the path to load, whether further columns come along)
    **{
        f"pickle protocol {p}": (lambda d, t, p=p: write_pickles(d / "pickles", t, p), True)
        for p in range(2, 6)
    },
    "h5 groups": (lambda d, t: write_hdf5(d / "x.h5", flat(t, "{split}/{field}")), True),
    "h5 flat, gzip": (
        lambda d, t: write_hdf5(d / "x.hdf5", flat(t, "{split}_{field}"), compression="gzip"),
        True,
    ),
    "h5 classic": (lambda d, t: write_hdf5(d / "x.h5", classic(t)), False),
    "h5 row numbers": (lambda d, t: write_hdf5(d / "x.h5", indexed(t)), True),
    "npz row numbers": (lambda d, t: write_npz(d / "x.npz", indexed(t)), True),
    "npz flat, deflated": (
        lambda d, t: write_npz(d / "x.npz", flat(t, "{split}_{field}"), np.savez_compressed),
        True,
    ),
    "npz classic, Fortran order": (
        lambda d, t: write_npz(
            d / "x.npz", {key: np.asfortranarray(array) for key, array in classic(t).items()}
        ),
        False,
    ),
    "mat 5 classic": (lambda d, t: write_mat5(d / "x.mat", classic(t)), False),
    "mat 5 row numbers, deflated": (lambda d, t: write_mat5(d / "x.mat", indexed(t), compress=True), True),
    "mat 5 structs": (
        lambda d, t: write_mat5(
            d / "x.mat",
            {
                split: {
                    key: a[:, None].astype(object) if a.dtype.kind == "U" else a for key, a in arrays.items()
                }
                for split, arrays in t.items()
            },
        ),
        True,
    ),
    "mat 5 sparse": (
        lambda d, t: write_mat5(
            d / "x.mat",
            {
                key: scipy.sparse.csc_matrix(array) if key[0] == "L" else array
                for key, array in classic(t).items()
            },
        ),
        False,
    ),
    "mat 7.3 classic": (lambda d, t: write_mat73(d / "x.mat", classic(t)), False),
    "mat 7.3 structs": (lambda d, t: write_mat73(d / "x.mat", flat(t, "{split}/{field}")), True),
    "mat 7.3 row numbers": (lambda d, t: write_mat73(d / "x.mat", indexed(t)), True),
}


def assert_holds(dataset: Dataset, tables: Tables, columns: bool) -> None:
    for name in SPLITS:
        split = getattr(dataset, name)
        assert len(split) == len(tables[name]["image"])
        for key, dtype in (("image", torch.float32), ("text", torch.float32), ("label", torch.uint8)):
            tensor = getattr(split, key)
            assert tensor.dtype == dtype and tensor.is_contiguous()
            assert torch.equal(tensor, torch.from_numpy(tables[name][key].astype(str(dtype).split(".")[1])))
        if columns:
            assert split.meta["caption"].tolist() == tables[name]["caption"].tolist()
            assert split.meta["item"].tolist() == tables[name]["item"].tolist()


def share(dataset: Dataset, key: str) -> bool:
    train, retrieval = (getattr(split, key).untyped_storage() for split in (dataset.train, dataset.retrieval))
    return train.data_ptr() == retrieval.data_ptr()


@pytest.mark.parametrize("writer", WRITERS)
def test_every_format_gives_the_same_tensors_and_holds_train_once(writer, tmp_path, tables):
    write, columns = WRITERS[writer]
    dataset = load_dataset(write(tmp_path, tables))
    assert_holds(dataset, tables, columns)
    assert dataset.fingerprint == dataset_from_arrays(**tables).fingerprint
    assert (dataset.image_dim, dataset.text_dim, dataset.num_classes) == (7, 5, 4)
    assert all(share(dataset, key) for key in ("image", "text", "label"))
    assert dataset.warnings == []


@pytest.mark.parametrize("writer", WRITERS)
def test_labels_may_be_missing(writer, tmp_path, tables):
    without = {
        split: {key: array for key, array in arrays.items() if key != "label"}
        for split, arrays in tables.items()
    }
    write, columns = WRITERS[writer]
    dataset = load_dataset(write(tmp_path, without))
    for table in tables.values():
        table["label"] = np.empty((len(table["image"]), 0), np.uint8)
    assert_holds(dataset, tables, columns)
    assert dataset.num_classes == 0 and dataset.label_names is None and share(dataset, "image")
    found = " (columns found: caption, item)" if columns else ""
    assert dataset.warnings == [
        f"no labels{found}: tests count how often a query finds its own partner, and give no mAP",
        "query: with 6 rows, R@10 is 1 whatever the codes",
    ]
    again = load_dataset(save_and_return(dataset, tmp_path / "again.h5"))
    assert again.fingerprint == dataset.fingerprint == dataset_from_arrays(**without).fingerprint
    with pytest.raises(InputError, match=r"found no labels; this measures mAP, which needs a label array"):
        dataset.require_labels("this measures mAP")


def test_misspelled_labels_are_named(tmp_path, tables):
    content = classic(tables)
    for key in [key for key in content if key[0] == "L"]:
        content[key.lower()] = content.pop(key)
    path = write_mat5(tmp_path / "x.mat", content)
    assert load_dataset(path).warnings[0] == f"{path}: l_db, l_te, l_tr: in no split, and left out"


def test_names_of_labels_that_are_missing_are_refused(tables):
    without = {
        split: {key: array for key, array in arrays.items() if key != "label"}
        for split, arrays in tables.items()
    }
    with pytest.raises(InputError, match="found label_names, but no label array; expected both, or none"):
        dataset_from_arrays(**without, label_names=["sea", "city"])


def save_and_return(dataset: Dataset, path: Path) -> Path:
    save_hdf5(dataset, path)
    return path


@pytest.fixture(scope="module")
def fashion() -> Tables:
    with np.load(real_file("fashion9k.npz")) as file:
        arrays = {key: file[key] for key in file.files}
    rows = {
        "train": arrays["train_idx"][:300],
        "query": arrays["test_idx"][:200],
        "retrieval": arrays["train_idx"][:600],
    }
    return {
        split: {key: arrays[key][index] for key in ("image", "text", "label", "caption")}
        | {"item": arrays["item_id"][index]}
        for split, index in rows.items()
    }


@pytest.mark.parametrize("writer", [name for name in WRITERS if "sparse" not in name])
def test_real_features_survive_every_format(writer, tmp_path, fashion):
    tables = fashion
    if "mat" in writer:  # MATLAB has no half precision
        tables = {
            split: {
                key: array.astype(np.float32) if array.dtype == np.float16 else array
                for key, array in arrays.items()
            }
            for split, arrays in tables.items()
        }
    write, columns = WRITERS[writer]
    assert_holds(load_dataset(write(tmp_path, tables)), tables, columns)


def test_fashion_file_as_it_is():
    path = real_file("fashion9k.npz")
    dataset = load_dataset(path)
    with np.load(path) as file:
        assert (
            dataset.train is dataset.retrieval and len(dataset.train) == 7761 and len(dataset.query) == 1500
        )
        assert np.array_equal(dataset.query.image, file["image"][file["test_idx"]].astype(np.float32))
        assert np.array_equal(dataset.train.label, file["label"][file["train_idx"]])
        assert dataset.label_names == file["label_names"].tolist()
        assert dataset.query.meta["caption"].tolist() == file["caption"][file["test_idx"]].tolist()
        assert np.array_equal(dataset.query.index, file["test_idx"])


def test_wiki_files_as_they_are():
    """Two independent labellings of the same articles: as one-hot rows and as class numbers from 1 to 10."""
    one_hot = load_dataset(real_file("wiki/wiki_onehot.mat"))
    numbers = load_dataset(real_file("wiki/wiki_classindex.mat"))
    expected = scipy.io.loadmat(real_file("wiki/wiki_onehot.mat"))
    assert np.array_equal(one_hot.train.image, expected["I_tr"].astype(np.float32))
    assert np.array_equal(one_hot.query.label, expected["L_te"])
    assert one_hot.train is one_hot.retrieval
    assert one_hot.fingerprint == numbers.fingerprint


@pytest.mark.parametrize(
    "name",
    [
        "big_endian",
        "testmatrix_6.1_SOL2",
        "testdouble_7.4_GLNX86",
        "testsparse_7.4_GLNX86",
        "teststringarray_7.1_GLNX86",
        "testunicode_7.4_GLNX86",
        "testbool_8_WIN64",
    ],
)
def test_files_that_matlab_wrote(name):
    path = Path(scipy.io.__file__).parent / "matlab" / "tests" / "data" / f"{name}.mat"
    if not path.exists():
        pytest.skip("scipy was installed without its test files")
    with open_arrays(path) as arrays:
        for key, array in arrays.items():
            expected = scipy.io.loadmat(path, variable_names=[key])[key]
            if scipy.sparse.issparse(expected):
                expected = expected.toarray()
            if array.dtype.kind == "U":
                texts = [str(np.squeeze(item)) for item in expected.ravel()]
                assert array.column().tolist() == [text.rstrip() for text in texts]
            else:
                blocks = np.concatenate(list(array.blocks()))
                assert np.array_equal(blocks.T if array.transposed else blocks, expected)
        assert arrays


# --- splits, labels, oddities -------------------------------------------------------------------------------


def test_test_stands_for_query_and_train_for_retrieval(tmp_path, tables):
    whole = indexed(tables)
    whole["test_idx"], whole["train_idx"] = whole.pop("query_idx"), whole.pop("retrieval_idx")
    for name, arrays in (
        ("numbers", whole),
        ("classic", {k: v for k, v in classic(tables).items() if "_tr" not in k}),
    ):
        arrays = {key.replace("_db", "_tr"): array for key, array in arrays.items()}
        dataset = load_dataset(write_npz(tmp_path / f"{name}.npz", arrays))
        assert dataset.train is dataset.retrieval
        assert_holds(dataset, tables | {"train": tables["retrieval"]}, columns=False)


def test_train_rows_scattered_over_retrieval_are_copied_right(tmp_path, tables):
    whole = indexed(tables)
    whole["train_idx"] = whole["retrieval_idx"][[5, 2, 19]]
    dataset = load_dataset(write_hdf5(tmp_path / "x.h5", whole))
    tables["train"] = {key: array[[5, 2, 19]] for key, array in tables["retrieval"].items()}
    assert_holds(dataset, tables, columns=True)
    assert np.array_equal(dataset.train.index, whole["train_idx"])
    assert not share(dataset, "image")


def test_other_spellings(tmp_path, tables):
    names = {"image": "images", "text": "tags", "label": "labels"}
    whole = {names.get(key, key): array for key, array in indexed(tables).items()}
    assert_holds(load_dataset(write_npz(tmp_path / "x.npz", whole)), tables, columns=True)
    # With features under "text", "tags" is a further column: the words themselves.
    whole["text"], whole["tags"] = whole["tags"], whole["caption"]
    dataset = load_dataset(write_npz(tmp_path / "x.npz", whole))
    assert_holds(dataset, tables, columns=True)
    assert np.array_equal(dataset.query.meta["tags"], dataset.query.meta["caption"])


@pytest.mark.parametrize(
    "form",
    [lambda numbers: numbers, lambda numbers: numbers[:, None], lambda numbers: numbers.astype(np.float64)],
)
@pytest.mark.parametrize("first", [0, 1])
def test_class_numbers_become_one_hot_over_all_splits(form, first, tables):
    tables["query"]["label"] = form(np.array([0, 2, 2, 0, 2, 0]) + first)
    tables["retrieval"]["label"] = form(np.array([0, 4] * 10) + first)
    tables["train"]["label"] = tables["retrieval"]["label"][:12]
    dataset = dataset_from_arrays(**tables, label_names=list("abcde"))
    assert dataset.label_names == ["a", "c", "e"]
    assert dataset.query.label.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert dataset.retrieval.label[:2].tolist() == [[1, 0, 0], [0, 0, 1]]


def test_names_that_may_be_of_either_class_are_refused(tables):
    for split in tables.values():
        split["label"] = np.arange(len(split["label"])) % 3 + 1
    with pytest.raises(InputError, match="found 5 names for class numbers from 1 to 3, which may be counted"):
        dataset_from_arrays(**tables, label_names=list("abcde"))
    assert dataset_from_arrays(**tables, label_names=list("abc")).label_names == list("abc")


def test_a_column_of_zeros_and_ones_is_two_classes(tables):
    for arrays in tables.values():
        arrays["label"] = np.arange(len(arrays["image"]))[:, None] % 2
    dataset = dataset_from_arrays(**tables)
    assert dataset.query.label[:2].tolist() == [[1, 0], [0, 1]]


def test_oddities_are_counted(tables):
    tables["query"]["label"][:2] = 0
    tables["retrieval"]["image"][[3, 15, 16]] = 0  # row 3 is in train, too
    dataset = dataset_from_arrays(**tables)
    assert [" ".join(warning.split()[:4]) for warning in dataset.warnings] == [
        "train: 1 of 12",
        "query: 2 of 6",
        "retrieval: 3 of 20",
    ]


def test_queries_without_anything_to_find_are_counted(tables):
    for arrays in tables.values():
        arrays["label"][:] = [1, 0, 0, 0]
    assert dataset_from_arrays(**tables).warnings == [
        "every item is relevant to every query: one label is common to all of them"]
    tables["query"]["label"][:2] = [0, 1, 0, 0]
    assert dataset_from_arrays(**tables).warnings == ["query: 2 of 6 rows share no label with any item of retrieval"]


def test_queries_that_are_items_are_counted(tables):
    for key in ("image", "text"):
        tables["query"][key][:3] = tables["retrieval"][key][15:18]
    tables["query"]["text"][0] += 1  # an image may have several texts
    assert dataset_from_arrays(**tables).warnings == [
        "query: 2 of 6 rows have the features of a row of train or retrieval"]


def test_sparse_labels_may_be_empty_but_not_of_rows_that_are_not_there(tmp_path, tables):
    arrays, path = classic(tables), tmp_path / "s.mat"
    arrays["L_te"] = scipy.sparse.csc_matrix(np.zeros_like(arrays["L_te"]))
    scipy.io.savemat(path, arrays)
    assert load_dataset(path).query.label.sum() == 0
    arrays["L_te"] = scipy.sparse.csc_matrix(tables["query"]["label"])
    arrays["L_te"].indices[0] = -1
    scipy.io.savemat(path, arrays)
    with pytest.raises(InputError, match="entries of rows -1 to 5"):
        load_dataset(path)


def test_a_linked_folder_has_its_own_name_and_hidden_files_are_passed_over(tmp_path, tables):
    real = tmp_path / "flickr25k_v2"
    real.mkdir()
    write_npz(real / "pairs.npz", indexed(tables))
    (real / "._pairs.npz").write_bytes(b"what macOS leaves beside a file")
    (tmp_path / "mirflickr").symlink_to(real)
    assert load_dataset("mirflickr", tmp_path).name == "mirflickr"


def test_what_is_no_column_is_left_out_and_said_so(tmp_path, tables):
    tables["query"]["caption"] = tables["query"]["caption"][:-1]
    dataset = dataset_from_arrays(**tables)
    assert "caption" not in dataset.query.meta and "caption" in dataset.train.meta
    (warning,) = dataset.warnings
    assert warning.startswith("arrays: query: caption: ") and "(5,) is no column of the 6 rows" in warning


def test_a_conversion_says_which_columns_it_leaves_out(tmp_path, tables, capsys):
    del tables["train"]["item"]
    main([str(write_pickles(tmp_path / "p", tables, 4)), "--convert", str(tmp_path / "out.h5")])
    assert "left out, since not every split has it: item\n" in capsys.readouterr().out
    assert load_dataset(tmp_path / "out.h5").query.meta.keys() == {"caption"}


def test_text_that_is_no_text_is_refused(tables):
    tables["query"]["caption"][2] = "a\udcff"
    with pytest.raises(InputError, match="query: caption: row 2 is not valid text"):
        dataset_from_arrays(**tables)


def test_pickles_name_their_labels(tmp_path, tables):
    for arrays in tables.values():
        arrays["label_names"] = list("wxyz")
    assert load_dataset(write_pickles(tmp_path / "p", tables, 4)).label_names == list("wxyz")
    tables["query"]["label_names"] = list("abcd")
    with pytest.raises(InputError, match="query.pkl: label_names: found other names"):
        load_dataset(write_pickles(tmp_path / "p", tables, 4))


def test_half_precision_and_integers_become_float32(tables):
    for arrays in tables.values():
        arrays["image"] = arrays["image"].astype(np.float16)
        arrays["text"] = np.arange(len(arrays["text"]) * 5).reshape(-1, 5)
    assert_holds(dataset_from_arrays(**tables), tables, columns=True)


def test_the_fingerprint_sees_every_change(tables):
    seen = {dataset_from_arrays(**tables).fingerprint}
    for split in SPLITS:
        for key in ("image", "text", "label"):
            changed = {name: dict(arrays) for name, arrays in tables.items()}
            changed[split][key] = changed[split][key].copy()
            changed[split][key][-1, -1] = 1 - changed[split][key][-1, -1]
            seen.add(dataset_from_arrays(**changed).fingerprint)
    assert len(seen) == 10


def test_lists_and_old_pickles_load(tmp_path, tables):
    path = write_pickles(tmp_path / "p", tables, 4)
    lists = tables["query"] | {
        "label": tables["query"]["label"].tolist(),
        "image": list(tables["query"]["image"]),
        "text": [[np.float32(x) for x in row] for row in tables["query"]["text"]],
    }
    (path / "query.pkl").write_bytes(pickle.dumps(lists))
    assert_holds(load_dataset(path), tables, columns=True)
    old_names = pickle.dumps(tables["query"], protocol=2).replace(b"numpy._core.", b"numpy.core.")
    (path / "query.pkl").write_bytes(old_names)
    assert_holds(load_dataset(path), tables, columns=True)


def test_a_pickle_of_python_2_loads(tmp_path, tables):
    """Python 2 wrote the bytes of an array as a str (opcode T), which Python 3 decodes."""

    def array(values: np.ndarray, code: bytes) -> bytes:
        data = values.astype(code.decode()).tobytes()
        return (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I%d\nI%d\n"
            b"tcnumpy\ndtype\n("
            b"S'%s'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nT" % (*values.shape, code)
            + len(data).to_bytes(4, "little")
            + data
            + b"tb"
        )

    path = write_pickles(tmp_path / "p", tables, 4)
    query = tables["query"]
    (path / "query.pkl").write_bytes(
        b"(dS'image'\n"
        + array(query["image"], b"f4")
        + b"sS'text'\n"
        + array(query["text"], b"f8")
        + b"sS'label'\n"
        + array(query["label"], b"i8")
        + b"s."
    )
    assert_holds(load_dataset(path), tables, columns=False)


# --- names and paths ----------------------------------------------------------------------------------------


def test_names_and_paths(tmp_path, tables):
    write_pickles(tmp_path / "mirflickr", tables, 4)
    (tmp_path / "nus-wide").mkdir()
    file = write_npz(tmp_path / "nus-wide" / "features.npz", indexed(tables))
    (tmp_path / "nus-wide" / "LICENSE").write_text("")
    by_name = load_dataset("MirFlickr", tmp_path)
    assert (by_name.name, by_name.path) == ("mirflickr", tmp_path / "mirflickr")
    assert load_dataset("nus-wide", tmp_path).path == file
    assert load_dataset(tmp_path / "mirflickr").name == "mirflickr"
    assert load_dataset(str(file), "no such folder").name == "features"
    with pytest.raises(
        InputError, match=r"no data set 'nuswide': found mirflickr, nus-wide in .*mean nus-wide\?"
    ):
        load_dataset("nuswide", tmp_path)


@pytest.mark.parametrize(
    "files, found",
    [
        ([], "found nothing"),
        (["train.pkl", "query.pkl"], "found query.pkl, train.pkl"),
        (["train.pkl", "query.pkl", "retrieval.pkl", "val.pkl"], "val.pkl"),
        (["train.pkl", "query.pkl", "retrieval.pkl", "a.mat"], "a.mat"),
        (["notes.txt"], "found notes.txt"),
    ],
)
def test_folders_that_are_not_one_data_set(files, found, tmp_path):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"{found}.*; expected .*train.pkl, query.pkl, retrieval.pkl"):
        load_dataset(tmp_path)


def test_an_unknown_file_type(tmp_path):
    (tmp_path / "train.pkl").touch()
    with pytest.raises(InputError, match="found train.pkl; expected a folder"):
        load_dataset(tmp_path / "train.pkl")


def test_the_example_in_the_guide_writes_a_data_set(tmp_path, monkeypatch):
    guide = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "mine").mkdir(parents=True)
    arrays = table(np.random.default_rng(0), 8000)
    exec(guide.split("```python")[1].split("```")[0], arrays | {"rows": np.random.permutation(8000)})
    dataset = load_dataset("mine")
    assert [len(split) for split in (dataset.train, dataset.query, dataset.retrieval)] == [5000, 2000, 6000]
    assert share(dataset, "image")


# --- bad input: file, key, found and expected, in one line --------------------------------------------------


def put(split: str, key: str, value: object):
    return lambda tables: tables[split].__setitem__(key, value(tables[split].get(key)))


def at(row: int, column: int, value: float):
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float64)
        array[row, column] = value
        return array

    return change


BAD_TABLES = {
    "nan": (put("query", "image", at(4, 2, np.nan)), "query.*image: found nan in row 4; expected finite"),
    "infinity": (
        put("retrieval", "text", at(17, 0, -np.inf)),
        "retrieval.*text: found -inf in row 17; expected",
    ),
    "too large for float32": (
        put("query", "text", at(0, 0, 1e300)),
        "query.*text: found inf in row 0; expected",
    ),
    "rows": (put("query", "text", lambda a: a[:-1]), r"query.*text: found shape \(5, 5\); expected 6 rows"),
    "label rows": (
        put("train", "label", lambda a: a[:-1]),
        r"train.*label: found shape \(11, 4\); expected 12 rows",
    ),
    "label value": (put("query", "label", at(1, 3, 2)), "query.*label: found 2.* in row 1; expected 0 or 1"),
    "label nan": (
        put("query", "label", at(1, 3, np.nan)),
        "query.*label: found nan in row 1; expected 0 or 1",
    ),
    "class number": (
        put("query", "label", lambda a: np.full(6, -1)),
        "query.*label: found -1 in row 0; expected class",
    ),
    "broken class": (
        put("query", "label", lambda a: np.full(6, 0.5)),
        "query.*label: found 0.5 in row 0; expected",
    ),
    "label forms": (
        put("query", "label", lambda a: a[:, 0]),
        "label: found class numbers in one split.*expected",
    ),
    "empty": (
        lambda t: t["query"].update({k: a[:0] for k, a in t["query"].items()}),
        "query.*found 0 rows; expected",
    ),
    "image sizes": (
        put("query", "image", lambda a: a[:, 1:]),
        "image features.*7 in train, 6 in query.*expected",
    ),
    "classes": (
        put("query", "label", lambda a: a[:, 1:]),
        "classes differ.*4 in train, 3 in query.*expected",
    ),
    "flat image": (
        put("query", "image", lambda a: a[:, 0]),
        r"query.*image: found float32 of shape \(6,\); expected",
    ),
    "pixels": (
        put("query", "image", lambda a: a[:, :, None]),
        r"image: found .* of shape \(6, 7, 1\); expected",
    ),
    "strings": (put("query", "text", lambda a: a.astype(str)), "query.*text: found .*; expected numbers"),
    "no text": (
        lambda t: t["query"].pop("text"),
        "query.*no text array: found keys caption, image, item, label; expected",
    ),
    "no labels of the queries": (
        lambda t: t["query"].pop("label"),
        "query.*: found keys caption, image, item, text, hence no label array in query; expected one in every split",
    ),
    "class numbers of some": (
        lambda t: (
            put("query", "label", lambda a: a.argmax(1))(t),
            t["train"].pop("label"),
            t["retrieval"].pop("label"),
        ),
        "train.*, hence no label array in train, retrieval; expected one",
    ),
}


@pytest.mark.parametrize("kind", ["pickle protocol 4", "h5 groups", "npz flat, deflated"])
@pytest.mark.parametrize("case", BAD_TABLES)
@pytest.mark.filterwarnings("error")
def test_bad_tables(kind, case, tmp_path, tables):
    spoil, message = BAD_TABLES[case]
    spoil(tables)
    path = WRITERS[kind][0](tmp_path, tables)
    with pytest.raises(InputError, match=message) as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_nan_is_found_in_transposed_files_too(tmp_path, tables):
    tables["retrieval"]["image"][17, 3] = np.nan
    for write in (write_mat5, write_mat73):
        with pytest.raises(InputError, match="I_db: found nan in row 17; expected"):
            load_dataset(write(tmp_path / "x.mat", classic(tables)))


def test_a_bool_that_is_neither_true_nor_false(tables):
    label = tables["query"]["label"].copy()
    label[4, 2] = 7
    tables["query"]["label"] = label.view(bool)
    with pytest.raises(InputError, match="label: found 7 in row 4; expected 0 or 1"):
        dataset_from_arrays(**tables)


def test_complex_features(tmp_path, tables):
    tables["query"]["image"] = tables["query"]["image"] * 1j
    with pytest.raises(InputError, match="I_te: found complex128.*expected numbers"):
        load_dataset(write_mat5(tmp_path / "x.mat", classic(tables)))


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"query_idx": [0, 26]},
            "query_idx: found 26 in row 1; expected row numbers, whole and from 0 to 25",
        ),
        ({"query_idx": [-1, 2]}, "query_idx: found -1 in row 0; expected row numbers"),
        ({"query_idx": [0.5]}, "query_idx: found 0.5 in row 0; expected row numbers"),
        ({"query_idx": [3, 4, 3]}, "query_idx: found row 3 more than once; expected"),
        (
            {"query_idx": np.zeros(0, int)},
            r"query_idx: found int64 of shape \(0,\); expected a list of row numbers",
        ),
        (
            {"query_idx": [0, 1], "retrieval_idx": [1, 2], "train_idx": [2]},
            "found 1 rows of query_idx in retrieval_idx; expected",
        ),
        (
            {"query_idx": [0, 1], "retrieval_idx": [2, 3], "train_idx": [1]},
            "found 1 rows of query_idx in train_idx; expected",
        ),
        ({"train_idx": None}, "no train split: found query, retrieval; expected train, query, retrieval"),
        (dict.fromkeys(("train_idx", "query_idx", "retrieval_idx")), "nothing says which rows.* expected train_idx"),
        ({"query_idx": [1, 26], "retrieval_idx": [2, 3], "train_idx": [2]},
         "found 26 in row 1; expected row numbers, whole and from 0 to 25, counted from 0"),
        ({"retrieval_idx": None}, "no retrieval split: found query, train; expected"),
        ({"val_idx": [0]}, "unknown split 'val': found query, retrieval, train, val; expected"),
        ({"test_idx": [0]}, "repeated split 'test'.*expected"),
        ({"train_image": np.ones((2, 2))}, "more than one layout: found keys .*train_image.*; expected I_tr"),
        ({"image": None}, "no layout that is known: found keys .*text.*; expected I_tr"),
        (
            {"images": np.ones((26, 3)), "image": None, "I": np.ones((26, 3))},
            "several image arrays: found keys I, images; exp",
        ),
        (
            {"label_names": np.array(["a", "b"])},
            "label_names: found 2 names; expected one for each of 4 classes",
        ),
    ],
)
def test_bad_row_numbers_and_layouts(change, message, tmp_path, tables):
    whole = indexed(tables) | {
        key: None if value is None else np.array(value) for key, value in change.items()
    }
    path = write_npz(tmp_path / "x.npz", {key: value for key, value in whole.items() if value is not None})
    with pytest.raises(InputError, match=message):
        load_dataset(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda arrays: {k: v for k, v in arrays.items() if "_te" not in k},
            "no query split: found db, tr; expected",
        ),
        (
            lambda arrays: arrays | {k.replace("te", "val"): v for k, v in arrays.items() if "_te" in k},
            "unknown split 'val'",
        ),
        (
            lambda arrays: {k: v for k, v in arrays.items() if k != "I_te"},
            "query: no image array: found keys L, T; expected",
        ),
    ],
)
def test_missing_and_extra_splits(change, message, tmp_path, tables):
    with pytest.raises(InputError, match=message):
        load_dataset(write_npz(tmp_path / "x.npz", change(classic(tables))))


def test_ids_are_not_classes(tables):
    rows = 12_000
    ids = {"image": np.ones((rows, 2)), "text": np.ones((rows, 2)), "label": np.arange(rows)}
    with pytest.raises(InputError, match="label: found 12,000 different values; expected class numbers"):
        dataset_from_arrays(ids, ids, ids)


def test_object_arrays_in_npz_are_refused(tmp_path, tables):
    np.savez(
        tmp_path / "x.npz", **indexed(tables) | {"caption": np.array([Evil(os.system, "x")] * 26, object)}
    )
    with pytest.raises(
        InputError, match="x.npz: caption: refused: found an array of Python objects.*; expected numbers"
    ):
        load_dataset(tmp_path / "x.npz")


def test_hdf5_links_to_other_files_are_not_followed(tmp_path, tables):
    secret = write_hdf5(tmp_path / "secret.h5", indexed(tables))
    whole = indexed(tables)
    image = whole.pop("image")
    path = write_hdf5(tmp_path / "x.h5", whole)
    with h5py.File(path, "r+") as file:
        file["image"] = h5py.ExternalLink(secret, "image")
    with pytest.raises(InputError, match="no layout"):
        load_dataset(path)
    layout = h5py.VirtualLayout(image.shape, image.dtype)
    layout[:] = h5py.VirtualSource(secret, "image", image.shape)
    with h5py.File(path, "r+") as file:
        del file["image"]
        file.create_virtual_dataset("image", layout)
    with pytest.raises(
        InputError, match="image: found a link to another file; expected the data in this one"
    ):
        load_dataset(path)


def test_a_shape_that_the_file_cannot_hold(tmp_path, tables):
    path = write_hdf5(tmp_path / "x.h5", {key: a for key, a in indexed(tables).items() if key != "image"})
    with h5py.File(path, "r+") as file:
        file.create_dataset("image", (10**12, 512), np.float32, chunks=(100, 512))
    with pytest.raises(InputError, match=r"image: found shape \(1000000000000, 512\) in a file of .* bytes"):
        load_dataset(path)


# --- pickles that carry code --------------------------------------------------------------------------------


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "function, name",
    [
        (os.system, f"{os.name}.system"),
        (eval, "builtins.eval|__builtin__.eval"),
        (getattr, "builtins.getattr|__builtin__.getattr"),
    ],
)
def test_code_in_a_pickle_does_not_run(protocol, function, name, tmp_path, tables):
    marker = tmp_path / "it ran"
    command = f"touch '{marker}'" if function is os.system else f"open({str(marker)!r}, 'w')"
    path = write_pickles(tmp_path / "p", tables, protocol)
    for content in (
        Evil(function, command),
        tables["train"] | {"extra": [{"deep": Evil(function, command)}]},
    ):
        (path / "train.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        with pytest.raises(
            InputError, match=f"train.pkl: refused: the pickle asks for ({name}), and nothing.*expected"
        ):
            load_dataset(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"cnumpy.f2py.diagnose\nrun_command\n(S'id'\ntR.", "asks for numpy.f2py.diagnose.run_command,"),
        (b"cnumpy\nload\n(S'x'\ntR.", "asks for numpy.load,"),
        (b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.", "asks for numpy.core.multiarray.fromfile,"),
        (
            b"cnumpy._core.numeric\n_core.multiarray._reconstruct\n.",
            "asks for numpy._core.numeric._core.multiarray",
        ),
        (b"\x80\x04\x8c\x05numpy\x8c\x0fdtype.__class__\x93.", "asks for numpy.dtype.__class__,"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n.", "asks for torch._utils._rebuild_tensor_v2,"),
        (b"ccollections\nOrderedDict\n(tR.", "asks for collections.OrderedDict,"),
        (b"c_codecs\nencode\n(V\nS'zlib'\ntR.", "encodes text as 'zlib'"),
        (b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.", "has an array of 'O8'; expected numbers or strings"),
        (b"Pid\n.", "cannot be read .*persistent"),
        (b"]q\x00h\x00a.", "found a list; expected a dict"),
        (b"", "cannot be read .*ends early"),
        (b"\x80\x04Nr\xff\xff\xff\x7f.", "found a NoneType; expected a dict"),  # a place far beyond any memory
        (b"\x80\x04\x95" + b"\xff" * 4 + bytes(4) + b"N.", "cannot be read .*4,294,967,295 more bytes are promised"),
        (b"\x8e" + b"\xff" * 7 + b"\x0f.", "cannot be read .*more bytes are promised, and 1 are there"),
    ],
)
def test_other_pickles_that_are_refused(content, message, tmp_path, tables):
    path = write_pickles(tmp_path / "p", tables, 4)
    (path / "train.pkl").write_bytes(content)
    with pytest.raises(InputError, match=f"train.pkl: .*{message}"):
        load_dataset(path)


def test_a_pickle_cannot_change_how_the_next_one_is_read(tmp_path, tables):
    path = write_pickles(tmp_path / "p", tables, 4)
    expected = load_dataset(path).fingerprint
    # BUILD with a state (None, {...}) sets attributes of the function that stands for numpy.dtype.
    (path / "train.pkl").write_bytes(
        b"cnumpy\ndtype\n(N(dS'__defaults__'\n(I1\nI2\nI3\ntsS'__kwdefaults__'\n(dstb."
    )
    with pytest.raises(InputError):
        load_dataset(path)
    write_pickles(path, tables, 4)
    assert load_dataset(path).fingerprint == expected


# --- damaged files ------------------------------------------------------------------------------------------


DAMAGED = {  # text as fixed-length bytes: the HDF5 library can hang on a damaged heap of strings
    "pickle 2": lambda d, t: write_pickles(d, t, 2),
    "pickle 4": lambda d, t: write_pickles(d, t, 4),
    "pickle 5": lambda d, t: write_pickles(d, t, 5),
    "h5": lambda d, t: write_hdf5(
        d / "x.h5",
        {
            key: np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
            for key, array in flat(t, "{split}/{field}").items()
        },
    ),
    "h5 gzip": lambda d, t: write_hdf5(d / "x.h5", classic(t), compression="gzip"),
    "npz": lambda d, t: write_npz(d / "x.npz", indexed(t)),
    "npz deflated": lambda d, t: write_npz(d / "x.npz", indexed(t), np.savez_compressed),
    "mat 5": WRITERS["mat 5 structs"][0],
    "mat 5 deflated": WRITERS["mat 5 row numbers, deflated"][0],
    "mat 7.3": WRITERS["mat 7.3 classic"][0],
}


@pytest.mark.parametrize("kind", DAMAGED)
@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(damage=st.data())
def test_a_damaged_file_loads_or_is_refused(kind, damage, tmp_path, tables):
    path = DAMAGED[kind](tmp_path, tables)
    file = path / "train.pkl" if path.is_dir() else path
    content = bytearray(file.read_bytes())
    for place in damage.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = damage.draw(st.integers(0, 255))
    del content[damage.draw(st.integers(len(content) // 4, len(content) * 4)) :]
    file.write_bytes(content)
    try:
        load_dataset(path)
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("kept", [0, 0.1, 0.5, 0.9])
def test_a_file_cut_short_is_refused(kind, kept, tmp_path, tables):
    path = DAMAGED[kind](tmp_path, tables)
    file = path / "train.pkl" if path.is_dir() else path
    os.truncate(file, int(file.stat().st_size * kept))
    with pytest.raises(InputError, match=str(file)):
        load_dataset(path)


@pytest.mark.parametrize("kind", ["npz", "npz deflated", "mat 5 deflated"])
def test_a_checksum_that_does_not_match_is_noticed(kind, tmp_path, tables):
    tables["retrieval"] = table(np.random.default_rng(1), 401, image=101)  # odd: padded
    tables["query"] = table(np.random.default_rng(2), 6, image=101)
    path = DAMAGED[kind](tmp_path, tables)
    content = bytearray(path.read_bytes())
    if "npz" in kind:  # the CRC-32 in the central directory
        place = content.rindex(b"PK\x01\x02", 0, content.rindex(b"image.npy")) + 16
    else:  # the Adler-32 at the end of the first variable, which is image
        place = 136 + int.from_bytes(content[132:136], "little") - 1
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"image: cannot be read \(.*(CRC-32|incorrect data check)"):
        load_dataset(path)


def test_a_million_empty_lines_of_text_are_not_made(tmp_path, tables):
    path = write_mat5(tmp_path / "x.mat", classic(tables))
    names = tmp_path / "names.mat"
    scipy.io.savemat(names, {"label_names": np.array(["ab", "cd"])})
    variable = names.read_bytes()[128:].replace(struct.pack("<ii", 2, 2), struct.pack("<ii", 10**9, 2), 1)
    path.write_bytes(path.read_bytes() + variable)
    with pytest.raises(InputError, match=r"4 letters for shape \(1000000000, 2\)"):
        load_dataset(path)


# --- memory -------------------------------------------------------------------------------------------------


MEASURE = """
import os, sys, h5py, scipy.io, torch, load_data
def status(key):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(key))
def measure(path):
    open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
    before = status("VmRSS")
    data = load_data.load_dataset(path)
    peak = status("VmHWM") - before
    tensors = [getattr(split, key) for split in (data.query, data.retrieval) for key in load_data.FIELDS]
    assert data.train.image.untyped_storage().data_ptr() == data.retrieval.image.untyped_storage().data_ptr()
    print(peak / sum(tensor.nbytes for tensor in tensors), flush=True)
for path in sys.argv[2:]:
    if os.fork() == 0:  # memory that one file left behind would make the next one's peak look lower
        load_data.load_dataset(sys.argv[1])  # carries what is set up once
        measure(path)
        os._exit(0)
    assert os.wait()[1] == 0
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures with Linux's /proc")
def test_loading_peaks_at_no_more_than_1_6_times_the_arrays(tmp_path):
    rng = np.random.default_rng(0)
    retrieval, query = (
        {key: rng.random((rows, 512), np.float32) for key in ("image", "text")}
        | {"label": np.eye(10, dtype=int)[rng.integers(10, size=rows)]}
        for rows in (40_000, 200)
    )
    tables = {
        "train": {key: array[:500] for key, array in retrieval.items()},
        "query": query,
        "retrieval": retrieval,
    }
    few = {split: {key: array[:100] for key, array in table.items()} for split, table in tables.items()}
    first = write_npz(tmp_path / "first.npz", indexed(few))
    paths = [
        write_pickles(tmp_path / "p4", tables, 4),
        write_hdf5(tmp_path / "x.h5", indexed(tables)),
        write_npz(tmp_path / "x.npz", indexed(tables)),
        write_mat5(tmp_path / "five.mat", classic(tables)),
        write_mat73(tmp_path / "seven.mat", classic(tables)),
    ]
    output = subprocess.run(
        [sys.executable, "-c", MEASURE, str(first), *map(str, paths)],
        cwd=ROOT,
        text=True,
        check=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ).stdout
    ratios = dict(zip([path.name for path in paths], map(float, output.split())))
    assert len(ratios) == 5 and all(0.9 <= ratio <= 1.6 for ratio in ratios.values()), ratios


# --- the command --------------------------------------------------------------------------------------------


def test_the_command_describes_and_converts(tmp_path, tables, capsys):
    tables["query"]["label"][0] = 0
    write_pickles(tmp_path / "mine", tables, 4)
    main(["mine", "--data_dir", str(tmp_path), "--convert", str(tmp_path / "out.h5")])
    printed = capsys.readouterr().out
    assert "7 image features, 5 text features, 4 classes" in printed
    assert "train            12 pairs" in printed and "a run of retrieval" in printed
    assert "warning: query: 1 of 6 rows have no label" in printed
    converted = load_dataset(tmp_path / "out.h5")
    assert f"fingerprint {converted.fingerprint}" in printed
    assert_holds(converted, tables, columns=True)
    assert share(converted, "image")


def test_converting_keeps_names_and_a_train_split_of_its_own(tmp_path, tables):
    tables["train"] = table(np.random.default_rng(5), 3)
    dataset = dataset_from_arrays(**tables, label_names=["a", "b", "ç", "d"])
    save_hdf5(dataset, tmp_path / "out.h5")
    again = load_dataset(tmp_path / "out.h5")
    assert again.label_names == dataset.label_names and again.fingerprint == dataset.fingerprint
    assert_holds(again, tables, columns=True)


def test_converting_keeps_the_attributes_and_the_file_it_reads(tmp_path):
    openmoji = load_dataset("openmoji", ROOT / "data")
    save_hdf5(openmoji, tmp_path / "out.h5")
    again = load_dataset(tmp_path / "out.h5")
    assert {"licence", "attribution", "encoders"} <= attributes(again).keys()
    assert attributes(again) == attributes(openmoji)
    with pytest.raises(InputError, match="the data set's own file"):
        save_hdf5(again, tmp_path / "out.h5")


@pytest.mark.parametrize("name", ["train.h5", "new.h5"])
def test_a_data_set_is_not_converted_into_its_own_folder(tmp_path, tables, name):
    folder = write_pickles(tmp_path / "p", tables, 4)
    dataset, before = load_dataset(folder), sorted(path.name for path in folder.iterdir())
    with pytest.raises(InputError, match=f"{name}: lies in the folder of the data set"):
        save_hdf5(dataset, folder / name)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_the_command_ends_bad_input_with_one_line_and_status_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["nothing", "--data_dir", str(tmp_path)])
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_conversion_that_fails_leaves_nothing(tmp_path, tables):
    dataset = dataset_from_arrays(**tables)
    with pytest.raises(InputError, match="out.npz: found file type '.npz'; expected .h5"):
        save_hdf5(dataset, tmp_path / "out.npz")
    save_hdf5(dataset, tmp_path / "out.h5")
    before = (tmp_path / "out.h5").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as a full disk: Python ignores SIGXFSZ
    try:
        with pytest.raises(InputError, match="out.h5: cannot write"):
            save_hdf5(dataset, tmp_path / "out.h5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "out.h5").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]
