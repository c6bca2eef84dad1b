"""Pictures and texts encoded in chunks, and the file that comes of them: resuming, bad pictures, several captions."""

from __future__ import annotations

import errno
import io
import os
import random
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import extract_features
from common.errors import InputError
from extraction import captions as of_captions, chunks, dataset_file, encoders
from extraction.collection import Collection
from extraction.dataset_file import make_dataset
from extraction.download import File, Pictures
from extraction.encoders import Encoder, Encoders, packaged
from load_data import load_dataset
from toy_encoders import lengths, mean_colour, stub_encoders, toy_encoders  # noqa: F401, a fixture

COUNT = 30


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 8)


@pytest.fixture
def out(tmp_path, stub_encoders) -> Path:
    return tmp_path / "data" / "mine" / "mine.h5"


def collection(folder: Path, count: int = COUNT, captions: int = 1) -> Collection:
    """Pictures of one colour each; picture i is (i, 2 i, 100), caption j of it has 1 + i + 40 j letters, and it has the
    labels ``i mod 3`` and, from 20 on, ``late``. Every fifth is a query.
    """
    folder.mkdir(exist_ok=True)
    for row in range(count):
        Image.new("RGB", (30, 20), (row, 2 * row, 100)).save(folder / f"{row}.png")
    rows = np.arange(count, dtype=np.int32)
    splits = {"query_idx": rows[::5], "retrieval_idx": rows[rows % 5 > 0], "train_idx": rows[rows % 5 == 1]}
    names = [f"{row}.png" for row in range(count)]
    return Collection([folder / name for name in names],
                      [["x" * (1 + row + 40 * number) for number in range(captions)] for row in range(count)],
                      [[str(row % 3), *["late"] * (row >= 20)] for row in range(count)], splits,
                      {"image_file": names, "id": [str(100 + row) for row in range(count)]}, {"source": "made"})


def content(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {key: item.asstr()[:] if h5py.check_string_dtype(item.dtype) else item[:] for key, item in file.items()}


def check_rows(found: dict[str, np.ndarray], kept: list[int]) -> None:
    """That everything in a file is about the same pictures of :func:`collection`, those that are named."""
    np.testing.assert_array_equal(found["image"], [[row, 2 * row, 100] for row in kept])
    np.testing.assert_array_equal(found["text"], [[1 + row, 1] for row in kept])
    assert list(map(len, found["caption"])) == [1 + row for row in kept]
    assert found["image_file"].tolist() == [f"{row}.png" for row in kept]
    assert found["id"].tolist() == [str(100 + row) for row in kept]
    assert found["label_names"].tolist() == ["0", "1", "2", "late"]
    np.testing.assert_array_equal(found["label"], [[*(row % 3 == number for number in range(3)), row >= 20]
                                                   for row in kept])
    for split, belongs in (("query", lambda row: row % 5 == 0), ("retrieval", lambda row: row % 5 > 0),
                           ("train", lambda row: row % 5 == 1)):
        assert [kept[row] for row in found[f"{split}_idx"]] == [row for row in kept if belongs(row)], split


def report(out: Path) -> list[str]:
    return (out.parent / "mine.problems.txt").read_text(encoding="utf-8").splitlines()


def counting(monkeypatch, at: int | None = None, stop: Callable[[], None] = lambda: None) -> list[int]:
    """Toy encoders that note how many images they encode at a time; before the batch ``at`` they call ``stop``."""
    sizes: list[int] = []

    def encode(batch):
        if len(sizes) == at:
            stop()
        sizes.append(len(batch))
        return np.stack(batch).astype(np.float32)

    toy = toy_encoders()
    monkeypatch.setattr(packaged, "load", lambda: Encoders(Encoder(mean_colour, encode, 3), toy.text, toy.names))
    return sizes


# --- the file -----------------------------------------------------------------------------------------------


def test_everything_stays_in_its_row(out, tmp_path):
    make_dataset(out, collection(tmp_path / "pictures"))
    found = content(out)
    check_rows(found, list(range(COUNT)))
    assert {key: found[key].dtype.str[1:] for key in ("image", "text", "label", "query_idx")} == {
        "image": "f2", "text": "f2", "label": "u1", "query_idx": "i4"}
    assert "image_of_text" not in found and [path.name for path in out.parent.iterdir()] == ["mine.h5"]
    with h5py.File(out) as file:
        assert file.attrs["source"] == "made" and file.attrs["preprocessing"] == "none"
        assert file["image"].compression_opts == 9 and file["image"].shuffle
    assert len(load_dataset("mine", tmp_path / "data").query) == 6


def test_the_file_is_that_of_arrays_written_at_once(out, tmp_path, monkeypatch):
    """What HDF5 compresses together is the same, and so every byte."""
    monkeypatch.setattr(chunks, "CHUNK", 512)
    wide = np.random.default_rng(0).normal(size=(1300, 300)).astype(np.float32)
    rows = iter(wide)
    toy = toy_encoders()
    monkeypatch.setattr(packaged, "load", lambda: Encoders(
        Encoder(lambda image: 0, lambda batch: np.stack([next(rows) for _ in batch]), 32), toy.text, toy.names))
    dots = (Image.new("RGB", (1, 1)) for _ in range(1300))
    splits = {name: np.array([0], np.int32) for name in ("query_idx", "retrieval_idx", "train_idx")}
    make_dataset(out, Collection(dots, [["é" * (row % 9 + 1)] for row in range(1300)], None, splits))
    with h5py.File(out) as file, h5py.File(io.BytesIO(), "w") as whole:
        for name, array in (("image", wide.astype(np.float16)), ("caption", file["caption"][:])):
            expected = whole.create_dataset(name, data=array, compression=9, shuffle=True)
            assert file[name].chunks == expected.chunks
            np.testing.assert_array_equal(file[name][:], array)
            for part in np.ndindex(*(-(-length // size) for length, size in zip(array.shape, expected.chunks))):
                offset = tuple(place * size for place, size in zip(part, expected.chunks))
                assert file[name].id.read_direct_chunk(offset) == expected.id.read_direct_chunk(offset)


# --- resuming -----------------------------------------------------------------------------------------------


def killed(work: Callable[[], None]) -> None:
    """Do the work in a process that kills itself in the midst of it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_killed_run_is_resumed_to_the_same_bytes(out, tmp_path, monkeypatch, capfd):
    pairs = collection(tmp_path / "pictures")
    (tmp_path / "pictures/3.png").write_bytes(b"no picture")
    sizes = counting(monkeypatch)
    make_dataset(out, pairs)
    assert sizes == [3, 3, 1, 3, 3, 2, 3, 3, 2, 3, 3]  # no batch crosses the border between two chunks
    whole, problems = out.read_bytes(), report(out)
    for path in out.parent.iterdir():
        path.unlink()
    counting(monkeypatch, at=7, stop=lambda: os.kill(os.getpid(), signal.SIGKILL))
    killed(lambda: make_dataset(out, pairs))
    assert not out.exists()
    assert {"000000.npz", "000001.npz"} <= set(os.listdir(out.parent / "mine.h5.partial"))
    sizes = counting(monkeypatch)
    capfd.readouterr()
    make_dataset(out, pairs)
    assert sizes == [3, 3, 2, 3, 3]
    assert out.read_bytes() == whole and report(out) == problems and "3.png" in problems[0]
    assert capfd.readouterr().err.count("mine.h5.partial: an earlier run is resumed") == 1
    assert sorted(path.name for path in out.parent.iterdir()) == ["mine.h5", "mine.problems.txt"]


def interrupted(out: Path, pairs: Collection, monkeypatch) -> None:
    """Encode two of four chunks."""
    def stop():
        raise KeyboardInterrupt

    counting(monkeypatch, at=7, stop=stop)
    with pytest.raises(KeyboardInterrupt):
        make_dataset(out, pairs)
    assert sorted(os.listdir(out.parent / "mine.h5.partial")) == [".lock", "000000.npz", "000001.npz"]


@pytest.mark.parametrize("change, rows", [
    (lambda pairs, folder: None, 14),
    (lambda pairs, folder: Image.new("RGB", (30, 21), (9, 18, 100)).save(folder / "9.png"), 22),
    (lambda pairs, folder: os.utime(folder / "0.png", (1, 1)), 22),
    (lambda pairs, folder: pairs.captions.__setitem__(0, ["y"]), 22),
    (lambda pairs, folder: (folder.parent / "data/mine/mine.h5.partial/000000.npz").write_bytes(b"PK"), 22),
    (lambda pairs, folder: (pairs.images.reverse(), pairs.captions.reverse()), 30),
])
def test_what_has_changed_is_encoded_again(change, rows, out, tmp_path, monkeypatch, capfd):
    pairs = collection(tmp_path / "pictures")
    interrupted(out, pairs, monkeypatch)
    change(pairs, tmp_path / "pictures")
    sizes = counting(monkeypatch)
    make_dataset(out, pairs)
    assert sum(sizes) == rows
    assert ("they are made anew" in capfd.readouterr().err) == (rows > 14)
    found = content(out)
    np.testing.assert_array_equal(found["text"][:, 0], list(map(len, found["caption"])))
    np.testing.assert_array_equal(found["image"][:, 0], [int(path.stem) for path in pairs.images])


def test_a_larger_limit_of_pixels_takes_in_what_was_left_out(out, tmp_path, monkeypatch):
    pairs = collection(tmp_path / "pictures")
    Image.new("RGB", (30, 21), (9, 18, 100)).save(tmp_path / "pictures/9.png")
    monkeypatch.setattr(encoders.pictures, "max_pixels", 600)
    interrupted(out, pairs, monkeypatch)
    monkeypatch.setattr(encoders.pictures, "max_pixels", 630)
    counting(monkeypatch)
    make_dataset(out, pairs)
    check_rows(content(out), list(range(COUNT)))


def test_other_encoders_begin_anew(out, tmp_path, monkeypatch):
    pairs = collection(tmp_path / "pictures")
    interrupted(out, pairs, monkeypatch)
    monkeypatch.setattr(packaged, "load", lambda: toy_encoders("other (here, weights 01)"))
    make_dataset(out, pairs)
    with h5py.File(out) as file:
        assert file.attrs["encoders"] == "other (here, weights 01)"
    check_rows(content(out), list(range(COUNT)))


@pytest.mark.parametrize("changed", [False, True])
def test_pictures_that_are_drawn_are_known_by_their_pixels(changed, out, tmp_path, monkeypatch):
    pairs = collection(tmp_path / "pictures")
    pairs.images = (Image.new("RGB", (9, 9), (row, 2 * row, 100)) for row in range(COUNT))
    interrupted(out, pairs, monkeypatch)
    red = [row + 100 * (changed and row == 9) for row in range(COUNT)]
    pairs.images = (Image.new("RGB", (9, 9), (red[row], 2 * row, 100)) for row in range(COUNT))
    sizes = counting(monkeypatch)
    make_dataset(out, pairs)
    assert sum(sizes) == (22 if changed else 14)
    assert content(out)["image"][9, 0] == (109 if changed else 9)


def test_a_full_disk_is_one_line_and_loses_nothing(out, tmp_path, monkeypatch):
    pairs = collection(tmp_path / "pictures")
    save, saved = np.savez, []
    counting(monkeypatch)

    def full(file, **arrays):
        if len(saved) == 2:
            file.write(b"some")
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(save(file, **arrays))

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(InputError, match=r"000002\.npz: cannot write: No space left on device; nothing was "
                                             r"written; the chunks that are finished are kept: make room") as error:
            make_dataset(out, pairs)
    assert "\n" not in str(error.value)
    assert sorted(os.listdir(out.parent / "mine.h5.partial")) == [".lock", "000000.npz", "000001.npz"]
    sizes = counting(monkeypatch)
    make_dataset(out, pairs)
    assert sum(sizes) == 14
    check_rows(content(out), list(range(COUNT)))


# --- bad pictures and captions ------------------------------------------------------------------------------


def spoil(folder: Path) -> dict[int, str]:
    """Make some pictures of :func:`collection` unreadable; returns what the report says of each, by row."""
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[:len(whole) // 2])
    (folder / "2.png").write_bytes(b"")
    (folder / "4.png").write_bytes(b"\x89PNG but no picture")
    for row in (5, 11, 12, 29):
        (folder / f"{row}.png").unlink()
    os.mkfifo(folder / "5.png")
    (folder / "11.png").symlink_to(folder / "nowhere.png")
    Image.fromarray(np.zeros((9, 9), np.float32)).save(folder / "29.png", "TIFF")
    return {1: "1.png: damaged image (", 2: "2.png: can't be read as an image (the file is empty)",
            4: "4.png: can't be read as an image (expected JPEG, PNG, GIF, ", 5: "a pipe or a device",
            11: "11.png: can't be read as an image (No such file", 12: "12.png: can't be read as an image (No such file",
            29: "29.png: pixel type 'F'; expected 8 or 16 bits"}


def test_bad_pictures_are_named_and_left_out_with_all_that_belongs_to_them(out, tmp_path, capsys):
    pairs = collection(tmp_path / "pictures")
    pairs.problems = ["99.png: has no caption"]  # of the layout
    wrong = spoil(tmp_path / "pictures")
    make_dataset(out, pairs)
    kept = [row for row in range(COUNT) if row not in wrong]
    check_rows(content(out), kept)
    first, *others = report(out)
    assert first == "99.png: has no caption" and len(others) == len(wrong)
    assert all(part in line and str(tmp_path) in line for part, line in zip(wrong.values(), others))
    printed = capsys.readouterr()
    assert printed.err == (f"warning: 8 problems are named in {out.parent}/mine.problems.txt; for them 7 of 30 pairs are "
                           f"left out\n")
    assert printed.out.startswith(f"{out}: 23 pairs (5 query, 18 retrieval, 4 of them train)")
    # A later run in which all is well takes the report away.
    make_dataset(out, collection(tmp_path / "others"))
    assert [path.name for path in out.parent.iterdir()] == ["mine.h5"]


def test_shuffled_input_gives_the_same_pairs(out, tmp_path):
    """A label or a caption never slips to another row, whatever is left out before it."""
    pairs = collection(tmp_path / "pictures")
    wrong = spoil(tmp_path / "pictures")
    pairs.captions[7] = [" "]
    found = []
    for seed in range(2):
        order = random.Random(seed).sample(range(COUNT), COUNT)
        place = {row: number for number, row in enumerate(order)}
        shuffled = Collection(
            *([column[row] for row in order] for column in (pairs.images, pairs.captions, pairs.labels)),
            {name: np.sort([place[row] for row in rows]).astype(np.int32) for name, rows in pairs.splits.items()},
            {name: [column[row] for row in order] for name, column in pairs.columns.items()})
        make_dataset(out, shuffled)
        found.append(content(out))
        left = [row for row in order if row not in wrong and row != 7]
        check_rows(found[-1], left)
    assert found[0]["id"].tolist() != found[1]["id"].tolist()
    assert sorted(found[0]["id"]) == sorted(found[1]["id"])


def test_strict_refuses_the_first_bad_picture_and_keeps_what_is_done(out, tmp_path, monkeypatch):
    pairs = collection(tmp_path / "pictures")
    (tmp_path / "pictures/20.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"--strict: .*20\.png: can't be read as an image \(the file is empty\)"):
        make_dataset(out, pairs, strict=True)
    assert not out.exists() and sorted(os.listdir(out.parent / "mine.h5.partial")) == [".lock", "000000.npz", "000001.npz"]
    Image.new("RGB", (30, 20), (20, 40, 100)).save(tmp_path / "pictures/20.png")
    make_dataset(out, pairs, strict=True)
    check_rows(content(out), list(range(COUNT)))
    # Nor does it take over what an earlier run left out.
    (tmp_path / "pictures/1.png").write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr(dataset_file, "_write", lambda *_: os.read(-1, 1))
        with pytest.raises(InputError):
            make_dataset(out, pairs)
    with pytest.raises(InputError, match=r"--strict: 1 problems, the first is .*1\.png: can't be read"):
        make_dataset(out, pairs, strict=True)


def test_nothing_that_can_be_used_is_one_line(out, tmp_path):
    pairs = collection(tmp_path / "pictures")
    for row in range(0, COUNT, 5):
        (tmp_path / f"pictures/{row}.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"no pair of query is left: 6 of 30 pictures can't be used; "
                                         r".*mine\.problems\.txt says why"):
        make_dataset(out, pairs)
    assert len(report(out)) == 6 and not out.exists()


@pytest.mark.parametrize("more", [-1, 1])
def test_another_number_of_pictures_than_of_captions_is_no_data_set(more, out, tmp_path):
    pairs = collection(tmp_path / "pictures")
    pairs.images = pairs.images[:-1] if more < 0 else [*pairs.images, pairs.images[0]]
    with pytest.raises(ValueError, match="pictures"):
        make_dataset(out, pairs)
    assert not out.exists()


def test_odd_captions_are_mended_or_left_out_and_named(out, tmp_path):
    pairs = collection(tmp_path / "pictures")
    pairs.captions[0] = ["a\0b"]
    pairs.captions[1] = ["half \ud800"]
    pairs.captions[2] = [""]
    pairs.captions[3] = ["word " * 4000]
    pairs.captions[4] = ["猫 и кот 🐈"]
    with pytest.raises(InputError, match=r"--strict: 3 problems, the first is 0\.png: caption: has NULs"):
        make_dataset(out, pairs, strict=True)
    make_dataset(out, pairs)
    found = content(out)
    assert found["caption"][:2].tolist() == ["a b", "half ?"] and found["caption"][3] == "猫 и кот 🐈"
    assert len(found["caption"][2]) == of_captions.LONGEST == found["text"][2, 0]
    assert found["id"].tolist() == [str(100 + row) for row in range(COUNT) if row != 2]
    assert report(out) == ["0.png: caption: has NULs or damaged characters, which are replaced",
                           "1.png: caption: has NULs or damaged characters, which are replaced",
                           "3.png: caption: 20,000 characters, of which the first 10,000 are taken",
                           "2.png: no caption, left out"]


def test_pictures_are_read_out_of_an_archive(out, tmp_path):
    pairs = collection(tmp_path / "pictures")
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for row in range(COUNT):
            content_of = (tmp_path / f"pictures/{row}.png").read_bytes()
            archive.writestr(f"p/{row}.png", content_of[:-30] if row == 9 else content_of)
    pairs.images = Pictures([File(str(tmp_path / "pictures.zip"), f"p/{row}.png") for row in range(COUNT)])
    make_dataset(out, pairs)
    check_rows(content(out), [row for row in range(COUNT) if row != 9])
    assert report(out)[0].startswith("9.png: damaged image (")


# --- several captions ---------------------------------------------------------------------------------------


def test_all_captions_are_texts_of_their_own(out, tmp_path, capsys):
    pairs = collection(tmp_path / "pictures", captions=3)
    pairs.captions[2] = pairs.captions[2][:1]
    pairs.captions[3][1] = " "
    (tmp_path / "pictures/5.png").write_bytes(b"")
    make_dataset(out, pairs)
    found = content(out)
    texts = [(row, 1 + row + 40 * number) for row in range(COUNT) for number in range(3)
             if row != 5 and (row, number) not in ((2, 1), (2, 2), (3, 1))]
    rows = [row - (row > 5) for row, _ in texts]
    assert found["image_of_text"].dtype == np.int64
    np.testing.assert_array_equal(found["image_of_text"], rows)
    np.testing.assert_array_equal(found["text"][:, 0], [length for _, length in texts])
    assert list(map(len, found["caption"])) == [length for _, length in texts]
    assert len(found["image"]) == len(found["label"]) == len(found["id"]) == COUNT - 1
    assert f"(5 query, 24 retrieval, 6 of them train), {len(texts)} captions, image 3" in capsys.readouterr().out


def test_of_several_captions_one_is_taken(out, tmp_path):
    pairs = collection(tmp_path / "pictures", captions=3)
    make_dataset(out, pairs, captions="first")
    check_rows(content(out), list(range(COUNT)))
    drawn = []
    for seed in (0, 0, 1):
        make_dataset(out, pairs, captions="random", seed=seed)
        found = content(out)
        number, rest = np.divmod(found["text"][:, 0] - 1 - np.arange(COUNT), 40)
        assert not rest.any() and list(map(len, found["caption"])) == found["text"][:, 0].tolist()
        drawn.append(number.tolist())
    assert drawn[0] == drawn[1] != drawn[2] and set(drawn[0]) == {0, 1, 2}


def test_the_mean_of_the_captions_is_taken(out, tmp_path):
    pairs = collection(tmp_path / "pictures", captions=3)
    pairs.captions[4] = ["four"]
    make_dataset(out, pairs, captions="mean")
    found = content(out)
    expected = 41 + np.arange(COUNT)
    expected[4] = 4
    np.testing.assert_array_equal(found["text"], np.stack([expected, np.ones(COUNT)], axis=1))
    assert found["caption"][4] == "four" and found["caption"][0].split(" | ") == pairs.captions[0]
    assert "image_of_text" not in found


def test_a_mean_of_unit_vectors_has_unit_length_unless_they_cancel_each_other():
    angles = np.array([0, np.pi / 2, 0.3, 0, np.pi])
    unit = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    np.testing.assert_allclose(chunks.mean_features(unit, [2, 1, 2]),
                               [[2 ** -0.5, 2 ** -0.5], unit[2], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(chunks.mean_features(2 * unit, [2, 1, 2]), [[1, 1], 2 * unit[2], [0, 0]], atol=1e-6)


# --- several encoders ---------------------------------------------------------------------------------------


def test_several_encoders_share_one_pass_over_the_pictures(out, tmp_path, monkeypatch, capsys):
    def load(model):
        image = Encoder(lambda image: mean_colour(image)[:2] + 100, lambda batch: np.stack(batch).astype(np.float32), 5)
        return Encoders(image, Encoder(lambda text: text + "!", lengths, 4), f"mine ({model}, weights 0a)")

    monkeypatch.setitem(encoders.KINDS, "mine", load)
    opened = []
    upright = chunks.upright
    monkeypatch.setattr(chunks, "upright", lambda picture: opened.append(picture) or upright(picture))
    pairs = collection(tmp_path / "pictures")
    make_dataset(out, pairs, encoders.names_in("packaged,mine:big/one"))
    assert sorted(opened) == sorted(pairs.images)
    assert sorted(path.name for path in out.parent.iterdir()) == ["mine-mine-big-one.h5", "mine-packaged.h5"]
    check_rows(content(out.parent / "mine-packaged.h5"), list(range(COUNT)))
    other = content(out.parent / "mine-mine-big-one.h5")
    np.testing.assert_array_equal(other["image"], [[100 + row, 100 + 2 * row] for row in range(COUNT)])
    np.testing.assert_array_equal(other["text"][:, 0], [2 + row for row in range(COUNT)])
    with h5py.File(out.parent / "mine-mine-big-one.h5") as file:
        assert file.attrs["encoders"] == "mine (big/one, weights 0a)"
    assert capsys.readouterr().out.count("30 pairs") == 2
    assert len(load_dataset(str(out.parent / "mine-packaged.h5")).query) == 6


@pytest.mark.parametrize("names, expected", [
    (["packaged"], ["n.h5"]),
    (["packaged", "openai/clip-vit-base-patch32"], ["n-packaged.h5", "n-clip-vit-base-patch32.h5"]),
    (["open_clip:ViT-B-32/openai", "open_clip:ViT-B-32/laion2b"], ["n-ViT-B-32-openai.h5", "n-ViT-B-32-laion2b.h5"]),
    (["a/clip", "b/clip"], None)])
def test_each_encoder_has_a_file(names, expected):
    if expected:
        assert dataset_file.files_of(Path("data/n/n.h5"), names) == [Path("data/n") / name for name in expected]
    else:
        with pytest.raises(InputError, match="--encoders a/clip,b/clip: two would make a file of the same name"):
            dataset_file.files_of(Path("n.h5"), names)


def test_features_that_are_too_large_for_their_type_are_refused(out, tmp_path, monkeypatch):
    toy = toy_encoders()
    huge = Encoder(mean_colour, lambda batch: np.full((len(batch), 2), 1e5, np.float32), 3)
    monkeypatch.setattr(packaged, "load", lambda: Encoders(huge, toy.text, "huge"))
    with pytest.raises(InputError, match="huge: gives features that are not finite as float16"):
        make_dataset(out, collection(tmp_path / "pictures"))


@pytest.mark.parametrize("option", ["--clip", "--encoders"])
def test_the_command_takes_encoders(option, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(encoders.huggingface, "load", lambda model: asked.append(model) or toy_encoders())
    pairs = collection(tmp_path / "pictures", 4)
    rows = "".join(f"{name},{caption}\n" for name, (caption,) in zip(pairs.columns["image_file"], pairs.captions))
    (tmp_path / "captions.csv").write_text(f"image,caption\n{rows}")
    paths = {"--images": "pictures", "--captions": "captions.csv", "--out": "o.h5"}
    extract_features.main(["folder", *(f"{name}={tmp_path / path}" for name, path in paths.items()), "--query", "1",
                           option, "openai/clip"])
    assert asked == ["openai/clip"] and len(content(tmp_path / "o.h5")["image"]) == 4


# --- threads ------------------------------------------------------------------------------------------------


def test_threads_keep_the_order_and_no_more_than_is_asked_for():
    taken, most = [], [0]

    def items():
        for number in range(200):
            taken.append(number)
            yield number

    def work(number):
        time.sleep(0.002 * (number % 3 == 0))
        return number * number

    found = []
    for square in chunks.in_threads(work, items(), ahead=10):
        most[0] = max(most[0], len(taken) - len(found))
        found.append(square)
    assert found == [number * number for number in range(200)] and most[0] <= 11


def test_a_consumer_that_stops_leaves_no_thread_behind():
    started = []
    results = chunks.in_threads(lambda number: started.append(number) or time.sleep(0.01), range(1000), ahead=50)
    next(results)
    results.close()
    count = len(started)
    time.sleep(0.05)
    assert len(started) == count < 52
