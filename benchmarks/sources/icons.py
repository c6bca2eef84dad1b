"""Data sets of icons, from npm packages: a drawing, words about it, and its categories."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.sources import ENCODERS
from benchmarks.sources.splits import random_split
from common import json_text
from common.errors import InputError
from extraction.collection import Collection
from extraction.dataset_file import make_dataset
from extraction.encoders import IMAGE_SIZE, optional
from extraction.npm import npm_pack, read_package
from extraction.splits import draw

if TYPE_CHECKING:
    from PIL.Image import Image

FEWEST = 300  # icons: with fewer, a package is damaged


@dataclass(frozen=True)
class Icon:
    name: str
    caption: str
    labels: list[str]
    svg: str


@dataclass(frozen=True)
class Family:
    """The icons of a package, and how they become a data set."""

    package: str  # name@version
    site: str
    licence: str
    attribution: str
    wanted: str  # a regular expression for the names of the files that are read
    choose: Callable[[dict[str, str]], list[Icon]]  # of these files by name
    chosen: str  # in words
    modules: tuple[str, ...] = ()  # of requirements-extract.txt, beside resvg_py
    queries: int | None = None  # None: as random_split has them

    def make(self, out: Path, archive: Path | None = None) -> None:
        """Write the data set ``out`` of the npm package, a .tgz; None fetches it with npm. Raises InputError."""
        for module in (*self.modules, "resvg_py"):
            optional(module)  # missing is found here, before anything is fetched
        with tempfile.TemporaryDirectory() as folder:
            icons = self.read(archive or npm_pack(self.package, Path(folder), "--archive"))
        splits = random_split(len(icons)) if self.queries is None else draw(len(icons), self.queries, 0)
        attributes = {"source": f"npm package {self.package}, {self.site}", "licence": self.licence,
                      "attribution": self.attribution}
        make_dataset(out, Collection(map(drawn, icons), [[icon.caption] for icon in icons],
                                     [icon.labels for icon in icons], splits, {"icon": [icon.name for icon in icons]},
                                     attributes), ENCODERS)

    def read(self, archive: Path) -> list[Icon]:
        """The chosen icons, in the order of the package. Raises InputError if it is damaged or another one."""
        icons = read_package(archive, self.package, self.wanted, lambda files: self.choose(
            {name: content.decode() for name, content in files.items()}))
        if len(icons) <= FEWEST:
            raise InputError(f"{archive}: {len(icons)} {self.chosen}; expected more than {FEWEST}")
        return icons


def drawn(icon: Icon) -> Image:
    """An icon on white, as wide as the network's input and as high as its drawing asks for."""
    try:
        png = optional("resvg_py").svg_to_bytes(svg_string=icon.svg, width=IMAGE_SIZE, background="white")
    except ValueError as error:
        raise InputError(f"the icon {icon.name}: can't be drawn ({error}); the package is damaged") from None
    return optional("PIL.Image").open(io.BytesIO(bytes(png)))


def words(name: str) -> str:
    return name.replace("-", " ")


# --- Font Awesome -------------------------------------------------------------------------------------------------


def choose_font_awesome(files: dict[str, str]) -> list[Icon]:
    yaml = optional("yaml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C, where there is one, is faster
    try:
        icons, categories = (yaml.load(files[f"metadata/{name}.yml"], loader) for name in ("icons", "categories"))
    except yaml.YAMLError as error:
        raise ValueError(error) from None
    chosen = []
    for name, icon in icons.items():
        labels = [category["label"] for category in categories.values() if name in category["icons"]]
        svg = files.get(f"svgs/solid/{name}.svg")
        if labels and svg is not None:
            terms = (icon.get("search") or {}).get("terms") or []
            chosen.append(Icon(name, ", ".join(map(str, [icon["label"], *terms])), labels, svg))
    return chosen


FONT_AWESOME = Family(
    "@fortawesome/fontawesome-free@7.3.1",
    "https://fontawesome.com",
    "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/",
    "Font Awesome Free by Fonticons, Inc.",
    r"metadata/(?:icons|categories)\.yml|svgs/solid/[^/]+\.svg", choose_font_awesome,
    "solid icons with a category", modules=("yaml",), queries=300)


# --- Remix Icon ---------------------------------------------------------------------------------------------------


def choose_remix(files: dict[str, str]) -> list[Icon]:
    """A drawing for each name: the filled one, or the only one, or the one of lines."""
    drawings = {}
    for path in sorted(files):
        if match := re.fullmatch(r"icons/([^/]+)/(.+?)(-fill|-line)?\.svg", path):
            folder, name, style = match.groups()
            drawings.setdefault(name, {})[style or ""] = Icon(name, words(name), [folder], files[path])
    return [next(styles[style] for style in ("-fill", "", "-line") if style in styles)
            for _, styles in sorted(drawings.items())]


REMIX = Family(
    "remixicon@4.8.0",  # the last version under the Apache License
    "https://remixicon.com",
    "Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0",
    "Remix Icon by Remix Design",
    r"icons/[^/]+/[^/]+\.svg", choose_remix, "icons")


# --- Material Design Icons ----------------------------------------------------------------------------------------


def choose_material(files: dict[str, str]) -> list[Icon]:
    """The icons with a tag, without outlines and variants of others of them."""
    tagged = {icon["name"]: icon for icon in json_text.parse(files["meta.json"]) if icon["tags"]}
    chosen = []
    for name, icon in tagged.items():
        concept = re.sub(r"(-outline|-variant)+$", "", name)
        if concept == name or concept not in tagged:
            chosen.append(Icon(name, ", ".join(map(words, [name, *icon["aliases"]])), icon["tags"],
                               files[f"svg/{name}.svg"]))
    return chosen


MATERIAL = Family(
    "@mdi/svg@7.4.47",
    "https://pictogrammers.com/library/mdi/",
    "Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0",
    "Material Design Icons by Pictogrammers and Google",
    r"meta\.json|svg/[^/]+\.svg", choose_material, "icons with a tag")


# --- Phosphor -----------------------------------------------------------------------------------------------------


def choose_phosphor(files: dict[str, str]) -> list[Icon]:
    """The filled icons; the catalog is only in TypeScript declarations, which are read and not run."""
    enum = re.search(r"enum IconCategory \{([^}]*)\}", files["dist/types.d.ts"])[1]
    categories = dict(re.findall(r'(\w+) = "([^"]+)"', enum))
    entries = re.findall(
        r'\{\s*readonly name: "([^"]+)";\s*readonly pascal_name: "[^"]*";\s*(?:readonly alias: \{[^}]*\};\s*)?'
        r"readonly categories: readonly \[([^\]]*)\];\s*readonly figma_category: [\w.]+;\s*"
        r"readonly tags: readonly (\[[^\]]*\]);", files["dist/icons.d.ts"])
    if len(entries) != files["dist/icons.d.ts"].count("readonly codepoint:"):
        raise ValueError("dist/icons.d.ts has entries of another form")
    chosen = []
    for name, own, tags in entries:
        labels = [categories[category] for category in re.findall(r"IconCategory\.(\w+)", own)]
        terms = [tag for tag in json_text.parse(tags)  # without the answers, and marks such as *new*
                 if tag not in categories.values() and not tag.startswith("*")]
        chosen.append(Icon(name, ", ".join([words(name), *terms]), labels, files[f"assets/fill/{name}-fill.svg"]))
    return chosen


PHOSPHOR = Family(
    "@phosphor-icons/core@2.1.1",
    "https://phosphoricons.com",
    "MIT, https://opensource.org/license/mit",
    "Phosphor Icons, Copyright (c) 2023 Phosphor Icons",
    r"dist/(?:icons|types)\.d\.ts|assets/fill/[^/]+\.svg", choose_phosphor, "icons")
