"""The shared figures, and the two scripts that draw with real trainings."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy.integrate import quad
from scipy.stats import norm

from benchmarks import promises
from benchmarks.methods import METHODS
from benchmarks.studies import DEFAULT, OFF
from reporting import curves
import demo_progressive_vs_original as demo
import metric
from reporting import chinese, language, plots, styles
import test_progressive_hash as stages_script
from common.errors import InputError
from toy import write_toy

SERIES = {"a": {"x": [16, 32], "y": [[0.1, 0.2], [0.3, 0.6]]}, "b": {"x": [16, 32], "y": [[0.5, 0.4]]}}


@pytest.fixture(autouse=True)
def english():
    yield
    language.set_language("en")


def make_data(folder, classes=2, captions=False):
    """A small data set in data/toy of ``folder``."""
    names = {"caption": np.array([f"<b>pair & {row}</b>" for row in range(60)], dtype=object),
             "image_file": np.array([f"{row}.png" for row in range(60)], dtype=object)} if captions else {}
    return write_toy(folder, pairs=60, queries=12, classes=classes, spread=3,
                     **{} if classes > 1 else {"label": np.zeros(60, int)}, **names)


def settings(folder, *more):
    return ["--dataset", "toy", "--data_dir", str(folder / "data"), "--results_dir", str(folder / "results"),
            "--hidden", "16", "--batch_size", "16", "--epoch", "8", "--device", "cpu", "--precision", "float32",
            *more]


def not_blank(path):
    """A picture with ink on it, at least 200 dots to the inch."""
    with Image.open(path) as picture:
        assert round(picture.info["dpi"][0]) >= 200
        colours = picture.convert("RGB").getcolors(2**24)
    assert len(colours) > 20 and max(colours)[0] < 0.99 * sum(count for count, _ in colours)


def error_line(capsys, run):
    with pytest.raises(SystemExit) as stop:
        run()
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning:")]
    assert stop.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


# --- curves -------------------------------------------------------------------------------------------------------


def test_precision_at_recall_is_the_mean_over_many_orders_of_the_ties_where_counts_allow_it():
    """Items placed evenly within a tie group, against a walk through the groups item by item."""
    random = np.random.default_rng(0)
    codes = [random.choice([-1, 1], (n, 6)) for n in (5, 40)]
    labels = [np.eye(3, dtype=int)[random.integers(0, 3, n)] for n in (5, 40)]
    histogram = metric.hamming_histogram(*codes, *labels)
    levels = np.array([0.1, 0.25, 0.5, 1.0])
    expected = np.zeros(len(levels))
    for query, label in zip(codes[0], labels[0]):
        distance = (query != codes[1]).sum(axis=1)
        relevant = labels[1] @ label > 0
        total, recall, retrieved = relevant.sum(), [0.0], [0.0]
        for d in range(7):
            recall.append(recall[-1] + relevant[distance == d].sum() / total)
            retrieved.append(retrieved[-1] + (distance == d).sum())
        for place, level in enumerate(levels):
            steps = np.linspace(0, 40, 400_001)
            reached = steps[np.argmax(np.interp(steps, retrieved, recall) >= level - 1e-12)]
            expected[place] += level * total / reached / 5
    np.testing.assert_allclose(curves.precision_at_recall(histogram, levels), expected, rtol=1e-3)


def test_a_query_without_relevant_items_counts_as_0():
    histogram = np.array([[[0, 2], [2, 0]], [[2, 0], [2, 0]]])
    np.testing.assert_allclose(curves.precision_at_recall(histogram, [0.5, 1.0]), [0.5, 0.5])


def test_code_histogram_gives_shares():
    histogram = curves.code_histogram([[-1.0, 0.99], [1.0, 0.01]])
    assert len(histogram["edges"]) == len(histogram["share"]) + 1 and sum(histogram["share"]) == 1
    assert histogram["share"][0] == 0.25 and histogram["share"][-1] == 0.5


# --- plots --------------------------------------------------------------------------------------------------------


def test_means_and_deviations_are_drawn():
    axes = plots.map_against_bits({"one": SERIES, "two": SERIES}).axes[0]
    first, second = axes.containers
    np.testing.assert_allclose(first.lines[0].get_ydata(), [0.2, 0.4])
    low, high = np.array(first.lines[2][0].get_segments())[:, :, 1].T
    np.testing.assert_allclose(high - low, 2 * np.std([[0.1, 0.2], [0.3, 0.6]], axis=0, ddof=1))
    assert not second.has_yerr and [text.get_text() for text in axes.get_xticklabels()] == ["16", "32"]


@pytest.mark.parametrize("draw", [plots.map_against_bits, plots.map_against_epoch, plots.precision_recall,
                                  plots.precision_at_n])
def test_a_figure_is_saved_as_the_same_bytes_every_time(tmp_path, draw):
    first, again = ([path.read_bytes() for path in plots.save(draw({"one": SERIES}), tmp_path / name)]
                    for name in ("a", "b"))
    names = [f"{name}.{suffix}" for name in "ab" for suffix in ("pdf", "png", "svg")]
    assert first == again and [path.name for path in sorted(tmp_path.iterdir())] == names
    not_blank(tmp_path / "a.png")
    assert b"<dc:date>" not in first[1]
    assert first[2].startswith(b"%PDF") and b"/FontFile2" in first[2] and b"/Type3" not in first[2]  # TrueType, inside


def contrast(colour, ground):
    """The contrast of two colours by WCAG 2."""
    values = np.array([[int(text[start:start + 2], 16) / 255 for start in (1, 3, 5)] for text in (colour, ground)])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return (high + 0.05) / (low + 0.05)


def test_all_lines_can_be_seen_and_differ_in_colour_dash_and_marker():
    for light, dark in styles.COLOURS.items():
        assert contrast(light, "#ffffff") >= 3 and contrast(dark, styles.DARK_GROUND) >= 3
    labels = [*styles.METHODS, *(f"my method {number}" for number in range(5))]
    looks = styles.line_styles(labels)
    for part in zip(*looks.values(), strict=True):  # colours, dashes, markers
        assert len(set(part)) == len(labels)
    assert len(set(styles.COLOURS.values())) == len(styles.COLOURS)
    assert len(set(styles.line_styles(range(200)).values())) == 200


def test_a_method_looks_the_same_in_every_figure():
    assert {*METHODS, DEFAULT, OFF} <= set(styles.METHODS)
    everywhere = styles.line_styles([*styles.METHODS, "mine"])
    for label, style in styles.line_styles(["mine", "UCCH", "ours", "progressive"]).items():
        assert style == everywhere["ours" if label == "progressive" else label]
    figure = plots.map_against_bits({"one": {"CCA": SERIES["a"], "ours": SERIES["b"]}})
    for drawn, label in zip(figure.axes[0].containers, ("CCA", "ours"), strict=True):
        line = drawn.lines[0]
        assert (line.get_color(), line.get_marker()) == (everywhere[label].colour, everywhere[label].marker)


def test_axes_say_what_they_do_to_the_numbers_and_panels_are_lettered():
    high = {"a": {"x": [10, 100], "y": [[0.71, 0.82]]}}
    first, second = plots.precision_at_n({"one": high, "two": high}).axes
    assert first.get_title(loc="left") == "(a) one" and second.get_title(loc="left") == "(b) two"
    start = first.get_ylim()[0]
    assert first.get_ylabel() == f"precision@N\naxis from {start:g}, not 0" and 0.6 < start < 0.71
    assert first.get_xlabel().endswith(", logarithmic")
    axes = plots.map_against_epoch({"one": SERIES}).axes[0]
    assert axes.get_ylim()[0] == 0 and axes.get_ylabel() == "mAP@all" and axes.get_title() == "one"
    axes.set_yscale("symlog", linthresh=1)
    assert plots.finish(axes.figure).axes[0].get_ylabel() == "mAP@all\nlinear to 1, log above"


@pytest.mark.parametrize("panels", [{}, {"one": {}}, {"one": {"a": {"x": [1], "y": []}}},
                                    {"one": {"a": {"x": [1, 2], "y": [[1.0]]}}}])
def test_nothing_is_never_drawn(panels):
    with pytest.raises(InputError):
        plots.map_against_epoch(panels)


def test_an_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        plots.save(plots.map_against_epoch({"one": SERIES}), tmp_path / "file" / "figure")


def test_every_label_has_its_glyphs(recwarn):
    if language.set_language("zh"):
        pytest.skip("no Chinese font is here")
    figure, axes = plots.new_figure(1, 1)
    axes[0, 0].set_title("".join(chinese.FIGURES.values()))
    plots.styled(figure.savefig)(io.BytesIO())
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    assert language.tr("epoch") == "训练轮次"


def test_without_a_chinese_font_labels_stay_english(monkeypatch):
    monkeypatch.setattr(language, "CJK_FONTS", ("No Such Font",))
    assert language.set_language("zh").startswith("note: ") and language.tr("epoch") == "epoch"


# --- test_progressive_hash.py -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_expected_curves_against_integration(scale):
    def mean(value):
        return quad(lambda x: value(np.tanh(scale * x)) * norm.pdf(x), -8, 8, points=[0], limit=500)[0]

    error = stages_script.expected_quantization_error(scale)[0]
    assert error == pytest.approx(mean(lambda c: (abs(c) - 1) ** 2), rel=1e-3)
    assert stages_script.expected_saturation(scale) == pytest.approx(mean(lambda c: float(abs(c) > 0.9)), rel=1e-3)
    edges = np.linspace(-1, 1, 5)
    shares = stages_script.expected_shares(scale, edges)
    assert shares.sum() == pytest.approx(1)
    assert shares[1] == pytest.approx(mean(lambda c: float(-0.5 < c < 0)), rel=1e-3)


def test_stages_of_a_training(tmp_path, capsys):
    make_data(tmp_path)
    written = stages_script.main(settings(tmp_path, "--hash_lens", "8"))
    run = tmp_path / "results" / "toy" / "test_progressive_hash"
    assert {path.name for path in written} == {f"{name}.{suffix}" for name in ("1_stages", "2_scales", "3_epochs")
                                               for suffix in ("png", "svg", "pdf")}
    for path in written:
        assert path.parent == run
        if path.suffix == ".png":
            not_blank(path)
    out = capsys.readouterr().out
    assert "Verdict: " in out and "0 of 768 bits differ" in " ".join(out.split())
    assert not (tmp_path / "checkpoints").exists() and list((run / "checkpoints").rglob("*.pth"))


def test_the_charts_hold_the_numbers_of_metrics_json(tmp_path):
    make_data(tmp_path)
    _, config = stages_script.parse(settings(tmp_path, "--hash_lens", "8"))
    solver = stages_script.Observed(config)
    solver.train()
    log = json.loads((solver.files.results / "metrics.json").read_text())["epochs"]
    assert list(solver.stages) == [1, 2, 4, 5, 7, 8]
    for axes, key in zip(stages_script.draw_epochs(solver.run.log, config).axes,
                         ("scale", "saturation", "quantization_error", "bit_balance")):
        assert axes.lines[0].get_ydata().tolist() == [entry[key] for entry in log]
    np.testing.assert_allclose(stages_script.draw_epochs(solver.run.log, config).axes[0].lines[1].get_ydata(),
                               np.linspace(1, 10, 8))
    for epoch, (scale, codes) in solver.stages.items():
        assert np.mean(np.abs(codes) > 0.9) == pytest.approx(log[epoch - 1]["saturation"], abs=1e-6)
        assert scale == log[epoch - 1]["scale"]


@pytest.mark.parametrize("more, message", [(["--hash_lens", "8", "4"], "one number"), (["--lang", "fr"], "--lang"),
                                           (["--use_progressive_hash", "false"], "leave out"),
                                           (["--epok", "3"], "--epok"), (["--show"], "--show: no display")])
def test_stages_refuse_in_one_line(tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.setattr(plots.matplotlib, "get_backend", lambda: "agg")
    make_data(tmp_path)
    assert message in error_line(capsys, lambda: stages_script.main(settings(tmp_path, *more)))
    assert not (tmp_path / "results").exists()


# --- demo_progressive_vs_original.py ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = make_data(tmp_path_factory.mktemp("demo"))
    return folder, demo.main(settings(folder, "--hash_lens", "4", "8", "--seeds", "0", "1"))


def runs_of(folder, seeds=(0, 1)):
    base = folder / "results" / "toy" / demo.NAME
    return {kind: [json.loads((base / f"{kind}-seed{seed}" / "metrics.json").read_text()) for seed in seeds]
            for kind in demo.KINDS}


def test_the_comparison_trains_both_kinds(compared):
    folder, comparison = compared
    for kind, progressive in demo.KINDS.items():
        for seed, run in enumerate(runs_of(folder)[kind]):
            assert run["config"]["use_progressive_hash"] is progressive and run["config"]["seed"] == seed
    base = folder / "results" / "toy" / demo.NAME
    assert json.loads((base / "comparison.json").read_text()) == comparison
    for name in ("comparison", "overview"):
        not_blank(base / f"{name}.png")


def test_plotted_numbers_are_those_of_metrics_json(compared):
    runs = runs_of(compared[0])
    figure = demo.draw_comparison(runs, compared[1]["effects"], "8")
    loss, epochs_i2t, epochs_t2i, bits_i2t, bits_t2i, quantization, recall_i2t, recall_t2i, codes = figure.axes[:9]

    def mean(kind, value):
        return np.mean([value(run) for run in runs[kind]], axis=0)

    for number, kind in enumerate(demo.KINDS):
        for axes, value in (
                (loss, lambda run: [entry["loss"] for entry in run["epochs"]]),
                (quantization, lambda run: [entry["quantization_error"] for entry in run["epochs"]]),
                (epochs_i2t, lambda run: [entry["8"]["unpaired"]["i2t"]["map"] for entry in run["history"]]),
                (epochs_t2i, lambda run: [entry["8"]["unpaired"]["t2i"]["map"] for entry in run["history"]]),
                (recall_i2t, lambda run: run["curves"]["8"]["unpaired"]["i2t"]["precision"]),
                (recall_t2i, lambda run: run["curves"]["8"]["unpaired"]["t2i"]["precision"])):
            np.testing.assert_allclose(axes.lines[number].get_ydata(), mean(kind, value))
        for axes, way in ((bits_i2t, "i2t"), (bits_t2i, "t2i")):
            np.testing.assert_allclose(axes.containers[number].lines[0].get_ydata(), mean(
                kind, lambda run: [run["final"][bits]["unpaired"][way]["map"] for bits in ("4", "8")]))
        np.testing.assert_allclose(codes.patches[number].get_data().values, 100 * mean(
            kind, lambda run: run["curves"]["8"]["code_histogram"]["share"]))


def test_finished_trainings_are_used_again_only_if_all_is_the_same(compared, monkeypatch):
    folder, comparison = compared
    trained, other = [], runs_of(folder)["original"][0]

    def train(where, config):
        trained.append((config.seed, config.use_progressive_hash))
        return other

    monkeypatch.setattr(demo, "train", train)
    same = settings(folder, "--hash_lens", "4", "8", "--seeds", "0", "1")
    assert demo.main(same) == comparison and trained == []
    demo.main([*same, "--temperature", "0.4"])
    assert trained == [(0, True), (0, False), (1, True), (1, False)]
    trained.clear()
    path = folder / "results" / "toy" / demo.NAME / "original-seed1" / "metrics.json"
    whole = path.read_text()
    for damaged in (whole[:100], whole.replace('"fingerprint": "', '"fingerprint": "0')):
        path.write_text(damaged)
        demo.train_all(same[:-3], [0, 1])
    path.write_text(whole)
    assert trained == [(1, False), (1, False)]


def rows_for(old, new):
    """The guide's table for measured mAP of the original and the progressive runs."""
    def training(value):
        last = {"map": value, "map@50": 50.0, "quantization_error": 0.1}
        return promises.Training([1, 2], [value, value], [1.0] * 8, last, seconds=1.0)

    return promises.compare(*([training(value) for value in values] for values in (new, old)))


@pytest.mark.parametrize("old, new, words", [
    ([40, 41], [43, 44.1], "improved mAP@all by 3.1 ± 0.1 points on toy"),
    ([40, 41], [41, 42.01], "improved mAP@all by 1.0 ± 0.0 points, less than was promised"),
    ([40, 41], [42.1, 43.2], "improved mAP@all by 2.2 ± 0.1 points, and may or may not have reached"),
    ([40, 41], [39, 40], "no improvement, progressive hashing lowered mAP@all by 1.0 ± 0.0 points"),
    ([40, 41], [45, 40], "no improvement of mAP@all beyond the spread of the seeds (+2.0 ± 3.0 points)"),
    ([40, 41], [40, 41], "no improvement, progressive hashing left mAP@all as it was"),
    ([40], [43], "no improvement of mAP@all shown, one seed can't tell (+3.0 points) on toy, with the one seed tried")])
def test_verdicts(old, new, words):
    rows = rows_for(old, new)
    line = demo.verdicts(rows, "toy")[0]
    assert words in line and line.endswith("with the one seed tried." if len(old) == 1 else "with 2 seeds.")
    assert all(len(line) <= 80 for line in demo.table(rows))
    assert not any("kept" == row["verdict"] for row in rows_for([40], [43]))


@pytest.mark.parametrize("classes", [1, 2])
def test_one_seed_and_a_single_class_make_a_sensible_figure(tmp_path, capsys, classes):
    make_data(tmp_path, classes)
    comparison = demo.main(settings(tmp_path, "--hash_lens", "4", "--seeds", "3", "--epoch", "1"))
    not_blank(tmp_path / "results" / "toy" / demo.NAME / "comparison.png")
    assert comparison["effects"][2]["verdict"] == "not measurable"
    assert "Verdict: " in capsys.readouterr().out
    if classes == 1:
        assert comparison["effects"][0]["original"] == pytest.approx(100)


@pytest.mark.parametrize("more, message", [(["--seeds", "1", "1"], "different seeds"), (["--seed", "1"], "--seeds"),
                                           (["--use_progressive_hash", "false"], "leave it out"),
                                           (["--dataset", "nothing"], "nothing"), (["--show"], "--show: no display")])
def test_the_comparison_refuses_in_one_line(tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.setattr(plots.matplotlib, "get_backend", lambda: "agg")
    make_data(tmp_path)
    assert message in error_line(capsys, lambda: demo.main(settings(tmp_path, *more)))
    assert not (tmp_path / "results").exists()


def test_an_unwritable_results_folder_is_one_line(tmp_path, capsys):
    make_data(tmp_path)
    (tmp_path / "results").write_text("")
    assert "--results_dir" in error_line(capsys, lambda: demo.main(settings(tmp_path)))


def test_show_opens_a_window_a_figure(monkeypatch):
    import matplotlib.pyplot as pyplot

    opened = []
    monkeypatch.setattr(pyplot, "show", lambda: opened.append(pyplot.get_fignums()))
    plots.show([plots.map_against_epoch({"one": SERIES}), plots.map_against_bits({"one": SERIES})])
    assert len(opened[0]) == 2
    pyplot.close("all")
