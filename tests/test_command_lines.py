"""Command lines with wrong values are refused in one line, and leave nothing behind."""

from __future__ import annotations

import os
import re
import sys

import pytest

import ICMR
import demo_progressive_vs_original
from attack.sandbox import sample
from benchmarks import records
from common.errors import InputError, Parser
from common.input_files import read_text
from extraction import openmoji
from extraction.folder import read_captions
from indexing import sources
from serving import load_test
from toy import write_toy

posix = pytest.mark.skipif(sys.platform == "win32", reason="forks, and has pipes with names")


@posix
def test_wrong_values_are_refused_in_one_line_and_leave_nothing():
    outcome = sample("command lines", first=100, count=60, by="attack.command_lines")
    assert outcome.examples == {}
    assert sum(outcome.values()) > 30, "too slow to test anything"


@pytest.mark.parametrize("argument", ["\udcff", "a\0b", "--name=\udcff", "--name=--"])
def test_arguments_that_are_no_text_are_refused(argument):
    """A name in another encoding could not be written to the files that say how they were made."""
    parser = Parser(prog="script.py")
    parser.add_argument("--name")
    with pytest.raises(InputError, match="not valid text; expected UTF-8|--name=--: expected a value"):
        parser.parse_args(["--name", argument] if argument[0] != "-" else [argument])


def refused(capsys, main, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and re.fullmatch("error: .{,400}\n", error)
    return error


@posix
@pytest.mark.parametrize("read", [read_text, ICMR.Config.read, sources.read_array, sources.read_lines, read_captions,
                                  records.read_measurement, openmoji.read_drawings], ids=lambda read: read.__qualname__)
def test_what_has_no_end_is_not_read(read, tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    for name in ("pipe.csv", "zero.csv"):
        with pytest.raises((OSError, InputError), match="a folder, a device or a pipe"):
            read(tmp_path / name)


@pytest.mark.parametrize("arguments, message", [
    (["--url", " "], "expected http://HOST:PORT"), (["--url", "http://a:b"], "expected http://HOST:PORT"),
    (["--url", "../.."], "expected http://HOST:PORT"), (["--seconds", "nan"], "--seconds nan: expected a number above"),
    (["--seconds", "1e400"], "--seconds inf"), (["--clients", "0"], "--clients 0"),
    (["--clients", "1" + "0" * 30], "up to 10,000")])
def test_a_load_test_refuses_what_is_no_address_and_no_number(arguments, message, capsys):
    assert message in refused(capsys, load_test.main, *arguments)


def test_a_training_without_end_is_refused(tmp_path, capsys):
    assert "expected a number from 1 to 1000000" in refused(capsys, ICMR.main, "--epoch", "9" * 30)


def test_a_demonstration_refuses_a_device_before_it_writes(tmp_path, capsys):
    write_toy(tmp_path, 60, 10)
    assert "quantum" in refused(capsys, demo_progressive_vs_original.main, "--dataset", "toy", "--data_dir",
                                tmp_path / "data", "--results_dir", tmp_path / "results", "--device", "quantum")
    assert not (tmp_path / "results").exists()
