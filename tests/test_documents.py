"""What the documents say of results: made from the records, never stale, and refused whole where something is wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import blocks, documents, evidence, overall, results
from common.errors import InputError

ROOT = Path(__file__).parents[1]
CODE = "a" * 64
OFF = {"use_progressive_hash": False}


def current(method):
    return CODE


def record(method="ours", seed=0, settings=None, lengths=(16, 64), score=0.4, dataset="openmoji", code=CODE, **more):
    """A record of a training whose mAP is ``score``, a little more with the seed, the bits, and from I2T to T2I."""
    def figures(bits):
        maps = {direction: {"map": score + seed / 100 + bits / 1000 + add, "map@50": score + 0.2 + seed / 1000 + add}
                for direction, add in (("i2t", 0.0), ("t2i", 0.02))}
        recalls = {direction: {"recall@1": 0.2, "recall@5": 0.4, "recall@10": 0.9 - score} for direction in maps}
        return {"unpaired": maps, "paired": maps, "partners": recalls, "quantization_error": 0.2 - score / 3,
                "bit_balance": 0.1}

    final = {str(bits): figures(bits) for bits in lengths}
    scores = [np.mean([final[bits]["unpaired"][direction]["map"] for direction in ("i2t", "t2i")]) for bits in final]
    history = {"epoch": list(range(1, 11)),
               "map": {bits: np.linspace(0.2, last, 10).round(5).tolist() for bits, last in zip(final, scores)}}
    made = {"format": 1, "dataset": dataset, "fingerprint": "f" * 64,
            "sizes": {"train": 1919, "query": 400, "retrieval": 1919}, "method": method,
            "bits": None if method == "ours" else lengths[0], "settings": settings or {}, "hash_lens": list(lengths),
            "seed": seed, "commit": "c" * 40, "code": code, "date": "2026-11-27",
            "versions": {"python": "3.12.1", "torch": "2.13.0", "numpy": "2.4.6"},
            "machine": {"platform": "Linux", "cpu": "a CPU", "device": "cpu", "gpu": None, "threads": 1,
                        "processes": 1}, "precision": "float32", "seconds": 50.0 + seed, "final": final,
            "history": history}
    if method == "ours":
        made["loss"] = [5.0, 4.0, 3.0, 2.5, 2.1, 1.9, 1.7, 1.6, 1.5, 1.4]
    return made | more


@pytest.fixture
def records():
    """Three seeds of ours, with the scale and without, and two other methods, one with the code of another time."""
    return [*(record(seed=seed, settings=settings, score=score) for settings, score in (({}, 0.4), (OFF, 0.36))
              for seed in range(3)),
            *(record("UCCH", seed, lengths=(bits,), score=0.37) for seed in range(2) for bits in (16, 64)),
            *(record("LSH", lengths=(bits,), score=0.1, code="b" * 64) for bits in (16, 64))]


@pytest.fixture
def folder(tmp_path):
    """The documents of the project, with no results in them yet."""
    for name in documents.DOCUMENTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    documents.write_documents(tmp_path, [], current)
    return tmp_path


def texts(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def block(folder, name, document):
    lines = (folder / document).read_text(encoding="utf-8").split(f"<!-- results: {name} -->\n")[1]
    return lines.split("<!-- end of results -->")[0]


# --- the project's own documents ----------------------------------------------------------------------------------


def test_the_documents_say_what_the_committed_records_say():
    """If this fails, run ``python benchmark.py tables``.

    Whether a record is of other code (†) may be as of the last time: who edits a default, as the README suggests, has
    changed the code.
    """
    recorded = documents.recorded(ROOT)
    known = {record["method"]: record["code"] for record in recorded["records"]}
    assert not documents.stale(ROOT, **recorded) or not documents.stale(ROOT, **recorded | {"current": known.get})


# --- what is written ----------------------------------------------------------------------------------------------


def test_a_document_that_cannot_be_written_leaves_all_as_they_were(folder, records, monkeypatch):
    """The disk is full at the second one."""
    before, opened = texts(folder), []
    write = documents.written

    def full(path, *arguments):
        if opened:
            raise InputError(f"{path}: cannot write: No space left on device; nothing was written")
        opened.append(path)
        return write(path, *arguments)

    monkeypatch.setattr(documents, "written", full)
    with pytest.raises(InputError, match="No space left"):
        documents.write_documents(folder, records, current)
    assert opened and texts(folder) == before


def test_documents_written_twice_at_once_are_right(folder, records, monkeypatch):
    write, begun, written = documents.written, [], set()

    def beside(path, *arguments):
        begun.append(path)
        if len(begun) == 2:  # the first is written, but not in its place
            monkeypatch.undo()
            written.update(documents.write_documents(folder, records, current))
        return write(path, *arguments)

    monkeypatch.setattr(documents, "written", beside)
    assert set(documents.write_documents(folder, records, current)) == written
    assert not documents.stale(folder, records, current)
    assert not list(folder.rglob(".*"))


def test_all_documents_are_written_once(folder, records):
    before = texts(folder)
    written = documents.write_documents(folder, records, current)
    assert set(written) == {folder / name for name in ("RESULTS.md", "README.md", "README.zh-CN.md",
                                                       "PROGRESSIVE_HASH_DOCUMENTATION.md")}
    after = texts(folder)
    assert {path for path in after if after[path] != before[path]} == set(written)
    assert documents.stale(folder, records, current) == {}
    times = {path: path.stat().st_mtime_ns for path in after}
    assert documents.write_documents(folder, records, current) == []
    assert {path: path.stat().st_mtime_ns for path in texts(folder)} == times


def test_the_headline_holds_the_means_of_the_records(folder, records):
    documents.write_documents(folder, records, current)
    # at 64 bits: score + .064 + .01 for the mean of the directions + the mean of .00, .01 (, .02) over the seeds
    for name, document, number in (("headline", "README.md", ", of 2"), ("headline.zh", "README.zh-CN.md", "，共 2 种")):
        lines = block(folder, name, document).splitlines()
        assert lines[-1] == f"| [OpenMoji](RESULTS.md#openmoji) | 44.9 (UCCH{number}) | 44.4 | **48.4** |"
    assert "3 seeds of ours and 2 seeds of the other method" in block(folder, "headline", "README.md")
    assert "本方法 3 个种子，其他方法 2 个种子" in block(folder, "headline.zh", "README.zh-CN.md")


def test_the_best_is_bold_even_if_it_is_not_ours(records):
    better = [record("CIRH", lengths=(64,), score=0.5)]
    rows = blocks.headline(evidence.gather(records + better, current, None, None))
    assert rows[-1] == "| [OpenMoji](RESULTS.md#openmoji) | **57.4** (CIRH, of 3) | 44.4 | 48.4 |"


def test_the_bench_marks_what_other_code_trained_and_nothing_else(records):
    for stale, marked in (("ours", 4), ("UCCH", 2), ("off", 1)):
        aged = [{**each, "code": "b" * 64 if stale == ("off" if each["settings"] else each["method"]) else CODE}
                for each in records]
        lines = overall.against("selection", evidence.gather(aged, current, None, None))
        names = [line.split(" | ")[0].removeprefix("| ") for line in lines if "†" in line and line.startswith("|")]
        assert len(names) == marked and all(stale == "ours" or name.startswith(
            {"UCCH": ("the best other", "UCCH"), "off": "ours, without"}[stale]) for name in names)


def test_the_bench_can_be_ours_alone(records):
    found = evidence.gather([each for each in records if each["method"] == "ours"], current, None, None)
    for zh, end in ((False, "where that is least:"), (True, "百分点：")):
        lines = overall.against("selection", found, zh)
        assert lines[0].endswith(end) and len([line for line in lines if line.startswith("| ")]) == 3


def test_where_a_method_learned_nothing_is_said_and_left_out_of_its_row(records):
    def with_recall(each, recall):
        final = {bits: figures | {"partners": {way: {"recall@1": 0.0, "recall@5": 0.0, "recall@10": recall}
                                               for way in ("i2t", "t2i")}} for bits, figures in each["final"].items()}
        return each | {"final": final}

    chance = 10 / records[0]["sizes"]["query"]
    for factor, said in ((1.4, True), (1.6, False)):
        found = evidence.gather([with_recall(each, factor * chance) if each["method"] == "UCCH" else each
                                 for each in records], current, None, None)
        assert ("UCCH: OpenMoji." in "\n".join(results.other_methods(found))) is said
        lines = overall.against("selection", found)
        assert any(line.startswith("| UCCH ") for line in lines) is not said
        assert any(line.startswith("| the best other method ") for line in lines)


def test_promises_say_what_was_gained(records):
    icons = [record(seed=seed, settings=settings, score=score, dataset="icons")
             for seed, change in enumerate((0.01, -0.012, 0.001))
             for settings, score in (({}, 0.3 + change), (OFF, 0.3))]
    found = evidence.gather(records + icons, current, None, None)
    rows = blocks.promises_table(found)
    assert rows[0].startswith("| data set | mAP@all (+2 to 5 points) | mAP@50 |")
    assert rows[2].startswith("| OpenMoji (3 seeds) | **kept**: +4.0 ± 0.0 |")
    assert "seconds" not in rows[0] and not any("Time of an epoch" in row for row in rows)  # it isn't measured
    assert rows[3].startswith("| Font Awesome icons (3 seeds) | **unclear**: +0.0 ± 0.6 |")  # within ± 2.8
    assert blocks.promises_table(found, zh=True)[2].startswith("| OpenMoji（3 个种子） | **达到**：+4.0 ± 0.0 |")


@pytest.mark.parametrize("factor, verdict", [(1.002, "kept"), (1.02, "not kept"), (1.01, "unclear")])
def test_the_promise_of_the_time_is_judged_by_epochs_in_turns(records, factor, verdict):
    off = [1.0, 1.1, 0.9, 1.0]
    on = [factor * seconds + noise for seconds, noise in zip(off, (0.001, -0.001, 0.001, -0.001))]
    rows = blocks.promises_table(evidence.gather(records, current, {"scale": {"OpenMoji": {"on": on, "off": off}}}, None))
    assert rows[-1].startswith(f"Time of an epoch (under 1 % more), of epochs with and without the scale in turns: "
                               f"OpenMoji **{verdict}**: +{100 * (factor - 1):.1f} ± 0.1 %")


# --- the whole bench ----------------------------------------------------------------------------------------------


def with_finer(made, change):
    """The record with finer labels, whose mAP is ``change`` higher."""
    maps = {bits: {"unpaired": {direction: {cut: value + change for cut, value in each.items()}
                                for direction, each in figures["unpaired"].items()}}
            for bits, figures in made["final"].items()}
    return {**made, "finer": maps}


def test_ours_is_held_against_every_method_on_the_whole_bench(records):
    stamps = [with_finer(record(seed=seed, settings=settings, score=score, dataset="stamps"), change)
              for settings, score, change in (({}, 0.4, -0.1), (OFF, 0.35, -0.04)) for seed in range(2)]
    others = [with_finer(record("LSH", lengths=(bits,), score=0.3, dataset="stamps"), 0.15) for bits in (16, 64)]
    others += [record("CroVCA", lengths=(64,), score=0.38, dataset="mfeat"),
               record(lengths=(16, 64), score=0.5, dataset="mfeat")]
    found = evidence.gather(records + stamps + others, current, None, None)
    lines = overall.against("unseen", found)
    # stamps 10 and, by folder, -15 points ahead of LSH, and half a point for ours' second seed; mfeat 12 of CroVCA
    assert "| LSH | 2 | -2.0 | -14.5 (Stamps, by folder) |" in "\n".join(lines)
    assert "| CroVCA | 1 | +12.0 | +12.0 (Digits in two views) |" in "\n".join(lines)
    assert "| the best other method in each case | 3 | +2.7 | -14.5 (Stamps, by folder) |" in "\n".join(lines)
    assert "| ours, without the scale | 2 | +2.0 | -1.0 (Stamps, by folder) |" in "\n".join(lines)
    assert lines[-1] == "Not recorded: mdi, phosphor, clipart, fields, cancer."
    assert "OpenMoji" not in "\n".join(lines)
    assert "| 每种情形下最好的其他方法 | 3 | +2.7 |" in "\n".join(overall.against("unseen", found, zh=True))

    rows = overall.scale_on_all(found)
    assert "| broad | mAP@all | 2 | +4.5 | +4.0 (OpenMoji) | +5.0 (Stamps) |" in rows
    assert "| narrow | mAP@all | 1 | -1.0 | -1.0 (Stamps, by folder) | -1.0 (Stamps, by folder) |" in rows
    assert not any(row.startswith("| narrow | R@10") for row in rows)  # a partner has no labels
    assert overall.against("unseen", evidence.gather(records, current, None, None)) == [blocks.NOTHING]


def test_each_label_set_says_by_how_much_ours_leads_and_whom(records):
    stamps = [with_finer(record(score=0.5, dataset="stamps"), -0.2),
              *(with_finer(record(name, lengths=(bits,), score=score, dataset="stamps"), change)
                for name, bits, score, change in (("LSH", 16, 0.3, 0.2), ("LSH", 64, 0.3, 0.0), ("CroVCA", 16, 0.4, 0.0),
                                                  ("CroVCA", 64, 0.38, -0.1)))]
    found = evidence.gather(records + stamps + [record(dataset="mfeat")], current, None, None)
    assert overall.by_label_set("unseen", found)[4:] == [
        "| Stamps | 16 | 1,919 | +11.0 | CroVCA | +11.0 | CroVCA |",
        "| Stamps, by folder | 75 | 1,919 | -10.0 | LSH | -10.0 | LSH |"]  # nothing to compare with on mfeat
    lines = overall.by_label_set("selection", found)
    assert lines[4].startswith("| OpenMoji † | 10 | 1,919 | +3.5 | UCCH | +3") and lines[-1] == blocks.OTHER_CODE
    assert overall.by_label_set("unseen", evidence.gather(records, current, None, None)) == [blocks.NOTHING]


def test_ours_with_one_modality_is_held_against_ucmfh_with_both(records):
    ucmfh = [record("UCMFH", lengths=(bits,), score=0.35, dataset="stamps") for bits in (16, 64)]
    for made in ucmfh:
        for figures in made["final"].values():
            figures["paired"] = {side: {cut: value + 0.1 for cut, value in each.items()}
                                 for side, each in figures["unpaired"].items()}
    found = evidence.gather([record(score=0.4, dataset="stamps"), *ucmfh], current, None, None)
    lines = overall.against("unseen", found)
    assert "| UCMFH, other modality missing | 1 | +5.0 | +5.0 (Stamps) | +5.0 | +5.0 (Stamps) |" in lines
    assert "| UCMFH with both modalities, ours with one | 1 | -5.0 | -5.0 (Stamps) | -5.0 | -5.0 (Stamps) |" in lines


def test_constants_are_held_against_the_default(records):
    assert overall.constants(evidence.gather(records, current, None, None)) == [blocks.NOTHING]
    changed = [record(seed=1, settings={"noise": 2.0}, score=0.37),  # three seeds of the default are 0.4
               record(score=0.5, dataset="digits"),
               record(settings={"noise": 2.0}, score=0.52, dataset="digits", code="b" * 64),
               record(score=0.5, dataset="stamps"),  # of the other half
               record(settings={"noise": 2.0}, score=0.1, dataset="stamps"),
               record(settings={"lr": 0.002}, score=0.9, dataset="wiki")]  # without a default
    lines = overall.constants(evidence.gather(records + changed, current, None, None))
    assert lines[0].startswith("On the labels of OpenMoji and Digits, mean of the code lengths and both directions, unpaired, "
                               "1 seed against 1 to 3 seeds of the default; ")
    assert [line for line in lines if line.startswith("| ours")] == [
        "| ours, `--noise 2` † | -0.5 | -3.0 (OpenMoji) | -0.5 | -3.0 (OpenMoji) |"]
    assert lines[-1] == blocks.OTHER_CODE


def test_nested_codes_are_held_against_separate_ones_at_each_length(records):
    assert overall.nested(evidence.gather(records, current, None, None)) == [blocks.NOTHING]
    separate = [record(seed=1, settings={"nested": False}, score=0.37),  # three seeds of the default are 0.4
                record(score=0.5, lengths=(16,), dataset="stamps"),
                record(settings={"nested": False}, score=0.502, lengths=(16,), dataset="stamps", code="b" * 64),
                record(settings={"nested": False}, score=0.9, dataset="wiki")]  # without a default
    lines = overall.nested(evidence.gather(records + separate, current, None, None))
    assert lines[0].startswith("On the labels of OpenMoji and Stamps, mean of both directions, unpaired, ") and "; `python benchmark.py ablation --datasets " \
        "openmoji stamps --seeds 2 --eval_every 1 --record --methods 'ours, every length with bits of its own'`:" in lines[0]
    assert lines[4:6] == ["| 16 | +1.4 | -0.2 (Stamps) | +1.4 | -0.2 (Stamps) |",
                          "| 64 | +3.0 | +3.0 (OpenMoji) | +3.0 | +3.0 (OpenMoji) |"]
    assert lines[-1] == blocks.OTHER_CODE


def test_long_and_short_trainings_have_a_row_for_each_label_set(records):
    assert overall.epochs(evidence.gather(records, current, None, None)) == [blocks.NOTHING]
    more = [record(seed=seed, settings=settings, score=score, dataset=dataset, code=code)
            for dataset, settings, score, code in (
                ("openmoji", {"epoch": 30}, 0.41, CODE), ("openmoji", {"epoch": 30, **OFF}, 0.42, CODE),
                ("stamps", {}, 0.5, CODE), ("stamps", OFF, 0.5, CODE),
                ("stamps", {"epoch": 200}, 0.6, CODE), ("stamps", {"epoch": 200, **OFF}, 0.5, "b" * 64),
                ("wiki", {}, 0.5, CODE), ("wiki", OFF, 0.4, CODE))  # of one length only
            for seed in range(2)]
    lines = overall.epochs(evidence.gather(records + more, current, None, None))
    assert lines[0].startswith("Means of the code lengths, both directions and 2 seeds, unpaired; ")
    assert lines[2:6] == [
        "| mAP@all | 30 epochs | 100 epochs | 200 epochs | gain, 30 epochs | gain, 100 epochs | gain, 200 epochs |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| OpenMoji | 46.5 | 45.5 | – | -1.0 | +4.0 | – |", "| Stamps † | – | 55.5 | 65.5 | – | +0.0 | +10.0 |"]
    assert lines[6] == "| the most below the best of its row | +0.0 (OpenMoji) | -10.0 (Stamps) | +0.0 (Stamps) |  |  |  |"
    assert lines[8].startswith("| mAP@50 | 30 epochs |") and lines[-1] == blocks.OTHER_CODE


def test_results_hold_every_method_and_mark_other_code(folder, records):
    documents.write_documents(folder, records, current)
    text = (folder / "RESULTS.md").read_text(encoding="utf-8")
    assert "- [OpenMoji](#openmoji)" in text and "\n## OpenMoji\n" in text
    assert "| LSH † | 1 | 12.6 | 17.4 | 31.0 | 31.0 |" in text
    assert "| UCCH | 2 | <ins>40.1 ± 0.7</ins> | <ins>44.9 ± 0.7</ins> |" in text
    assert "| ours, without the scale | 3 | 39.6 ± 1.0 | 44.4 ± 1.0 |" in text
    assert "| **ours** | 3 | **43.6 ± 1.0** | **48.4 ± 1.0** |" in text
    assert blocks.OTHER_CODE in text and "| mAP@all, unpaired | +4.0 ± 0.0 | +4.0 ± 0.0 | +4.0 ± 0.0 |" in text
    of_today = [{**each, "code": CODE} for each in records]
    documents.write_documents(folder, of_today, current)
    assert "†" not in (folder / "RESULTS.md").read_text(encoding="utf-8")
    documents.write_documents(folder, of_today, lambda method: "b" * 64 if method == "ours" else CODE)
    assert "| **48.4** † |" in block(folder, "headline", "README.md")
    assert blocks.OTHER_CODE in block(folder, "headline", "README.md")


def test_studies_of_ours_have_their_tables(records):
    more = [record(seed=seed, settings=settings, score=score) for seed in range(2) for settings, score in (
        ({"scale_max": 8.0}, 0.39), ({"scale_min": 2.0, "scale_max": 12.0}, 0.38), ({"scale_schedule": "step"}, 0.37),
        ({"loss": "balanced", "positive_weight": 0.6}, 0.35), ({"epoch": 30}, 0.41), ({"epoch": 30, **OFF}, 0.42))]
    found = evidence.gather(records + more, current, None, None)
    rows = [line.split(" | ")[0] for line in blocks.scale_sweep(found) if line.startswith("| ")]
    assert rows[2:] == ["| off", "| 1 to 8 (conservative)", "| 1 to 10 (default)", "| 2 to 12 (aggressive)",
                        "| 1 to 10, step"]
    assert "over 2 seeds; `python benchmark.py scale --datasets openmoji --seeds 2 --eval_every 1 --record`" in \
        blocks.scale_sweep(found)[0]
    assert [line.split(" | ")[:2] for line in blocks.balanced_loss(found)[4:]] == [
        ["| 0.5 (default)", "45.5 ± 0.7"], ["| 0.6", "40.5 ± 0.7"]]
    header, _, row = blocks.promises_table(found)[:3]
    assert header.endswith("`--positive_weight 0.6` (better with the balanced loss) | mAP@50 |")
    assert row.split(" | ")[-2].startswith("**not kept**: -5.0")


def test_the_balanced_loss_has_its_own_seeds_and_mark_among_the_promises(records):
    def rows(seeds, code):
        more = [record(seed=seed, settings={"loss": "balanced", "positive_weight": 0.6}, score=0.35, code=code)
                for seed in range(seeds)]
        lines = blocks.promises_table(evidence.gather(records + more, current, None, None))
        return [cell.removesuffix(" |") for cell in lines[2].split(" | ")[-2:]], lines[-1] == blocks.OTHER_CODE

    assert rows(3, CODE)[0][0] == "**not kept**: -5.0 ± 0.0" and not rows(3, CODE)[1]
    assert all(cell.endswith("-5.0 ± 0.0 (2 seeds)") for cell in rows(2, CODE)[0][:1])
    assert rows(3, "b" * 64)[0][0].endswith("-5.0 ± 0.0 †") and rows(3, "b" * 64)[1]


def test_a_command_has_all_seeds_of_its_table(records):
    moved = [{**each, "seed": each["seed"] + 4} for each in records]
    more = [record(seed=seed, settings=settings, score=0.39) for seed in (4, 6) for settings in (
        {"scale_max": 8.0}, {"epoch": 30}, {"epoch": 30, **OFF})]
    found = evidence.gather(moved + more, current, None, None)
    for block in (blocks.scale_sweep, overall.epochs):
        assert "--datasets openmoji --seeds 7 --eval_every 1 --record`" in block(found)[0]
    data, = found.datasets
    names = [row.method for row in data.rows if not row.ours]
    assert f"`python benchmark.py --datasets openmoji --seeds 7 --eval_every 1 --record --methods {' '.join(names)} " \
        f"'ours, progressive off' ours`:" in results.of_dataset(data, found)
    for each in moved:
        each["history"] = {"epoch": [10], "map": {bits: values[-1:] for bits, values in each["history"]["map"].items()}}
    assert "openmoji --seeds 7 --record`" in blocks.scale_sweep(evidence.gather(moved + more, current, None, None))[0]


def test_what_cannot_be_trained_is_said(folder, records):
    skipped = {key: value for key, value in record("CCA", lengths=(64,)).items() if key not in ("final", "history")}
    documents.write_documents(folder, [*records, {**skipped, "skipped": "only 32 dimensions"}], current)
    assert "- CCA, 64 bits: only 32 dimensions" in (folder / "RESULTS.md").read_text(encoding="utf-8")
    before = block(folder, "headline", "README.md")
    skipped |= {"dataset": "tiny", "skipped": "only 32 pairs"}  # and nothing else of these data
    documents.write_documents(folder, [*records, skipped], current)
    assert "- CCA, 64 bits: only 32 pairs" in (folder / "RESULTS.md").read_text(encoding="utf-8")
    assert block(folder, "headline", "README.md") == before


SPEED = {"training": {"sized": {**{f"reference, {bits} bits": 2.0 for bits in (16, 32, 64, 128)},
                                "ours, UCMFH's networks, [128] bits": 0.5, "ours, 128 bits": 0.1,
                                "ours, UCMFH's networks, [16, 32, 64, 128] bits": 0.8, "ours, four lengths": 0.2,
                                "ours, four lengths, bfloat16": 0.16}},
         "evaluation": {"sized": {"ours, from the features, both protocols": 1.0,
                                  "ours, from the codes, two directions": 0.1,
                                  "reference, from the codes, two directions": 10.0}},
         "memory": {"reference, training": {"before": 1.0, "above": 100.0},
                    "ours, training": {"before": 1.0, "above": 9.0}}}
SEARCH = {"figures": [{"index": "flat", "bits": 64, "codes": 1000000, "build_seconds": 0.01, "bytes_on_disk": 8000000,
                       "memory_above_codes": 0.5, "queries_per_second": {"1": 200.0, "1000": None}, "recall@10": 1.0,
                       "recall@100": 1.0}]}
ORIGIN = {key: record()[key] for key in ("commit", "date", "versions", "machine")}


def test_measurements_of_speed_and_search(folder):
    documents.write_documents(folder, [], current, speed=SPEED | ORIGIN, search=SEARCH | ORIGIN)
    text = (folder / "RESULTS.md").read_text(encoding="utf-8")
    assert "| sized | an epoch of four lengths, our networks | 8 s | 0.2 s | 40 |" in text
    assert "| sized | an epoch of four lengths, our networks, `--precision bfloat16` | 8 s | 0.16 s | 50 |" in text
    assert "| 64 | 1,000,000 | flat | 0.0 | 8.0 | 4.0 | 200 |  | 1.000 | 1.000 |" in \
        block(folder, "search_speed", "docs/search.md")
    assert "| 64 | flat | 8 | 64 | 5.00 | 50 |  | 1.000 |" in block(folder, "billion", "docs/search.md")
    assert "commit ccccccc, 2026-11-27, PyTorch 2.13.0, a CPU, 1 thread:" in text
    assert "No measurement of reranking is recorded yet." in block(folder, "rerank", "docs/search.md")
    rows = [{"query": "text", "bits": 64, "ranking": "Hamming", "map@50": 0.75, "recall@10": None}]
    documents.write_documents(folder, [], current, search={**SEARCH, **ORIGIN, "rerank": rows})
    assert "| text | 64 | Hamming | 0.750 |  |" in block(folder, "rerank", "docs/search.md")


# --- what is refused ----------------------------------------------------------------------------------------------


def refused(folder, records, **more):
    before = texts(folder)
    with pytest.raises(InputError) as error:
        documents.write_documents(folder, records, current, **more)
    assert texts(folder) == before and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("document", documents.DOCUMENTS)
@pytest.mark.parametrize("damage, where, message", [
    (lambda text: text + "\n<!-- results: nothing -->\n<!-- end of results -->\n", 2, "no block is named 'nothing'"),
    (lambda text: text + "\n<!-- results: speed -->\n", 2, "the block speed isn't closed"),
    (lambda text: text + "\n<!-- results: speed -->\n<!-- results: speed -->\n", 3, "begins within"),
    (lambda text: text + "\n<!-- end of results -->\n", 2, "ends that doesn't begin")])
def test_a_wrong_marker_is_one_line_and_changes_nothing(folder, records, document, damage, where, message):
    text = (folder / document).read_text(encoding="utf-8")
    (folder / document).write_text(damage(text), encoding="utf-8")
    line = refused(folder, records)
    assert line.startswith(f"{document}, line {text.count(chr(10)) + where}: ") and message in line


@pytest.mark.parametrize("document, name", [(document, name) for document, names in documents.DOCUMENTS.items()
                                            for name in names])
def test_a_missing_block_is_one_line_and_changes_nothing(folder, records, document, name):
    path = folder / document
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(f"<!-- results: {name} -->", "<!-- results: speed -->"), encoding="utf-8")
    line = refused(folder, records)
    assert line.startswith(f"{document}, line ") and f"without the block {name}" in line


def test_an_unreadable_document_is_one_line_and_changes_nothing(folder, records):
    path = folder / "README.zh-CN.md"
    path.write_bytes(b"\xff\xfe\xff")
    assert "README.zh-CN.md: can't be read" in refused(folder, records)
    path.unlink()
    assert "README.zh-CN.md: can't be read (No such file or directory)" in refused(folder, records)


def test_records_of_two_data_sets_under_one_name_are_refused(folder, records):
    assert "fingerprints 00000000, ffffffff" in refused(folder, [*records, record(seed=9, fingerprint="0" * 64)])


@pytest.mark.parametrize("more", [{"speed": {**ORIGIN, "training": {"sized": {}}}}, {"speed": {"training": {}}},
                                  {"search": {**ORIGIN, "figures": 3}}, {"search": {**ORIGIN, "figures": []}}])
def test_a_measurement_that_lacks_something_is_refused(folder, more):
    name = next(iter(more))
    assert f"docs/results/{name}.json: not a measurement as `python benchmark.py {name}`" in refused(folder, [], **more)
