"""The main job from its command line: training, log lines, testing, resuming, and bad input."""

import json
import os
import pickle
import re
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from training import checkpoint
import ICMR
import metric
import model
from formats.torch_file import read_torch_file
from load_data import load_dataset
from loss import ContrastiveLoss
from model import TextMlp
from training import run_state
from training.run_files import unused
from training.targets import feature_neighbours
from reporting.results import details
from toy import toy_arguments, write_toy

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture
def small(tmp_path):
    """A small data set with two classes, as data/toy/toy.h5 of a temporary folder."""
    return write_toy(tmp_path, pairs=60, queries=12, classes=2, spread=3)


def arguments(folder, *more, dataset="toy"):
    other = [] if dataset == "toy" else ["--dataset", dataset, "--data_dir", str(ROOT / "data")]
    return toy_arguments(folder, *other, *more)


def weights(folder, name="toy_hash"):
    content = torch.load(folder / "checkpoints" / "hash" / f"{name}.pth", weights_only=True)
    return {f"{part}.{key}": value for part in ("ImageMlp", "TextMlp") for key, value in content[part].items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def refused(capsys, argv):
    """Run ICMR, which must refuse in one line and with status 2; returns the line."""
    with pytest.raises(SystemExit) as stop:
        ICMR.main(argv)
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning:")]
    assert stop.value.code == 2 and len(errors) == 1 and errors[0].startswith("error: ")
    return errors[0]


def test_log_lines_are_the_guides(small, capsys):
    ICMR.main(arguments(small, "--epoch", "100", "--eval_every", "100"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["✅ Using Progressive Hash Learning - Scale from 1.0 to 10.0", "Training Hash Function...",
                         "epoch: 1", "  Progressive scale: 1.00 (progress: 0.0%)"]
    assert lines[lines.index("epoch: 51") + 1] == "  Progressive scale: 5.55 (progress: 50.5%)"
    assert lines[lines.index("epoch: 100") + 1] == "  Progressive scale: 10.00 (progress: 100.0%)"
    assert re.match(r"  loss .* \| mean \|scale\*x\| .* \| saturation .* \| bit balance", lines[4])
    assert all(len(line) <= 80 for line in lines[-15:-1])
    results = json.loads(Path(lines[-1]).read_text())
    recalls = [f"{value:.4f}" for way in ("i2t", "t2i") for value in results["final"]["8"]["partners"][way].values()]
    assert ["8", *recalls] in [line.split() for line in lines]
    assert results["final"]["8"]["unpaired"]["i2t"].keys() == {"map", "map@50", "map@radius2", "ndcg@50", "ndcg@1000"}
    assert 0 <= results["final"]["4"]["quantization_error"] < 1
    assert [entry["epoch"] for entry in results["history"]] == [100] and len(results["epochs"]) == 100


def test_scripts_can_train_by_the_epoch_and_read_the_scales(small):
    solver = ICMR.Solver(ICMR.parse(arguments(small, "--scale_min", "2", "--scale_max", "12")))
    assert (solver.use_progressive_hash, solver.scale_min, solver.scale_max) == (True, 2.0, 12.0)
    losses = [solver.trainhash(scale) for scale in (solver.scale_min, solver.scale_max)]
    assert [(entry["loss"], entry["scale"]) for entry in solver.run.log] == list(zip(losses, [2.0, 12.0]))
    before = solver.evaluate()["8"]
    solver.scale_max = 20.0  # nearer to the signs, which stay the same
    after = solver.evaluate()["8"]
    assert after["quantization_error"] < before["quantization_error"] and after["unpaired"] == before["unpaired"]
    with pytest.raises(AttributeError):
        solver.use_progressive_hash = False  # too late for the heads


class Changed(TextMlp):
    """A head whose forward is another: its bits come in another order."""

    def forward(self, features, scale=1.0):
        return super().forward(features, scale).flip(dims=[1])


def test_training_and_evaluation_call_the_heads(small, monkeypatch):
    """Whoever changes ``forward`` of a head changes what is trained, tested and searched (see test_search.py)."""
    found = []
    for head in (TextMlp, Changed):
        monkeypatch.setattr(model, "TextMlp", head)
        solver = ICMR.Solver(ICMR.parse(arguments(small)))
        found.append((solver.trainhash(2.0), solver.evaluate()["8"]))
    (loss, figures), (changed_loss, changed_figures) = found
    assert loss != changed_loss and figures["unpaired"] != changed_figures["unpaired"]
    assert figures["partners"] != changed_figures["partners"]


def test_another_squashing_acts_in_training_and_evaluation(small, monkeypatch):
    """``torch.tanh(scale * x)`` stands in one line, and everything follows it."""
    found = []
    tanh = torch.tanh
    for squash in (tanh, lambda x: tanh(x / 2)):
        monkeypatch.setattr(model.torch, "tanh", squash)
        solver = ICMR.Solver(ICMR.parse(arguments(small)))
        loss, figures = solver.trainhash(2.0), solver.evaluate()["8"]
        histogram = details(solver.data, [(solver.model, solver.scale_max)])["curves"]["8"]["code_histogram"]["share"]
        found.append((loss, figures["quantization_error"], solver.run.log[0]["saturation"], histogram))
    assert all(one != other for one, other in zip(*found))


@pytest.mark.parametrize("nested, places", [("true", (slice(0, 4), slice(0, 8))),
                                            ("false", (slice(0, 4), slice(4, 12)))])
def test_a_batchs_loss_is_the_mean_over_the_lengths_with_targets_from_features(small, nested, places):
    solver = ICMR.Solver(ICMR.parse(toy_arguments(small, "--nested", nested, "--temperature", "0.6")))
    image, text, rows = solver.image[:16], solver.text[:16], torch.arange(16)
    targets = feature_neighbours(*(side[:16] for side in solver.objective.shared),
                                  [solver.chosen["structure_temperature"][count] for count in ("2", "4")])
    solver.model.eval()
    with torch.no_grad():
        x = solver.model.encode(image=image)[1], solver.model.encode(text=text)[1]
    losses = [ContrastiveLoss(0.6)(*(torch.tanh(5 * side[:, bits]) for side in x), targets, 0.4)
              for bits in places]
    assert torch.allclose(solver.hash_step(rows, 0.4, 5.0)[0], sum(losses) / 2)


def test_the_weight_of_the_neighbours_goes_from_its_start_to_its_end(small):
    solver = ICMR.Solver(ICMR.parse(arguments(small, "--structure_start", "0.9", "--structure_end", "0.3")))
    step, inputs = solver.hash_step, []

    def hash_step(rows, weight, scale):
        inputs.append((weight, scale))
        return step(rows, weight, scale)

    solver.hash_step = hash_step
    for scale in (1.0, 2.0, 3.0, 4.0):  # three epochs, and one more than a run has
        solver.trainhash(scale)
    weights, scales = zip(*inputs[::3])  # three steps each
    assert weights == pytest.approx([0.9, 0.6, 0.3, 0.3]) and scales == (1.0, 2.0, 3.0, 4.0)


def test_what_is_tested_and_saved_is_calibrated_on_the_training_pairs(small):
    ICMR.main(arguments(small))
    trained, _ = checkpoint.load_model(small / "checkpoints" / "hash" / "toy_hash.pth")
    train = load_dataset("toy", small / "data").train
    for _, x in (trained.encode(image=train.image), trained.encode(text=train.text)):
        torch.testing.assert_close(x.mean(dim=0), torch.zeros(8), atol=1e-5, rtol=0)


def test_the_optimizer_has_ucmfhs_settings(small):
    solver = ICMR.Solver(ICMR.parse(toy_arguments(small, "--fusion", "transformer", "--lr", "3e-3")))
    fusion, heads = solver.optimizer.param_groups
    assert (fusion["lr"], heads["lr"]) == (1e-4, 3e-3) and fusion["betas"] == heads["betas"] == (0.5, 0.999)
    assert set(fusion["params"]) == set(solver.model.FuseTrans.parameters())


def test_without_progressive_hashing_no_scale_is_shown(small, capsys):
    ICMR.main(arguments(small, "--use_progressive_hash", "false"))
    assert "Progressive" not in capsys.readouterr().out


def alike(found, expected):
    """The same mAP, and the rest up to rounding: a layer of one length can be summed in another order than of all."""
    for bits, figures in expected.items():
        for name, value in figures.items():
            assert found[bits][name] == (value if isinstance(value, dict) else pytest.approx(value, abs=1e-7)), name
    assert found.keys() == expected.keys()


@pytest.mark.parametrize("train, test", [("0", "2"), ("1", "3")])
def test_a_tested_checkpoint_gives_the_figures_of_training(small, train, test):
    trained = ICMR.main(arguments(small, "--task", train))
    alike(ICMR.main(arguments(small, "--task", test))["final"], trained["final"])


def test_the_metrics_of_a_test_say_how_the_model_was_trained(small):
    ICMR.main(arguments(small, "--seed", "5", "--scale_max", "3"))
    found = ICMR.main(arguments(small, "--task", "3"))
    assert list(found["trained"]) == ["4", "8"] and found["config"]["seed"] == 0
    assert [entry["epoch"] for entry in found["history"]] == [3]
    trained = found["trained"]["8"]
    assert (trained["config"]["seed"], trained["config"]["scale_max"], trained["epoch"]) == (5, 3.0, 3)
    assert set(trained["chosen"]["temperature"]) == {"4", "8"}
    pages = [page.read_text(encoding="utf-8") for page in (small / "results").glob("*/*/report.html")]
    assert len(pages) == 2 and all("seed 5." in page and "seed 0." not in page for page in pages)


def test_runs_that_start_together_keep_their_results_apart(small):
    folders = [unused(small / "results" / "toy" / "run") for _ in range(3)]
    assert [folder.name for folder in folders] == ["run", "run-2", "run-3"]


def test_a_results_folder_that_links_to_nowhere_is_refused(small, capsys):
    (small / "gone").symlink_to(small / "no-disk" / "results")
    assert "results_dir" in refused(capsys, [*arguments(small), "--results_dir", str(small / "gone"), "--run_name", ""])


def test_models_of_different_trainings_are_tested_with_a_warning(small, capsys):
    apart = ["--nested", "false"]
    ICMR.main(arguments(small, *apart))
    ICMR.main(arguments(small, *apart, "--hash_lens", "4", "--epoch", "1"))
    capsys.readouterr()
    ICMR.main(arguments(small, *apart, "--task", "3"))
    assert "4 bits: 1, 8 bits: 3" in capsys.readouterr().err


def test_ucmfhs_fusion_trains_and_tests(small):
    trained = ICMR.main(arguments(small, "--fusion", "transformer", "--batch_norm", "false", "--centre", "false"))
    alike(ICMR.main(arguments(small, "--task", "3"))["final"], trained["final"])


def test_every_random_choice_hangs_on_the_seed(small):
    seen = []
    for seed in ("0", "0", "1"):
        ICMR.main(arguments(small, "--seed", seed))
        seen.append(weights(small))
    assert same(seen[0], seen[1]) and not same(seen[0], seen[2])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_to_the_same_weights(small, capsys, monkeypatch, number):
    whole = ICMR.main(arguments(small, "--eval_every", "1"))
    expected = weights(small)
    solver = ICMR.Solver(ICMR.parse(arguments(small, "--eval_every", "1")))
    original, calls = solver.hash_step, []

    def interrupt(*batch):
        calls.append(1)
        if len(calls) == 5:  # in the second of three steps of the second epoch
            os.kill(os.getpid(), number)
        return original(*batch)

    monkeypatch.setattr(solver, "hash_step", interrupt)
    with pytest.raises(SystemExit) as stop:
        solver.train()
    assert stop.value.code == 128 + number
    assert "Stopped in epoch 2 after 2 of its 3 steps" in capsys.readouterr().out
    resumed = ICMR.main(arguments(small, "--eval_every", "1", "--resume"))
    assert same(weights(small), expected) and resumed["history"] == whole["history"]
    assert [entry | {"seconds": 0} for entry in resumed["epochs"]] == [
        entry | {"seconds": 0} for entry in whole["epochs"]]


def test_a_run_that_was_stopped_on_a_gpu_goes_on_without(small):
    """There the optimizer keeps what a recorded step needs; here it must not."""
    train = arguments(small, "--epoch", "2", "--eval_every", "1")
    ICMR.main(train)
    path = small / "checkpoints" / "hash" / "toy_hash_4_8_state.pth"
    state = torch.load(path, weights_only=True)
    for group in state["optimizer"]["param_groups"]:
        group["capturable"] = True
    torch.save(state, path)
    solver = ICMR.Solver(ICMR.parse([*train, "--resume"]))
    run_state.load(solver.files.state, solver.about(), solver.config.outcome(), solver.run, solver.model,
                   solver.optimizer, labelled=True)
    assert [group["capturable"] for group in solver.optimizer.param_groups] == [False]
    solver.trainhash(1.0)


def test_a_run_stopped_after_the_last_step_of_an_epoch_goes_on(small, capsys, monkeypatch):
    train = arguments(small, "--batch_size", "48")  # one step an epoch
    ICMR.main(train)
    whole = weights(small)
    once = ICMR.Solver.observe

    def stop(self, *batch):
        self.stop.signal = signal.SIGTERM if self.run.epoch == 1 else None
        return once(self, *batch)

    monkeypatch.setattr(ICMR.Solver, "observe", stop)
    with pytest.raises(SystemExit):
        ICMR.main(train)
    monkeypatch.undo()
    ICMR.main([*train, "--resume"])
    assert same(weights(small), whole)


@pytest.mark.parametrize("more, message", [
    (["--scale_mx", "8"], "--scale_mx"),
    (["--epoch", "ten"], "--epoch"),
    (["--use_progressive_hash", "maybe"], "true or false"),
    (["--scale_max", "0.5"], "at least scale_min"),
    (["--scale_min", "0"], "positive"),
    (["--scale_min", "-1"], "positive"),
    (["--batch_size", "49"], "48 pairs"),
    (["--positive_weight", "0.6"], "unless --loss balanced"),
    (["--task", "7"], "--task 7"),
    (["--run_name", "../elsewhere"], "inside results_dir"),
    (["--hash_lens", "8", "8"], "different"),
    (["--dataset", "nothing"], "nothing"),
    (["--task", "3"], "or train it"),
    (["--resume"], "no interrupted run of these settings; leave out --resume"), (["--precision", "auto"], "one of float32, bfloat16"),
    (["--noise", "nan"], "0 or more"), (["--lr", "inf"], "a positive number"),
    (["--device", "tpu"], "--device tpu"),
])
def test_bad_settings_are_refused(small, capsys, more, message):
    assert message in refused(capsys, arguments(small, *more))
    assert not (small / "checkpoints").exists() and not (small / "results").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_cuda_that_is_absent_is_refused(small, capsys):
    assert "CUDA" in refused(capsys, arguments(small, "--device", "cuda"))


def test_checkpoints_of_something_else_are_refused(small, capsys, tmp_path):
    ICMR.main(arguments(small))
    folder = small / "checkpoints" / "hash"
    message = refused(capsys, arguments(small, "--task", "3", "--hash_lens", "8", "16"))
    assert "holds codes of 4, 8 bits, expected 8, 16" in message
    (folder / "openmoji_hash.pth").write_bytes((folder / "toy_hash.pth").read_bytes())
    other = arguments(small, "--task", "3", "--hash_lens", "8", dataset="openmoji")
    assert "does not match" in refused(capsys, other)
    assert "--temperature" in refused(capsys, arguments(small, "--resume", "--temperature", "0.2"))
    whole = (folder / "toy_hash.pth").read_bytes()
    (folder / "toy_hash.pth").write_bytes(whole[:len(whole) // 2])
    assert "damaged" in refused(capsys, arguments(small, "--task", "3", "--hash_lens", "8"))


def test_checkpoints_of_another_kind_are_refused(small, capsys):
    ICMR.main(arguments(small)), ICMR.main(arguments(small, "--task", "0"))
    hashed, real = small / "checkpoints" / "hash", small / "checkpoints" / "real" / "toy_fusion.pth"
    (hashed / "toy_hash_4_8_state.pth").write_bytes((hashed / "toy_hash.pth").read_bytes())
    assert "not the state" in refused(capsys, arguments(small, "--resume"))
    whole = (hashed / "toy_hash.pth").read_bytes()
    (hashed / "toy_hash.pth").write_bytes(real.read_bytes())
    real.write_bytes(whole)
    assert "holds a FusionModel" in refused(capsys, arguments(small, "--task", "3", "--hash_lens", "8"))
    assert "holds a HashModel" in refused(capsys, arguments(small, "--task", "2"))


def test_rows_out_of_step_are_warned_of(tmp_path, capsys):
    write_toy(tmp_path, pairs=400, queries=20, spread=9)
    ICMR.Solver(ICMR.parse(arguments(tmp_path)))
    assert capsys.readouterr().err == ""
    for seed in range(6):  # by chance, partners at random are told from others a little better than not at all
        with h5py.File(tmp_path / "data" / "toy" / "toy.h5", "r+") as file:
            file["text"][20:] = np.random.default_rng(seed).permutation(file["text"][20:])
        ICMR.Solver(ICMR.parse(arguments(tmp_path)))
        assert "are the rows of both in the same order?" in capsys.readouterr().err
    ICMR.Solver(ICMR.parse(arguments(tmp_path, "--batch_size", "8")))  # too few to tell
    assert capsys.readouterr().err == ""


def test_a_flipped_bit_in_a_checkpoint_is_found(tmp_path):
    path = checkpoint.save(tmp_path / "model.pth", {"weights": torch.arange(5000.0)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(checkpoint.InputError, match="damaged"):
        checkpoint.load(path)


def test_weights_that_a_flipped_bit_turns_into_a_folder_are_read(tmp_path):
    """No checksum covers a member's attributes; of a folder PyTorch reads nothing, and gives whatever was in memory."""
    path = checkpoint.save(tmp_path / "model.pth", {"weights": torch.arange(5000.0)})
    content = bytearray(path.read_bytes())
    place = content.rindex(b"data/0")  # in the archive's directory, whose entries have their attributes before the name
    start = content.rindex(b"PK\x01\x02", 0, place)
    content[start + 38] ^= 0x10
    path.write_bytes(content)
    assert torch.equal(read_torch_file(path)["weights"], torch.arange(5000.0))


def test_weights_that_the_last_step_breaks_are_refused(small, capsys):
    message = refused(capsys, arguments(small, "--epoch", "1", "--lr", "1e38", "--batch_size", "48"))
    assert "not finite after epoch 1" in message and not list(small.rglob("*.pth"))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_does_not_run(small, capsys):
    folder = small / "checkpoints" / "hash"
    folder.mkdir(parents=True)
    torch.save({"format": 1, "weights": Malicious(small / "ran")}, folder / "toy_hash.pth")
    assert "refused" in refused(capsys, arguments(small, "--task", "3", "--hash_lens", "8"))
    (folder / "toy_hash.pth").write_bytes(pickle.dumps(Malicious(small / "ran")))
    refused(capsys, arguments(small, "--task", "3", "--hash_lens", "8"))
    assert not (small / "ran").exists()


def test_an_unwritable_checkpoint_folder_is_found_before_training(small, capsys):
    (small / "checkpoints").write_text("a file")
    assert "--checkpoint_dir" in refused(capsys, arguments(small))


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = checkpoint.save(tmp_path / "model.pth", {"epoch": 1})

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(checkpoint.InputError, match="No space left.*unchanged"):
        checkpoint.save(path, {"epoch": 2})
    assert read_torch_file(path)["epoch"] == 1 and list(tmp_path.iterdir()) == [path]


def test_a_loss_that_is_not_finite_stops_with_epoch_and_step(small, capsys):
    message = refused(capsys, arguments(small, "--lr", "1e38", "--batch_norm", "false"))
    assert re.search(r"epoch \d+, step \d+", message) and not list(small.rglob("*.pth"))


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_features_that_are_all_the_same_are_refused_before_training(small, capsys, value):
    with h5py.File(small / "data" / "toy" / "toy.h5", "r+") as file:
        file["image"][...] = value
    assert "the image features of all 48 training pairs are the same" in refused(capsys, arguments(small))
    assert not (small / "results").exists()


@pytest.fixture(scope="module")
def openmoji(tmp_path_factory):
    """Short trainings on OpenMoji, progressive and not, by the default method."""
    folder = tmp_path_factory.mktemp("openmoji")
    return {progressive: ICMR.main(["--dataset", "openmoji", "--data_dir", str(ROOT / "data"), "--epoch", "12",
                                    "--results_dir", str(folder), "--checkpoint_dir", str(folder), "--device", "cpu",
                                    "--use_progressive_hash", progressive])["final"]
              for progressive in ("true", "false")}


def test_a_short_training_beats_chance_at_every_length_in_both_protocols(openmoji):
    data = load_dataset("openmoji", ROOT / "data")
    codes = np.random.default_rng(0).choice([-1, 1], (len(data.query) + len(data.retrieval), 64))
    chance = metric.mean_average_precision(codes[:400], codes[400:], data.query.label.numpy(),
                                           data.retrieval.label.numpy())
    for bits in ("16", "32", "64", "128"):
        for protocol in ("unpaired", "paired"):
            for way in ("i2t", "t2i"):
                assert openmoji["true"][bits][protocol][way]["map"] > 2 * chance


def test_progressive_hashing_binarizes_the_codes(openmoji):
    """The gain in mAP that comes of it, in a longer training, is in test_benchmark.py."""
    for bits in ("16", "32", "64", "128"):
        assert openmoji["true"][bits]["quantization_error"] < openmoji["false"][bits]["quantization_error"] / 10


@pytest.mark.parametrize("name", ["fashion9k.npz", "wiki/wiki_onehot.mat", "wiki/wiki_classindex.mat"])
def test_real_data_trains_by_path(tmp_path, name):
    if not (SHARED / name).exists():
        pytest.skip(f"{SHARED / name} is not here")
    results = ICMR.main(["--dataset", str(SHARED / name), "--epoch", "2", "--hash_lens", "16", "--hidden", "64",
                         "--results_dir", str(tmp_path), "--checkpoint_dir", str(tmp_path), "--device", "cpu"])
    assert results["final"]["16"]["unpaired"]["t2i"]["map"] > 0.1


@pytest.mark.parametrize("wrong, complaint", [
    (["--scale_max", "1e200"], "--scale_max"), (["--hidden", "99999999999999999999"], "--hidden"),
    (["--hash_lens", "40000"], "--hash_lens")])
def test_settings_beyond_all_measure_end_in_one_line(small, capsys, wrong, complaint):
    assert complaint in refused(capsys, arguments(small, *wrong))
