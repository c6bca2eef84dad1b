"""export_model.py: what is written gives the model's codes, without this project; the hub; what is refused."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import export_model
import metric
from exporting import graphs
from load_data import load_dataset
from model import FusionModel, HashModel
from training import checkpoint

ROOT = Path(__file__).parents[1]
LENGTHS = [4, 12]  # not whole bytes
FEATURES = {"image": np.random.default_rng(0).normal(size=(30, 9)).astype("f4"),
            "text": np.random.default_rng(1).normal(size=(30, 5)).astype("f4")}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    torch.manual_seed(0)
    model = HashModel(9, 5, LENGTHS, hidden=16, nested=True)
    for side in ("image", "text"):
        getattr(model, f"{side}_input").fit(torch.randn(50, model.settings[f"{side}_dim"]))
    model.calibrate([(torch.randn(50, 9), torch.randn(50, 5))])
    return checkpoint.save_model(tmp_path_factory.mktemp("export") / "toy_hash.pth", model, dataset="toy",
                                 fingerprint="0" * 64, epoch=3, config={
                                     "seed": 0, "epoch": 3, "hidden": 16, "nested": True, "scale_min": 1.0,
                                     "scale_max": 10.0, "use_progressive_hash": True, "lr": 0.001})


def codes_of(path, *modalities):
    model, _ = checkpoint.load_model(path)
    with torch.no_grad():
        codes, x = model.encode(**{name: torch.from_numpy(FEATURES[name]) for name in modalities})
    return metric.pack_codes(metric.sign_codes(codes.numpy())), x.numpy()


def run_alone(code, folder):
    """Run Python code of a card in its folder, out of reach of this project."""
    np.savez(folder / "features.npz", **FEATURES)
    start = ("import numpy as np, torch\nfeatures = np.load('features.npz')\n"
             "image_features, text_features = features['image'], features['text']\n")
    end = "\nnp.savez('out.npz', **{name: np.asarray(globals()[name]) for name in NAMES if name in globals()})"
    end = end.replace("NAMES", "('x', 'code', 'images', 'texts', 'distance')")
    if "program" in code:
        end = "\nx, code = x.detach(), code.detach()" + end
    done = subprocess.run([sys.executable, "-I", "-c", start + code + end], cwd=folder, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return np.load(folder / "out.npz")


def blocks(folder):
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize(("form", "kind"), [("onnx", "both"), ("torch", "text")])
def test_a_graph_gives_the_models_codes_by_the_cards_code(path, tmp_path, form, kind):
    if form == "onnx":
        pytest.importorskip("onnxscript"), pytest.importorskip("onnxruntime")
    export_model.main([str(path), "--out", str(tmp_path / "out"), "--to", form, "--inputs", kind])
    packed, x = codes_of(path, *graphs.INPUTS[kind])
    found = run_alone(blocks(tmp_path / "out")[0], tmp_path / "out")
    np.testing.assert_allclose(found["x"], x, atol=1e-5)
    np.testing.assert_array_equal(found["code"], packed)
    for file in (tmp_path / "out").iterdir():
        assert str(ROOT).encode() not in file.read_bytes()  # nothing of where it was made


@pytest.mark.parametrize("form", ["safetensors", "half"])
def test_the_cards_numpy_gives_the_models_codes(path, tmp_path, form, capsys):
    if form == "safetensors":
        pytest.importorskip("safetensors"), pytest.importorskip("huggingface_hub")
    out = tmp_path / "out"
    export_model.main([str(path), "--out", str(out), "--to", form, "--license", "mit"])
    assert "README.md" in capsys.readouterr().out and "license: mit\n" in (out / "README.md").read_text("utf-8")
    made = path if form == "safetensors" else out / path.name
    images, texts = codes_of(made, "image")[0], codes_of(made, "text")[0]
    found = run_alone(blocks(out)[0], out)
    np.testing.assert_array_equal(found["images"], images)
    np.testing.assert_array_equal(found["distance"], np.bitwise_count(texts[:, None] ^ images).sum(axis=2))


def test_a_model_comes_back_from_a_folder_and_goes_to_the_hub(path, tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    pytest.importorskip("safetensors")
    from exporting.hub import HubHashModel

    model = HubHashModel.from_checkpoint(path, license="mit")
    model.save_pretrained(tmp_path / "saved")
    again = HubHashModel.from_pretrained(tmp_path / "saved")
    assert again.settings == model.settings and not again.training
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    sent = {}

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **more):
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, repo_id, folder_path, **more):
            sent.update({file.name: file.read_bytes() for file in Path(folder_path).iterdir()})
            return repo_id

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    assert model.push_to_hub("me/toy") == "me/toy"
    assert sent == {file.name: file.read_bytes() for file in (tmp_path / "saved").iterdir()}
    assert "license: mit" in sent["README.md"].decode() and set(sent) == {"README.md", "config.json",
                                                                          "model.safetensors"}


def test_the_card_has_the_figures_of_the_run(path, tmp_path):
    scores = {"map": 0.5, "map@50": 0.625}
    metrics = {"fingerprint": "0" * 64, "config": checkpoint.load_model(path)[1]["config"], "dataset": "toy",
               "environment": {}, "sizes": {"train": 9, "query": 10, "retrieval": 1000},
               "final": {str(bits): {"unpaired": {"i2t": scores, "t2i": scores}} for bits in LENGTHS}}
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(metrics))
    export_model.main([str(path), "--out", str(tmp_path / "out"), "--to", "half", "--metrics", str(file)])
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "| 12 | 50.0 | 62.5 | 50.0 | 62.5 |" in card and "10 queries in 1,000 items" in card
    tested = {"config": {**metrics["config"], "task": 3, "seed": 1},
              "trained": {str(bits): {"config": metrics["config"], "chosen": {}} for bits in LENGTHS}}
    file.write_text(json.dumps({**metrics, **tested}))
    export_model.main([str(path), "--out", str(tmp_path / "again"), "--to", "half", "--metrics", str(file)])
    for change, message in (({"fingerprint": "1"}, "of another training: its data differ"),
                            ({"final": {}}, "not the metrics.json"),
                            ({"config": {**metrics["config"], "seed": 1}}, "its seed is 1, the checkpoint's 0;"),
                            ({"config": {**metrics["config"], "use_progressive_hash": False}},
                             "its use_progressive_hash is False, the checkpoint's True;"),
                            ({"trained": {"4": {"config": {**metrics["config"], "lr": 1.0}, "chosen": {}}}},
                             "its lr is 1.0, the checkpoint's 0.001;")):
        file.write_text(json.dumps({**metrics, **change}))
        assert message in refused(path, "--out", tmp_path / "new", "--metrics", file)
        assert not (tmp_path / "new").exists()


def refused(*argv):
    """The one line that export_model.py ends with."""
    with pytest.raises(SystemExit) as stop, pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("sys.stderr.write", lines.append, raising=False)
        export_model.main([str(value) for value in argv])
    assert stop.value.code == 2
    return "".join(lines)


def test_what_cannot_be_exported_is_refused_in_a_line(path, tmp_path, monkeypatch):
    fusion = checkpoint.save_model(tmp_path / "fusion.pth", FusionModel(9, 5))
    out = tmp_path / "out"
    assert "expected a hash model of nested codes" in refused(fusion, "--out", out)
    assert "no such checkpoint" in refused(tmp_path / "missing.pth", "--out", out)
    assert "cannot be written" in refused(path, "--out", path / "in", "--to", "half")
    assert "would replace" in refused(path, "--out", path.parent, "--to", "half")
    assert "--license 'mit\\ntags: [x]': expected an identifier" in refused(
        tmp_path / "missing.pth", "--out", out, "--license", "mit\ntags: [x]")  # before anything is read
    for package in ("onnxruntime", "huggingface_hub"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            patch.delitem(sys.modules, "exporting.hub", raising=False)
            form = "onnx" if package == "onnxruntime" else "safetensors"
            assert " can't be imported; run pip install -r requirements-export.txt" in refused(
                path, "--out", out, "--to", form)
    monkeypatch.setattr(graphs, "TOLERANCE", -1.0)
    assert "differs from the model's" in refused(path, "--out", out, "--to", "torch", "--inputs", "text")
    assert {file.name for file in tmp_path.iterdir()} == {"fusion.pth"}


def test_a_file_that_cannot_take_its_place_leaves_the_others_as_they_were(path, tmp_path):
    out = tmp_path / "out"
    (out / "README.md").mkdir(parents=True)
    (out / path.name).write_text("old")
    assert "README.md: cannot write: a folder or a device has that name" in refused(path, "--out", out, "--to", "half")
    assert (out / path.name).read_text() == "old" and len(list(out.iterdir())) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_what_a_killed_export_leaves_is_removed_by_the_next(path, tmp_path):
    killed = ("import os, signal, sys; import export_model; replace = os.replace\n"
              "os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL) if '/out/' in str(names[1]) else "
              "replace(*names)\nexport_model.main(sys.argv[1:])")
    argv = [str(path), "--out", str(tmp_path / "out"), "--to", "half"]
    done = subprocess.run([sys.executable, "-c", killed, *argv], cwd=ROOT,
                          env={**os.environ, "TMPDIR": str(path.parent)})
    assert done.returncode == -signal.SIGKILL
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert all(file.name.startswith(".") for file in (tmp_path / "out").iterdir())
    export_model.main(argv)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {path.name, "README.md"}


def test_the_pretrained_model_is_of_the_data_set_beside_it_and_as_good_as_its_card_says():
    file = ROOT / "pretrained/hash/openmoji_hash.pth"
    model, about = checkpoint.load_model(file)
    data = load_dataset(ROOT / "data/openmoji")
    assert about["fingerprint"] == data.fingerprint and file.stat().st_size < 5e6
    with torch.no_grad():
        texts, images = (metric.sign_codes(model.encode(**side)[0].numpy())
                         for side in ({"text": data.query.text}, {"image": data.retrieval.image}))
    found = metric.mean_average_precision(texts, images, data.query.label.numpy(), data.retrieval.label.numpy(), 50)
    row = next(line for line in (file.parent / "README.md").read_text("utf-8").splitlines()
               if line.startswith("| 128 |"))
    assert abs(100 * found - float(row.split("|")[5])) < 0.1
