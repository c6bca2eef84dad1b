"""Classes of one's own, named on a command line: ``FILE.py:Class`` or ``package.module:Class``.

A name is *pinned* with a digest of the code behind it, ``FILE.py:Class@1f0c...``: of the file and of all that it
imports from its own folder and from this project (common/code_files.py); of a package in site-packages it is that of
the one file. A run keeps the pinned name among its settings, so that edited code is another setting. Only :func:`load`
runs code; it is for names that the user gave.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from common.code_files import ROOT, digest, file_in, follow, in_project
from common.errors import InputError, listing

FORMS = "FILE.py:Class or package.module:Class"
DIGITS = 16  # of the digest in a pinned name
_NAME = re.compile(rf"(?P<code>.+):(?P<class_name>[^\W\d]\w*)(?:@(?P<digest>[0-9a-f]{{{DIGITS}}}))?")
_run: dict[tuple[Path, str], tuple[str, ModuleType]] = {}  # what this process imported: its digest then, its module


class Code(NamedTuple):
    """Where a class of one's own is: its module, its file, and the files that it is made of, by module."""

    module: str
    path: Path
    is_file: bool  # named as a file, not as a module
    files: dict[str, Path]
    digest: str


def is_own(name: str) -> bool:
    """Whether a name has the form of a class of one's own."""
    return _NAME.fullmatch(name) is not None


def unpinned(name: str) -> str:
    """The name without its digest."""
    return "{code}:{class_name}".format(**_parts(name))


def pinned(name: str) -> str:
    """The name with the digest of its code as it is now, or as it is if it has a digest; runs no code.

    Raises:
        InputError: another form, or the code isn't found, can't be read, or isn't Python.
    """
    return name if _parts(name)["digest"] else f"{name}@{_code(name).digest}"


def load(name: str) -> type:
    """Import the class. This runs its code.

    Raises:
        InputError: as :func:`pinned`; or the code has changed since the name was pinned or since this process ran it,
            its import fails, or it has no such class.
    """
    parts, code = _parts(name), _code(name)
    if parts["digest"] not in (None, code.digest):
        raise InputError(f"{unpinned(name)}: its code was edited since this run was set up (the digest was "
                         f"{parts['digest']} and is {code.digest}); start again with {unpinned(name)}")
    if (place := (code.path, code.module)) not in _run:
        _run[place] = code.digest, _imported(name, code)
    before, module = _run[place]
    if before != code.digest:
        raise InputError(f"{unpinned(name)}: its code was edited after this process imported it; start Python again "
                         f"(in a notebook: restart the kernel)")
    found = getattr(module, parts["class_name"], None)
    if not inspect.isclass(found):
        classes = [key for key, value in vars(module).items() if inspect.isclass(value)
                   and value.__module__ == module.__name__]
        what = "is not a class" if hasattr(module, parts["class_name"]) else "is not there"
        raise InputError(f"{parts['code']}: {parts['class_name']} {what}; its classes are {listing(classes)}")
    return found


def check_call(name: str, what: str, function: Callable, arguments: Sequence[str], by_name: bool = False) -> None:
    """Raise InputError, which names the argument, unless ``function`` can be called with these arguments alone.

    Args:
        name: of the class, and ``what`` of it is checked, for the message.
        by_name: the arguments are given by name; otherwise by place, where their names don't matter.
    """
    parameters = list(inspect.signature(function).parameters.values())
    kinds = {parameter.kind for parameter in parameters}
    if by_name:
        placed = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        lacking = [each for each in arguments if each not in {parameter.name for parameter in placed}]
        lacking = [] if inspect.Parameter.VAR_KEYWORD in kinds else lacking
        others = [each for each in parameters if each.name not in arguments]
    else:
        placed = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
        lacking = [] if inspect.Parameter.VAR_POSITIONAL in kinds else list(arguments)[len(placed):]
        others = [*placed[len(arguments):], *(each for each in parameters if each.kind == each.KEYWORD_ONLY)]
    needed = [each.name for each in others
              if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    if lacking or needed:
        problem = f"lacks {', '.join(lacking)}" if lacking else f"needs {', '.join(needed)} besides"
        raise InputError(f"{unpinned(name)}: {what} {problem}; expected {what}({', '.join(arguments)})")


def described(error: BaseException, name: str) -> str:
    """An error of code of one's own in one line, with its place in that code."""
    own = {str(path) for path in _code(name).files.values()}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if os.path.realpath(frame.filename) in own]
    place = f"{os.path.basename(frames[-1].filename)}, line {frames[-1].lineno}: " if frames else ""
    message = " ".join(str(error).split())
    return f"{place}{type(error).__name__}{f': {message[:200]}' if message else ''}"


# --- finding and importing ----------------------------------------------------------------------------------------


def _parts(name: str) -> dict[str, str]:
    found = _NAME.fullmatch(name)
    if found is None:
        raise InputError(f"{name}: expected {FORMS}")
    return found.groupdict()


def _code(name: str) -> Code:
    """Where the class of this name is; runs no code. Raises InputError as :func:`pinned`."""
    where = _parts(name)["code"]
    is_file = where.endswith(".py") or not all(part.isidentifier() for part in where.split("."))
    module, path, folder = (_find_file if is_file else _find_module)(where)
    installed = folder.name in ("site-packages", "dist-packages")

    def find(other: str) -> Path | None:
        if file_in(ROOT, other):
            return in_project(other)
        return None if installed else file_in(folder, other)

    try:
        files = follow(module, path, find)
        return Code(module, path, is_file, files, digest(files)[:DIGITS])
    except SyntaxError as error:
        place = f", line {error.lineno}" if error.lineno else ""
        raise InputError(f"{error.filename or path}{place}: {error.msg}; expected Python") from None
    except (ValueError, RecursionError) as error:  # a null byte, for some versions of Python; nested too deep
        raise InputError(f"{path}: {error}; expected Python") from None
    except OSError as error:
        raise InputError(f"{error.filename}: can't be read ({error.strerror})") from None


def _find_file(where: str) -> tuple[str, Path, Path]:
    """A name for the module of a file, the file, and the folder that it may import from."""
    path = Path(os.path.realpath(where))
    if path.suffix != ".py" or not path.is_file():
        raise InputError(f"{where}: no such Python file; expected {FORMS}")
    return "own_" + re.sub(r"\W", "_", path.stem), path, path.parent


def _find_module(where: str) -> tuple[str, Path, Path]:
    """The same of a module that Python finds, also in the current folder; the packages above it are not imported."""
    parts, places, spec = where.split("."), None, None
    _reach(Path.cwd())
    importlib.invalidate_caches()
    for number in range(1, len(parts) + 1):
        outer = ".".join(parts[:number])
        spec = next((spec for finder in sys.meta_path if (spec := finder.find_spec(outer, places))), None)
        if spec is None or number < len(parts) and spec.submodule_search_locations is None:
            raise InputError(f"{where}: there is no module {outer}, neither installed nor in the current folder; "
                             f"expected {FORMS}")
        places = spec.submodule_search_locations
    if not (spec.origin or "").endswith(".py"):
        raise InputError(f"{where}: not a module of Python code; expected {FORMS}")
    path = Path(os.path.realpath(spec.origin))
    return where, path, path.parents[len(parts) - (path.name != "__init__.py")]


def _reach(folder: Path) -> None:
    """Let modules in ``folder`` be imported, those of the project first."""
    if str(folder) not in sys.path:
        sys.path.insert(1, str(folder))


def _imported(name: str, code: Code) -> ModuleType:
    """The module of a class, imported now unless this process has it."""
    try:
        if code.is_file:
            _reach(code.path.parent)
            spec = importlib.util.spec_from_file_location(code.module, code.path)
            module = sys.modules[code.module] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(code.module)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{unpinned(name)}: can't be imported ({described(error, name)})") from error
    for other, path in code.files.items():  # its digest must be that of what runs
        found = getattr(sys.modules.get(other), "__file__", None) or path
        if os.path.realpath(found) != os.path.realpath(path):
            raise InputError(f"{unpinned(name)}: imports {other}, which is {found} here and not {path}; give the file "
                             f"another name")
    return module
