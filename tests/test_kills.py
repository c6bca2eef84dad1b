"""Killed at a write or at any other time, everything is left as it was or done whole, and can be done again."""

from __future__ import annotations

import sys
import time

import pytest

from attack.__main__ import attack

KILLS, OPERATIONS = 5, 6


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_what_is_killed_loses_nothing_and_ends_as_without_a_kill():
    pytest.importorskip("duckdb")
    pytest.importorskip("faiss")
    outcome = attack("any", first=0, count=KILLS * OPERATIONS, until=time.monotonic() + 300, by="attack.kills")
    assert outcome.examples == {}
    assert outcome["resumed"] == KILLS * OPERATIONS
