"""A loss and a method of one's own: the page that explains them, what is refused, and that edited code is noticed."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

import benchmark
import ICMR
from benchmarks import check, records, trainings
from benchmarks.baselines.own import label_of
from benchmarks.studies import DEFAULT, STUDIES
from common import json_text, own_code
from common.errors import InputError
from load_data import load_dataset
from test_benchmark import Here
from toy import toy_arguments, write_toy
from training.own_loss import own_loss

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
LOSS = """import torch
import my_helper

class Loss(torch.nn.Module):
    def __init__(self, temperature):
        super().__init__()

    def forward(self, image, text, neighbours, weight):
        return my_helper.SIGN * (image * text).mean()
"""
METHOD = """import torch

class Mine:
    def __init__(self, bits, seed, device):
        self.bits = bits

    def fit(self, image, text):
        self.sign = 1

    def encode_image(self, image):
        return self.sign * image[:, :self.bits]

    def encode_text(self, text):
        return self.sign * text[:, :self.bits]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of one's own, in which nothing was imported yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(own_code, "_run", {})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield write_toy(tmp_path, pairs=170, queries=20, text_width=6)
    torch.set_num_threads(threads)
    forget(monkeypatch)


def forget(monkeypatch):
    """As in another process: nothing of one's own is imported."""
    monkeypatch.setattr(own_code, "_run", {})
    for name in ("my_helper", "my_package", "my_package.losses"):
        own_code.sys.modules.pop(name, None)


def benchmarked(folder, monkeypatch, *more):
    """Run the benchmark in this process; returns the output of the data set."""
    monkeypatch.setattr(trainings, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(benchmark, "draw", lambda *found: [])
    return benchmark.main(["--datasets", "toy", "--data_dir", str(folder / "data"), "--results_dir",
                           str(folder / "results"), "--hash_lens", "4", "--seeds", "1", "--epoch", "1", "--device",
                           "cpu", "--jobs", "1", *more])["toy"]


def one_line(capsys, main, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    *bar, error = error.splitlines()  # of the trainings
    assert stop.value.code == 2 and error.startswith("error: ") and not any("Error" in line for line in bar)
    return error


def test_the_page_does_what_it_says(here, monkeypatch):
    """Its files are written, its commands run on the toy data: in processes of their own where the benchmark trains."""
    monkeypatch.setattr(ICMR, "publish", lambda data, results, folder: results)
    monkeypatch.setattr(benchmark, "draw", lambda *found: [])
    page = PAGE.read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        (here / re.match(r"# (\w+\.py)\n", block)[1]).write_text(block)
    train, compare = re.findall(r"```bash\npython (.*?)\n```", page)
    folders = ["--data_dir", str(here / "data"), "--results_dir", str(here / "results"), "--epoch", "1",
               "--hash_lens", "4", "8", "--device", "cpu"]
    _, *arguments = shlex.split(train)
    found = ICMR.main([*arguments, "--dataset", "toy", *folders, "--checkpoint_dir", str(here / "checkpoints")])
    assert found["config"]["loss"].startswith("my_loss.py:CrossEntropy@")
    _, *arguments = shlex.split(compare)
    output = benchmark.main([*arguments, "--datasets", "toy", "--seeds", "1", "--jobs", "1", *folders])["toy"]
    assert list(output["methods"]) == ["LSH", "Ridge", DEFAULT]
    assert "| Ridge | " in (here / "results" / "toy" / "benchmark" / "methods.md").read_text()
    chance = load_dataset("toy", here / "data").query.label.double().mean().item()
    assert output["methods"]["Ridge"]["4"][0]["unpaired"]["t2i"]["map"] > chance + 0.2


# --- a loss -------------------------------------------------------------------------------------------------------

BASE = "import torch\nclass Base(torch.nn.Module):\n    def __init__(self, temperature):\n        super().__init__()\n"


def loss_class(arguments="image, text, neighbours, weight", body="return (image * text).mean()"):
    return f"{BASE}class Loss(Base):\n    def forward(self, {arguments}):\n        {body}\n"


@pytest.mark.parametrize("text, complaint", [
    ("x = (", "my_loss.py, line 1: "), ("x = 1\0", "null bytes"),
    ("import no_such_module", "(my_loss.py, line 1: ModuleNotFoundError: No module named 'no_such_module')"),
    ("raise SystemExit(0)", "can't be imported (my_loss.py, line 1: SystemExit"), ("Loss = 3", "Loss is not a class"),
    ("class Other: pass", "Loss is not there; its classes are Other"),
    ("class Loss: pass", "Loss lacks temperature; expected Loss(temperature)"),
    (BASE.replace("Base", "Loss"), "no method forward(self, image, text, neighbours, weight)"),
    (loss_class("image, text"),
     "forward lacks neighbours, weight; expected forward(self, image, text, neighbours, weight)"),
    (loss_class("image, text, neighbours, weight, margin"), "forward needs margin besides"),
    (loss_class(body="return (image @ text).mean()"), "my_loss.py, line 7: RuntimeError"),
    (loss_class(body="return (image * text).mean(dim=1)"), "a tensor of shape (8,)"),
    (loss_class(body="return 1.0"), "the loss of a batch is a float"),
    (loss_class(body="return (image * text).mean() / 0"), "expected a finite number"),
    (loss_class(body="return (image * text).mean().detach()"), "no gradient"),
    (loss_class().replace("super().__init__()", "super().__init__(); self.w = torch.nn.Parameter(torch.ones(1))"),
     "has parameters (w)")])
def test_what_is_not_a_loss_is_refused_with_what_is_missing(here, text, complaint):
    (here / "my_loss.py").write_text(text)
    with pytest.raises(InputError, match=re.escape(complaint)) as error:
        own_loss("my_loss.py:Loss")
    assert "my_loss.py" in str(error.value) and "\n" not in str(error.value)


def test_a_name_that_leads_nowhere_is_one_line_before_any_folder_is_made(here, capsys):
    (here / "my_loss.py").write_text(loss_class("image"))
    for name, complaint in (("none.py:Loss", "none.py: no such Python file"), ("math:sqrt", "not a module"),
                            ("nowhere.losses:Loss", "no module nowhere"),
                            ("Loss", "--loss Loss: expected contrastive, balanced or a class"),
                            ("my_loss.py:Loss", "forward lacks text, neighbours, weight")):
        assert complaint in one_line(capsys, ICMR.main, toy_arguments(here, "--loss", name))
    assert not (here / "results").exists() and not (here / "checkpoints").exists()


def test_a_loss_of_a_package_is_found_and_told_by_its_own_code(here):
    (here / "my_package").mkdir()
    (here / "my_package" / "__init__.py").write_text("raise RuntimeError('a digest runs no code')")
    (here / "my_package" / "losses.py").write_text(
        "from .parts import Base\nfrom loss import ContrastiveLoss as Loss\n")
    (here / "my_package" / "parts.py").write_text("class Base: pass\n")
    name = "my_package.losses:Loss"
    before = own_code.pinned(name)
    (here / "my_package" / "parts.py").write_text("class Base: pass  # a comment\n")
    assert own_code.pinned(name) == before and own_code.pinned(before) == before
    (here / "my_package" / "parts.py").write_text("class Base: x = 1\n")
    assert own_code.pinned(name) != before
    (here / "my_package" / "__init__.py").write_text("")
    assert own_loss(name).__module__ == "loss"
    with pytest.raises(InputError, match="was edited since this run was set up"):
        own_code.load(before)


def test_an_edited_loss_is_another_run_and_a_test_needs_none(here, monkeypatch):
    (here / "my_helper.py").write_text("SIGN = -1\n")
    (here / "my_loss.py").write_text(LOSS)
    arguments = toy_arguments(here, "--loss", "my_loss.py:Loss", "--epoch", "1")
    config = ICMR.parse(arguments)
    solver = ICMR.Solver(config)
    solver.fit()
    ICMR.Solver(ICMR.parse([*arguments, "--resume"])).fit()
    (here / "my_helper.py").write_text("SIGN = -2\n")
    with pytest.raises(InputError, match="after this process imported it"):
        own_loss("my_loss.py:Loss")
    forget(monkeypatch)
    with pytest.raises(InputError, match="--loss does not match: the interrupted run has my_loss.py:Loss@"):
        ICMR.Solver(ICMR.parse([*arguments, "--resume"])).fit()
    with pytest.raises(InputError, match="was edited since this run was set up"):
        ICMR.Solver(config)
    (here / "my_loss.py").unlink()
    tested = ICMR.Solver(ICMR.parse(toy_arguments(here, "--task", "3")))
    assert tested.test() == {bits: figures for bits, figures in solver.run.history[-1].items() if bits != "epoch"}
    assert tested.trained["4"]["config"]["loss"] == config.loss


# --- a method -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old, new, complaint", [
    ("bits, seed, device", "bits", "Mine lacks seed, device; expected Mine(bits, seed, device)"),
    ("encode_text(self, text)", "encode(self, text)", "has no method encode_text(self, text)"),
    ("fit(self, image, text)", "fit(self, image, text, labels)",
     "fit needs labels besides; expected fit(self, image, text)"),
    ("class Mine:", "class Mine:\n    paired = True", "encode_image lacks text"),
    ("class Mine:", "class Mine:\n    name = 'a/b'", "name = 'a/b'")])
def test_what_is_not_a_method_is_refused_with_what_is_missing(here, old, new, complaint):
    (here / "my_method.py").write_text(METHOD.replace(old, new))
    with pytest.raises(InputError, match=re.escape(f"my_method.py:Mine: {complaint}")):
        label_of("my_method.py:Mine")


@pytest.mark.parametrize("old, new, complaint", [
    ("self.sign = 1", "self.sign = image @ text", "fit fails: my_method.py, line 8: RuntimeError"),
    ("image[:, :self.bits]", "image", "encode_image of 20 items gives a tensor of shape (20, 9); expected"),
    ("self.sign = 1", "self.sign = float('nan')", "codes that are not finite"),
    ("class Mine:", "class Mine:\n    bounded = True", "expected some in [-1, 1], or bounded = False"),
    ("class Mine:", "class Mine:\n    name = 'LSH'", "there is a row 'LSH' already")])
def test_a_method_that_fails_is_one_line(here, capsys, monkeypatch, old, new, complaint):
    (here / "my_method.py").write_text(METHOD.replace(old, new))
    assert complaint in one_line(capsys, lambda more: benchmarked(here, monkeypatch, *more),
                                 ["--methods", "LSH", "--method", "my_method.py:Mine"])


def test_a_method_of_ones_own_belongs_to_no_record_and_no_other_study(here, capsys, monkeypatch):
    (here / "my_method.py").write_text(METHOD)
    for more in (["--record"], ["scale"]):
        assert "--method" in one_line(capsys, lambda more: benchmarked(here, monkeypatch, *more),
                                      [*more, "--method", "my_method.py:Mine"])


def test_an_edited_method_is_fitted_again_and_other_rows_stay(here, capsys, monkeypatch):
    monkeypatch.setitem(STUDIES, "methods", {DEFAULT: {"batch_size": 16, "hidden": 8}})
    (here / "my_method.py").write_text(METHOD)
    mine = ["--method", "my_method.py:Mine"]
    first = benchmarked(here, monkeypatch, "--methods", "LSH", "CCA", DEFAULT, *mine)
    assert list(first["methods"]) == ["LSH", "CCA", "Mine", DEFAULT]
    assert first["own"]["Mine"].startswith("my_method.py:Mine@")
    benchmarked(here, monkeypatch, "--methods", "LSH", *mine)
    assert "2 trainings, 2 of them found finished\n" in capsys.readouterr().out

    (here / "my_method.py").write_text(METHOD.replace("return self.sign * text", "return -self.sign * text"))
    forget(monkeypatch)
    edited = benchmarked(here, monkeypatch, "--methods", "CCA", *mine)
    printed = capsys.readouterr().out
    assert "1 are trained again: 1 trained by other code" in printed
    assert "From earlier runs, of the same settings, data and code: LSH; ours." in printed
    assert edited["methods"] | {"Mine": None} == first["methods"] | {"Mine": None}
    assert edited["methods"]["Mine"]["4"][0]["unpaired"] != first["methods"]["Mine"]["4"][0]["unpaired"]

    # a row whose code was edited can't stay; its code is not run to find that out
    (here / "my_method.py").write_text("raise SystemExit('run')\n")
    assert "Mine" not in benchmarked(here, monkeypatch, "--methods", "LSH")["methods"]
    printed = capsys.readouterr().out
    assert "Left out, though an earlier run had them: Mine (trained by other code)." in printed
    assert list(json.loads((here / "results" / "toy" / "benchmark" / "methods.json").read_text())["methods"]) == [
        "LSH", "CCA", DEFAULT]
    monkeypatch.setattr(records, "code_digest", lambda module: "0" * 64)
    assert list(benchmarked(here, monkeypatch, "--methods", "LSH")["methods"]) == ["LSH"]
    assert "CCA (trained by other code); ours (trained by other code)." in capsys.readouterr().out


def test_fresh_trains_again_what_is_finished(here, monkeypatch):
    benchmarked(here, monkeypatch, "--methods", "LSH")
    path = here / "results" / "toy" / "benchmark" / "LSH-4-seed0" / "result.json"
    result = json_text.read(path) | {"seconds": {"training": 99.0}}
    path.write_text(json.dumps(json_text.sealed(result)))
    assert benchmarked(here, monkeypatch, "--methods", "LSH")["methods"]["LSH"]["4"][0]["seconds"] >= 9
    assert benchmarked(here, monkeypatch, "--methods", "LSH", "--fresh")["methods"]["LSH"]["4"][0]["seconds"] < 9


def test_no_code_that_a_record_names_is_run(here):
    (here / "my_loss.py").write_text("raise SystemExit('run')")
    record = {"dataset": "toy", "settings": {"loss": f"my_loss.py:Loss@{'0' * 16}"}, "seed": 0, "hash_lens": [4],
              "precision": "float32"}
    with pytest.raises(InputError, match="no code that a record names is run"):
        check.job_of(record, "data", "cpu", "folder")
