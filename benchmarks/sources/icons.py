"""Data sets of icons, from npm packages."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from extraction.dataset_file import make_dataset, split
from extraction.encoders import IMAGE_SIZE, optional
from extraction.npm import npm_pack

FONT_AWESOME = "@fortawesome/fontawesome-free@7.3.1"
FONT_AWESOME_ATTRIBUTES = {
    "source": f"npm package {FONT_AWESOME}, https://fontawesome.com",
    "licence": "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/",
    "attribution": "Font Awesome Free by Fonticons, Inc.",
}
QUERIES = 300


def make_icons(out: Path, archive: Path | None = None) -> None:
    """The solid icons of Font Awesome Free that have a category: names and search terms as captions, categories as
    labels.
    """
    optional("yaml"), optional("resvg_py")  # missing is found here, before anything is fetched
    with tempfile.TemporaryDirectory() as folder:
        icons = read_icons(archive or npm_pack(FONT_AWESOME, Path(folder), "--archive"))
    strings = {"icon": [icon.name for icon in icons], "caption": [icon.caption for icon in icons]}
    make_dataset(out, (drawn(icon.svg) for icon in icons), [icon.labels for icon in icons],
                 split(len(icons), QUERIES, 0), strings, FONT_AWESOME_ATTRIBUTES)


@dataclass(frozen=True)
class Icon:
    name: str
    caption: str
    labels: list[str]
    svg: str


def read_icons(archive: Path) -> list[Icon]:
    """The solid icons with a category, in the order of the npm package (.tgz)."""
    yaml = optional("yaml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C, where there is one, is faster
    try:
        with tarfile.open(archive) as package:
            def text(name: str) -> str:
                return package.extractfile(f"package/{name}").read().decode()

            about = json.loads(text("package.json"))
            found = f"{about['name']}@{about['version']}"
            if found != FONT_AWESOME:
                raise InputError(f"{archive}: {found}; expected {FONT_AWESOME}")
            names = set(package.getnames())
            icons, categories = (yaml.load(text(f"metadata/{name}.yml"), loader) for name in ("icons", "categories"))
            chosen = []
            for name, icon in icons.items():
                labels = [category["label"] for category in categories.values() if name in category["icons"]]
                if labels and f"package/svgs/solid/{name}.svg" in names:
                    terms = (icon.get("search") or {}).get("terms") or []
                    chosen.append(Icon(name, ", ".join(map(str, [icon["label"], *terms])), labels,
                                       text(f"svgs/solid/{name}.svg")))
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(f"{archive}: can't be read ({getattr(error, 'strerror', None) or error}); expected the npm "
                         f"package {FONT_AWESOME}, a .tgz") from None
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(f"{archive}: not the npm package {FONT_AWESOME} ({type(error).__name__}: {error})") from None
    if len(chosen) <= QUERIES:
        raise InputError(f"{archive}: {len(chosen)} solid icons with a category; expected more than {QUERIES}")
    return chosen


def drawn(svg: str):
    """An icon on white, as wide as the network's input and as high as its drawing asks for."""
    png = optional("resvg_py").svg_to_bytes(svg_string=svg, width=IMAGE_SIZE, background="white")
    return optional("PIL.Image").open(io.BytesIO(bytes(png)))
