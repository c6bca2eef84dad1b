"""What ``--dry_run`` says: what a download has, against what publications count, and what would be made of it."""

from __future__ import annotations

from common.columns import printable
from extraction.collection import Collection

SHOWN_PROBLEMS = 10


def overview(listed: Collection, made: Collection) -> str:
    """Some lines about a collection.

    Args:
        listed: all that the source lists under its filter.
        made: what is left of it where pictures are missing, with its splits.
    """
    published, files = listed.published, listed.images.files
    captions = sum(map(len, listed.captions))
    there = len(files) - files.count(None)
    lines = [*(f"{name}: {listed.attributes[name]}" for name in ("source", "filter") if name in listed.attributes),
             _counted("pairs", len(listed), published and published.pairs),
             _counted("captions", captions, published and published.captions)]
    same = [published is None or len(listed) == published.pairs,
            published is None or published.captions in (None, captions)]
    if listed.labels is not None:
        counts: dict[str, int] = dict.fromkeys(listed.label_names or (), 0)
        for names in listed.labels:
            for name in set(names):
                counts[name] = counts.get(name, 0) + 1
        lines.append(_counted("labels", len(counts), published and published.label_count))
        lines += [_counted(f"  {name}", count, published and published.labels.get(name))
                  for name, count in (counts if listed.label_names else dict(sorted(counts.items()))).items()]
        same.append(published is None or len(counts) == published.label_count and all(
            counts.get(name) == count for name, count in published.labels.items()))
    query, retrieval, train = map(len, made.splits.values())
    lines += [f"pictures: {there:,} of {len(files):,} are there",
              f"split: {made.attributes['split']}",
              f"would make: {len(made):,} pairs ({query:,} query, {retrieval:,} retrieval, {train:,} of them train)"]
    problems = made.problems
    lines += [f"problem: {problem}" for problem in problems[:SHOWN_PROBLEMS]]
    if len(problems) > SHOWN_PROBLEMS:
        lines.append(f"... and {len(problems) - SHOWN_PROBLEMS:,} problems more")
    wrong = [what for what, right in (
        ("counts are not the published ones", all(same)),
        (f"pictures missing: {len(files) - there:,}", there == len(files)),
        (f"problems: {len(problems):,}", not problems)) if not right]
    whole = "The download is whole" if published else "Every picture is there"
    return "\n".join([*map(printable, lines), f"{whole}." if not wrong else f"Not whole: {'; '.join(wrong)}."])


def _counted(what: str, count: int, published: int | None) -> str:
    if published is None:
        return f"{what}: {count:,}"
    return f"{what}: {count:,}, " + ("as published" if count == published else f"published: {published:,}")
