"""The files that a piece of code is made of, and a digest of what they do.

Files are found by following imports through the syntax trees: nothing is imported and no code runs.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = (  # what decides no figure: a record or a result has the fingerprint of what was read
    "reporting", "common.columns", "common.console", "common.errors", "common.atomic_files",  # drawing, printing, writing
    "load_data", "pairs", "formats", "common.json_text",  # reading
    "common.code_files", "common.own_code")  # finding code


def follow(name: str, path: Path | None, find: Callable[[str], Path | None]) -> dict[str, Path]:
    """The file ``path`` of the module ``name`` and those of all that it imports, directly or not, by module name.

    Imports inside functions count. ``find`` gives the file of a module by its dotted name, None where it isn't wanted.

    Raises:
        SyntaxError: a file is not Python; OSError: it can't be read.
    """
    found: dict[str, Path] = {}
    waiting = [(name, path)]
    while waiting:
        name, path = waiting.pop()
        if path is not None and name not in found:
            found[name] = path
            parts = name.split(".")
            package = parts if path.name == "__init__.py" else parts[:-1]
            above = [".".join(parts[:-1])] * (len(parts) > 1)  # importing a.b runs a/__init__.py first
            waiting += [(each, find(each)) for each in (*above, *_imports(_tree(path), package))]
    return dict(sorted(found.items()))


def file_in(folder: Path, name: str) -> Path | None:
    """The file of the module with this dotted name beneath ``folder``, if it has one there."""
    if not all(parts := name.split(".")):
        return None
    path = folder.joinpath(*parts)
    return next((each for each in (path / "__init__.py", path.with_suffix(".py")) if each.is_file()), None)


def in_project(name: str, root: Path = ROOT) -> Path | None:
    """The file of one of the project's own modules; None for LEFT_OUT and for all others."""
    return None if {name, name.split(".")[0]} & set(LEFT_OUT) else file_in(root, name)


def digest(files: Mapping[str, Path]) -> str:
    """Changes with the code of these files, by module name; comments, docstrings and formatting don't change it."""
    content = hashlib.sha256()
    for name, path in files.items():
        content.update(f"{name}\n{_plain(_tree(path))}\n".encode())
    return content.hexdigest()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), str(path))


def _imports(tree: ast.Module, package: list[str]) -> Iterator[str]:
    """The names of modules that a file of ``package`` imports, and of what may be a module in them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[:len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _plain(node: object) -> object:
    """A syntax tree without docstrings and places as nested lists, the same in every version of Python: unlike
    ``ast.dump``, whose text changes with the version, it leaves out all that is empty.
    """
    if isinstance(node, list):
        return [_plain(each) for each in node]
    if not isinstance(node, ast.AST):
        return node
    fields = dict(ast.iter_fields(node))
    if isinstance(node, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) \
            and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    return [type(node).__name__, *([name, _plain(value)] for name, value in fields.items()
                                   if value is not None and value != [])]
