"""What all tests share."""

from __future__ import annotations

import sys

import pytest

SLOW = "slow: bash run_tests.sh --slow runs it, too"
DRAWN = {"test_report", "test_unlabelled"}  # the files that look at what the pages of runs show


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests, too")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason=SLOW))


@pytest.fixture(autouse=True, scope="module")
def quick_pages(request):
    """Leave the drawings out of the pages of trainings, which take longer than the trainings: about 4 of 5 seconds."""
    with pytest.MonkeyPatch.context() as patch:
        if "ICMR" in sys.modules and request.module.__name__ not in DRAWN:
            patch.setattr("reporting.page.shown_figure", lambda caption, figure: {
                "caption": caption, "svg": "", "downloads": []})
        yield
