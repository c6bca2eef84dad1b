"""The tables of a Markdown text as LaTeX and CSV, and the best of them marked."""

import csv

import pytest

from benchmarks import documents, exports
from common.errors import InputError

TEXT = """# A report

## Unpaired, mean of both

| | seeds | @all 16 | 32 | @50 16 | 32 | worst |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| UCCH & co. † | 2 | **40.1 ± 0.2** | 41.0 | | -1.5 ± 0.1 | -0.2 (Clip art, by folder) |
| [ours](#a_b), `--scale_max 8` | 2 | <ins>39.0</ins> | **42.0** | 0.5 | +2.0 | 50 % |

### Again (by group)

| a | b |
| --- | --- |
| 1 | 2 |

| a | b |
| --- | --- |

<!-- results: headline -->
| | x |
| --- | ---: |
| y | 1 |
<!-- end of results -->
"""


def test_the_tables_of_a_text_are_named_by_headings_and_blocks():
    tables = exports.tables_of(TEXT)
    assert [table.name for table in tables] == ["unpaired", "unpaired_again", "unpaired_again-2", "headline"]
    assert tables[0].numbers == [False] + 6 * [True] and len(tables[0].rows) == 2 and tables[2].rows == []
    assert [table.name for table in exports.tables_of(TEXT, blocks=True)] == ["headline"]


def test_a_table_in_latex():
    assert exports.latex(exports.tables_of(TEXT)[0]).splitlines() == [
        r"% needs \usepackage{booktabs}", r"\begin{tabular}{lrrrrrr}", r"\toprule",
        r" &  & \multicolumn{2}{c}{@all} & \multicolumn{2}{c}{@50} &  \\",
        r"\cmidrule(lr){3-4}\cmidrule(lr){5-6}",
        r" & seeds & 16 & 32 & 16 & 32 & worst \\", r"\midrule",
        r"UCCH \& co. \textdagger{} & 2 & \textbf{40.1 $\pm$ 0.2} & 41.0 &  & $-$1.5 $\pm$ 0.1 & "
        r"$-$0.2 (Clip art, by folder) \\",
        r"ours, \texttt{{-}{-}scale\_max 8} & 2 & \underline{39.0} & \textbf{42.0} & 0.5 & +2.0 & 50 \% \\",
        r"\bottomrule", r"\end{tabular}"]


def test_a_table_as_csv_has_a_column_for_what_is_behind_the_mean():
    rows = list(csv.reader(exports.comma_separated(exports.tables_of(TEXT)[0]).splitlines()))
    assert rows == [
        ["", "seeds", "@all 16", "@all 16 ±", "@all 32", "@50 16", "@50 32", "@50 32 ±", "worst"],
        ["UCCH & co. †", "2", "40.1", "0.2", "41.0", "", "-1.5", "0.1", "-0.2 (Clip art, by folder)"],
        ["ours, --scale_max 8", "2", "39.0", "", "42.0", "0.5", "+2.0", "", "50 %"]]


def test_the_best_is_bold_and_the_second_best_underlined_as_they_are_printed():
    rows = [["a", "16", "41.0 ± 0.5", "1", "–"], ["b", "16", "9.5", "2", "3 (x)"], ["c", "16", "42.0", "", ""],
            ["d", "16", "42.0 ± 1.0", "", ""]]
    assert exports.mark_best(rows, words=2) == [
        ["a", "16", "<ins>41.0 ± 0.5</ins>", "1", "–"], ["b", "16", "9.5", "**2**", "3 (x)"],
        ["c", "16", "**42.0**", "", ""], ["d", "16", "**42.0 ± 1.0**", "", ""]]


def test_every_table_of_the_documents_is_written_both_ways(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(documents, "write_documents", lambda root, **recorded: [])  # they are as they are
    documents.main(["--export", str(tmp_path / "tables")])
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    assert {"readme_headline.tex", "readme_headline.csv", "results_openmoji_unpaired.tex",
            "progressive_hash_documentation_promises.csv", "search_rerank.tex"} <= names
    assert not any("zh" in name or name.startswith("readme_settings") for name in names)
    for path in (tmp_path / "tables").glob("*.tex"):
        lines = path.read_text().splitlines()
        columns = len(lines[1].removeprefix(r"\begin{tabular}{").removesuffix("}"))
        for line in lines[lines.index(r"\midrule") + 1:lines.index(r"\bottomrule")]:
            assert line.replace(r"\&", "").count(" &") == columns - 1, (path, line)
    for path in (tmp_path / "tables").glob("*.csv"):
        assert len({len(row) for row in csv.reader(path.read_text().splitlines())}) == 1


def test_a_folder_that_refuses_the_tables_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        exports.write(TEXT, tmp_path / "file", "name")
