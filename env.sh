# Sourced by the scripts: sets PYTHON to a Python that has the packages of requirements-ranges.txt and, if $also names
# another such file, of that. It is the one that the user names (PYTHON=/path/to/python bash test-flickr.sh); otherwise
# the first on the PATH that has them, as python3, python, python3.11 or later; otherwise that of .venv, which is made
# with requirements.txt if need be. Nothing is ever installed anywhere but in .venv. The scripts run in bash 3.2, the one
# of macOS.

NAMES="python3 python python3.11 python3.12 python3.13 python3.14 python3.15"

# Prints what the Python $1 lacks, as one would ask pip for it. Fails if it does not run or is older than 3.11.
lacking() {
    "$1" - requirements-ranges.txt ${also:-} 2>/dev/null <<'PYTHON'
import re
import sys
from importlib.metadata import PackageNotFoundError, version

OTHER_NAMES = {"faiss-cpu": ["faiss", "faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12"]}  # the same module


def numbers(text):  # 2.13.0, 2.13.0+cpu (a build) and 2.13.0a0 (a preview) are all [2, 13, 0]
    return [int(number) for number in re.match(r"\d+(\.\d+)*", text)[0].split(".")]


def installed(name):
    try:
        return numbers(version(name))
    except (PackageNotFoundError, TypeError):  # TypeError: what is left of a broken installation has no version
        return []


if sys.version_info < (3, 11):
    sys.exit(1)
for file in sys.argv[1:]:
    for requirement in open(file).read().splitlines():
        if requirement and requirement[0] != "#":
            name, low, high = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<([\d.]+))?", requirement).groups()
            if not any(found and numbers(low) <= found and (not high or found < numbers(high))
                       for found in map(installed, [name, *OTHER_NAMES.get(name, [])])):
                print(requirement)
PYTHON
}

fail() {
    echo "error: $1" >&2
    exit 2
}

pip_install() {  # prints the command that installs the packages $2, $3, ... for the Python $1
    local python=$1
    shift
    echo "$python -m pip install$(printf " '%s'" "$@")"
}

use_venv() {  # makes or completes .venv as needed; the Python $1 is that of the PATH, or empty if all are too old
    PYTHON=.venv/bin/python
    if [ ! -e .venv ]; then
        [ -n "$1" ] ||
            fail "there is no Python 3.11 or newer on the PATH; install one, or name one: PYTHON=/path/to/python bash $0"
        "$1" -m venv .venv || fail "cannot make .venv; on Debian and Ubuntu: apt install python3-venv"
    fi
    lacks=$(lacking $PYTHON) || fail "the Python of .venv does not run or is older than 3.11; delete .venv and try again"
    if [ -z "$lacks" ]; then return; fi
    { $PYTHON -m pip --version || $PYTHON -m ensurepip; } >/dev/null 2>&1 ||
        fail "there is no pip in .venv; on Debian and Ubuntu: apt install python3-venv"
    case $lacks in
        torch*)
            echo "Installing the pinned requirements into .venv (once; on Linux PyTorch is some gigabytes) ..."
            lacks="-r requirements.txt ${also:+-r $also}" ;;
        *) echo "Adding to .venv:" $lacks ;;  # a PyTorch that works there is kept
    esac
    $PYTHON -m pip install --disable-pip-version-check $lacks ||
        fail "the requirements could not be installed; see pip's message above"
    echo "Installed. To run the Python scripts by hand, first: source .venv/bin/activate"
}

if [ -n "${PYTHON:-}" ]; then
    case $PYTHON in
        /*) ;;
        */*) PYTHON=$OLDPWD/$PYTHON ;;  # from where the script was called: it has changed to its own folder
    esac
    lacks=$(lacking "$PYTHON") || fail "PYTHON=$PYTHON does not run or is older than 3.11"
    [ -z "$lacks" ] || fail "PYTHON=$PYTHON lacks packages; to add them: $(pip_install "$PYTHON" $lacks)"
else
    PYTHON= lacks=torch
    for name in $NAMES; do
        found=$(command -v "$name") && missing=$(lacking "$found") || continue
        if [ -z "$PYTHON" ] || [ -z "$missing" ]; then PYTHON=$found lacks=$missing; fi
        if [ -z "$missing" ]; then break; fi
    done
    case $lacks in
        "") ;;
        torch*) use_venv "$PYTHON" ;;
        *)
            [ "$(dirname "$PYTHON")" -ef .venv/bin ] ||
                echo "note: .venv is used: your Python has PyTorch but lacks other packages; to use it instead:" \
                    "$(pip_install "$PYTHON" $lacks)" >&2
            use_venv "$PYTHON" ;;
    esac
fi
