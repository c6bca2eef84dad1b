"""A look into a data set before anything is trained on it: what is in it, and whether it is fit to train on.

What is wrong is told from chance, not from figures that good data sets have. Images and texts belong together if images
find their own texts better than the texts of other rows, in any order of the rows; labels say something if the nearest
neighbours of a row share its labels more often than those of another row do. Both are permutation tests (Fisher, The
Design of Experiments, 1935) at LEVEL.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
from scipy.stats import norm, rankdata
from torch import Tensor
from torch.nn.functional import normalize

import metric
from common.columns import printable
from load_data import Dataset, Split, load_dataset
from pairs.oddities import row_hashes
from pairs.rows import SPLITS
from training.cca import CCA
from training.targets import DIMENSIONS, RIDGE

SEED = 0
NEIGHBOURS = 50
FIRST = 10  # R@10
LEVEL = 0.01  # of the tests
PERMUTATIONS = 999  # one in a thousand is the least that they can tell, a tenth of LEVEL
QUERIES = 1_000  # at most that are asked; this and what follows bounds the time
PRODUCTS = 10**11  # multiplications of a search for neighbours: fewer queries are asked of more or wider items
FIT_PAIRS = 20_000  # that the canonical directions are fitted on
LEAST_RIDGE = 0.01  # of a modality's mean variance, where a map is looked for that is as good as exact
WIDTH = 1_024  # of features for that; random directions are taken of wider ones
MAP_ITEMS = 10_000  # of the database, for mAP
RUNS = 10  # that the rows of a split are divided into, in their order, to find where they slip
ROWS = 8_192  # at once
MODALITIES = ("image", "text")


def run(dataset: str | Path, data_dir: str | Path = "data") -> None:
    """Load a data set and print what :func:`inspect` says of it. Raises InputError if it can't be loaded."""
    print("\n".join(map(printable, inspect(load_dataset(dataset, data_dir)))))


def inspect(data: Dataset) -> list[str]:
    """What is in a data set, a line each; the last is "Fit to train on." or says what is wrong. Of an image with several
    texts the first is looked at.
    """
    random = np.random.default_rng(SEED)
    lines = [f"{data.name} ({data.path}): {_sizes(data)}"]
    data = dataclasses.replace(data, **{split: _with_one_text(getattr(data, split)) for split in SPLITS})
    lines += [f"{name}: {_features(data, name)}" for name in MODALITIES]
    if data.num_classes:
        lines.append(_labels(data))
    copies, leaked = _duplicates(data)
    lines += [copies, *(f"warning: {warning}" for warning in data.warnings)]
    problems = []
    for name in MODALITIES:
        if constant := [split for split in SPLITS if _constant(getattr(getattr(data, split), name)).all()]:
            problems.append(f"the {name} features are the same in every row of {', '.join(constant)}")
    if math.factorial(min(len(data.query), 10)) * LEVEL < 1:  # so few have too few permutations
        problems.append(f"{len(data.query)} queries are too few to tell anything from chance")
    if not problems:
        asked = _sample(random, data.query, _affordable(data))
        lines.append(f"measured with {len(asked):,} of {len(data.query):,} queries, and random draws of seed {SEED}:")
        known = {}
        if data.num_classes:
            chance = _share_relevant(data, asked)
            for name in MODALITIES:
                known[name], precision = _neighbours(random, data, name, asked)
                lines.append(f"  of the {_neighbour_count(data)} {name} features nearest to a query's, {precision:.1%} "
                             f"have one of its labels; by chance {chance:.1%}{_significance(known[name])}")
        said, paired, problems = _partners(random, data, asked)
        lines += said
        problems += _unfit(paired, known)
    found = "; ".join(problems)
    return [*lines, f"Not fit to train on: {found}." if problems else f"Fit to train on{leaked}."]


# --- what is counted ----------------------------------------------------------------------------------------------


def _with_one_text(split: Split) -> Split:
    return split if split.texts is None else dataclasses.replace(split, text=split.text[split.first_text], texts=None)


def _sizes(data: Dataset) -> str:
    texts = sum(len(getattr(data, split).text) for split in ("query", "retrieval"))
    images = len(data.query) + len(data.retrieval)
    return (", ".join(f"{len(getattr(data, split)):,} {split}" for split in SPLITS) + " pairs"
            + f", {texts:,} texts of {images:,} images" * (texts > images))


def _features(data: Dataset, name: str) -> str:
    stored = {getattr(data, split).types.get(name) for split in SPLITS} - {None}
    features = getattr(data.retrieval, name)
    constant = int(_constant(features).sum())
    return (f"{features.shape[1]:,} features a row, {' and '.join(sorted(stored)) or 'float32'} as stored"
            + f", {constant:,} of them the same in every row of retrieval" * (constant > 0))


def _constant(features: Tensor) -> Tensor:
    """Which columns of (n, d) have one value only, (d,) bool."""
    return features.amin(dim=0) == features.amax(dim=0)


def _labels(data: Dataset) -> str:
    label = torch.cat([data.query.label, data.retrieval.label])
    a_row, rows = label.sum(dim=1, dtype=torch.int64), label.sum(dim=0, dtype=torch.int64)
    names = data.label_names or [f"label {number}" for number in range(data.num_classes)]
    order = torch.argsort(rows, descending=True, stable=True).tolist()
    counts = [f"{names[number]} {int(rows[number]):,}" for number in order]
    often = (f"most rows have {', '.join(counts[:3])}, fewest {', '.join(counts[:-4:-1])}" if len(counts) > 6
             else ", ".join(counts))
    return (f"label: {data.num_classes:,} classes, {a_row.double().mean():.2f} a row ({a_row.min()} to {a_row.max()}); "
            f"of query and retrieval {often}")


def _duplicates(data: Dataset) -> tuple[str, str]:
    """Identical rows in words, and what to add to the verdict if queries are in the database."""
    parts = []
    for what, names in (("image", ("image",)), ("text", ("text",)), ("both", MODALITIES)):
        query, retrieval = (row_hashes(*(getattr(split, name).numpy() for name in names))
                            for split in (data.query, data.retrieval))
        both = np.concatenate([query, retrieval])
        crossing = int(np.isin(query, retrieval).sum())
        parts.append(f"{what} {len(both) - len(np.unique(both)):,} ({crossing:,} queries)")
    leaked = f", though {crossing:,} of {len(data.query):,} queries are in the database as they are" * (crossing > 0)
    return (f"rows that repeat an earlier one of query and retrieval (queries that a row of retrieval repeats): "
            f"{', '.join(parts)}"), leaked


# --- what is measured ---------------------------------------------------------------------------------------------


def _affordable(data: Dataset) -> int:
    """How many queries can be asked in the time there is."""
    return max(QUERIES // 10, min(QUERIES, PRODUCTS // (len(data.retrieval) * max(data.image_dim, data.text_dim))))


def _sample(random: np.random.Generator, split: Split | np.ndarray, count: int) -> np.ndarray:
    """The numbers of at most ``count`` rows, ascending."""
    return np.sort(random.permutation(len(split))[:count])


def _share_relevant(data: Dataset, asked: np.ndarray) -> float:
    """The share of the database that has a label in common with a query, the mean over queries."""
    query = data.query.label[asked].float()
    relevant = sum(int(torch.count_nonzero(block.float() @ query.T)) for block in data.retrieval.label.split(ROWS))
    return relevant / (len(asked) * len(data.retrieval))


def _neighbour_count(data: Dataset) -> int:
    """How many neighbours of a query are looked at: not so many that they are the database, which chance gives, too."""
    return max(1, min(NEIGHBOURS, len(data.retrieval) // 4))


def _neighbours(random: np.random.Generator, data: Dataset, name: str, asked: np.ndarray) -> tuple[float, float]:
    """How likely chance is to do as well as the nearest neighbours of queries, and their share that is relevant."""
    items = getattr(data.retrieval, name)
    mean = sum(block.sum(dim=0).double() for block in items.split(ROWS)) / len(items)
    query = normalize(getattr(data.query, name)[asked] - mean.float(), dim=1)
    count = _neighbour_count(data)
    best, found = torch.empty(len(asked), 0), torch.empty(len(asked), 0, dtype=torch.int64)
    for start in range(0, len(items), ROWS):
        cosine = query @ normalize(items[start:start + ROWS] - mean.float(), dim=1).T
        nearest = cosine.topk(min(count, cosine.shape[1]), dim=1)
        best, found = torch.cat([best, nearest.values], dim=1), torch.cat([found, nearest.indices + start], dim=1)
        best, order = best.topk(min(count, best.shape[1]), dim=1)
        found = found.gather(1, order)
    label = data.query.label[asked].float()
    blocks = []  # of each query's neighbours, the share that has a label of each query: (queries, queries)
    for near in found.split(ROWS // count):
        shares = data.retrieval.label[near.flatten()].float() @ label.T > 0
        blocks.append(shares.view(len(near), count, -1).float().mean(dim=1))
    share = torch.cat(blocks).numpy()
    return _chance(random, share), float(share.diagonal().mean())


def _chance(random: np.random.Generator, matrix: np.ndarray) -> float:
    """The share of permutations j of n rows in which the mean of ``matrix[i, j(i)]`` reaches that of ``matrix[i, i]``,
    which counts as one of them."""
    rows = np.arange(len(matrix))
    own = matrix.diagonal().mean()
    means = [matrix[rows, random.permutation(len(matrix))].mean() for _ in range(PERMUTATIONS)]
    return (1 + np.sum(np.array(means) >= own - 1e-12)) / (1 + PERMUTATIONS)


def _significance(chance: float) -> str:
    return "" if chance <= LEVEL else ", which is no more than chance"


class _Fit:
    """The canonical directions of some train pairs."""

    def __init__(self, data: Dataset, rows: np.ndarray):
        generator = torch.Generator().manual_seed(SEED)
        self.narrow = {}  # random directions (d, WIDTH), which stand for features that are wider
        for name in MODALITIES:
            width = getattr(data.train, name).shape[1]
            if width > WIDTH:
                self.narrow[name] = torch.randn(width, WIDTH, generator=generator) / WIDTH**0.5
        self.cca = CCA(*(self.read(data.train, name, rows) for name in MODALITIES))
        self.maps = self.cca.maps(RIDGE, DIMENSIONS)

    def read(self, split: Split, name: str, rows: np.ndarray) -> Tensor:
        features = getattr(split, name)[rows]
        return features @ self.narrow[name] if name in self.narrow else features

    def sides(self, split: Split, rows: np.ndarray) -> list[np.ndarray]:
        """The images and the texts of some rows in the space that they share, (n, k) each."""
        return [side(self.read(split, name, rows)).numpy() for side, name in zip(self.maps, MODALITIES)]


def _partners(random: np.random.Generator, data: Dataset, asked: np.ndarray) -> tuple[list[str], bool, list[str]]:
    """What CCA reaches in words, whether partners find each other more often than by chance, and what is wrong."""
    rows = _sample(random, data.train, FIT_PAIRS)
    fit = _Fit(data, rows)
    image, text = fit.sides(data.query, asked)
    cosine = _cosines(image, text)
    paired = _chance(random, -_log_ranks(cosine)) <= LEVEL
    about = (f"  CCA fitted on {len(rows):,} of {len(data.train):,} train pairs"
             + "".join(f", {WIDTH:,} random directions of {name}" for name in fit.narrow))
    recalls = [f"{_recall(side):.1%}" for side in (cosine, cosine.T)]
    lines = [f"{about}: R@{FIRST} {recalls[0]} image to text, {recalls[1]} text to image among {len(asked):,} pairs; "
             f"by chance {min(1, FIRST / len(asked)):.1%}" + ("" if paired else ", which is no less")]
    items = _sample(random, data.retrieval, MAP_ITEMS)
    if data.num_classes:
        labels = data.query.label[asked].numpy(), data.retrieval.label[items].numpy()
        stored = fit.sides(data.retrieval, items)
        maps = [metric.evaluate_cosine(query, other, *labels, (None,))["map"]
                for query, other in ((image, stored[1]), (text, stored[0]))]
        lines.append(f"  mAP@all over {len(items):,} of {len(data.retrieval):,} items by cosine: {maps[0]:.1%} image "
                     f"to text, {maps[1]:.1%} text to image")
    problems = _copies(fit, data, asked, items)
    if paired and not problems:
        places = _slips(data, "query", asked, cosine)
        others = _not_among(data, rows)
        if len(others) < QUERIES:  # rows that the directions were not fitted on are asked
            rows = _sample(random, data.train, len(data.train) // 2)
            fit, others = _Fit(data, rows), _not_among(data, rows)
        others = others[_sample(random, others, QUERIES)]
        places += _slips(data, "retrieval", others, _cosines(*fit.sides(data.retrieval, others)))
        problems = [f"image and text are out of step in {' and in '.join(places)}"] if places else []
    return lines, paired, problems


def _cosines(image: np.ndarray, text: np.ndarray) -> np.ndarray:
    image, text = (normalize(torch.from_numpy(side), dim=1) for side in (image, text))
    return (image @ text.T).numpy()


def _log_ranks(cosine: np.ndarray) -> np.ndarray:
    """For image i and text j the mean of the logarithms of their ranks for each other, (n, n)."""
    return sum(np.log(rankdata(-cosine, axis=axis)) for axis in (0, 1)) / 2


def _recall(cosine: np.ndarray) -> float:
    """The share of rows whose own column is among the first FIRST, the expectation over ties as in metric.py."""
    own = cosine.diagonal()[:, None]
    nearer, tied = (cosine > own).sum(axis=1), (cosine == own).sum(axis=1)
    return float(np.clip((FIRST - nearer) / tied, 0, 1).mean())


def _copies(fit: _Fit, data: Dataset, asked: np.ndarray, items: np.ndarray) -> list[str]:
    """Whether the features of one modality all but repeat the other's.

    They do if a linear map from the other one comes nearer to a row than half the way to the nearest other row: then no
    other row can be meant, by the triangle inequality. The medians over queries are compared.
    """
    query = [fit.read(data.query, name, asked).double() - mean for name, mean in zip(MODALITIES, fit.cca.means)]
    for number, (name, other) in enumerate((MODALITIES, MODALITIES[::-1])):
        own, given = query[number], query[1 - number]
        covariance = fit.cca.covariances[1 - number]
        cross = fit.cca.cross.T if number == 0 else fit.cca.cross
        ridge = LEAST_RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
        guesses = [given @ torch.linalg.solve(covariance + ridge, cross), *[given] * (own.shape == given.shape)]
        missed = min((own - guess).norm(dim=1).median() for guess in guesses)
        rows = fit.read(data.retrieval, name, items).double() - fit.cca.means[number]
        if missed < torch.cdist(own, rows).amin(dim=1).median() / 2:
            return [f"the {name} features all but repeat the {other} features"]
    return []


def _not_among(data: Dataset, rows: np.ndarray) -> np.ndarray:
    """The numbers of the rows of retrieval that are not among these rows of train."""
    some, every = (row_hashes(*(getattr(split, name)[numbers].numpy() for name in MODALITIES))
                   for split, numbers in ((data.train, rows), (data.retrieval, slice(None))))
    return np.flatnonzero(~np.isin(every, some))


def _slips(data: Dataset, split: str, rows: np.ndarray, cosine: np.ndarray) -> list[str]:
    """Runs of rows, in the order of the file, whose partners don't find each other although those of the others do.

    Args:
        rows: n rows that were asked.
        cosine: of their images and texts, (n, n).
    """
    if len(rows) < 2 * RUNS:
        return []
    ranks = _log_ranks(cosine)
    # How much nearer the own partner is than others are, in standard deviations of these
    gains = (ranks.mean(axis=1) - ranks.diagonal()) / np.maximum(ranks.std(axis=1), 1e-12)
    numbers = getattr(data, split).index[rows]
    runs = np.array_split(np.argsort(numbers), RUNS)
    found: list[list[int]] = []
    for number, run in enumerate(runs):
        gain, root, others = gains[run].mean(), len(run)**0.5, np.delete(gains, run)
        worse = others.mean() - gain > norm.isf(LEVEL / (2 * RUNS)) * others.std() / root
        if gain * root < norm.isf(LEVEL) and worse:  # no better than chance, which the others are
            if found and found[-1][-1] == number - 1:
                found[-1].append(number)
            else:
                found.append([number])
    places = [f"{numbers[runs[some[0]]].min():,} to {numbers[runs[some[-1]]].max():,}" for some in found]
    return [f"rows {', '.join(places)} of {split}"] if found else []


# --- the verdict --------------------------------------------------------------------------------------------------


def _unfit(paired: bool, known: dict[str, float]) -> list[str]:
    """What is wrong, from whether partners find each other and, with labels, how likely neighbours are by chance."""
    fits = [name for name, chance in known.items() if chance <= LEVEL]
    if paired and known and not fits:
        return ["the labels are such that nothing predicts them: their rows are out of step, or they say nothing of "
                "image and text"]
    if paired:
        return [f"the {name} features say nothing of the labels" for name in known if name not in fits]
    if len(fits) == 1:
        other, = set(MODALITIES) - set(fits)
        return [f"the rows of {other} are out of step with those of {fits[0]} and label, or say nothing of them"]
    also = {0: "" if not known else ", and neither fits the labels", 2: ", though both fit the labels"}[len(fits)]
    return [f"the rows of image and text are out of step, or have nothing in common{also}"]
