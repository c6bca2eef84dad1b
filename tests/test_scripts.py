"""The shell scripts and every command of the READMEs, run in a copy of the code as a user would."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
QUICK = ["--epoch", "1", "--hidden", "32", "--device", "cpu"]
DATASETS = {"test-flickr.sh": "mirflickr", "test-nus.sh": "nus-wide", "test-mscoco.sh": "mscoco"}
READMES = ("README.md", "README.zh-CN.md")


def copy_code(target: Path) -> Path:
    """The files of the root, compiled as far as they are, and the data set that comes with them: nothing that a user or
    a run has put beside them.
    """
    for path in ROOT.iterdir():
        if path.is_file() and path.suffix in (".py", ".sh", ".txt", ".md", ".ini"):
            shutil.copy2(path, target)  # with its time, so that what is compiled already is used
    if (ROOT / "__pycache__").exists():
        shutil.copytree(ROOT / "__pycache__", target / "__pycache__")
    shutil.copytree(ROOT / "data/openmoji", target / "data/openmoji")
    return target


@pytest.fixture
def code(tmp_path: Path) -> Path:
    return copy_code(tmp_path)


def run(code: Path, *command: str, folder: Path | None = None) -> subprocess.CompletedProcess:
    """Run with the Python of the tests as the first on the PATH, so that nothing is installed."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    return subprocess.run(command, cwd=folder or code, text=True, capture_output=True, timeout=240, encoding="utf-8",
                          env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1"})


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
        assert "openmoji_hash_16.pth: no such checkpoint" in one_line(done)
        return
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("elsewhere/openmoji/") and (code / last).is_file()
    assert [path.name for path in (code / "checkpoints/hash").glob("*_16.pth")] == ["openmoji_hash_16.pth"]


def test_with_its_data_a_script_trains_on_it(code):
    rng = np.random.default_rng(0)
    (code / "features/nus-wide").mkdir(parents=True)
    np.savez(code / "features/nus-wide/any.npz", image=rng.random((40, 6)), text=rng.random((40, 5)),
             label=np.eye(2)[rng.integers(2, size=40)], train_idx=np.arange(30), query_idx=np.arange(30, 40),
             retrieval_idx=np.arange(30))
    done = run(code, "bash", "test-nus.sh", *QUICK, "--batch_size", "16", "--data_dir=features")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("✅ Using Progressive Hash Learning")
    assert done.stdout.splitlines()[-1].startswith("results/nus-wide/")
    trained = {path.name for path in (code / "checkpoints/hash").iterdir()}
    assert {name for name in trained if "state" not in name} == {
        f"nus-wide_hash_{bits}.pth" for bits in (16, 32, 64, 128)}


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
    assert done.returncode == 0 and "1 passed, 1 deselected" in done.stdout


def commands(readme: str) -> list[list[str]]:
    """The command lines of a README's code blocks that run bash or Python."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", (ROOT / readme).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.replace("\\\n", "").splitlines()
            if line.startswith(("bash ", "python "))]


@pytest.mark.parametrize("readme", READMES)
def test_every_command_of_a_readme(code, readme):
    """In the README's order, shortened. Those on the reader's own data say in one line that it isn't there.

    What a translation has in common with README.md is run once.
    """
    if not (ROOT / readme).exists():
        pytest.skip(f"{readme} is not there")
    ran = commands(readme)
    assert ["bash", "test-flickr.sh"] in ran and ["bash", "run_tests.sh"] in ran
    if readme != READMES[0]:
        ran = [command for command in ran if command not in commands(READMES[0])]
    for command in ran:
        assert (code / command[1]).is_file(), command
        if command[1] == "run_tests.sh":
            assert run(code, *command, "--version").returncode == 0
        elif {"mine", "photos"} & set(command):
            one_line(run(code, *command))
        else:
            done = run(code, *command, *(QUICK if command[1] in (*DATASETS, "ICMR.py") else []))
            assert done.returncode == 0, (command, done.stderr)


@pytest.mark.parametrize("page", sorted(path.name for path in ROOT.glob("*.md")))
def test_every_file_that_a_page_links_to_is_there(page):
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_output_that_nobody_reads_and_ctrl_c_end_without_a_traceback():
    def end(body: str, stdout=subprocess.PIPE) -> subprocess.Popen:
        # A process started in the background may have been told to ignore Ctrl-C.
        script = ("import errors, signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
                  f"@errors.exit_on_bad_input\ndef main():\n    {body}\nmain()")
        return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=stdout,
                                stderr=subprocess.PIPE, text=True)

    unread = end("while True: print('line', flush=True)")
    unread.stdout.readline()
    unread.stdout.close()
    assert (unread.stderr.read(), unread.wait(60)) == ("", 128 + signal.SIGPIPE)
    with open("/dev/full", "w") as full:
        lost = end("print('line')", stdout=full)
        assert (lost.stderr.read(), lost.wait(60)) == ("error: cannot write the output: the disk is full\n", 2)
    named = end("open('x' * 300)")
    assert named.stderr.read() == f"error: {'x' * 300}: File name too long\n" and named.wait(60) == 2
    stopped = end("print('ready', flush=True); time.sleep(60)")
    stopped.stdout.readline()
    stopped.send_signal(signal.SIGINT)
    assert stopped.communicate(timeout=60) == ("", "Stopped.\n") and stopped.returncode == 128 + signal.SIGINT
