"""Attacks a reader with files that a coverage-guided fuzzer makes (Atheris, which is libFuzzer for Python).

    pip install atheris
    python tests/attack/guided.py captions corpus -max_total_time=600

Files that reach new code are kept in the folder ``corpus``, from which another run goes on. It ends at the first file
that isn't read or refused in one line, and writes that beside it as crash-... or timeout-....
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (2, 1)]

import atheris  # noqa: E402

with atheris.instrument_imports(include=["formats", "pickle", "pairs", "load_data", "extraction", "csv", "zipfile",
                                         "benchmarks.records", "indexing", "training.checkpoint", "serving"]):
    from attack.formats import FORMATS
    from attack.worker import classify


def main(name: str, corpus: Path, *options: str) -> None:
    form, folder = FORMATS[name], Path(tempfile.mkdtemp())
    corpus.mkdir(exist_ok=True)
    for number, write in enumerate(form.samples):
        (folder / str(number)).mkdir()
        sample = write(folder / str(number))
        file = min(file for file in (sample.rglob("*") if sample.is_dir() else [sample]) if file.is_file())
        (corpus / f"sample{number}").write_bytes(file.read_bytes())

    def attack(content: bytes) -> None:
        file.write_bytes(content)
        outcome, detail = classify(form, sample)
        if outcome not in ("read", "refused"):
            raise RuntimeError(f"{outcome}: {detail}")

    atheris.Setup([__file__, "-timeout=20", "-rss_limit_mb=4096", f"-artifact_prefix={corpus}.", *options, str(corpus)],
                  attack)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
