"""The data sets as they are downloaded, made small with the names and quirks of the real ones, and their splits."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import extract_features
from extraction import captions, duplicates, flickr8k, mirflickr, nuswide
from extraction.collection import Collection
from extraction.encoders import square
from extraction.folder import read_captions

ROOT = Path(__file__).resolve().parents[1]
Files = dict[str, str | bytes]


def jpeg(value: int) -> bytes:
    """A picture of one grey value."""
    file = io.BytesIO()
    Image.new("L", (8, 8), value).save(file, "JPEG")
    return file.getvalue()


def unpacked(root: Path, files: Files) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def packed(archive: Path, files: Files) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return archive


def under(folder: str, files: Files, rest: bool = False) -> Files:
    """The files below a folder, by their names in it; with ``rest`` all others."""
    if rest:
        return {name: content for name, content in files.items() if not name.startswith(folder)}
    return {name.removeprefix(folder): content for name, content in files.items() if name.startswith(folder)}


@pytest.fixture
def made(monkeypatch) -> Callable[..., Collection]:
    """Runs the command without encoding; returns what it would encode, or None if nothing."""

    def run(*arguments: object) -> Collection | None:
        found = []
        monkeypatch.setattr(extract_features, "make_dataset",
                            lambda out, collection, *_, **__: found.append(collection))
        extract_features.main(list(map(str, arguments)))
        return found[0] if found else None

    return run


def pairs(collection: Collection) -> dict[str, tuple[list[str], list[str], int]]:
    """Captions, labels and the grey value of each picture, by its name."""
    labels = collection.labels or [[]] * len(collection)
    values = [round(square(image).mean()) for image in collection.images]
    names = collection.columns["image_file"]
    assert len(set(names)) == len(collection.captions) == len(labels) == len(values) == len(collection)
    return {name: (list(texts), list(of_row), value)
            for name, texts, of_row, value in zip(names, collection.captions, labels, values)}


def names(collection: Collection, part: str) -> list[str]:
    return [collection.columns["image_file"][row] for row in collection.splits[f"{part}_idx"]]


def refused(capsys, made, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        made(*arguments)
    errors = capsys.readouterr().err
    assert stop.value.code == 2 and errors.startswith("error: ") and errors.count("\n") == 1
    return errors.removeprefix("error: ").rstrip()


# --- made copies --------------------------------------------------------------------------------------------

SMALL = ("--query", "2", "--train", "2")
MIR_TAGS = {1: "sky\nblue\n", 2: "sea\nnikond50\n", 3: "nikond50\n", 4: "Été\nsky\n", 5: "sky\n", 6: "",
            10: "sea\r\nsky\r\n", 11: "sky\n", 12: "sea\n"}
MIR_LABELS = {"sky": (10, 1, 3, 4, 6), "clouds": (1, 12), "clouds_r1": (1, 5), "water": (2, 10, 12), "sea": (2,),
              "people": (11,)}
MIR_PAIRS = {"im1.jpg": (["sky blue"], ["clouds", "sky"], 1), "im2.jpg": (["sea nikond50"], ["sea", "water"], 2),
             "im4.jpg": (["Été sky"], ["sky"], 4), "im10.jpg": (["sea sky"], ["sky", "water"], 10),
             "im11.jpg": (["sky"], ["people"], 11), "im12.jpg": (["sea"], ["clouds", "water"], 12)}


def mir_files() -> Files:
    """MIRFlickr: 5 has no label, 3 and 6 have no common tag, _r1 is no label, 10 comes after 2."""
    lists = {f"{label}.txt": "" for label in mirflickr.LABELS}
    lists |= {f"{label}.txt": "".join(f"{number}\r\n" for number in numbers) for label, numbers in MIR_LABELS.items()}
    return {**{f"mirflickr/im{number}.jpg": jpeg(number) for number in MIR_TAGS},
            **{f"mirflickr/meta/tags/tags{number}.txt": tags for number, tags in MIR_TAGS.items()},
            **{f"mirflickr/meta/tags_raw/tags{number}.txt": "Raw Tag" for number in MIR_TAGS},
            "mirflickr/doc/common_tags.txt": "sky 845\nsea 301\n",
            **{f"mirflickr25k_annotations_v080/{name}": text for name, text in lists.items()},
            "mirflickr25k_annotations_v080/README.txt": "sky 1\n"}


NUS = [(r"actor\0001_2124494179.jpg", "sky person", "cat  dog"), (r"actor\0002_174174086.jpg", "airport", "plane"),
       (r"airplanes\0003_31.jpg", "clouds sky", "été sky"), (r"bear\0004_41.jpg", "animal", ""),
       (r"foal\0005_51.jpg", "animal", "horse"), (r"horse\0006_51.jpg", "animal grass", "horse"),
       (r"zebra\0007_71.jpg", "animal ocean", "zebra"), (r"zebra\0008_81.jpg", "ocean", "sea"),
       (r"zebra\0009_91.jpg", "water", "blue")]
NUS_CONCEPTS = (*nuswide.CONCEPTS, "airport")
NUS_PAIRS = {name.replace("\\", "/"): ([" ".join(tags.split()) or "a photo"],
                                        sorted(set(labels.split()) - {"ocean"}), 10 * row)
             for row, (name, labels, tags) in enumerate(NUS) if row not in (1, 7)}


def nus_files() -> Files:
    """NUS-WIDE: backslashes, an id twice, a picture without a tag, one with neither of the ten concepts."""
    rows = [(name, set(labels.split()), tags) for name, labels, tags in NUS]
    return {"ImageList/Imagelist.txt": "".join(f"{name}  \n" for name, _, _ in rows),
            "ImageList/TestImagelist.txt": "".join(f"{name}\n" for name, _, _ in rows[:3]),
            "ImageList/TrainImagelist.txt": "".join(f"{name}\n" for name, _, _ in rows[3:]),
            "NUS_WID_Tags/All_Tags.txt": "".join(f"{re.split('[_.]', name)[1]}      {tags} \n"
                                                 for name, _, tags in rows) + "\n",
            "NUS_WID_Tags/AllTags1k.txt": "".join(f"0\t{int('s' in tags)}\t0\n" for _, _, tags in rows),
            **{f"Groundtruth/AllLabels/Labels_{concept}.txt":
               "".join(f"{concept in labels:d}\n" for _, labels, _ in rows) for concept in NUS_CONCEPTS},
            "Groundtruth/TrainTestLabels/Labels_lake_Train.txt": "0\n-1130179\n",
            **{f"Flickr/{name}".replace("\\", "/"): jpeg(10 * row) for row, (name, _, _) in enumerate(rows)}}


CATEGORIES = [{"id": 1, "name": "person"}, {"id": 13, "name": "stop sign"}, {"id": 90, "name": "toothbrush"}]
COCO = {9: ([90, 1, 1], "train"), 25: ([], "train"), 30: ([13], "train"), 42: ([1], "val"), 522418: ([13, 90], "val")}
COCO_PAIRS = {number: ([f"caption {k} of {number}" for k in range(6 if number == 30 else 5)],
                       sorted({1: "person", 13: "stop sign", 90: "toothbrush"}[label] for label in set(labels)), value)
              for value, (number, (labels, _)) in enumerate(COCO.items())}


def coco_name(number: int, part: str, year: int) -> str:
    return f"COCO_{part}2014_{number:012d}.jpg" if year == 2014 else f"{number:012d}.jpg"


def coco_files(year: int, shuffle: Callable[[list], None] = lambda items: None) -> Files:
    """COCO: ids of categories with gaps, a picture of six captions, one without an instance."""
    files: Files = {}
    for part in ("train", "val"):
        numbers = [number for number, (_, of) in COCO.items() if of == part]
        images = [{"file_name": coco_name(number, part, year), "id": number} for number in numbers]
        captions = [{"image_id": number, "id": 10 * number + k, "caption": f"caption {k} of\n {number} "}
                    for number in numbers for k in range(len(COCO_PAIRS[number][0]))]
        instances = [{"segmentation": [[1.5, 2e-1, 3, 4]] if k else {"counts": [1, 2], "size": [1, 2]}, "iscrowd": 0,
                      "image_id": number, "bbox": [1, 2, 3, 4], "category_id": label, "id": 100 * number + k}
                     for number in numbers for k, label in enumerate(COCO[number][0])]
        categories = list(CATEGORIES)
        for items in (images, captions, instances, categories):
            shuffle(items)
        files[f"annotations/captions_{part}{year}.json"] = json.dumps({"images": images, "annotations": captions})
        files[f"annotations/instances_{part}{year}.json"] = json.dumps(
            {"images": images, "annotations": instances, "categories": categories})
        files |= {f"{part}{year}/{coco_name(number, part, year)}": jpeg(COCO_PAIRS[number][2]) for number in numbers}
    return files


FLICKR = ("1000.jpg", "2000.jpg", "300.jpg", "4_ab.jpg")
FLICKR_PAIRS = {name: ([f"A, {k} of \"{name[0]}\" ." for k in range(5)], [], value)
                for value, name in enumerate(FLICKR)}


def flickr_lines(line: str) -> list[str]:
    return [line.format(name=name, k=k, text=text) for name, (texts, _, _) in FLICKR_PAIRS.items()
            for k, text in enumerate(texts)]


def karpathy_file(entries: Iterable[dict]) -> str:
    return json.dumps({"dataset": "made", "images": [{"imgid": row, "sentids": [], **entry}
                                                     for row, entry in enumerate(entries)]})


def flickr_files(form: str) -> Files:
    pictures: Files = {f"flickr30k-images/{name}": jpeg(value) for value, name in enumerate(FLICKR)}
    pictures["flickr30k-images/._1000.jpg"] = b"of another system"
    if form == "json":
        return pictures | {"dataset_flickr30k.json": karpathy_file(
            {"filename": name, "split": split, "sentences": [{"raw": text} for text in FLICKR_PAIRS[name][0]]}
            for name, split in zip(FLICKR, ("train", "test", "val", "train")))}
    if form in ("captions.txt", "numbered captions.txt"):
        numbered = form.startswith("numbered")
        lines = flickr_lines("{name}," + "{k}," * numbered + "{text}")
        for row, text in enumerate(text for texts, _, _ in FLICKR_PAIRS.values() for text in texts):
            if row % 2:  # text with commas is in quotes, or not
                lines[row] = lines[row].replace(text, '"' + text.replace('"', '""') + '"')
        head = "image_name,comment_number,comment" if numbered else "image,caption"
        return pictures | {"captions.txt": "\n".join([head, *lines]) + "\n"}
    if form == "results.csv":
        lines = flickr_lines("{name}| {k}| {text}")
        lines[7] = lines[7].replace("| 2|", "| 2  ")  # as one line of the real file
        return pictures | {form: "image_name| comment_number| comment\n" + "\n".join(lines) + "\n"}
    return pictures | {form: "\n".join(flickr_lines("{name}#{k}\t{text}")) + "\n"}


# --- each layout --------------------------------------------------------------------------------------------


def place(kind: str, root: Path, files: Files, packs: dict[str, str]) -> Path:
    """The files below ``root``: unpacked, in a further folder, or in archives, each named by the folder it has."""
    if kind == "unpacked":
        return unpacked(root, files)
    if kind == "nested":
        return unpacked(root, {f"downloads/{name}": content for name, content in files.items()})
    for folder, archive in packs.items():
        packed(root / archive, under(folder, files) | {"__MACOSX/._im1.jpg": b"of another system"})
        files = under(folder, files, rest=True)
    return unpacked(root, files)


@pytest.mark.parametrize("kind", ["unpacked", "nested", "packed"])
def test_mirflickr_is_read_as_it_comes(kind, made, tmp_path):
    files = mir_files()
    root = place(kind, tmp_path, files, {"mirflickr25k_annotations_v080/": "mirflickr25k_annotations_v080.zip",
                                         "": "mirflickr25k.zip"})
    found = made("mirflickr", "--root", root, *SMALL)
    assert pairs(found) == MIR_PAIRS and list(pairs(found)) == list(MIR_PAIRS)
    assert found.columns["id"] == ["1", "2", "4", "10", "11", "12"] and not found.problems
    assert len(found.label_names) == 24 and list(found.label_names) == sorted(found.label_names)
    assert "6 of the 8 pictures with one of the 24 labels have one of the 2 common tags" in found.attributes["filter"]


@pytest.mark.parametrize("kind", ["unpacked", "nested", "packed"])
def test_nus_wide_is_read_as_it_comes(kind, made, tmp_path):
    root = place(kind, tmp_path, nus_files(), {"Groundtruth/": "Groundtruth.zip", "ImageList/": "ImageList.zip",
                                               "NUS_WID_Tags/": "NUS_WID_Tags.zip"})
    found = made("nus-wide", "--root", root, *SMALL)
    assert pairs(found) == NUS_PAIRS and list(pairs(found)) == list(NUS_PAIRS)
    assert found.columns["id"] == ["2124494179", "31", "41", "51", "51", "71", "91"]
    assert found.label_names == sorted(list(nuswide.CONCEPTS)[:10])
    assert "1 of them have no tag, and 'a photo' as text" in found.attributes["filter"]
    assert found.problems == ["AllLabels: 22 files; the whole data set has 81, of which the 10 concepts are there"]


def test_nus_wide_has_other_concepts_and_only_tagged_pairs_if_asked(made, tmp_path):
    files = nus_files()
    flat = {re.sub(r"^Flickr/.*/", "images/", name): content for name, content in files.items()}  # as some copies are
    root = unpacked(tmp_path, flat)
    found = pairs(made("nus-wide", "--root", root, "--concepts", "21", *SMALL))
    assert found["zebra/0008_81.jpg"] == (["sea"], ["ocean"], 70)
    assert found["zebra/0007_71.jpg"] == (["zebra"], ["animal", "ocean"], 60)
    tagged = pairs(made("nus-wide", "--root", root, "--tagged", "--query", "1", "--train", "2"))
    assert tagged == {name: pair for name, pair in NUS_PAIRS.items() if "s" in pair[0][0]} and len(tagged) == 3


@pytest.mark.parametrize("year", [2014, 2017])
@pytest.mark.parametrize("kind", ["unpacked", "nested", "packed"])
def test_coco_is_read_as_it_comes(kind, year, made, tmp_path):
    root = place(kind, tmp_path, coco_files(year), {
        "annotations/": f"annotations_trainval{year}.zip", f"train{year}/": f"train{year}.zip"})
    labelled = {coco_name(number, COCO[number][1], year): pair for number, pair in COCO_PAIRS.items() if pair[1]}
    found = made("coco", "--root", root, *SMALL)
    assert pairs(found) == labelled and list(pairs(found)) == list(labelled) and not found.problems
    assert found.columns["id"] == ["9", "30", "42", "522418"]
    assert found.label_names == ["person", "stop sign", "toothbrush"]
    everything = pairs(made("coco", "--root", root, "--unlabelled", *SMALL))
    assert len(everything) == 5 and everything[coco_name(25, "train", year)] == COCO_PAIRS[25]


@pytest.mark.parametrize("form", ["results_20130124.token", "captions.txt", "numbered captions.txt", "results.csv",
                                  "json"])
def test_flickr30k_is_read_in_each_form(form, made, tmp_path):
    found = made("flickr30k", "--root", unpacked(tmp_path, flickr_files(form)), "--query", "1")
    assert pairs(found) == FLICKR_PAIRS and found.labels is None and not found.problems
    assert (len(names(found, "query")), len(names(found, "train"))) == (1, 3)


def test_flickr8k_leaves_out_the_name_that_has_no_picture(made, tmp_path):
    files = flickr_files("Flickr8k.token.txt")
    files["Flickr8k.token.txt"] += f"{flickr8k.WITHOUT}#0\tA dog .\n"
    found = made("flickr8k", "--root", unpacked(tmp_path, files), "--query", "1", "--strict")
    assert pairs(found) == FLICKR_PAIRS and not found.problems and flickr8k.WITHOUT in found.attributes["filter"]


def shuffled(text: str | bytes) -> str:
    lines = text.splitlines(keepends=True)
    random.Random(1).shuffle(lines)
    assert lines != text.splitlines(keepends=True)
    return "".join(lines)


def mir_shuffled() -> Files:
    return {name: shuffled(text) if re.search(r"/(sky|clouds|water|common_tags)\.txt", name) else text
            for name, text in mir_files().items()}


def nus_shuffled() -> Files:
    files = nus_files()
    return files | {name: shuffled(files[name])
                    for name in ("NUS_WID_Tags/All_Tags.txt", "ImageList/TestImagelist.txt")}


def flickr_shuffled() -> Files:
    return (files := flickr_files("results_20130124.token")) | {
        "results_20130124.token": shuffled(files["results_20130124.token"])}


@pytest.mark.parametrize("layout, files, mixed", [
    ("mirflickr", mir_files, mir_shuffled), ("nus-wide", nus_files, nus_shuffled),
    ("coco", lambda: coco_files(2017), lambda: coco_files(2017, random.Random(1).shuffle)),
    ("flickr30k", lambda: flickr_files("results_20130124.token"), flickr_shuffled)])
def test_the_order_of_files_and_lines_changes_no_pair(layout, files, mixed, made, tmp_path):
    plain = made(layout, "--root", unpacked(tmp_path / "plain", files()), *SMALL)
    items = list(mixed().items())
    random.Random(0).shuffle(items)  # the order in which a file system may list them
    other = made(layout, "--root", unpacked(tmp_path / "mixed", dict(items)), *SMALL)
    assert list(pairs(plain).items()) == list(pairs(other).items())
    assert {part: rows.tolist() for part, rows in plain.splits.items()} == {
        part: rows.tolist() for part, rows in other.splits.items()}


def test_outputs_lie_where_the_scripts_look():
    for script, layout in (("test-flickr.sh", "mirflickr"), ("test-nus.sh", "nus-wide"), ("test-mscoco.sh", "coco")):
        name = re.search(r"run\.sh (\S+)", (ROOT / script).read_text())[1]
        assert extract_features.LAYOUTS[layout].OUT == Path(f"data/{name}/{name}.h5")


# --- dry runs -----------------------------------------------------------------------------------------------


def full_mirflickr() -> tuple[Files, Files]:
    """Annotations in full size: 24,581 pictures with a label, 20,015 with a common tag too, the published counts."""
    lists, start = {}, 0
    numbers = np.random.default_rng(0).permutation(25000) + 1
    for label, count in mirflickr.PUBLISHED.labels.items():
        rows = numbers[(start + np.arange(count)) % 20015].tolist()
        lists[f"{label}.txt"] = "\n".join(map(str, rows + numbers[20015:24581].tolist() * (label == "animals")))
        lists[f"{label}_r1.txt"] = "\n".join(map(str, rows[:count // 2]))
        start += count
    common = {f"tag{number}": number for number in range(1386)}
    tags = {f"mirflickr/meta/tags/tags{number}.txt": f"rare{number}\n" + f"tag{row % 1386}\n" * (row < 20015)
            for row, number in enumerate(numbers[:24581].tolist())}
    rest = {f"mirflickr/im{number}.jpg": b"" for number in numbers[:20015].tolist()}
    rest["mirflickr/doc/common_tags.txt"] = "".join(f"{tag} {count + 20}\n" for tag, count in common.items())
    return lists, tags | rest


def test_a_dry_run_of_mirflickr_has_the_published_counts(made, tmp_path, capsys):
    lists, rest = full_mirflickr()
    packed(tmp_path / "mirflickr25k_annotations_v080.zip", lists)
    packed(tmp_path / "mirflickr25k.zip", rest)
    assert made("mirflickr", "--root", tmp_path, "--dry_run", "--strict") is None
    shown = capsys.readouterr().out
    assert "20,015 of the 24,581 pictures with one of the 24 labels" in shown and "published:" not in shown
    for what, count in {"pairs": 20015, "labels": 24, "  animals": 2647, "  structures": 8463, "  water": 2885}.items():
        assert f"\n{what}: {count:,}, as published\n" in shown
    assert "20,015 pairs (2,000 query, 18,015 retrieval, 5,000 of them train)" in shown
    assert shown.endswith("\nThe download is whole.\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mirflickr25k.zip", "mirflickr25k_annotations_v080.zip"]


def test_a_dry_run_reads_no_picture_and_says_what_is_missing(made, tmp_path, capsys):
    files = {name: b"no picture" if name.endswith(".jpg") else text for name, text in mir_files().items()}
    del files["mirflickr/im10.jpg"]
    assert made("mirflickr", "--root", unpacked(tmp_path, files), "--dry_run", *SMALL) is None
    shown = capsys.readouterr().out
    assert "\npairs: 6, published: 20,015\n" in shown and "\n  sky: 3, published: 6,818\n" in shown
    assert "\npictures: 5 of 6 are there\n" in shown and "\nproblem: im10.jpg: not there\n" in shown
    assert "5 pairs (2 query, 3 retrieval, 2 of them train)" in shown
    assert shown.endswith("\nNot whole: counts are not the published ones; pictures missing: 1; problems: 1.\n")


def test_a_dry_run_gives_the_terminal_no_orders(made, tmp_path, capsys):
    rows = [("one.png", "red", "a\x1b[31m"), ("two.png", "green", "b"), ("three.png", "blue", "\u202eb")]
    (tmp_path / "captions.csv").write_text("image,caption,label\n" + "".join(",".join(row) + "\n" for row in rows))
    made("folder", "--images", tmp_path, "--captions", tmp_path / "captions.csv", "--out", tmp_path / "o.h5",
         "--dry_run", "--query", "1")
    shown = capsys.readouterr().out
    assert "\n  a\ufffd[31m: 1\n" in shown and "\n  \ufffdb: 1\n" in shown and shown.replace("\n", "").isprintable()


def test_a_dry_run_needs_no_picture_at_all(made, tmp_path, capsys):
    files = {name: text for name, text in coco_files(2017).items() if not name.endswith(".jpg")}
    arguments = ("coco", "--root", unpacked(tmp_path, files), *SMALL)
    made(*arguments, "--dry_run")
    shown = capsys.readouterr().out
    assert "captions: 21" in shown and "  stop sign: 2\n" in shown and "pictures: 0 of 4 are there" in shown
    assert "4 pairs (2 query, 2 retrieval, 2 of them train)" in shown
    assert "none of the 4 pictures is there, neither" in refused(capsys, made, *arguments)


# --- what is wrong ------------------------------------------------------------------------------------------


def without(name: str) -> Callable[[Files], object]:
    return lambda files: files.pop(name)


def ending(name: str, text: str) -> Callable[[Files], object]:
    return lambda files: files.update({name: files[name] + text})


def test_karpathys_sentences_without_a_text_are_refused(made, tmp_path, capsys):
    files = flickr_files("json")
    files["dataset_flickr30k.json"] = files["dataset_flickr30k.json"].replace('"raw"', '"tokens"', 1)
    root = unpacked(tmp_path, files)
    assert "has no text 'raw'" in refused(capsys, made, "flickr30k", "--root", root, "--query", "1", "--train", "2")


SKY, TAGS = "Groundtruth/AllLabels/Labels_sky.txt", "NUS_WID_Tags/All_Tags.txt"
LISTS = "mirflickr25k_annotations_v080"


@pytest.mark.parametrize("layout, files, change, problem, left", [
    ("mirflickr", mir_files, without("mirflickr/im2.jpg"), "im2.jpg: not there", 5),
    ("mirflickr", mir_files, without("mirflickr/meta/tags/tags2.txt"),
     "meta/tags/tags2.txt: not there, though sea.txt has 2; that picture is left out", 5),
    ("mirflickr", mir_files, ending(f"{LISTS}/sky.txt", "30000\n"),
     "meta/tags/tags30000.txt: not there, though sky.txt has 30000; that picture is left out", 6),
    ("nus-wide", nus_files, without("Flickr/zebra/0007_71.jpg"), "zebra/0007_71.jpg: not there", 6),
    ("nus-wide", nus_files, ending(TAGS, "999 a tag\n"), "All_Tags.txt: the id 999 is not in Imagelist.txt", 7),
    ("nus-wide", nus_files, lambda files: files.update({TAGS: files[TAGS].replace("31 ", "32 ", 1)}),
     "All_Tags.txt: no line for the id 31; its picture is left out", 6),
    ("nus-wide", nus_files, ending("Groundtruth/AllLabels/Labels_airport.txt", "1\n"),
     "{}/Groundtruth/AllLabels/Labels_airport.txt: 10 lines; expected 9, as many as Imagelist.txt has; it is not among "
     "the 10 concepts", 7),
    ("coco", lambda: coco_files(2014), without("val2014/COCO_val2014_000000522418.jpg"),
     "COCO_val2014_000000522418.jpg: not there", 3),
    ("coco", lambda: coco_files(2017), lambda files: files.update({"annotations/captions_val2017.json": files[
        "annotations/captions_val2017.json"].replace('"image_id": 42', '"image_id": 43')}),
     "captions: there is no picture 43", 3),
    ("flickr30k", lambda: flickr_files("results_20130124.token"), ending("results_20130124.token", "300.jpg A boy\n"),
     "results_20130124.token: line 21: '300.jpg A boy' is no picture's name and a caption; it is left out", 4),
    ("flickr30k", lambda: flickr_files("captions.txt"), ending("captions.txt", "300.jpg\n"),
     "{}/captions.txt: row 22 is no picture's name and a caption; it is left out", 4),
    ("flickr30k", lambda: flickr_files("results_20130124.token"), ending("results_20130124.token", "300.jpg#5\t \n"),
     "300.jpg: caption 5 is empty and is left out", 4)])
def test_what_is_wrong_is_named_and_left_out_or_refused(layout, files, change, problem, left, made, tmp_path, capsys):
    content = files()
    change(content)
    arguments = (layout, "--root", unpacked(tmp_path, content), "--query", "1", "--train", "2")
    found = made(*arguments)
    assert problem.format(tmp_path) in found.problems and len(found) == left
    whole = {**MIR_PAIRS, **NUS_PAIRS, **FLICKR_PAIRS,
             **{coco_name(number, COCO[number][1], year): pair for number, pair in COCO_PAIRS.items()
                for year in (2014, 2017)}}
    assert all(whole[name] == pair for name, pair in pairs(found).items())
    assert sum(map(len, found.splits.values())) == left + 2
    message = refused(capsys, made, *arguments, "--strict")
    assert re.match(r"--strict: \d+ problems, the first is ", message)


@pytest.mark.parametrize("layout, files, change, message", [
    ("mirflickr", mir_files, without(f"{LISTS}/sky.txt"),
     "{}: no sky.txt; expected it in the folder or in a zip archive there, as in mirflickr25k_annotations_v080.zip"),
    ("mirflickr", mir_files, ending(f"{LISTS}/sky.txt", "im7\n"),
     "{}/" + LISTS + "/sky.txt: line 6: 'im7'; expected the number of a picture"),
    ("mirflickr", mir_files, lambda files: files.update({"mirflickr/doc/common_tags.txt": "other 20\n"}),
     "MIRFlickr-25K, {}: no pair is left: 0 of the 8 pictures"),
    ("nus-wide", nus_files, ending(SKY, "0\n"),
     "{}/" + SKY + ": 10 lines; expected 9, as many as Imagelist.txt has"),
    ("nus-wide", nus_files, lambda files: files.update({SKY: "10\n" + files[SKY][6:] + "\n"}),
     "{}/" + SKY + ": line 1: '10'; expected 0 or 1"),
    ("nus-wide", nus_files, without(SKY), "{}: no AllLabels/Labels_sky.txt; expected it"),
    ("nus-wide", nus_files, lambda files: files.update({TAGS: "cat dog\n"}),
     "{}/" + TAGS + ": no line begins with an id of Imagelist.txt"),
    ("nus-wide", nus_files, ending("ImageList/Imagelist.txt", "actor\n"), "Imagelist.txt: 'actor'; expected lines"),
    ("coco", lambda: coco_files(2014), without("annotations/instances_val2014.json"),
     "{}: no annotations/instances_val2014.json; expected it"),
    ("coco", lambda: coco_files(2017), lambda files: files.update({"annotations/captions_val2017.json": "{"}),
     "{}/annotations/captions_val2017.json: not a whole JSON file of COCO; expected 'images' and 'annotations'"),
    ("flickr8k", lambda: {"Flickr8k.tar.gz": b""}, lambda files: None,
     "{}: no Flickr8k.token.txt or captions.txt or dataset_flickr8k.json; expected it in the folder or in a zip "
     "archive there, as in the download of Flickr8k; unpack Flickr8k.tar.gz first, if it is in there"),
    ("flickr8k", lambda: {"Flickr8k_text.zip": b"PK\3\4 half"}, lambda files: None,
     "{}/Flickr8k_text.zip: not a whole zip archive (File is not a zip file); download it again, or move")])
def test_annotations_that_would_give_wrong_labels_are_refused(layout, files, change, message, made, tmp_path, capsys):
    content = files()
    change(content)
    found = refused(capsys, made, layout, "--root", unpacked(tmp_path, content), *SMALL)
    assert found.startswith(message.format(tmp_path))


def test_a_root_that_is_no_folder_is_refused(made, tmp_path, capsys):
    assert refused(capsys, made, "coco", "--root", tmp_path / "absent") == (
        f"--root {tmp_path}/absent: is not there; expected the folder that the download is in")


# --- splits -------------------------------------------------------------------------------------------------


@pytest.fixture
def mir(tmp_path) -> tuple[str, str, Path]:
    return "mirflickr", "--root", unpacked(tmp_path / "mir", mir_files())


@pytest.mark.parametrize("files, query, train", [
    ({"queries.txt": "mirflickr\\im10.jpg\n\n/data/im2.jpg\n"}, [2, 10], [1, 4, 11, 12]),
    ({"queries.txt": "10\n0011\n"}, [10, 11], [1, 2, 4, 12]),
    ({"queries.txt": "0\n5\n"}, [1, 12], [2, 4, 10, 11]),
    ({"lists/query.txt": "im1.jpg\n", "lists/train.txt": "im4.jpg\nim2.jpg\n"}, [1], [2, 4]),
    ({"lists/test/images.txt": "im1.jpg\n", "lists/database.txt": "im4.jpg\nim2.jpg\n"}, [1], [2, 4])])
def test_a_split_is_read_from_lists(files, query, train, mir, made, tmp_path):
    unpacked(tmp_path, files)
    found = made(*mir, "--split", tmp_path / next(iter(files)).partition("/")[0], "--train", len(train))
    assert names(found, "query") == [f"im{number}.jpg" for number in query]
    assert names(found, "train") == [f"im{number}.jpg" for number in train]
    rest = train if "database.txt" in str(files) else [number for number in (1, 2, 4, 10, 11, 12)
                                                       if number not in query]
    assert names(found, "retrieval") == [f"im{number}.jpg" for number in rest]
    assert len(found) == len(query) + len(rest) and all(pair == MIR_PAIRS[name] for name, pair in pairs(found).items())
    assert (f"{6 - len(found)} pairs are in no part and left out" in found.attributes["split"]) == (len(found) < 6)


def test_row_numbers_count_with_the_pictures_that_are_missing(mir, made, tmp_path):
    (mir[2] / "mirflickr/im2.jpg").unlink()
    (tmp_path / "queries.txt").write_text("3\n1\n")
    found = made(*mir, "--split", tmp_path / "queries.txt", "--train", "2")
    assert names(found, "query") == ["im10.jpg"] and len(found) == 5


def test_what_a_list_has_beyond_the_pairs_is_a_problem(mir, made, tmp_path):
    (tmp_path / "queries.txt").write_text("im2.jpg\nim3.jpg\nim2.jpg\n")
    found = made(*mir, "--split", tmp_path / "queries.txt", "--train", "2")
    assert names(found, "query") == ["im2.jpg"]
    assert found.problems == ["--split: query: im3.jpg is not among the pairs",
                              "--split: query: im2.jpg is listed 2 times"]


@pytest.mark.parametrize("files, options, message", [
    ({"s/query.txt": "im1.jpg\n", "s/train.txt": "im2.jpg\nim1.jpg\nim4.jpg\n"}, [],
     "--split: 1 pairs are in query and in train, the first is im1.jpg; expected no query in the database"),
    ({"s/test.txt": "im1.jpg\n", "s/retrieval.txt": "im2.jpg\nim1.jpg\n"}, ["--train", "2"],
     "--split: 1 pairs are in query and in retrieval, the first is im1.jpg; expected no query in the database"),
    ({"s/query.txt": "im1.jpg\n", "s/test.txt": "im1.jpg\n"}, [], "{}/s: query.txt, test.txt are there; expected one"),
    ({"s/train.txt": "im1.jpg\n"}, [], "--split {}/s: a folder without query.txt, test.txt, query/images.txt or"),
    ({"s/query.txt": "1\n4\n"}, [], "{}/s: query.txt: the numbers may be ids and may be row numbers; list the names"),
    ({"s/query.txt": "1\n7\n"}, [], "{}/s: query.txt: the numbers are neither all ids of the pairs nor all row"),
    ({"s/query.txt": "im7.jpg\n"}, [], "{}/s: query.txt: none of the 1 entries of query is among the pairs"),
    ({"s/query.txt": " \n"}, [], "{}/s/query.txt: no line has anything in it"),
    ({"s/query.txt": "im1.jpg\n"}, ["--query", "2"], "--query 2: the queries are those of --split {}/s; leave --query"),
    ({"s/query.txt": "im1.jpg\n"}, ["--train", "6"], "--train 6: expected 2 to 5"),
    ({"s": b"\xff"}, [], "{}/s: not a text in UTF-8"),
    ({}, [], "--split {}/s: can't be read (No such file or directory)")])
def test_a_bad_split_is_refused(files, options, message, mir, made, tmp_path, capsys):
    unpacked(tmp_path, files)
    assert refused(capsys, made, *mir, "--split", tmp_path / "s", *options).startswith(message.format(tmp_path))


def test_a_random_split_has_the_usual_sizes_and_is_drawn_by_the_seed(mir, made, capsys):
    assert refused(capsys, made, *mir).startswith("--query 2000: 2000 queries of 6 pairs; expected 1 to 5")
    found = made(*mir, "--query", "2", "--train", "3", "--seed", "7")
    rows = np.random.default_rng(7).permutation(6)
    for part, expected in (("query", rows[:2]), ("retrieval", rows[2:]), ("train", rows[2:5])):
        np.testing.assert_array_equal(found.splits[f"{part}_idx"], np.sort(expected))
    assert found.attributes["split"] == "--query 2 --seed 7 --train 3"


def test_the_official_split_of_nus_wide_is_its_lists(made, tmp_path):
    found = made("nus-wide", "--root", unpacked(tmp_path, nus_files()), "--split", "official")
    assert names(found, "query") == ["actor/0001_2124494179.jpg", "airplanes/0003_31.jpg"]
    assert names(found, "retrieval") == names(found, "train") == [
        "bear/0004_41.jpg", "foal/0005_51.jpg", "horse/0006_51.jpg", "zebra/0007_71.jpg", "zebra/0009_91.jpg"]


def test_the_official_split_of_coco_is_karpathys_by_id(made, tmp_path):
    splits = ("train", "train", "val", "restval", "test")
    files = coco_files(2017)
    packed(tmp_path / "caption_datasets.zip", {"dataset_coco.json": karpathy_file(
        {"cocoid": number, "filename": coco_name(number, part, 2014), "split": split, "sentences": []}
        for (number, (_, part)), split in zip(COCO.items(), splits))})
    found = made("coco", "--root", unpacked(tmp_path, files), "--split", "official")
    assert names(found, "query") == ["000000522418.jpg"] and len(names(found, "retrieval")) == 3
    assert names(found, "train") == ["000000000009.jpg", "000000000042.jpg"]
    (tmp_path / "queries.txt").write_text("COCO_val2014_000000522418.jpg\n")  # the same picture by its other name
    listed = made("coco", "--root", tmp_path, "--split", tmp_path / "queries.txt", "--train", "2")
    assert names(listed, "query") == ["000000522418.jpg"]


@pytest.mark.parametrize("form", ["json", "lists"])
def test_the_official_split_of_flickr_is_read(form, made, tmp_path):
    if form == "json":
        layout, files = "flickr30k", flickr_files("json")
    else:
        layout, files = "flickr8k", flickr_files("Flickr8k.token.txt")
        files |= {"Flickr_8k.trainImages.txt": "1000.jpg\n4_ab.jpg\n", "Flickr_8k.testImages.txt": "2000.jpg\n",
                  "Flickr_8k.devImages.txt": "300.jpg\n"}
    found = made(layout, "--root", unpacked(tmp_path, files), "--split", "official")
    assert names(found, "query") == ["2000.jpg"] and names(found, "train") == ["1000.jpg", "4_ab.jpg"]
    assert names(found, "retrieval") == ["1000.jpg", "300.jpg", "4_ab.jpg"]


def test_a_data_set_without_an_official_split_says_so(mir, made, capsys):
    message = refused(capsys, made, *mir, "--split", "official")
    assert message.startswith("--split official: this data set was published without a split")


# --- identical pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unpacked", "packed"])
def test_identical_pictures_on_both_sides_are_counted_or_dropped(kind, made, tmp_path, capsys):
    files = mir_files()
    for other in (10, 11):
        files[f"mirflickr/im{other}.jpg"] = files["mirflickr/im2.jpg"]
    files["mirflickr/im12.jpg"] = files["mirflickr/im4.jpg"]  # both in the database
    root = place(kind, tmp_path / "mir", files, {"": "mirflickr25k.zip"})
    (tmp_path / "queries.txt").write_text("im2.jpg\nim1.jpg\n")
    arguments = ("mirflickr", "--root", root, "--split", tmp_path / "queries.txt", "--train", "2")
    said = "1 queries have the same picture as 2 items of the database"
    found = made(*arguments)
    assert found.attributes["duplicates"] == said and said in capsys.readouterr().out and len(found) == 6
    dropped = made(*arguments, "--drop_duplicates")
    assert names(dropped, "query") == ["im1.jpg", "im2.jpg"] and names(dropped, "retrieval") == ["im4.jpg", "im12.jpg"]
    assert dropped.attributes["duplicates"] == f"{said}, which were left out"
    assert pairs(dropped)["im12.jpg"] == (["sea"], ["clouds", "water"], 4)


def test_pictures_of_the_same_size_and_end_can_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "TAIL_BYTES", 2)
    contents = {"a": b"1--", "b": b"2--", "c": b"1--", "d": b"1-+", "e": b"1--0"}
    unpacked(tmp_path, contents)
    assert duplicates.identical([duplicates.File(str(tmp_path / name)) for name in (*contents, "absent")]) == [[0, 2]]


# --- several captions, and the layout folder ----------------------------------------------------------------


def test_captions_are_chosen(made, tmp_path):
    found = made("flickr30k", "--root", unpacked(tmp_path, flickr_files("json")), "--query", "1").captions
    every = [texts for texts, _, _ in FLICKR_PAIRS.values()]
    assert [list(texts) for texts in found] == every
    assert captions.choose(found, "first", 0) == [texts[:1] for texts in every]
    drawn = [captions.choose(found, "random", seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(one) == 1 and one[0] in texts for one, texts in zip(drawn[0], every))


@pytest.fixture
def folder(tmp_path):
    unpacked(tmp_path, {f"photos/{name}/1.jpg": jpeg(value) for value, name in enumerate("abcd")})
    rows = ["a/1.jpg,one,x;y", "b/1.jpg,two,x", "c/1.jpg,three,y", "./a/1.jpg,four,y;x", "d/1.jpg,five,x"]
    (tmp_path / "captions.csv").write_text("image,caption,label\n" + "\n".join(rows) + "\n")
    options = {"--images": "photos", "--captions": "captions.csv", "--out": "o.h5"}
    return "folder", *(part for option, name in options.items() for part in (option, tmp_path / name))


def test_further_rows_of_an_image_are_further_captions(folder, made):
    found = made(*folder, "--query", "2")
    assert pairs(found) == {"a/1.jpg": (["one", "four"], ["x", "y"], 0), "b/1.jpg": (["two"], ["x"], 1),
                            "c/1.jpg": (["three"], ["y"], 2), "d/1.jpg": (["five"], ["x"], 3)}
    assert made(*folder, "--captions", "first").attributes["captions"] == "first"


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_caption_of_a_megabyte_in_a_table_of_thousands_is_cut_before_it_is_encoded(kind, tmp_path):
    texts = ["word " * 200_000 if row == 7 else f"words {row}" for row in range(3000)]
    table = tmp_path / f"captions.{kind}"
    table.write_text("image,caption\n" + "".join(f"{row}.jpg,{text}\n" for row, text in enumerate(texts))
                     if kind == "csv" else "".join(json.dumps({"image": f"{row}.jpg", "caption": text}) + "\n"
                                                   for row, text in enumerate(texts)))
    rows = read_captions(table)
    kept, problems = captions.readable([row["captions"] for row in rows], [row["image"] for row in rows])
    assert kept == [[text[:captions.LONGEST]] for text in texts]
    assert problems == ["7.jpg: caption: 999,999 characters, of which the first 10,000 are taken"]


def test_a_folder_takes_the_options_of_all_layouts(folder, made, tmp_path, capsys):
    (tmp_path / "queries.txt").write_text("c/1.jpg\n")
    found = made(*folder, "--split", tmp_path / "queries.txt")
    assert names(found, "query") == ["c/1.jpg"] and names(found, "train") == ["a/1.jpg", "b/1.jpg", "d/1.jpg"]
    (tmp_path / "photos/b/1.jpg").unlink()
    found = made(*folder, "--query", "1")
    assert found.problems == ["b/1.jpg: not there"] and "b/1.jpg" not in pairs(found)
    assert capsys.readouterr().out.endswith("1 of 4 pictures are not there and are left out\n")
    assert refused(capsys, made, *folder, "--strict") == "--strict: 1 problems, the first is b/1.jpg: not there"
    shutil.rmtree(tmp_path / "photos")
    assert refused(capsys, made, *folder).endswith("neither in a folder nor in a zip archive; the first is a/1.jpg")


def test_a_folder_needs_a_table(folder, made, capsys):
    arguments = [*folder[:3], "--captions", "mean", *folder[5:]]
    assert refused(capsys, made, *arguments).startswith("folder: no table of captions is given; expected --captions")
