"""Figures of an evaluation by their dotted path, as the gate's rules name them."""

from dataclasses import dataclass
from typing import cast, get_args

from pydantic import BaseModel

from dermascan.errors import InputError
from dermascan.evaluation.schema import (
    CorruptionFigures,
    Estimate,
    Evaluation,
    OperatingFigures,
    Slice,
    SliceGroup,
)
from dermascan.evaluation.slices import SLICE_NAMES, UNKNOWN


@dataclass(frozen=True)
class _Unknown:
    """Stands for what was not measured or is not defined, of which only the type is known."""

    kind: object


def figure(evaluation: Evaluation, path: str) -> float | None:
    """Look up a figure by its dotted path.

    Args:
        evaluation: where to look.
        path: attribute names and, in tuples, names of members, such as `malignant.roc_auc`,
            `malignant.roc_auc.low`, `classes.mel.roc_auc`, `slices.sex.female.sensitivity`,
            `operating_points.specificity_90.sensitivity`, `robustness.corruptions.blur_3.auc_lost`.
            An estimate stands for its value.

    Returns:
        The figure, or None where it is not defined or not measured, or no image is in the slice.

    Raises:
        InputError: there is no such figure, or no slice can have such a name.
    """
    node: object = evaluation
    for step in path.split("."):
        node = _member(node, step, path)
    if isinstance(node, Estimate):
        node = node.value
    if node is None or (isinstance(node, _Unknown) and _may_be_a_figure(node.kind)):
        return None
    if isinstance(node, (int, float)):
        return float(node)
    raise InputError(f"{path!r} is no single figure of an evaluation: name one of its figures")


def _member(node: object, step: str, path: str) -> object:
    if isinstance(node, SliceGroup):
        found = _slices(node, step)
    elif isinstance(node, tuple):
        found = [each for each in node if _name(each) == step]
    elif isinstance(node, _Unknown):
        found = [_Unknown(kind) for kind in _member_kinds(node.kind, step)]
    else:
        found = _attributes(node, step)
    if not found:
        raise InputError(f"{path!r} is no figure of an evaluation: it has no {step!r} there")
    return found[0]


def _slices(group: SliceGroup, name: str) -> list[object]:
    """Find a slice, an empty one where the name is usual and no image has it."""
    is_usual = name == UNKNOWN or name in SLICE_NAMES.get(group.name, ())
    occurring = [each for each in group.slices if each.name == name]
    return [*occurring, *([Slice(name=name)] if is_usual else [])]


def _name(member: object) -> str | None:
    if isinstance(member, OperatingFigures):
        return f"{member.target}_{member.level:.0%}".removesuffix("%")
    if isinstance(member, CorruptionFigures):
        return f"{member.name}_{member.strength}"
    return cast("str | None", getattr(member, "name", None))


def _attributes(node: object, step: str) -> list[object]:
    if not isinstance(node, BaseModel) or step not in type(node).model_fields:
        return []
    value: object = getattr(node, step)
    return [_Unknown(type(node).model_fields[step].annotation) if value is None else value]


def _member_kinds(kind: object, step: str) -> list[object]:
    """List the types that `step` may lead to from a value of type `kind`."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(step)
        return [field.annotation] if field else []
    options = get_args(kind)
    if Ellipsis in options:
        return [options[0]]
    return [found for option in options for found in _member_kinds(option, step)]


def _may_be_a_figure(kind: object) -> bool:
    return not {int, float, Estimate}.isdisjoint({kind, *get_args(kind)})
