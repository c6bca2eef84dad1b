"""What the fields of a checkpoint and of the state of a run must be, as types that msgspec checks.

Fields that have no name here may be there. Whether weights have the sizes of the model is checked in checkpoint.py.
"""

import re
import sys
from pathlib import Path
from typing import Annotated, Literal, Required, TypedDict

import msgspec
import torch
from msgspec import UNSET, Meta, Struct, UnsetType

from common.errors import InputError
from metric import MAX_BITS

MAX_SCALE = 1000
Count = Annotated[int, Meta(ge=0)]
Size = Annotated[int, Meta(ge=1, le=2**31)]
Finite = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
Positive = Annotated[float, Meta(gt=0, le=sys.float_info.max)]
Scale = Annotated[float, Meta(gt=0, le=MAX_SCALE)]
Bits = Annotated[int, Meta(ge=1, le=MAX_BITS)]
Text = Annotated[str, Meta(max_length=4096)]
Setting = bool | int | Finite | Text | list[int]
READ_SETTINGS = {"seed": Count, "epoch": Count, "scale_min": Scale, "scale_max": Scale}  # of a training, later


class Tensor:
    """Stands for a tensor, which msgspec would take for a mapping."""


Weights = dict[str, Tensor]


class ModelSettings(Struct, forbid_unknown_fields=True, kw_only=True):
    """The arguments of :class:`model.HashModel` or, without ``hash_lens``, of :class:`model.FusionModel`."""

    image_dim: Size
    text_dim: Size
    hash_lens: Annotated[list[Bits], Meta(min_length=1)] | UnsetType = UNSET
    fusion: Literal["late", "transformer"] | UnsetType = UNSET
    use_progressive: bool | UnsetType = UNSET
    centre: bool | UnsetType = UNSET
    noise: Finite | UnsetType = UNSET
    hidden: Size | UnsetType = UNSET
    batch_norm: bool | UnsetType = UNSET
    nested: bool | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.hash_lens and len(set(self.hash_lens)) < len(self.hash_lens):
            raise ValueError("hash_lens: found a length twice, expected different ones")


class Training(TypedDict, total=False):
    """How a model was trained, and on what."""

    dataset: Text
    fingerprint: Text
    image_dim: Size
    text_dim: Size
    config: dict[str, object]  # each a Setting
    epoch: Count
    scale: Scale
    chosen: dict[str, dict[str, Positive]]


class Model(Training, total=False):
    """A checkpoint. It may say nothing of its training."""

    settings: Required[ModelSettings]
    image_input: Required[Weights]
    text_input: Required[Weights]
    FuseTrans: Weights
    ImageMlp: Weights
    TextMlp: Weights


class Optimizer(TypedDict):
    """The state of Adam, by the number of the parameter; its settings are those of the run that is resumed."""

    state: dict[int, Weights]


class State(Training, total=False):
    """A run in progress: the fields of :class:`training.run_state.RunState`, the weights and the random numbers."""

    config: Required[dict[str, object]]
    epoch: Required[Count]
    run: Required[Text]
    step: Required[Count]
    seconds: Required[Annotated[float, Meta(ge=0, le=sys.float_info.max)]]
    statistics: Required[list[Tensor]]
    log: Required[list[dict[str, Finite]]]
    history: Required[list[dict[str, int | dict[str, Finite | dict[str, dict[str, Finite]]]]]]
    model: Required[Weights]
    optimizer: Required[Optimizer]
    random: Required[Annotated[list[Tensor], Meta(min_length=1)]]
    random_cpu: list[Tensor]
    random_cuda: list[Tensor]
    random_mps: list[Tensor]


def progress(statistics: list[str], kinds: list[str], labelled: bool) -> type:
    """The part of a state that grows, of a run that notes these ``statistics`` of each epoch, and evaluates these
    ``kinds``: code lengths, or ``real``.
    """
    maps = TypedDict("Map", {"map": Finite, "map@50": Finite})
    recalls = TypedDict("Recall", {f"recall@{k}": Finite for k in (1, 5, 10)})
    figures: dict[str, object] = {}
    if labelled:
        figures |= dict.fromkeys(("unpaired", "paired"), TypedDict("Directions", {"i2t": maps, "t2i": maps}))
    if kinds != ["real"]:
        figures |= {"partners": TypedDict("Directions", {"i2t": recalls, "t2i": recalls}), "quantization_error": Finite}
    evaluation = {"epoch": Count, **dict.fromkeys(kinds, TypedDict("Figures", figures))}
    entry = {"epoch": Count, "seconds": Finite, **dict.fromkeys(statistics, Finite)}
    return TypedDict("Progress", {"log": list[TypedDict("Epoch", entry)],
                                  "history": list[TypedDict("Evaluation", evaluation)]})


def check(path: Path, what: str, content: object, schema: type) -> None:
    """Raise :class:`InputError` if the content of a file isn't as a schema says; the message calls it no ``what``."""
    _check(path, what, content, schema)
    if "config" in content:
        types = TypedDict("Config", dict.fromkeys(content["config"], Setting) | READ_SETTINGS)
        _check(path, what, content, TypedDict("Configured", {"config": types}))


def _check(path: Path, what: str, content: object, schema: type) -> None:
    try:
        msgspec.convert(_outlined(content), schema)
    except msgspec.ValidationError as error:
        said, field = re.fullmatch(r"(.*?)(?: - at (?:`key` in )?`\$\.?(.*)`)?", str(error), re.DOTALL).groups()
        said = said.replace("`", "").replace(", got ", ", found ")
        if re.search("[<>]=? ", said):
            said += f", found {_at(content, field)}"
        raise InputError(f"{path}: not {what}: {field + ': ' if field else ''}{said[0].lower()}{said[1:]}; train again "
                         f"or restore the file") from error


def _outlined(value: object) -> object:
    """The same without the numbers of tensors."""
    if isinstance(value, torch.Tensor):
        return Tensor()
    if isinstance(value, dict):
        return {key: _outlined(entry) for key, entry in value.items()}
    return [_outlined(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _at(content: object, field: str) -> object:
    """What stands in a field, such as ``log[3].loss``, if names of dicts on the way are given."""
    for name, index in re.findall(r"(\w+)|\[(\d+)\]", field):
        content = content[name if name else int(index)]
    return content if isinstance(content, (int, float)) else "another"
