"""report.html, the curves and the gallery in metrics.json, TensorBoard events, and the terminal's last lines."""

import base64
import copy
import functools
import io
import json
import operator
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import ICMR
import metric
import report
from common.errors import InputError
from extraction import dataset_file
from extraction.collection import Collection
from extraction.download import File, Pictures
from load_data import load_dataset
from reporting import chinese, gallery, language, page, plots, styles, terminal
from reporting.run_log import TensorBoardLog
from test_plots import error_line, make_data, settings
from training import checkpoint

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training on pairs with captions that look like HTML, and one picture; its folder and metrics."""
    folder = make_data(tmp_path_factory.mktemp("run"), captions=True)
    Image.new("RGB", (400, 300), "red").save(folder / "data" / "toy" / "0.png")
    arguments = settings(folder, "--hash_lens", "4", "8", "--eval_every", "2", "--run_name", "one",
                         "--tensorboard", "true", "--checkpoint_dir", str(folder / "checkpoints"))
    ICMR.main(arguments)
    where = folder / "results" / "toy" / "one"
    return where, json.loads((where / "metrics.json").read_text()), arguments


class Page(HTMLParser):
    """The tags of a page, checked to be closed in order, and its text outside <style>."""

    VOID = {"meta", "img", "br"}

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def test_the_page_is_one_file_without_a_network(run):
    html = (run[0] / "report.html").read_text(encoding="utf-8")
    for tag, attributes in Page(html).tags:
        assert tag not in ("script", "link", "iframe")
        for name in ("src", "href", "xlink:href"):
            assert re.match(r"#|data:image/", attributes.get(name) or "#")  # figures to download, too
    assert not re.search(r"url\((?!#)|@import", html)


def test_captions_are_text_and_never_markup(run):
    html = Page((run[0] / "report.html").read_text(encoding="utf-8"))
    assert "<b>pair & 0</b>" in "".join(html.text)
    assert not [tag for tag, _ in html.tags if tag == "b"]


def test_a_picture_beside_the_data_is_embedded(run):
    tags = Page((run[0] / "report.html").read_text()).tags
    pictures = [attributes["src"] for tag, attributes in tags if tag == "img"]
    assert len(pictures) == 2 and pictures[0].startswith("data:image/jpeg;base64,")  # query 0, in both directions


def test_a_picture_that_is_gone_or_broken_is_left_out(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert page.thumbnail(str(tmp_path / "broken.png")) is None
    assert page.thumbnail(str(tmp_path / "gone.png")) is None
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    assert page.thumbnail(str(tmp_path / "pipe.png")) is None


def test_the_table_shows_the_last_figures(run):
    text = " ".join(" ".join(Page((run[0] / "report.html").read_text()).text).split())
    for bits, result in run[1]["final"].items():
        row = [f"{result[protocol][direction][cut]:.4f}"
               for protocol in ("unpaired", "paired") for direction in ("i2t", "t2i") for cut in ("map", "map@50")]
        assert " ".join([bits, *row]) in text
        recalls = [f"{value:.4f}" for direction in ("i2t", "t2i") for value in result["partners"][direction].values()]
        assert " ".join([bits, *recalls]) in text and len(recalls) == 6


def test_drawn_numbers_are_those_of_metrics_json(run):
    where, results, _ = run
    drawn = page.figures(results)
    assert len(drawn) == 15
    for direction, name in page.DIRECTIONS.items():
        lines = drawn[f"mAP@all against the epoch, {name}"].axes[0].lines
        for line, bits in zip(lines, ("4", "8"), strict=True):
            assert line.get_xdata().tolist() == [2, 4, 6, 8]
            assert line.get_ydata().tolist() == [
                entry[bits]["unpaired"][direction]["map"] for entry in results["history"]]
        for title, key in (("Precision at each recall", "precision"), ("Precision of the first N", "precision_at_n")):
            for line, bits in zip(drawn[f"{title}, {name}"].axes[0].lines, ("4", "8"), strict=True):
                assert line.get_ydata().tolist() == results["curves"][bits]["unpaired"][direction][key]
    lines = [(protocol, direction) for protocol in ("unpaired", "paired") for direction in page.DIRECTIONS]
    two_codes = copy.deepcopy(results)  # of a pair, as UCMFH's fusion has them
    two_codes["final"]["4"]["paired"]["t2i"] = {"map": 0.25, "map@50": 0.5}
    for made, expected in ((results, lines[:3]), (two_codes, lines)):
        for cut, title in (("map", "mAP@all"), ("map@50", "mAP@50")):
            bars = page.figures(made)[f"{title} against code length, last epoch"].axes[0].containers
            for bar, (protocol, direction) in zip(bars, expected, strict=True):
                assert bar.lines[0].get_ydata().tolist() == [
                    made["final"][bits][protocol][direction][cut] for bits in ("4", "8")]
    loss = drawn["Loss in training"].axes[0].lines[0].get_ydata()
    assert loss.tolist() == [entry["loss"] for entry in results["epochs"]]


def test_contents_lead_to_every_section_and_tables_scroll_by_the_keyboard(run):
    tags = Page((run[0] / "report.html").read_text(encoding="utf-8")).tags
    ids = [attributes["id"] for tag, attributes in tags if tag == "h2"]
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert len(ids) == 5 and links[:5] == [f"#{id}" for id in ids]
    regions = [attributes for _, attributes in tags if attributes.get("role") == "region"]
    assert [region["tabindex"] for region in regions] == ["0", "0"]
    assert {region["aria-labelledby"] for region in regions} <= set(ids)


def test_every_figure_can_be_downloaded(run):
    links = [attributes for tag, attributes in Page((run[0] / "report.html").read_text(encoding="utf-8")).tags
             if tag == "a" and "download" in attributes]
    assert len(links) == 2 * len(page.figures(run[1])) == len({link["download"] for link in links})
    svg, png = (base64.b64decode(link["href"].split(",")[1]) for link in links[:2])
    assert svg.startswith(b"<?xml") and b"currentColor" not in svg and b"var(" not in svg  # it stands alone
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.width == 680 and picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_every_sentence_of_the_page_has_its_chinese():
    source = (ROOT / "reporting" / "templates" / "report.html").read_text(encoding="utf-8")
    known = chinese.FIGURES | chinese.PAGE
    found = [text for *_, text in page.TEMPLATES.extract_translations(source) if isinstance(text, str)]
    assert len(found) > 25
    for message in found:
        assert sorted(re.findall(r"%\(\w+\)s", message)) == sorted(re.findall(r"%\(\w+\)s", known[message]))


def test_the_page_in_chinese(run, tmp_path, monkeypatch):
    (tmp_path / "metrics.json").write_text(json.dumps(run[1]), encoding="utf-8")
    try:
        report.main([str(tmp_path), "--lang", "zh"])
    finally:
        language.set_language("en")
    html = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    text = " ".join(html.text)
    assert html.tags[0] == ("html", {"lang": "zh-CN"}) and "平均精度均值" in text and "训练 8 轮" in text
    shown = {attributes["aria-label"] for _, attributes in html.tags if attributes.get("role") == "img"}
    assert len(shown) == 15 and all(re.search("[\u4e00-\u9fff]", caption) for caption in shown)
    assert not re.search("Curves|Sample|Hash codes|Pictures|epoch|recall", text.split("设置与环境")[1])


def test_pictures_are_found_where_the_features_were_taken_from(tmp_path):
    collection = Collection(Pictures([File(str(tmp_path / "photos" / "a" / "1.png")), None,
                                      File(str(tmp_path / "p.zip"), "a/3.png")]), [["one"]] * 3, None,
                            columns={"image_file": ["a/1.png", "a/2.png", "a/3.png"]})
    recorded = dataset_file._folders(collection)
    assert recorded == {"picture_folders": str(tmp_path / "photos")}
    folder = make_data(tmp_path, captions=True)
    with h5py.File(folder / "data" / "toy" / "toy.h5", "a") as file:
        file.attrs.update(recorded)
    data = load_dataset("toy", folder / "data")
    items = data.retrieval.items("image")
    picture = tmp_path / "photos" / str(items.columns["image_file"][0])
    picture.parent.mkdir()
    Image.new("RGB", (40, 30), "red").save(picture)
    item = gallery.describe(data, items, 0, gallery.picture_folders(data))
    assert item["picture"] == str(picture) and page.thumbnail(item["picture"])


def test_figures_take_the_text_colour_around_them(run):
    html = (run[0] / "report.html").read_text()
    assert plots.INK not in html.split("<body>")[1] and "currentColor" in html
    assert f"--line-0: {styles.COLOURS[styles.BLUE]};" in html and f"stroke: var(--line-0, {styles.BLUE})" in html


def test_curves_agree_with_the_codes_of_the_checkpoint(run):
    where, results, _ = run
    folder = where.parents[2]
    data = load_dataset("toy", folder / "data")
    model, _ = checkpoint.load_model(folder / "checkpoints" / "hash" / "toy_hash.pth")
    query, retrieval = ([side.detach().numpy() for side in model(split.image, split.text)["unpaired"]]
                        for split in (data.query, data.retrieval))
    relevant = data.query.label.numpy() @ data.retrieval.label.numpy().T > 0
    for direction, asked, stored in (("i2t", query[0], retrieval[1]), ("t2i", query[1], retrieval[0])):
        curve = results["curves"]["8"]["unpaired"][direction]
        assert curve["n"] == [1, 2, 5, 10, 20]
        np.testing.assert_allclose(curve["precision"][-1], np.mean(
            [hits.sum() / (distance <= distance[hits].max()).sum()  # all found: the whole of the last tie group, or ...
             for hits, distance in zip(relevant, metric.hamming_distance(*map(metric.sign_codes, (asked, stored))))]),
            atol=0.03)
        distance = ((asked >= 0)[:, None] != (stored >= 0)[None]).sum(axis=2)
        order = np.random.default_rng(0)
        orders = [np.lexsort((order.random(len(d)), d))[:5] for d in distance for _ in range(200)]
        found = np.mean([relevant[i // 200][rows].mean() for i, rows in enumerate(orders)])
        assert curve["precision_at_n"][2] == pytest.approx(found, abs=0.02)


def test_the_gallery_ranks_by_distance_and_row(run):
    where, results, _ = run
    folder = where.parents[2]
    data = load_dataset("toy", folder / "data")
    model, _ = checkpoint.load_model(folder / "checkpoints" / "hash" / "toy_hash.pth")
    codes = model(data.query.image, data.query.text)["unpaired"][0] >= 0
    stored = model(data.retrieval.image, data.retrieval.text)["unpaired"][1] >= 0
    found = results["gallery"]
    assert found["bits"] == 8 and len(found["i2t"]) == len(found["t2i"]) == 8
    for sample in found["i2t"]:
        asked = int(np.flatnonzero(data.query.index == sample["query"]["row"])[0])
        distance = (codes[asked] != stored).sum(dim=1).tolist()
        nearest = sorted(range(len(distance)), key=lambda row: (distance[row], row))[:10]
        assert [item["row"] for item in sample["items"]] == data.retrieval.index[nearest].tolist()
        assert [item["distance"] for item in sample["items"]] == [distance[row] for row in nearest]
        assert [item["relevant"] for item in sample["items"]] == [
            bool((data.query.label[asked] & data.retrieval.label[row]).any()) for row in nearest]
        assert sample["query"]["text"] == f"<b>pair & {sample['query']['row']}</b>"


def test_tensorboard_events_hold_the_log(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run[0] / "tensorboard"))
    events.Reload()
    for tag, expected in (("training/loss", {entry["epoch"]: entry["loss"] for entry in run[1]["epochs"]}),
                          ("8/unpaired/i2t/map", {entry["epoch"]: entry["8"]["unpaired"]["i2t"]["map"]
                                                  for entry in run[1]["history"]})):
        assert {event.step: pytest.approx(event.value) for event in events.Scalars(tag)} == expected


def test_tensorboard_hides_the_epochs_that_an_interrupted_run_left(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = {"unpaired": {"i2t": {"map": 0.25, "map@50": 0.5}}, "quantization_error": 0.125}
    interrupted = TensorBoardLog(tmp_path)
    for epoch in (1, 2, 3):
        interrupted.write({"epoch": epoch, "loss": 8.0})
    TensorBoardLog(tmp_path, purge_epoch=2).write({"epoch": 2, "loss": 4.0}, {"epoch": 2, "8": result})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]} == {
        "training/loss": [(1, 8.0), (2, 4.0)], "8/unpaired/i2t/map": [(2, 0.25)], "8/unpaired/i2t/map@50": [(2, 0.5)]}


def test_a_missing_tensorboard_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="--tensorboard true: .*; pip install tensorboard, or leave it out"):
        TensorBoardLog(tmp_path / "events")
    assert not (tmp_path / "events").exists()
    with pytest.raises(SystemExit, match="2"):
        ICMR.main(settings(make_data(tmp_path), "--tensorboard", "true"))
    assert {path.name for path in tmp_path.iterdir()} == {"data"}  # before a training, not after its first epoch


def test_the_page_is_made_again_from_metrics_json(run):
    html = (run[0] / "report.html").read_bytes()
    (run[0] / "report.html").unlink()
    assert report.main([str(run[0])]) == run[0] / "report.html"
    assert (run[0] / "report.html").read_bytes() == html


def test_a_test_run_has_a_report_too(run):
    where, results, arguments = run
    tested = ICMR.main([*arguments, "--task", "3", "--run_name", "tested", "--tensorboard", "false"])
    assert tested["curves"] == results["curves"] and tested["gallery"] == results["gallery"]
    html = (where.parent / "tested" / "report.html").read_text()
    assert "tested from a checkpoint of epoch 8" in " ".join(html.split())


def test_real_valued_fusion_and_no_captions(tmp_path):
    make_data(tmp_path)
    results = ICMR.main(settings(tmp_path, "--task", "0", "--epoch", "1", "--run_name", "real",
                                 "--checkpoint_dir", str(tmp_path)))
    html = (tmp_path / "results" / "toy" / "real" / "report.html").read_text()
    assert results["curves"] == {} and results["gallery"] is None and "no column named caption" in html
    assert "Real-valued fusion" in html


@pytest.mark.parametrize("content, message", [(None, "cannot read"), ("{", "not the metrics"),
                                              ("{}", "missing required field"), ("[1]", "Expected `object`")])
def test_a_missing_or_foreign_run_is_one_line(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    assert message in error_line(capsys, lambda: report.main([str(tmp_path)]))
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("field", [("curves", "4", "code_histogram", "share", 3), ("epochs", 1, "loss"),
                                   ("curves", "8", "unpaired", "i2t", "precision", 0),
                                   ("history", 0, "4", "unpaired", "t2i", "map")])
def test_numbers_that_cannot_be_drawn_are_refused(run, tmp_path, capsys, field):
    """Times 100 they are infinite, and NumPy prints a warning beside the page."""
    results = json.loads((run[0] / "metrics.json").read_text())
    del results["sha256"]
    *way, last = field
    functools.reduce(operator.getitem, way, results)[last] = 1.7e308
    (tmp_path / "metrics.json").write_text(json.dumps(results))
    assert f"{field[0]}[" in error_line(capsys, lambda: report.main([str(tmp_path)]))
    assert not (tmp_path / "report.html").exists()


def test_openmoji_ends_with_retrievals_in_emoji(tmp_path, capsys):
    results = ICMR.main(["--dataset", "openmoji", "--data_dir", str(ROOT / "data"), "--epoch", "2", "--hash_lens", "16",
                         "--hidden", "32", "--eval_every", "1", "--results_dir", str(tmp_path), "--checkpoint_dir",
                         str(tmp_path), "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("metrics.json") and (Path(lines[-1]).parent / "report.html").is_file()
    start = next(number for number, line in enumerate(lines) if line.startswith("openmoji, after epoch 2"))
    assert all(terminal.columns_of(line) <= 80 for line in lines[start:-1])
    samples = [line for line in lines[start:] if " -> " in line]
    assert len(samples) == 6
    first = results["gallery"]["i2t"][0]
    assert first["query"]["emoji"] in samples[0]
    found = samples[0].split(" -> ")[1].split()
    assert found == [(item["emoji"] or "-") + "*" * item["relevant"] for item in first["items"]][:len(found)]
    text = "\n".join(lines[start:])
    assert "Report the last epoch" in text
    best = max(np.mean([entry["16"]["unpaired"][direction]["map"] for direction in ("i2t", "t2i")])
               for entry in results["history"])
    assert f"{best:.4f}" in text.split("Report the last epoch")[1]


def test_emoji_that_only_openmoji_can_show_are_left_out():
    assert gallery.shown("\ue04f") == "" and gallery.shown("😀") == "😀"
    assert terminal.clip("日本語", 5) == "日本 " and terminal.clip("ab", 4) == "ab  "
    assert terminal.columns_of("a日e\u0301") == 4
