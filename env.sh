# Sourced by the scripts: sets PYTHON to one that has requirements.txt, making .venv where the current one has not.

has_requirements() {
    "$1" - requirements.txt 2>/dev/null <<'PYTHON'
import sys
from importlib.metadata import version
for line in open(sys.argv[1]):
    if line.strip():
        name, wanted = line.strip().split("==")
        if version(name).split("+")[0] != wanted:  # 2.13.0+cpu is a build of 2.13.0
            sys.exit(1)
PYTHON
}

fail() {
    echo "error: $1" >&2
    exit 2
}

PYTHON=$(command -v python3 || command -v python || true)
[ -n "$PYTHON" ] || fail "no python3 on the PATH; install Python 3.11 or newer"
if ! has_requirements "$PYTHON"; then
    if ! has_requirements .venv/bin/python; then
        "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
            fail "$("$PYTHON" --version) is too old; the pinned requirements need Python 3.11 or newer"
        echo "Installing the pinned requirements into .venv (once, a minute or two) ..."
        "$PYTHON" -m venv .venv || fail "cannot make .venv; on Debian and Ubuntu: apt install python3-venv"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt ||
            fail "the requirements could not be installed; see pip's message above"
        echo "Installed. To run the Python scripts by hand, first: source .venv/bin/activate"
    fi
    PYTHON=.venv/bin/python
fi
