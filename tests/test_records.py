"""benchmarks/records.py: what is written is read back, and what is not a whole record is refused in one line."""

import json
import subprocess

import pytest

from benchmarks import records
from benchmarks.datasets import RECIPES
from common.code_files import ROOT
from common.errors import InputError

RESULTS = ROOT / records.RESULTS


def record(seed=0, bits=None, method="ours", dataset="toy", **more):
    lengths = [bits] if bits else [4, 8]
    both = {direction: {"map": 0.5, "map@50": 0.6} for direction in ("i2t", "t2i")}
    recall = {direction: {"recall@1": 0.1, "recall@5": 0.2, "recall@10": 0.3} for direction in ("i2t", "t2i")}
    return {"format": 1, "dataset": dataset, "fingerprint": "f" * 64, "sizes": {"train": 9, "query": 3, "retrieval": 9},
            "method": method, "bits": bits, "settings": {"scale_max": 8.0, "use_progressive_hash": True},
            "hash_lens": lengths, "seed": seed, "commit": "c" * 40, "code": "d" * 64, "date": "2026-11-27",
            "versions": {"python": "3.11", "torch": "2", "numpy": "2"},
            "machine": {"platform": "p", "cpu": "c", "device": "cpu", "gpu": None, "threads": 1, "processes": 1},
            "precision": "float32", "seconds": 1,
            "final": {str(length): {"unpaired": both, "partners": recall} for length in lengths},
            "history": {"epoch": [1, 2], "map": {str(length): [0.4, 0.5] for length in lengths}}, "loss": [2.0, 1.0],
            **more}


def test_records_are_read_back_sorted_each_training_once(tmp_path):
    some = [record(seed, settings=settings) for settings in ({"epoch": 5}, {}) for seed in (2, 0, 10)]
    other = [record(0, bits, "UCCH", settings={}) for bits in (32, 16)]
    paths = records.write(some + other, tmp_path)
    assert paths == [tmp_path / "toy" / "ours.jsonl", tmp_path / "toy" / "UCCH.jsonl"]
    back = records.read_all(tmp_path)
    assert [(each["method"], each["bits"], each["settings"], each["seed"]) for each in back] == [
        ("UCCH", 16, {}, 0), ("UCCH", 32, {}, 0),
        *(("ours", None, settings, seed) for settings in ({"epoch": 5}, {}) for seed in (0, 2, 10))]
    assert all(each in some + other for each in back)
    before = paths[0].read_text()
    assert list(json.loads(before.splitlines()[0])) == [*record(), "sha256"]  # in the order of the format
    records.write([record(2, settings={}, seconds=77)], tmp_path)
    changed = [[new, old] for new, old in zip(paths[0].read_text().splitlines(), before.splitlines()) if new != old]
    assert [[json.loads(line)["seconds"] for line in lines] for lines in changed] == [[77, 1]]


def test_a_record_that_was_edited_or_damaged_is_refused_until_it_is_written_anew(tmp_path):
    path, = records.write([record(), record(1)], tmp_path)
    sound = path.read_bytes()
    for at in range(0, len(sound) - 1, 7):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1:])
        with pytest.raises(InputError, match="ours.jsonl"):
            records.read(path)
    path.write_text(sound.decode().replace('"map": 0.5', '"map": 0.7', 1))
    with pytest.raises(InputError, match="line 1: edited or damaged since it was written.*restore it, or make it again"):
        records.read(path)
    path.write_bytes(sound)
    records.write([each | {"code": "e" * 64} for each in records.read(path)], tmp_path)
    assert [each["code"] for each in records.read(path)] == ["e" * 64] * 2


def test_the_records_of_the_documents_are_sealed():
    lines = [line for path in RESULTS.glob("*/*.jsonl") for line in path.read_text("utf-8").splitlines()]
    lines += [path.read_text("utf-8") for path in RESULTS.glob("*.json")]
    assert len(lines) > 500 and all(json.loads(line)["sha256"] for line in lines)


def changed(change):
    whole = record()
    change(whole)
    return json.dumps(whole)


@pytest.mark.parametrize("line, complaint", [
    ("{", "not JSON"), ("[" * 100_000, "not JSON"), ("3", "found 3; expected an object"), ("", "not JSON"),
    (changed(lambda each: each.update(extra=1)), "unknown key 'extra'"),
    (changed(lambda each: each["final"]["4"].update(extra=1)), "unknown key 'extra'"),
    (changed(lambda each: each.pop("seed")), "seed is missing"),
    (changed(lambda each: each["machine"].pop("cpu")), "machine: cpu is missing"),
    (changed(lambda each: each["final"]["8"].pop("unpaired")), "final: 8: unpaired is missing"),
    (changed(lambda each: each.update(seed=True)), "seed: found true; expected a whole number"),
    (changed(lambda each: each.update(seed=1.5)), "seed: found 1.5"),
    (changed(lambda each: each.update(bits="16")), 'bits: found "16"; expected null or a whole number'),
    (changed(lambda each: each.update(format=2)), "format: found 2"),
    (changed(lambda each: each.update(loss=[1.0, None])), "loss: found null; expected a number"),
    (changed(lambda each: each.update(final=[])), "final: found []; expected an object"),
    (changed(lambda each: each.update(settings={"a": {}})), "settings: a: found {}"),
    (changed(lambda each: each.update(commit="c" * 39)), "expected 40 hex digits"),
    (changed(lambda each: each.update(commit="C" * 40)), "expected 40 hex digits"),
    (changed(lambda each: each.update(code=None)), "expected 64 hex digits"),
    (changed(lambda each: each.update(date="today")), "expected a date"),
    (changed(lambda each: each.update(seconds=float("nan"))), "the number NaN; expected finite numbers"),
    (changed(lambda each: each.update(seconds=12.25)).replace("12.25", "1e999"), "the number 1e999"),
    (changed(lambda each: each.update(skipped="why")), "unknown key 'precision'"),
    (changed(lambda each: each.update(hash_lens=[4])), "expected those of hash_lens, 4"),
    (changed(lambda each: each["history"]["map"].update({"4": [0.5]})), "1 values at 4 bits, and 2 epochs"),
    (changed(lambda each: each["history"]["map"].update({"four": [0.5, 0.5]})), "expected a number of bits"),
    (changed(lambda each: each.update(method="UCCH")), "expected it in"),
    (changed(lambda each: each.update(dataset="other")), "other/ours.jsonl"),
    (changed(lambda each: None).replace('"seed": 0', '"seed": 0, "seed": 0'), "seed stands there twice"),
    (json.dumps(record(1)), "the same training as in line 1; expected one record of each")])
def test_what_is_not_a_record_is_refused_in_one_line(tmp_path, line, complaint):
    path = tmp_path / "toy" / "ours.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps(record(1)) + "\n" + line + "\n")
    with pytest.raises(InputError) as error:
        records.read_all(tmp_path)
    message = str(error.value)
    assert message.startswith(f"{path}, line 2: ") and complaint in message and len(message) < 600
    with pytest.raises(InputError):  # and what is damaged is not written over
        records.write([record(5)], tmp_path)
    assert path.read_text().endswith(line + "\n")


def test_what_was_not_trained_is_a_record_too(tmp_path):
    short = {key: value for key, value in record(0, 4, "CCA").items()
             if key not in ("precision", "seconds", "final", "history", "loss")} | {"skipped": "no such number of bits"}
    records.write([short], tmp_path)
    assert records.read_all(tmp_path) == [short]


def test_a_file_that_is_not_text_is_one_line(tmp_path):
    (tmp_path / "ours.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="ours.jsonl: can't be read"):
        records.read(tmp_path / "ours.jsonl")


def test_a_measurement_is_read_back_with_its_origin(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "committed", lambda module: ("c" * 40, ""))
    path = records.write_measurement(tmp_path / "speed.json", records.measurement_origin("benchmarks.speed"),
                                     {"ratios": {"an epoch": 18.5}, "environment": {"device": "cuda:0", "gpu": "G"}})
    found = records.read_measurement(path)
    assert found["ratios"] == {"an epoch": 18.5} and found["commit"] == "c" * 40
    assert found["machine"]["gpu"] == "G" and found["machine"]["cpu"] and found["versions"]["torch"]
    for old, new in (("18.5", "Infinity"), ("18.5", "18.6"), ("c" * 40, "c"), ('"machine"', '"mill"')):
        path.write_text(path.read_text().replace(old, new))
        with pytest.raises(InputError, match="speed.json"):
            records.read_measurement(path)
        path.write_text(path.read_text().replace(new, old))


# --- code ---------------------------------------------------------------------------------------------------------

FILES = {
    "main.py": '"""Doc."""\nimport json\nfrom package import part\n\ndef f(x):\n    """Doc."""\n    return x + 1\n',
    "package/__init__.py": "", "package/part.py": "from . import sibling\nfrom reporting.plots import draw\n",
    "package/sibling.py": "def g():\n    import late\n    return late.x\n", "late.py": "x = 'text'\n",
    "reporting/plots.py": "def draw(): pass\n", "stranger.py": "y = 1\n"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(records, "ROOT", tmp_path)
    forget()
    yield tmp_path
    forget()


def forget():
    """As in another run: what a run has found out of the code, it keeps."""
    for found in (records.code_digest, records.code_files, records.committed):
        found.cache_clear()


def digest():
    forget()
    return records.code_digest("main")


def test_the_code_is_found_by_following_imports(project):
    assert list(records.code_files("main")) == ["late", "main", "package", "package.part", "package.sibling"]


@pytest.mark.parametrize("name, old, new, same", [
    ("main.py", "x + 1", "x + 2", False), ("main.py", "x + 1", "(x  +  1)  # a comment", True),
    ("main.py", '"""Doc."""', '"""Another."""', True), ("main.py", '    """Doc."""\n', "", True),
    ("late.py", "text", "other text", False), ("package/__init__.py", "", "z = 0\n", False),
    ("package/sibling.py", "late.x", "late.x, 'text'", False), ("reporting/plots.py", "pass", "return 1", True),
    ("stranger.py", "1", "2", True)])
def test_the_digest_changes_with_the_code_alone(project, name, old, new, same):
    before = digest()
    (project / name).write_text(FILES[name].replace(old, new))
    assert (digest() == before) is same


def test_the_projects_own_code_is_all_there():
    ours, deep, shallow = (records.code_files(records.root_module(method)) for method in ("ours", "UCMFH", "CCA"))
    assert {"ICMR", "model", "loss", "metric", "evaluation", "training.targets", "training.cca"} <= ours.keys()
    assert {"benchmarks.baselines.base", "benchmarks.baselines.ucmfh", "metric", "loss", "model"} <= deep.keys()
    assert {"benchmarks.baselines.ridge", "training.cca", "metric"} <= shallow.keys()
    assert "benchmarks.baselines.ridge" not in {*ours, *deep} and "benchmarks.baselines.ucmfh" not in shallow
    assert not any(name.startswith(("reporting", "load_data", "pairs", "formats")) for name in (*ours, *deep, *shallow))
    assert len({records.code_digest(records.root_module(method)) for method in ("ours", "UCMFH", "CCA", "CCA-ITQ")}) == 3


def test_only_committed_code_has_a_commit(project):
    def git(*arguments):
        subprocess.run(["git", "-C", project, "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True,
                       capture_output=True)

    assert records.committed("main")[0] is None and "not in a git repository" in records.committed("main")[1]
    git("init")
    forget()
    assert records.committed("main")[0] is None
    git("add", ".")
    git("commit", "-m", "All")
    forget()
    commit, reason = records.committed("main")
    assert len(commit) == 40 and reason == ""
    (project / "stranger.py").write_text("y = 2\n")
    forget()
    assert records.committed("main")[0] == commit
    (project / "late.py").write_text("x = 'other'\n")
    assert records.committed("main")[0] == commit  # of the code that runs, which was read before
    forget()
    assert records.committed("main") == (None, "uncommitted changes in late.py")
    with pytest.raises(InputError, match="--record: uncommitted changes in late.py"):
        records.require_committed("main")
    git("commit", "-am", "More")
    (project / "package" / "new.py").write_text("")
    (project / "main.py").write_text(FILES["main.py"].replace("import json", "import package.new"))
    git("commit", "-m", "Main", "main.py")
    forget()
    assert records.committed("main") == (None, "uncommitted changes in package/new.py")


def test_the_records_of_the_project_are_of_the_data_that_its_recipes_make():
    found = {(each["dataset"], each["fingerprint"]) for each in records.read_all(RESULTS)}
    assert found == {(name, recipe.fingerprint) for name, recipe in RECIPES.items()}
