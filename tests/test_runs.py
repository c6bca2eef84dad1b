"""A run as its user meets it: its log, quiet, in a thread, settings from a file, replaced models, Apple's GPUs."""

import re
import shlex
import shutil
import sys
import threading
from pathlib import Path

import pytest
import torch

import ICMR
from common import console
from common.errors import InputError
from model import HashModel
from reporting import terminal
from toy import toy_arguments, write_toy
from training import device
from training.interruption import how_to_resume
from training.run_files import RunFiles


@pytest.fixture
def small(tmp_path):
    return write_toy(tmp_path, pairs=60, queries=12, classes=2, spread=3)


def config(folder, *more):
    return ICMR.parse(toy_arguments(folder, *more))


def test_the_log_keeps_what_a_quiet_run_does_not_print(small, capsys):
    results = ICMR.main(toy_arguments(small, "--quiet"))
    printed = capsys.readouterr().out.splitlines()
    assert printed[:-1] == terminal.table(results) and printed[-1].endswith("metrics.json")
    kept = Path(printed[-1]).with_name("log.txt").read_text(encoding="utf-8").splitlines()
    assert "epoch: 3" in kept and [line for line in kept if len(line) > 80] == [printed[-1]] * (len(printed[-1]) > 80)
    ICMR.main(toy_arguments(small))
    loud = capsys.readouterr().out.splitlines()
    folder = Path(loud[-1]).parent
    assert (folder / "log.txt").read_text(encoding="utf-8").splitlines() == loud


def test_a_run_of_the_same_name_begins_a_new_log(small):
    for seed in ("0", "1"):
        ICMR.main(toy_arguments(small, "--run_name", "same", "--seed", seed))
    log = (small / "results" / "toy" / "same" / "log.txt").read_text(encoding="utf-8")
    assert log.count("epoch: 1\n") == 1


def test_a_finished_run_that_is_resumed_keeps_the_model_before_it(small, capsys):
    model = small / "checkpoints" / "hash" / "toy_hash.pth"
    ICMR.main(toy_arguments(small, "--seed", "0"))
    before = model.read_bytes()
    ICMR.main(toy_arguments(small, "--seed", "1"))
    capsys.readouterr()
    ICMR.main(toy_arguments(small, "--seed", "1", "--resume"))
    assert model.with_name("toy_hash.pth.replaced").read_bytes() == before
    assert "Replacing" not in capsys.readouterr().out


def test_a_resumed_run_locks_the_folder_that_it_goes_on_in(small, monkeypatch, capsys):
    ICMR.main(toy_arguments(small, "--run_name", "mine"))
    solver = ICMR.Solver(config(small, "--resume"))
    assert solver.files.run == "mine"
    with solver.files.locked(solver.written), pytest.raises(SystemExit, match="2"):
        ICMR.main(toy_arguments(small, "--task", "3", "--run_name", "mine"))
    assert "another run is writing there" in capsys.readouterr().err


def test_settings_that_are_assigned_later_are_checked_too(small):
    changed = config(small)
    changed.scale_max, changed.hash_lens = 8, 16
    changed.check()
    assert (changed.scale_max, changed.hash_lens) == (8.0, [16]) and type(changed.scale_max) is float
    for name, value, message in (("use_progressive_hash", "false", "expected true or false"), ("epochs", 5, "unknown"),
                                 ("epoch", 2.5, "expected a whole number")):
        changed = config(small)
        setattr(changed, name, value)
        with pytest.raises(InputError, match=message):
            ICMR.Solver(changed)


@pytest.mark.parametrize("name", ["scale_max", "noise", "temperature", "lr"])
def test_a_default_that_is_edited_to_a_whole_number_stays_a_real_one(name):
    source = Path(ICMR.__file__).read_text(encoding="utf-8")
    edited, changes = re.subn(rf"self\.{name} = [\d.e-]+\n", f"self.{name} = 20\n", source)
    names = {"__name__": "edited", "__file__": ICMR.__file__}
    exec(compile(edited, "ICMR.py", "exec"), names)
    assert changes == 1 and getattr(names["Config"](), name) == 20.0
    assert getattr(names["parse"]([f"--{name}", "20.5"]), name) == 20.5


def test_a_training_is_the_same_whatever_is_drawn_before_it(small):
    def weights(*between):
        solver = ICMR.Solver(config(small))
        for call in between:
            call()
        solver.train()
        return solver.model.state_dict()

    alone = weights()
    again = weights(lambda: torch.rand(7), lambda: ICMR.Solver(config(small, "--seed", "5")))
    assert all(torch.equal(alone[name], again[name]) for name in alone)


def test_a_widest_epoch_fits_a_line():
    entry = dict(loss=20.1234, mean_abs=99.1234, saturation=1.0, bit_balance=1.0, seconds=99.0)
    assert len("  " + terminal.epoch_line(entry)) <= 80
    assert console.wrapped("    " + "word " * 40)[1].startswith("      word")


def test_training_again_keeps_the_replaced_model_once(small, capsys):
    model = small / "checkpoints" / "hash" / "toy_hash.pth"
    kept = model.with_name("toy_hash.pth.replaced")
    for seed, text in (("0", ""), ("1", "Replacing"), ("2", "Replacing")):
        before = model.read_bytes() if text else None
        ICMR.main(toy_arguments(small, "--seed", seed))
        assert (text or "epoch") in capsys.readouterr().out
        assert (kept.read_bytes() if kept.exists() else None) == before


def test_a_stopped_run_resumes_into_its_own_folder(small, capsys):
    solver = ICMR.Solver(config(small))
    solver.stop.signal = 2
    with pytest.raises(SystemExit):
        solver.train()
    assert "resume=True" in capsys.readouterr().out
    ICMR.main(toy_arguments(small, "--resume"))
    assert [path.name for path in (small / "results" / "toy").iterdir()] == [solver.files.run]
    log = solver.files.log.read_text(encoding="utf-8")
    assert log.index("Stopped in epoch 1") < log.index("Resuming after")


def test_a_long_command_to_resume_is_one_in_a_shell(monkeypatch):
    words = ["ICMR.py", "--data_dir", "a folder", *(f"--a_setting_{number}=1" for number in range(9))]
    monkeypatch.setattr("sys.argv", words)
    lines = how_to_resume(False)
    assert len(lines) > 1 and max(map(len, lines)) <= 80
    python, *rest = shlex.split("\n".join(lines).replace("\\\n", ""))
    assert rest == [*words, "--resume"] and shutil.which(python) == sys.executable


def test_a_state_cannot_name_a_folder_elsewhere(small):
    ICMR.main(toy_arguments(small))
    path = RunFiles(config(small), "toy").state
    for name, expected in (("../../elsewhere", None), ("/tmp", None), ("a/b", "a/b")):
        torch.save(torch.load(path, weights_only=True) | {"run": name}, path)
        assert ICMR.run_state.run_of(path) == expected


def test_a_build_that_fails_leaves_no_folder(small, monkeypatch):
    monkeypatch.setattr(ICMR.Solver, "build", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ICMR.Solver(config(small))
    assert not (small / "results").exists() and not (small / "checkpoints").exists()


def test_training_works_in_a_thread(small):
    found = []
    expected = ICMR.main(toy_arguments(small))["final"]
    thread = threading.Thread(target=lambda: found.append(ICMR.Solver(config(small)).train()["final"]))
    thread.start()
    thread.join()
    assert found == [expected]


def test_settings_come_from_a_file_and_the_command_line_wins(small, tmp_path):
    (tmp_path / "run.yaml").write_text("lr: 1e-2\nhash_lens: 16\nresults_dir: there\n")
    found = ICMR.parse(["--config", str(tmp_path / "run.yaml"), "--hash_lens", "8"])
    assert (found.lr, found.hash_lens, found.results_dir) == (0.01, [8], "there")
    results = ICMR.main(toy_arguments(small, "--scale_max", "3", "--run_name", "first"))
    found = ICMR.parse(["--config", str(small / "results" / "toy" / "first" / "metrics.json")])
    assert found.outcome() == ICMR.Config(**results["config"]).outcome()
    assert (found.results_dir, found.run_name) == ("results", "")
    found = ICMR.parse(["--config", str(tmp_path / "run.yaml"), "--epoch", "3"], lr=0.5, epoch=7, eval_every=2)
    assert (found.lr, found.epoch, found.eval_every) == (0.01, 3, 2)  # what a script prefers comes last


@pytest.mark.parametrize("text, message", [
    ("scale_mx: 8", "unknown setting 'scale_mx'"), ("epoch: ten", "epoch = 'ten': expected a whole number"),
    ("nested: 1", "nested = 1: expected true or false"), ("hash_lens: 1.5", "hash_lens = 1.5: expected whole numbers"),
    ("- 1", "expected settings"), ("a: [", "cannot be read"), ("!!python/object/apply:os.getcwd []", "cannot be read")])
def test_a_file_of_wrong_settings_is_refused(tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(InputError) as refused:
        ICMR.parse(["--config", str(tmp_path / "run.yaml")])
    assert message in str(refused.value) and str(refused.value).startswith(str(tmp_path / "run.yaml"))


def test_a_file_cannot_ask_for_code_to_be_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("class Loss:\n    pass\n")
    (tmp_path / "run.yaml").write_text("loss: mine.py:Loss\nepoch: 7\n")
    with pytest.raises(InputError, match="run.yaml: loss: mine.py:Loss is code, which no file may ask to run"):
        ICMR.parse(["--config", "run.yaml"])
    found = ICMR.parse(["--config", "run.yaml", "--loss", "mine.py:Loss"])
    assert found.epoch == 7 and found.loss.startswith("mine.py:Loss@")


# --- Apple's GPUs, imitated ---------------------------------------------------------------------------------------


def test_mps_is_taken_only_where_it_is_asked_for_and_there(monkeypatch):
    with pytest.raises(InputError, match="sees no GPU of Apple's"):
        device.choose_device("mps", mps=True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device.choose_device("mps", mps=True).type == "mps" and device.choose_device("auto", mps=True).type != "mps"
    with pytest.raises(InputError, match="expected auto, cpu, cuda or cuda:N"):
        device.choose_device("mps")
    monkeypatch.setattr(device.processes, "size", lambda: 2)
    with pytest.raises(InputError, match="one process"):
        device.choose_device("mps", mps=True)


def test_evaluations_and_what_is_saved_are_computed_where_float64_is(small, monkeypatch):
    """The CPU under the name of cpu:0 stands for the GPU."""
    gpu = torch.device("cpu", 0)
    monkeypatch.setattr(ICMR, "choose_device", lambda name, mps: gpu)
    monkeypatch.setattr(ICMR, "exact_device", lambda device: torch.device("cpu"))
    moves, to = [], HashModel.to
    monkeypatch.setattr(HashModel, "to", lambda self, where: moves.append(where == gpu) or to(self, where))
    ICMR.main(toy_arguments(small, "--eval_every", "1"))
    assert moves == [False, True] + [False, True] * 3 + [False]  # built, then trained; three tests; the end


@pytest.mark.parametrize("error, words", [
    (NotImplementedError("The operator 'aten::x.out' is not currently implemented for the MPS device."),
     "lack aten::x.out in this PyTorch; set PYTORCH_ENABLE_MPS_FALLBACK=1"),
    (TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."),
     "lack float64"), (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), "not enough memory")])
def test_what_apples_gpus_lack_is_said_in_a_line(small, monkeypatch, capsys, error, words):
    def step(*arguments):
        raise error

    monkeypatch.setattr(ICMR.Solver, "hash_step", step)
    with pytest.raises(SystemExit) as stop:
        ICMR.main(toy_arguments(small))
    complaint = capsys.readouterr().err
    assert stop.value.code == 2 and words in complaint and complaint.count("\n") == 1


# --- the state of a run that is killed ----------------------------------------------------------------------------


def test_the_state_is_saved_after_the_first_epoch_and_then_as_time_goes(small, monkeypatch):
    arguments = toy_arguments(small, "--epoch", "6", "--eval_every", "4")
    saved = []
    monkeypatch.setattr(ICMR.Solver, "save_state", lambda solver: saved.append(solver.run.epoch))
    ICMR.main(arguments)
    assert saved == [1, 4, 6]
    saved.clear()
    monkeypatch.setattr(ICMR, "SAVING", 0)
    ICMR.main(arguments)
    assert saved == [1, 2, 3, 4, 5, 6]


def test_a_state_between_two_evaluations_is_resumed(small, monkeypatch):
    arguments = toy_arguments(small, "--epoch", "6", "--eval_every", "4")
    whole = ICMR.main(arguments)
    begin = ICMR.Solver.trainhash

    def killed(solver, scale):
        if solver.run.epoch == 2:
            raise KeyboardInterrupt  # as a kill, after which nothing is saved
        return begin(solver, scale)

    monkeypatch.setattr(ICMR.Solver, "trainhash", killed)
    with pytest.raises(KeyboardInterrupt):
        ICMR.Solver(ICMR.parse(arguments)).train()
    monkeypatch.undo()
    resumed = ICMR.main([*arguments, "--resume"])
    assert (resumed["final"], resumed["history"]) == (whole["final"], whole["history"])


def test_epochs_have_a_bound(small):
    with pytest.raises(InputError, match="--epoch 9+: expected a number from 1 to 1000000"):
        ICMR.parse(toy_arguments(small, "--epoch", "9" * 30)).check()
