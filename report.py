"""Write report.html of a finished run again, from its metrics.json.

    python report.py results/openmoji/RUN
    python report.py results/openmoji/RUN --lang zh      # the page and its figures in Chinese
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from jinja2 import TemplateError

from common import json_text
from common.errors import InputError, Parser, exit_on_bad_input
from common.input_files import read_text
from reporting.language import set_language
from reporting.page import write_report


@exit_on_bad_input
def main(argv: list[str] | None = None) -> Path:
    parser = Parser(prog="report.py", description="Write report.html of a finished run again, from its metrics.json.")
    parser.add_argument("run", type=Path, help="folder of the run, such as results/openmoji/RUN")
    parser.add_argument("--lang", choices=("en", "zh"), default="en", help="language of the page and of its figures")
    options = parser.parse_args(argv)
    if note := set_language(options.lang):
        print(note, file=sys.stderr)
    path = options.run / "metrics.json"
    try:
        results = json_text.parse(read_text(path))
        page = write_report(path.with_name("report.html"), results)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}; give the folder of a finished run") from None
    except (ValueError, LookupError, TypeError, AttributeError, TemplateError) as error:
        raise InputError(f"{path}: not the metrics of a run of this version ({type(error).__name__}: {error}); "
                         f"run ICMR.py again") from None
    print(page)
    return page


if __name__ == "__main__":
    main()
