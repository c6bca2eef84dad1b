"""The model card: what an exported model is, how good it was, and how to use it without this project."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.errors import InputError
from exporting.graphs import INPUTS
from reporting import metrics_json

TEMPLATE = Environment(loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True,
                       keep_trailing_newline=True, undefined=StrictUndefined).get_template("card.md")


def render(settings: dict, files: Sequence[str], trained: dict | None = None, metrics: dict | None = None,
           license: str | None = None) -> str:
    """The card of a model.

    Args:
        settings: of the model, which make it again.
        files: names of the files beside the card.
        trained: what its checkpoint says: data set, fingerprint, epochs, scale, configuration.
        metrics: from :func:`read_metrics`.
        license: an identifier of Hugging Face's, such as ``mit``.

    Raises:
        InputError: the license is none.
    """
    check_license(license)
    lengths = sorted(settings["hash_lens"])
    plain = settings["fusion"] == "late"  # the other fusion is more than a few lines of NumPy
    return TEMPLATE.render(
        settings=settings, trained=trained or {}, license=license, bits=lengths[-1], shorter=lengths[:-1],
        figures=[[bits, *scores(metrics["final"][str(bits)]["unpaired"])] for bits in lengths] if metrics else [],
        sizes=metrics and metrics["sizes"], hub="model.safetensors" in files,
        graphs=[(name, INPUTS[Path(name).stem]) for name in files if name.endswith((".onnx", ".pt2"))],
        weights=next((name for name in files if plain and name.endswith((".safetensors", ".pth"))), None))


def check_license(license: str | None) -> None:
    """Raise :class:`InputError` if a license can't be an identifier."""
    if license is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", license):
        raise InputError(f"--license {license!r}: expected an identifier, such as mit or cc-by-sa-4.0")


def scores(unpaired: dict) -> list[str]:
    """mAP@all and mAP@50 of both directions, in per cent."""
    return [f"{100 * unpaired[direction][name]:.1f}" for direction in ("i2t", "t2i") for name in ("map", "map@50")]


def read_metrics(path: Path, trained: dict, lengths: Sequence[int], deciding: Collection[str]) -> dict:
    """The content of the ``metrics.json`` of the run that trained or tested a model.

    Args:
        trained: what the checkpoint says of the training.
        lengths: of the model's codes.
        deciding: the names of the settings that must be the same, as they decide what a training gives.

    Raises:
        InputError: the file can't be read, or belongs to another training or lacks a code length.
    """
    try:
        metrics = metrics_json.read(path)
        final, _sizes = metrics["final"], metrics["sizes"]
        for bits in lengths:
            scores(final[str(bits)]["unpaired"])
        different = difference(metrics, trained, str(lengths[0]), deciding)
    except InputError as error:
        raise InputError(f"--metrics {error}") from None
    except OSError as error:
        raise InputError(f"--metrics {path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"--metrics {path}: not the metrics.json of a training of hash codes of all of the model's "
                         f"lengths, {', '.join(map(str, lengths))} ({error})") from error
    if different:
        raise InputError(f"--metrics {path}: of another training: its {different}; give that of the run that trained "
                         f"or tested this model")
    return metrics


def difference(metrics: dict, trained: dict, length: str, deciding: Collection[str]) -> str:
    """In what the training of a ``metrics.json`` differs from that of a checkpoint; empty if in nothing."""
    if metrics["fingerprint"] != trained["fingerprint"]:
        return "data differ from the checkpoint's"
    tested = metrics.get("trained", {}).get(length)  # a test has the settings of the model that it tested
    settings, own = (tested or metrics)["config"], trained["config"]
    names = settings.keys() & own.keys() & set(deciding) - {"dataset"}  # its path may be another
    return next((f"{name} is {settings[name]}, the checkpoint's {own[name]}" for name in sorted(names)
                 if settings[name] != own[name]), "")
