"""What all tests share."""

from __future__ import annotations

import sys

import pytest

DRAWN = {"test_plots", "test_report", "test_unlabelled"}  # the files that look at what the pages of runs show


@pytest.fixture(autouse=True, scope="module")
def quick_pages(request):
    """Leave the drawings out of the pages of trainings, which take longer than the trainings: about 4 of 5 seconds."""
    with pytest.MonkeyPatch.context() as patch:
        if "ICMR" in sys.modules and request.module.__name__ not in DRAWN:
            patch.setattr("reporting.plots.svg", lambda figure: "<svg></svg>")
        yield
