"""The layout: which rooms there are, and that no file imports upward or in a circle."""

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYERS = [  # from the bottom up; the rooms of a layer may use each other as long as no circle comes of it
    {"common"},
    {"formats"},
    {"pairs"},
    {"load_data", "loss", "metric", "model"},
    {"training"},
    {"evaluation"},
    {"extraction", "indexing", "reporting"},
    {"exporting", "serving"},
    {"ICMR", "export_model", "extract_features", "report", "search"},
    {"benchmarks"},
    {"benchmark", "demo_progressive_vs_original", "test_progressive_hash"},
]


def modules():
    """The project's modules by their dotted names."""
    found = {path.stem: path for path in ROOT.glob("*.py")}
    for room in set().union(*LAYERS):
        found |= {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
                  for path in (ROOT / room).rglob("*.py")}
    return found


def imports():
    """The project's modules that each of them imports, also inside functions."""
    known = modules()
    found = {}
    for name, path in known.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & known.keys()
            if isinstance(node, ast.ImportFrom) and node.module in known:
                inner = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
                found[name] |= inner or {node.module}
    return found


def layer(name):
    return next(number for number, rooms in enumerate(LAYERS) if name.split(".")[0] in rooms)


def test_every_file_of_the_root_and_every_room_is_in_a_layer():
    rooms = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms == set().union(*LAYERS)


def test_no_file_imports_upward():
    upward = [f"{name} imports {other}" for name, others in imports().items() for other in others
              if layer(other) > layer(name)]
    assert not upward


def test_no_files_import_each_other_in_a_circle():
    graphlib.TopologicalSorter(imports()).prepare()  # raises CycleError, which names the circle


def test_the_service_is_optional():
    users = [name for name, others in imports().items() if any(other.startswith("serving") for other in others)]
    assert [name for name in users if not name.startswith("serving.")] == ["search"]
