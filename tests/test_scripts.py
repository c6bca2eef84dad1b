"""The shell scripts and every command of the READMEs, run in a copy of the code as a user would."""

import glob
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest

from benchmarks import blocks

ROOT = Path(__file__).parents[1]
QUICK = ["--epoch", "1", "--hidden", "32", "--device", "cpu"]
DATASETS = {"test-flickr.sh": "mirflickr", "test-nus.sh": "nus-wide", "test-mscoco.sh": "mscoco"}
READMES = ("README.md", "README.zh-CN.md")


def copy_code(target: Path) -> Path:
    """The files of the root and the packages, compiled as far as they are, and the data set that comes with them:
    nothing that a user or a run has put beside them.
    """
    for path in ROOT.iterdir():
        if path.is_file() and path.suffix in (".py", ".sh", ".txt", ".md", ".ini"):
            shutil.copy2(path, target)  # with its time, so that what is compiled already is used
        elif path.name == "__pycache__" or (path / "__init__.py").exists():
            shutil.copytree(path, target / path.name)
    shutil.copytree(ROOT / "data/openmoji", target / "data/openmoji")
    return target


@pytest.fixture
def code(tmp_path: Path) -> Path:
    return copy_code(tmp_path)


def run(code: Path, *command: str, folder: Path | None = None) -> subprocess.CompletedProcess:
    """Run with the Python of the tests, so that nothing is installed."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    settings = {"PATH": path, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1"}
    return subprocess.run(command, cwd=folder or code, text=True, capture_output=True, timeout=240, encoding="utf-8",
                          env={**os.environ, **settings})


def one_line(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("script, dataset", DATASETS.items())
def test_without_its_data_a_script_says_so_and_trains_on_openmoji(code, script, dataset):
    trains = dataset == "mirflickr"  # the scripts differ in the data set alone; the others are stopped by a test task
    done = run(code, "bash", str(code / script), *QUICK, "--hash_lens", "16", "--results_dir", "elsewhere",
               *([] if trains else ["--task", "3"]), folder=code / "data")  # a script finds its own folder
    paragraph = done.stdout.split("\n\n")[0]
    for words in (f"{dataset} is not here", f"data/{dataset}", "train.pkl", f"{dataset}.h5", "data/README.md",
                  "OpenMoji", f"not {dataset}'s"):
        assert words in paragraph
    if not trains:
        assert "openmoji_hash.pth: no such checkpoint" in one_line(done)
        return
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("elsewhere/openmoji/") and (code / last).is_file()
    assert [path.name for path in (code / "checkpoints/hash").glob("*hash.pth")] == ["openmoji_hash.pth"]


def test_with_its_data_a_script_trains_on_it(code):
    rng = np.random.default_rng(0)
    (code / "features/NUS-WIDE").mkdir(parents=True)  # as ICMR.py finds it, too
    np.savez(code / "features/NUS-WIDE/any.npz", image=rng.random((40, 6)), text=rng.random((40, 5)),
             label=np.eye(2)[rng.integers(2, size=40)], train_idx=np.arange(30), query_idx=np.arange(30, 40),
             retrieval_idx=np.arange(30))
    done = run(code, "bash", "test-nus.sh", *QUICK, "--batch_size", "16", "--data_dir=features")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("✅ Using Progressive Hash Learning")
    assert done.stdout.splitlines()[-1].startswith("results/NUS-WIDE/")
    trained = {path.name for path in (code / "checkpoints/hash").iterdir()}
    assert {name for name in trained if "state" not in name and name[0] != "."} == {"NUS-WIDE_hash.pth"}


@pytest.mark.parametrize("arguments", [["--dataset", "nope"], ["--dataset=mirflickr"]], ids=" ".join)
def test_a_data_set_asked_for_is_never_replaced(code, arguments):
    done = run(code, "bash", "test-flickr.sh", *QUICK, *arguments)
    message = one_line(done)
    assert "no data set" in message and "openmoji" in message and done.stdout == ""
    assert not list(code.rglob("*.pth"))


def test_task_at_the_top_of_a_script_is_the_task(code):
    script = (code / "test-flickr.sh").read_text()
    assert re.search(r"^TASK=1$", script, re.MULTILINE)
    (code / "test-flickr.sh").write_text(re.sub(r"^TASK=1$", "TASK=3", script, flags=re.MULTILINE))
    assert "no such checkpoint" in one_line(run(code, "bash", "test-flickr.sh"))


def test_run_tests_passes_its_arguments_to_pytest(code):
    (code / "tests").mkdir()
    (code / "tests/test_small.py").write_text("def test_good(): pass\ndef test_bad(): assert False\n")
    done = run(code, "bash", "run_tests.sh")
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout
    done = run(code, "bash", "run_tests.sh", "-k", "good")
    assert done.returncode == 0 and "1 passed" in done.stdout and "failed" not in done.stdout


# A Python that has packages in name only, and writes down what it is asked to run or to install.
FAKE_PYTHON = """#!{bash}
packages=$(dirname "$0")/packages
install() {{
    local requirement=${{1%%,*}}
    local name=${{requirement%%[=>]*}} version=${{requirement##*=}}
    mkdir -p "$packages/${{name//-/_}}-$version.dist-info"
    printf 'Name: %s\\nVersion: %s\\n' "$name" "$version" >"$packages/${{name//-/_}}-$version.dist-info/METADATA"
}}
case "$1 $2" in
    "-m pytest" | "ICMR.py "*) echo "$0 runs $*" ;;
    "-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip")
        shift 2
        [ "$1" = install ] || exit 0
        echo "$*" >>"$packages.log"
        while [ $# -gt 0 ]; do
            case $1 in
                -r) while read -r line; do case $line in \\#*) ;; *) install "$line" ;; esac; done <"$2" && shift ;;
                *[=]*) install "$1" ;;
            esac
            shift
        done ;;
    *) PYTHONPATH=$packages exec {python} -S "$@" ;;
esac
"""


def requirements(name: str) -> dict[str, str]:
    """The version of each package in a file of requirements; of a range, its lower end."""
    return dict(re.findall(r"^([\w-]+)[=>]=([\d.]+)", (ROOT / name).read_text(), re.MULTILINE))


PINS = requirements("requirements.txt")
TEST_TOOLS = requirements("requirements-test.txt")


def without(packages: dict[str, str], *names: str) -> dict[str, str]:
    return {name: version for name, version in packages.items() if name not in names}


class Machine:
    """A clean copy of the scripts, and only those Pythons that a test puts on the PATH or into ``.venv``."""

    def __init__(self, folder: Path):
        self.code, self.tools, self.path = folder / "code", folder / "tools", []
        self.venv = str(self.code / ".venv/bin/python")
        for made in (self.code, self.tools):
            made.mkdir()
        for file in [*ROOT.glob("*.sh"), *ROOT.glob("requirements*.txt")]:
            shutil.copy(file, self.code)
        for tool in ("bash", "cat", "cp", "dirname", "mkdir"):
            (self.tools / tool).symlink_to(shutil.which(tool))

    def python(self, folder: str, packages: dict[str, str], name: str = "python3", on_path: bool = True) -> Path:
        python = self.code.parent / folder / name
        for package, version in packages.items():
            info = python.parent / "packages" / f"{package.replace('-', '_')}-{version}.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(f"Name: {package}\nVersion: {version}\n")
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(FAKE_PYTHON.format(bash=shutil.which("bash"), python=shlex.quote(sys.executable)))
        python.chmod(0o755)
        if on_path:
            self.path.append(str(python.parent))
        return python

    def run(self, *command: str, folder: Path | None = None, **settings: str) -> subprocess.CompletedProcess:
        return subprocess.run(["bash", *command], cwd=folder or self.code, text=True, capture_output=True, timeout=60,
                              env={"PATH": os.pathsep.join([*self.path, str(self.tools)]), **settings})

    def installed(self, folder: str = "code/.venv/bin") -> list[str]:
        """What pip was asked for, a call each."""
        log = self.code.parent / folder / "packages.log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def ran(done: subprocess.CompletedProcess) -> str:
    """The Python that ran in the end."""
    assert done.returncode == 0, done.stderr
    return re.fullmatch(r"(.*) runs (ICMR\.py|-m pytest) .*", done.stdout.splitlines()[-1])[1]


@pytest.mark.parametrize("packages", [
    PINS, requirements("requirements-ranges.txt"),
    {**PINS, "torch": "2.12.1+cu126"}, {**PINS, "torch": "2.7.0a0+79aa17489c.nv25.4"},
    {**without(PINS, "faiss-cpu"), "faiss-gpu-cu12": "1.12.0"},
], ids=["pins", "lowest", "gpu build", "preview", "faiss on the gpu"])
def test_a_python_that_has_what_is_needed_is_used_as_it_is(machine, packages):
    python = machine.python("conda", packages)
    done = machine.run("test-flickr.sh", "--dataset", "openmoji", "--epoch", "5")
    assert ran(done) == str(python) and done.stderr == ""
    assert done.stdout == f"{python} runs ICMR.py --dataset mirflickr --task 1 --dataset openmoji --epoch 5\n"
    assert not (machine.code / ".venv").exists() and machine.installed("conda") == []


@pytest.mark.parametrize("packages", [{}, {**PINS, "torch": "2.5.1+cu121"}, {**PINS, "torch": "3.0.0"}],
                         ids=["bare", "old", "new"])
def test_without_pytorch_in_range_venv_is_made_of_the_pins_once(machine, packages):
    machine.python("system", packages)
    done = machine.run("test-flickr.sh")
    assert ran(done) == machine.venv and done.stderr == ""
    assert "Installing" in done.stdout and "source .venv/bin/activate" in done.stdout
    again = machine.run("test-flickr.sh")
    assert ran(again) == machine.venv and "nstall" not in again.stdout
    assert machine.installed() == ["install --disable-pip-version-check -r requirements.txt"]
    assert machine.installed("system") == []


def test_what_a_python_with_pytorch_lacks_is_said_and_not_installed_into_it(machine):
    python = machine.python("conda", {**without(PINS, "numba"), "numpy": "1.26.4"})
    done = machine.run("test-flickr.sh")
    assert ran(done) == machine.venv
    assert done.stderr.startswith("note: ") and done.stderr.count("\n") == 1
    assert done.stderr.endswith(f"{python} -m pip install 'numpy>=2.0,<3' 'numba>=0.60,<1'\n")
    assert machine.installed("conda") == []
    subprocess.run([python, "-m", "pip", "install", "numpy>=2.0,<3", "numba>=0.60,<1"], check=True,
                   env={"PATH": str(machine.tools)})
    shutil.rmtree(python.parent / "packages/numpy-1.26.4.dist-info")
    assert ran(machine.run("test-flickr.sh")) == str(python)


@pytest.mark.parametrize("activated", [False, True])
def test_what_venv_lacks_is_added_and_its_pytorch_is_kept(machine, activated):
    if not activated:
        machine.python("system", {})
    machine.python("code/.venv/bin", {**without(PINS, "h5py", "pyarrow"), "torch": "2.12.0+cu126"}, "python", activated)
    done = machine.run("test-flickr.sh")
    assert ran(done) == machine.venv and done.stderr == ""
    assert "Adding to .venv: h5py>=3.11,<4 pyarrow>=16.1\n" in done.stdout
    assert machine.installed() == ["install --disable-pip-version-check h5py>=3.11,<4 pyarrow>=16.1"]


def test_a_venv_that_does_not_run_is_refused(machine):
    machine.python("system", {})
    (machine.code / ".venv/bin").mkdir(parents=True)
    assert "delete .venv" in one_line(machine.run("test-flickr.sh"))


def test_the_python_that_the_user_names_is_used_or_refused(machine):
    machine.python("system", PINS)
    mine = machine.python("mine", PINS, "python", on_path=False)
    assert ran(machine.run("test-flickr.sh", PYTHON=str(mine))) == str(mine)
    elsewhere = machine.run(str(machine.code / "test-flickr.sh"), folder=mine.parents[1], PYTHON="mine/python")
    assert ran(elsewhere) == str(mine)

    lacking = machine.python("lacking", without(PINS, "numba"), "python", on_path=False)
    message = one_line(machine.run("test-flickr.sh", PYTHON=str(lacking)))
    assert message.endswith(f"{lacking} -m pip install 'numba>=0.60,<1'\n")
    assert "PYTHON=/nowhere does not run" in one_line(machine.run("test-flickr.sh", PYTHON="/nowhere"))
    assert not (machine.code / ".venv").exists()


def test_arguments_reach_the_program_as_they_are(machine):
    python = machine.python("conda", PINS)
    python.write_text(python.read_text().replace('echo "$0 runs $*"', """printf '%s\\0' "$@\""""))
    odd = ["", "a b", "*", "$(touch made)", "a\nb", "'", '"', "-", "--", "--run_name=x  y", "x" * 5000, "--data_dir"]
    done = machine.run("test-flickr.sh", "--dataset", "openmoji", *odd)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\0")[5:-1] == ["--dataset", "openmoji", *odd]  # after the data set and the task
    assert not (machine.code / "made").exists()


def test_an_old_python_gives_way_to_a_newer_one_by_name(machine):
    machine.python("system", PINS).write_text(f"#!{shutil.which('bash')}\nexit 1\n")  # what an old one answers
    message = one_line(machine.run("test-flickr.sh"))
    assert "3.11 or newer" in message and "PYTHON=" in message and not (machine.code / ".venv").exists()
    machine.python("newer", {}, "python3.12")
    assert ran(machine.run("test-flickr.sh")) == machine.venv
    assert machine.installed() == ["install --disable-pip-version-check -r requirements.txt"]
    complete = machine.python("newest", PINS, "python3.13")
    assert ran(machine.run("test-flickr.sh")) == str(complete)


def test_the_tests_need_their_tools_as_well(machine):
    python = machine.python("conda", PINS)
    done = machine.run("run_tests.sh", "-k", "metric")
    assert ran(done) == machine.venv and done.stdout.endswith("--dist loadfile --no-loadscope-reorder -k metric\n")
    assert f"{python} -m pip install 'pytest>=" in done.stderr and machine.installed("conda") == []
    assert machine.installed() == [
        "install --disable-pip-version-check -r requirements.txt -r requirements-test.txt"]

    complete = machine.python("complete", {**PINS, **TEST_TOOLS}, on_path=False)
    assert ran(machine.run("run_tests.sh", "-q", PYTHON=str(complete))) == str(complete)


def test_the_tools_of_the_tests_are_added_to_a_venv_that_has_run(machine):
    machine.python("system", {})
    machine.run("test-flickr.sh")
    assert ran(machine.run("run_tests.sh", "-q")) == machine.venv
    assert len(machine.installed()) == 2 and machine.installed()[1].count(">=") == len(TEST_TOOLS)


def test_every_pin_has_a_range():
    assert PINS.keys() == requirements("requirements-ranges.txt").keys()


def commands(readme: str) -> list[list[str]]:
    """The command lines of a README's code blocks that run bash or Python; of a loop over seeds those of seed 0."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", (ROOT / readme).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = (line.strip().replace("$seed", "0") for block in blocks for line in block.replace("\\\n", "").splitlines())
    return [shlex.split(line, comments=True) for line in lines if line.startswith(("bash ", "python "))]


def is_installed(command: list[str]) -> bool:
    """Whether a command has the optional packages that it needs here."""
    modules = {"export_model.py": ("onnxscript", "onnxruntime", "huggingface_hub"), "serve": ("starlette", "uvicorn")}
    return all(importlib.util.find_spec(module) for word in command for module in modules.get(word, ()))


def answers(code: Path, *command: str) -> None:
    """Start a service, wait for its answer, and end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    service = subprocess.Popen([sys.executable, *command[1:], "--port", str(port)], cwd=code, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/search?item=7&rescore=100", timeout=30) as answer:
                    assert len(json.load(answer)["hits"]) == 10
                return
            except ConnectionError:
                pass
            except urllib.error.URLError as error:
                assert isinstance(error.reason, ConnectionError), error
            assert service.poll() is None and time.monotonic() < until, service.stdout.read()
            time.sleep(0.2)
    finally:
        service.kill()
        service.communicate()


def write_own_code(code: Path) -> None:
    """The files that docs/extending.md shows, where the README takes them to be."""
    for block in re.findall(r"^```python\n(# (\S+\.py)\n.*?)^```", (ROOT / "docs/extending.md").read_text(encoding="utf-8"),
                            re.MULTILINE | re.DOTALL):
        (code / block[1]).write_text(block[0], encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("readme", READMES)
def test_every_command_of_a_readme(code, readme):
    """In the README's order, shortened. Those on the reader's own data say in one line that it isn't there.

    What a translation has in common with README.md is run once.
    """
    if not (ROOT / readme).exists():
        pytest.skip(f"{readme} is not there")
    for folder in ("pretrained", "docs"):
        shutil.copytree(ROOT / folder, code / folder)
    write_own_code(code)
    ran = commands(readme)
    assert ["bash", "test-flickr.sh"] in ran and ["bash", "run_tests.sh"] in ran
    if readme != READMES[0]:
        ran = [command for command in ran if command not in commands(READMES[0])]
    for command in ran:
        assert (code / command[1]).is_file(), command
        command = [found for word in command for found in sorted(glob.glob(word, root_dir=code)) or [word]]
        if command[1] == "run_tests.sh":
            assert run(code, *command, "--version").returncode == 0
        elif {"photos", "DOWNLOADS"} & set(command) or command[2:] == ["inspect", "mine"] or command[-1] == "mine":
            one_line(run(code, *command))
        elif not is_installed(command):
            warnings.warn(f"not run, as {' '.join(command)} needs what isn't installed here")
        elif "serve" in command:
            answers(code, *command)
        elif "--methods" in command:
            done = run(code, *command, "--seeds", "1", "--epoch", "1", "--hash_lens", "16", "--jobs", "1")
            assert done.returncode == 0 and "Ridge" in done.stdout, (command, done.stderr)
        else:
            done = run(code, *command, *(QUICK if command[1] in (*DATASETS, "ICMR.py") else []))
            assert done.returncode == 0, (command, done.stderr)


@pytest.mark.slow
def test_the_notebooks_lines_of_the_readmes(code):
    block, again = (block for readme in READMES
                    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / readme).read_text(encoding="utf-8"),
                                            re.MULTILINE | re.DOTALL) if "Solver" in block)
    assert again == block
    assert block.count("\n") <= 5 and "epoch=100" in block
    done = run(code, sys.executable, "-c", block.replace("epoch=100", "epoch=1, hidden=32"))
    assert done.returncode == 0 and 0.1 < float(done.stdout.split()[-1]) < 1, done.stderr


PAGES = sorted(str(path.relative_to(ROOT)) for pattern in ("*.md", "docs/*.md", "data/*.md") for path in ROOT.glob(pattern))


@pytest.mark.parametrize("page", PAGES)
def test_every_place_that_a_page_links_to_is_there(page):
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\(([^):]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        name, _, place = link.partition("#")
        target = folder / name if name else ROOT / page
        assert target.exists(), link
        if place:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert place in map(blocks.anchor, headings), link


def test_output_that_nobody_reads_and_ctrl_c_end_without_a_traceback():
    def end(body: str, stdout=subprocess.PIPE) -> subprocess.Popen:
        # A process started in the background may have been told to ignore Ctrl-C.
        script = ("import signal, time\nfrom common import errors\n"
                  "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
                  f"@errors.exit_on_bad_input\ndef main():\n    {body}\nmain()")
        return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=stdout,
                                stderr=subprocess.PIPE, text=True)

    unread = end("while True: print('line', flush=True)")
    unread.stdout.readline()
    unread.stdout.close()
    assert (unread.stderr.read(), unread.wait(60)) == ("", 128 + signal.SIGPIPE)
    with open("/dev/full", "w") as full:
        lost = end("print('line')", stdout=full)
        assert (lost.stderr.read(), lost.wait(60)) == ("error: cannot write the output: No space left on device\n", 2)
    named = end("open('x' * 300)")
    assert re.fullmatch("error: x+…x+: File name too long\n", named.stderr.read()) and named.wait(60) == 2
    stopped = end("print('ready', flush=True); time.sleep(60)")
    stopped.stdout.readline()
    stopped.send_signal(signal.SIGINT)
    assert stopped.communicate(timeout=60) == ("", "Stopped.\n") and stopped.returncode == 128 + signal.SIGINT
