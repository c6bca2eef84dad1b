"""Checkpoints and states of runs: each field is checked, promises are not believed, and two runs don't write one file."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

import ICMR
from attack.crafted_checkpoints import endless, repacked, shared
from common.errors import InputError
from formats.torch_file import read_torch_file
from model import HashModel
from toy import toy_arguments, write_toy
from training import checkpoint, run_state
from training.run_state import RunState

ROOT = Path(__file__).parents[1]
NAN, INF = float("nan"), float("inf")
pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a data set, a model, and the state of the finished run."""
    folder = write_toy(tmp_path_factory.mktemp("trained"), pairs=60, queries=12, classes=2, spread=3)
    with contextlib.redirect_stdout(io.StringIO()):
        ICMR.main(toy_arguments(folder, "--eval_every", "1"))
    return folder


@pytest.fixture(scope="module")
def resumed(trained):
    return ICMR.Solver(ICMR.parse(toy_arguments(trained, "--eval_every", "1", "--resume")))


def files(folder):
    return folder / "checkpoints" / "hash" / "toy_hash.pth", folder / "checkpoints" / "hash" / "toy_hash_4_8_state.pth"


@contextlib.contextmanager
def replaced(path, content):
    """The file with other content, for as long as the context lasts."""
    kept = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of sparse tensors
        torch.save(content, path)
    try:
        yield
    finally:
        path.write_bytes(kept)


def changed(content, field, value):
    """The content with a value in a field such as ``log/0/loss``, or with None without the field."""
    inner, *way = content, *field.split("/")
    for depth, name in enumerate(way, 1):
        key = int(name) if isinstance(inner, list) or name.isdigit() and int(name) in inner else name
        if depth < len(way):
            inner = inner[key]
        elif value is None:
            del inner[key]
        else:
            inner[key] = value(inner[key]) if callable(value) else value
    return content


def refused(capsys, main, *arguments):
    """Run a script, which must refuse in one line and with status 2; returns the line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and said.startswith("error: ") and len(said) < 420, said
    return said


FIELDS = [
    ("config/scale_max", None, "config: object missing required field scale_max"),
    ("config/scale_max", "ten", "config.scale_max: expected float, found str"),
    ("config/scale_max", NAN, r"config.scale_max: expected float .* found nan"),
    ("config/scale_max", INF, "config.scale_max: expected float <= 1000.0, found inf"),
    ("config/scale_max", torch.tensor(10.0), "config.scale_max: expected float, found Tensor"),
    ("config/seed", [0], "config.seed: expected int, found array"),
    ("config/lr", torch.ones(2), "config.lr: expected .*found Tensor"),
    ("config", [1], "config: expected object, found array"), ("config", None, "config"),
    ("chosen", [0.5], "chosen: expected object, found array"), ("chosen/temperature", 0.5, "chosen"),
    ("chosen/temperature/4", NAN, r"chosen\[...\]\[...\]: expected float > 0.0"),
    ("epoch", "3", "epoch: expected int, found str"), ("epoch", -1, "epoch: expected int >= 0, found -1"),
    ("scale", NAN, "scale: expected float"), ("dataset", torch.ones(3), "dataset: expected str, found Tensor"),
    ("dataset", "x" * 10**6, "dataset: expected str of length <= 4096"), ("fingerprint", 10**30, "beyond 64 bits"),
]
WEIGHTS = [
    (lambda weight: weight.to(torch.complex64), r"found torch.complex64 \(16, 9\), expected torch.float32 \(16, 9\)"),
    (lambda weight: weight.long(), "found torch.int64"), (lambda weight: weight.flatten(), r"found torch.float32 \(144,\)"),
    (lambda weight: weight * NAN, "found NaN, infinity or a number beyond 1e[+]17"),
    (lambda weight: weight.half() + INF, "found NaN"), (lambda weight: weight + 1e18, "found NaN"),  # squares overflow
    (lambda weight: weight.to_sparse(), "_rebuild_sparse_tensor"),
    (lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), "_rebuild_qtensor"),
    (lambda weight: torch.ones(1).expand(10**5, 10**5), "more numbers than are in it"), (None, "missing"),
    (lambda weight: 3, "expected Tensor, found int"),
]


@pytest.mark.parametrize("field, value, message", [
    *FIELDS, *(("ImageMlp/fc1.weight", *case) for case in WEIGHTS), ("ImageMlp", None, "ImageMlp.* missing"),
    ("settings/hidden", 10**9, r"fc1.weight: found torch.float32 \(16, 9\), expected torch.float32 \(1000000000, 9\)"),
    ("settings/image_dim", 10**9, r"expected torch.float32 \(1000000000,\)"),
    ("settings/hash_lens", [10**9], r"settings.hash_lens\[0\]: expected int <= 32767, found 1000000000"),
    ("settings/hash_lens", [8, 8], "settings.*found a length twice"), ("settings/hash_lens", None, "settings"),
    ("settings/noise", INF, "settings.noise: expected float <= .*, found inf"),
    ("settings/fusion", "early", "settings.fusion"), ("settings/more", 1, "settings: object contains unknown field"),
])
def test_each_field_of_a_checkpoint_is_checked(trained, capsys, field, value, message):
    path, _ = files(trained)
    with replaced(path, changed(torch.load(path, weights_only=True), field, value)):
        said = refused(capsys, ICMR.main, *toy_arguments(trained, "--task", "3"))
        assert "toy_hash.pth: " in said and re.search(message, said), said


@pytest.mark.parametrize("field, value, message", [
    *FIELDS[:-2], *((f"model/{part}", *case) for part in ("ImageMlp.fc1.weight",) for case in WEIGHTS),
    *((f"optimizer/state/0/{part}", lambda value: value * NAN, "NaN") for part in ("step", "exp_avg")),
    ("optimizer/state/0/exp_avg", lambda value: value[0], r"optimizer.0.exp_avg: found torch.float32 \(9,\)"),
    ("optimizer/state/0", None, "optimizer.0.exp_avg: missing"), ("optimizer", [], "optimizer: expected object"),
    ("random/0", torch.zeros(3, dtype=torch.uint8), "random: "), ("random/0", torch.ones(5056), "random: "),
    ("random", [], "random: expected array of length >= 1"), ("random", 3, "random: expected array, found int"),
    ("step", 10**9, "statistics of 0 steps, expected 1000000000"), ("step", 1.0, "step: expected int, found float"),
    ("epoch", 10**9, "found epoch 1000000000, expected at most 3"), ("epoch", 2, "a log of 3 epochs"),
    ("seconds", NAN, "seconds: expected float"), ("run", 3, "run: expected str, found int"),
    ("statistics", [torch.ones(5)], "statistics of 1 steps, expected 0"),
    ("log/0/loss", "low", r"log\[0\].*: expected float, found str"), ("log/0/loss", None, r"log\[0\]: .*field loss"),
    ("log/1", None, "a log of 2 epochs"), ("log", {}, "log: expected array, found object"),
    ("history", [], "no evaluation of the last epoch"), ("history/0/4/unpaired/i2t/map", None, "required field map"),
    ("history/0/4/partners", None, "required field partners"), ("history/0/16", 3, "evaluations of others"),
])
def test_each_field_of_a_state_is_checked(trained, resumed, field, value, message):
    _, path = files(trained)
    with replaced(path, changed(torch.load(path, weights_only=True), field, value)):
        with pytest.raises(InputError) as error:
            run_state.load(path, resumed.about(), resumed.config.outcome(), RunState(), resumed.model,
                           resumed.optimizer, labelled=True)
    assert "state.pth: " in str(error.value) and re.search(message, str(error.value))


def test_a_log_that_was_saved_as_a_tuple_is_gone_on_with(trained, resumed):
    _, path = files(trained)
    state = changed(torch.load(path, weights_only=True), "log", tuple)
    with replaced(path, changed(state, "history", tuple)):
        run_state.load(path, resumed.about(), resumed.config.outcome(), run := RunState(), resumed.model,
                       resumed.optimizer, labelled=True)
    assert (type(run.log), type(run.history)) == (list, list) and len(run.log) == run.epoch


def test_what_a_checkpoint_may_leave_out_is_not_missed(trained, tmp_path):
    path, _ = files(trained)
    content = torch.load(path, weights_only=True)
    for name in ("dataset", "fingerprint", "config", "chosen", "epoch", "scale"):
        del content[name]
    torch.save(content, tmp_path / "bare.pth")
    assert checkpoint.load_model(tmp_path / "bare.pth")[0].hash_lens == [4, 8]
    with pytest.raises(InputError, match="says nothing of chosen, config, epoch, scale"):
        checkpoint.load_trained(tmp_path / "bare.pth", [4, 8])


def test_the_model_that_comes_along_is_read_as_pytorch_reads_it():
    path = ROOT / "pretrained" / "hash" / "openmoji_hash.pth"
    model, about = checkpoint.load_trained(path, [16, 128])
    expected = torch.load(path, weights_only=True)
    assert (about["epoch"], about["config"]) == (expected["epoch"], expected["config"])
    found = checkpoint.load_model(path)[0].state_dict()
    assert all(torch.equal(value.float(), found[f"{part}.{name}"].float()) for part in ("ImageMlp", "TextMlp")
               for name, value in expected[part].items())


@pytest.mark.parametrize("value", [torch.arange(6.0).reshape(2, 3).T, torch.ones(2, dtype=torch.bfloat16), torch.ones(0),
                                   torch.tensor(3), torch.tensor([1 + 2j]), torch.arange(9)[3:5], [1, (2, None), "é", {1: 2.5}]])
def test_what_was_saved_is_read(tmp_path, value):
    torch.save({"value": value, "again": [value]}, tmp_path / "x.pth")
    found = read_torch_file(tmp_path / "x.pth")
    same = torch.equal if isinstance(value, torch.Tensor) else lambda one, other: one == other
    assert same(found["value"], value) and same(found["again"][0], value)
    assert getattr(found["value"], "dtype", None) == getattr(value, "dtype", None)


def test_what_was_read_has_memory_of_its_own(tmp_path):
    numbers = torch.arange(6.0)
    saved = [numbers, numbers[1:3], numbers.reshape(2, 3).T, torch.ones(()).expand(8, 16)]
    torch.save(saved, tmp_path / "x.pth")
    found = read_torch_file(tmp_path / "x.pth")
    assert all(map(torch.equal, found, saved))
    assert len({tensor.data_ptr() for tensor in found}) == len(found)
    assert all(tensor.is_contiguous() and tensor.untyped_storage().nbytes() == 4 * tensor.numel() for tensor in found)


# --- promises -----------------------------------------------------------------------------------------------------

PICKLES = {  # of an archive that holds a tensor of four numbers
    "a key of tuples": lambda content: b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s.",
    "a byte array": lambda content: b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.",
    "a storage": lambda content: content.replace(b"K\x04t", b"J\x00\x00\x00\x1dt").replace(b"K\x04\x85", b"J\x00\x00\x00\x1d\x85"),
    "a tensor": lambda content: content.replace(b"K\x04\x85", b"J\x00\x00\x00\x1d\x85"),
    "code": lambda content: b"\x80\x02cposix\nmkdir\nX\x03\x00\x00\x00ran\x85R.",
}
VALUES = {
    "one list in 2^60 places": lambda: shared(1, 60), "an endless list": endless,
    "one tensor in a million places": lambda: [torch.ones(1).expand(1000)] * 1000,
    "an expanded tensor": lambda: torch.ones(1).expand(10**9),
    "deep": lambda: json.loads("[" * 99 + "]" * 99),
}
READ_ALL = """
import json, resource, sys, time
from pathlib import Path
from training import checkpoint, run_state
from training.run_state import RunState

megabytes = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
for path in map(Path, sys.argv[1:]):
    started, before = time.process_time(), megabytes()
    try:
        checkpoint.load_model(path)
        said = "read"
    except checkpoint.InputError as error:
        said = str(error)
    print(json.dumps([path.stem, said, time.process_time() - started, megabytes() - before]), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="measures memory as POSIX has it")
def test_promises_of_a_checkpoint_are_not_believed(tmp_path):
    plain = io.BytesIO()
    torch.save({"weights": torch.ones(4)}, plain)
    for name, change in PICKLES.items():
        (tmp_path / f"{name}.pth").write_bytes(repacked(plain.getvalue(), change))
    for name, make in VALUES.items():
        torch.save({"format": 1, "weights": make()}, tmp_path / f"{name}.pth")
    checkpoint.save_model(tmp_path / "large.pth", HashModel(7, 5, [4], hidden=6))
    torch.save(changed(torch.load(tmp_path / "large.pth"), "settings/hidden", 10**9), tmp_path / "large.pth")
    with zipfile.ZipFile(tmp_path / "deflated.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in (("data.pkl", b"\x80\x02}."), ("data/0", bytes(10**9))):
            archive.writestr(f"archive/{member}", content)
    result = subprocess.run([sys.executable, "-c", READ_ALL, *map(str, tmp_path.glob("*.pth"))], text=True,
                            env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, timeout=300)
    assert result.returncode == 0 and not result.stderr, result.stderr[-2000:]  # a crash has another
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert {name for name, said, *_ in found if said == "read" or "\n" in said} == set()
    assert {name for name, _, seconds, more in found if seconds > 10 or more > 300} == set()
    assert len(found) == len(PICKLES) + len(VALUES) + 2 and not (tmp_path / "ran").exists()


# --- two of everything --------------------------------------------------------------------------------------------


WAITING = """
import sys, time
import ICMR

def saving(solver, save=ICMR.Solver.save_state):
    save(solver)
    print("saved", file=sys.stderr, flush=True)
    time.sleep(1000)

ICMR.Solver.save_state = saving
ICMR.main(sys.argv[1:])
"""


def test_a_second_training_in_one_folder_is_refused_and_a_killed_one_resumes(trained, tmp_path, capsys):
    settings = toy_arguments(trained, "--eval_every", "3", "--results_dir", str(tmp_path / "results"),
                             "--checkpoint_dir", str(tmp_path / "checkpoints"))
    first = subprocess.Popen([sys.executable, "-c", WAITING, *settings], cwd=ROOT, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, text=True)
    try:
        assert first.stderr.readline() == "saved\n"  # after the first epoch, and nothing is evaluated yet
        ran = sorted((tmp_path / "results" / "toy").iterdir())
        for more in ([], ["--resume"], ["--hash_lens", "8"]):
            said = refused(capsys, ICMR.main, *settings, *more)
            assert "toy_hash.pth: another training is writing it" in said and "--checkpoint_dir" in said
        assert sorted((tmp_path / "results" / "toy").iterdir()) == ran
    finally:
        first.kill()
        first.communicate()
    ICMR.main([*settings, "--resume"])
    found = torch.load(tmp_path / "checkpoints" / "hash" / "toy_hash.pth", weights_only=True)
    whole = torch.load(files(trained)[0], weights_only=True)
    assert all(torch.equal(value, found[part][name]) for part in ("ImageMlp", "TextMlp")
               for name, value in whole[part].items())


def test_trainings_of_other_files_and_tests_go_on_beside_a_training(trained, capsys):
    first = ICMR.Solver(ICMR.parse(toy_arguments(trained)))
    with first.files.locked(first.written):
        ICMR.main(toy_arguments(trained, "--task", "3"))
        refused(capsys, ICMR.main, *toy_arguments(trained))
        for more in (["--task", "0"], ["--nested", "false", "--hash_lens", "8"]):
            other = ICMR.Solver(ICMR.parse(toy_arguments(trained, *more)))
            with other.files.locked(other.written):
                pass
        apart = [*toy_arguments(trained, "--nested", "false"), "--hash_lens", "4", "8"]  # the same state
        assert "toy_hash_4_8_state.pth: another training" in refused(capsys, ICMR.main, *apart)
    ICMR.Solver(ICMR.parse(toy_arguments(trained)))


def test_two_runs_of_one_name_are_not_written_at_once(trained, capsys):
    settings = toy_arguments(trained, "--task", "3", "--run_name", "named")
    first = ICMR.Solver(ICMR.parse(settings))
    with first.files.locked(first.written):
        assert re.search("named: another run is writing there.*--run_name", refused(capsys, ICMR.main, *settings))
        assert not first.files.log.exists()  # it has said nothing yet, and the other nothing there
        ICMR.main(toy_arguments(trained, "--task", "3", "--run_name", "other"))
