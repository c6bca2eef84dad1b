"""The data sets made of npm packages and of fonts: what is read of them, and what is refused."""

import dataclasses
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

import benchmark
from benchmarks import datasets
from benchmarks.sources import glyphs, icons
from common.errors import InputError
from load_data import load_dataset

ROOT = Path(__file__).parents[1]


def npm_package(path, package, files):
    name, version = package.rsplit("@", 1)
    with tarfile.open(path, "w:gz") as archive:
        for file, text in {"package.json": json.dumps({"name": name, "version": version}), **files}.items():
            member = tarfile.TarInfo(f"package/{file}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["data", *map(str, arguments)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    return error


# --- icons ----------------------------------------------------------------------------------------------------------


def test_remix_has_one_drawing_a_name_the_filled_one_if_there_is_one():
    files = {f"icons/{path}.svg": path for path in ("Map/flag-2-line", "Map/flag-2-fill", "Editor/bold", "Map/pin-line",
                                                    "Editor/ai", "Design/ai-line")}
    assert icons.choose_remix(files) == [
        icons.Icon("ai", "ai", ["Editor"], "Editor/ai"), icons.Icon("bold", "bold", ["Editor"], "Editor/bold"),
        icons.Icon("flag-2", "flag 2", ["Map"], "Map/flag-2-fill"), icons.Icon("pin", "pin", ["Map"], "Map/pin-line")]


def test_material_icons_are_those_with_a_tag_that_are_no_variants_of_others():
    tags = {"ab": ["A", "B"], "ab-outline": ["A"], "ab-variant-outline": ["A"], "c-outline": ["C"], "d": [],
            "d-variant": ["D"], "ab-off": ["A"]}
    meta = json.dumps([{"name": name, "tags": own, "aliases": ["a-b"] if name == "ab" else []}
                       for name, own in tags.items()])
    found = icons.choose_material({"meta.json": meta, **{f"svg/{name}.svg": f"drawn {name}" for name in tags}})
    assert found[0] == icons.Icon("ab", "ab, a b", ["A", "B"], "drawn ab")
    assert [icon.name for icon in found] == ["ab", "c-outline", "d-variant", "ab-off"]


PHOSPHOR_TYPES = """export declare enum IconStyle { REGULAR = "regular" }
export declare enum IconCategory {
    ARROWS = "arrows",
    MAP = "maps & travel"
}
"""


def phosphor_entry(name, categories, tags, more=""):
    return f"""{{
    readonly name: "{name}";
    readonly pascal_name: "Any";{more}
    readonly categories: readonly [{categories}];
    readonly figma_category: FigmaCategory.MAP;
    readonly tags: readonly {json.dumps(tags)};
    readonly codepoint: 1;
}}"""


def phosphor_files(*entries):
    names = ("up", "air-plane")
    return {"dist/types.d.ts": PHOSPHOR_TYPES,
            "dist/icons.d.ts": f"export declare const icons: readonly [{', '.join(entries)}];",
            **{f"assets/fill/{name}-fill.svg": f"drawn {name}" for name in names}}


def test_phosphor_captions_have_neither_categories_nor_marks():
    alias = "\n    readonly alias: {\n        readonly name: \"jet\";\n        readonly pascal_name: \"Jet\";\n    };"
    found = icons.choose_phosphor(phosphor_files(
        phosphor_entry("up", "IconCategory.ARROWS", ["*new*", "arrows", "north", "say \"up\""]),
        phosphor_entry("air-plane", "IconCategory.MAP, IconCategory.ARROWS", ["maps & travel", "flights"], alias)))
    assert found == [icons.Icon("up", "up, north, say \"up\"", ["arrows"], "drawn up"),
                     icons.Icon("air-plane", "air plane, flights", ["maps & travel", "arrows"], "drawn air-plane")]


REFUSED = {  # files of a package of the right name and version, and the complaint
    "remix": ({"icons/Map/pin-line.svg": "<svg/>"}, "1 icons; expected more than 300"),
    "mdi": ({"meta.json": '[{"name": "a"}]'}, "not the npm package @mdi/svg@7.4.47 (KeyError: 'tags')"),
    "phosphor": (phosphor_files(phosphor_entry("up", "IconCategory.ARROWS", ["a"]) + "readonly codepoint: 2"),
                 "entries of another form"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_or_a_damaged_package_is_refused_in_one_line(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(icons, "optional", lambda module: None)
    family = datasets.RECIPES[name].make.__self__
    files, complaint = REFUSED[name]

    def message(archive):
        return refused([name, "--archive", archive, "--data_dir", tmp_path], capsys)

    path = npm_package(tmp_path / "package.tgz", family.package, files)
    assert complaint in message(path)
    path.write_bytes(path.read_bytes()[:-30])
    assert "can't be read" in message(path) and f"expected the npm package {family.package}" in message(path)
    older = family.package.rsplit("@", 1)[0] + "@0.1.0"
    assert f"{older}; expected {family.package}" in message(npm_package(path, older, files))
    assert f"not the npm package {family.package}" in message(npm_package(path, family.package, {"package.json": "7"}))
    assert "nowhere.tgz: No such file" in message(tmp_path / "nowhere.tgz")
    assert not list(tmp_path.rglob("*.h5"))


def test_a_damaged_drawing_is_named():
    pytest.importorskip("resvg_py", reason="not installed (requirements-extract.txt)")
    with pytest.raises(InputError, match="the icon pin: can't be drawn"):
        icons.drawn(icons.Icon("pin", "pin", ["Map"], "<svg"))
    assert icons.drawn(icons.Icon("pin", "pin", ["Map"], '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 2"/>')
                       ).size == (224, 224)


# --- glyphs ---------------------------------------------------------------------------------------------------------


def test_the_glyphs_are_the_characters_that_the_font_shows():
    font = glyphs.read_font()
    found = glyphs.select(font)
    assert len(found) == datasets.RECIPES["glyphs"].pairs
    assert glyphs.Character("a", "latin small letter a", "Ll") in found
    shown = {each.character for each in found}
    assert " " not in shown and "\u2800" not in shown and "\u20bf" not in shown  # blanks; a sign of Unicode 10
    for each in [*found[::500], next(each for each in found if each.character == "\u2031")]:  # the last is a wide one
        image = np.asarray(glyphs.drawn(each.character, font))
        edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert image.shape == (224, 224, 3) and image.min() < 50 and (edge == 255).all()


def test_a_missing_font_and_an_archive_of_glyphs_are_one_line(tmp_path, capsys, monkeypatch):
    assert "comes with matplotlib" in refused(["glyphs", "--archive", "x.ttf", "--data_dir", tmp_path], capsys)
    monkeypatch.setattr(glyphs, "font_file", lambda: tmp_path / "DejaVuSans.ttf")
    assert "DejaVuSans.ttf: can't be read (No such file" in refused(["glyphs", "--data_dir", tmp_path], capsys)
    (tmp_path / "DejaVuSans.ttf").write_bytes(b"no font")
    assert "DejaVuSans.ttf: can't be read (" in refused(["glyphs", "--data_dir", tmp_path], capsys)


# --- all of them ----------------------------------------------------------------------------------------------------


def test_all_are_made_but_those_whose_source_is_missing(tmp_path, capsys, monkeypatch):
    def nowhere(out, archive):
        raise InputError("npm isn't installed; get it\nelsewhere")

    recipes = {name: datasets.RECIPES[name] for name in ("openmoji", "icons", "digits")}
    recipes["icons"] = dataclasses.replace(recipes["icons"], make=nowhere)
    monkeypatch.setattr(datasets, "RECIPES", recipes)
    assert refused(["all", "--data_dir", tmp_path], capsys) == "error: icons: npm isn't installed; get it elsewhere\n"
    assert load_dataset("digits", tmp_path).fingerprint == recipes["digits"].fingerprint
    for names in ([], ["all"]):
        assert "--archive x.tgz: is of one data set" in refused([*names, "--archive", "x.tgz"], capsys)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert "pip install scikit-learn" in refused(["digits", "--data_dir", tmp_path / "other"], capsys)
    assert not (tmp_path / "other" / "digits").exists()


def test_each_data_set_is_of_a_half_and_its_finer_labels_are_a_column():
    assert {recipe.half for recipe in datasets.RECIPES.values()} == {"selection", "unseen"}
    openmoji, finer = load_dataset("openmoji", ROOT / "data"), datasets.RECIPES["openmoji"].finer
    assert len({*openmoji.query.meta[finer.column], *openmoji.retrieval.meta[finer.column]}) == finer.classes
    assert openmoji.num_classes == datasets.RECIPES["openmoji"].classes
