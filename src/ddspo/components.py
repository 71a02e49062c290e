"""A component is a file: its name in a recipe is the file's name, its dataclass fields are its options."""

import dataclasses
import importlib
import inspect
import math
import types
import typing
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any

from annotated_types import Interval, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import Doc

from ddspo import catalogue
from ddspo.adaptations.base import Adaptation
from ddspo.backbones.base import Backbone, Model, look_up
from ddspo.degradations.base import Degradation
from ddspo.detectors.base import Detector
from ddspo.errors import InputError, nearest, quoted, shortened
from ddspo.exports.base import Export
from ddspo.layouts.base import Layout
from ddspo.metrics.base import Measure, Metric, SetMetric
from ddspo.objectives.base import Objective
from ddspo.policy_pairs.base import PolicyPair
from ddspo.preferences.base import Preferences
from ddspo.reference_policies.base import Reference
from ddspo.schedules.base import Schedule
from ddspo.timesteps.base import Timesteps

KINDS: dict[type, str] = {
    Objective: "objectives",
    PolicyPair: "policy_pairs",
    Reference: "reference_policies",
    Adaptation: "adaptations",
    Degradation: "degradations",
    Measure: "metrics",
    Metric: "metrics",
    SetMetric: "metrics",
    Detector: "detectors",
    Backbone: "backbones",
    Timesteps: "timesteps",
    Schedule: "schedules",
    Export: "exports",
    Preferences: "preferences",
    Layout: "layouts",
}

LARGEST = 2**31 - 1
"""The largest whole number of a field that has no bound of its own."""
_FINITE = ConfigDict(allow_inf_nan=False)
"""Numbers are finite where a field does not allow more by `AllowInfNan(True)`, whose bounds NaN does not meet."""


def names(kind: type) -> list[str]:
    """The components of a kind."""
    return catalogue.names(KINDS[kind])


@cache
def find(kind: type, name: str) -> Any:
    """The class of a component.

    Raises:
        InputError: There is no file of that name, which names the nearest, or it is of another kind, or what another
            package says of it is wrong.
        TypeError: The file does not hold exactly one component.
    """
    if name not in names(kind):
        fault = catalogue.fault(KINDS[kind], name)
        raise InputError(fault or f"no {quoted(name)} in {KINDS[kind]}{nearest(name, names(kind))}")
    module = _imported(KINDS[kind], name)
    found = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
    kinds = tuple(each for each in KINDS if KINDS[each] == KINDS[kind])
    mine = [c for c in found if issubclass(c, kinds) and not inspect.isabstract(c)]
    if len(mine) != 1:
        raise TypeError(f"{module.__name__} must hold one {kind.__name__}, not {len(mine)}")
    if not issubclass(mine[0], kind):
        raise InputError(f"{quoted(name)} is no {kind.__name__}: {catalogue.first_line(KINDS[kind], name)}")
    return mine[0]


def _imported(folder: str, name: str) -> types.ModuleType:
    place = catalogue.module(folder, name)
    try:
        return importlib.import_module(place)
    except ImportError as error:
        if catalogue.is_own(folder, name):
            raise
        raise InputError(f"{quoted(name)}: {place} of another package: {error}: install it anew") from None


def backbone_of(model: Model) -> type[Backbone]:
    """The backbone that reads a model: the one that the recipe names, or the one of its pipeline class.

    Raises:
        InputError: There is no such backbone, no such model, or nothing reads it.
    """
    if model.backbone is not None:
        return find(Backbone, model.backbone)
    found = look_up(model).pipeline_class
    known: dict[str, type[Backbone]] = {name: find(Backbone, name) for name in names(Backbone)}
    for cls in known.values():
        if cls.pipeline_class.__name__ == found:
            return cls
    supported = ", ".join(f"{cls.pipeline_class.__name__} ({name})" for name, cls in known.items())
    raise InputError(f"model.path {model.path}: it is a {found}; supported are {supported}")


def name_of(component: object) -> str:
    """The recipe name of a component or of its class."""
    cls = component if inspect.isclass(component) else type(component)
    return cls.__module__.rpartition(".")[2]


def construct(annotation: Any, value: Any, where: str) -> Any:
    """Build a value of a type from plain data, strictly: components, dataclasses, or whatever pydantic validates.

    Args:
        annotation: A component's base class, a dataclass, either of them or None, or a leaf type.
        value: Mappings, lists and scalars, as YAML gives them.
        where: Dotted path for messages.

    Raises:
        InputError: Unknown or missing keys, or values of a wrong type; one line that names the place.
    """
    plain = _bare(annotation)
    group = _optional_group(plain)
    if group:
        return None if value is None else construct(group, value, where)
    if _listed(plain):
        return _list(_listed(plain), value, where)
    if plain in KINDS:
        return _component(plain, value, where)
    if dataclasses.is_dataclass(plain):
        return _dataclass(plain, value, where)
    try:
        found = TypeAdapter(annotation, config=_FINITE).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *map(str, first["loc"])])
        raise InputError(f"{shortened(place)}: {quoted(first['input'])}: {_lower(first['msg'])}") from None
    for part, fault in _faults(found, math.inf if _has_top(annotation) else LARGEST):
        raise InputError(f"{where}: {quoted(part)}: {fault}")
    return found


def plain(value: Any) -> Any:
    """The inverse of `construct`: mappings, lists and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {name_of(value): fields} if _kind_of(value) else fields
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return value


def docs(cls: type) -> dict[str, str]:
    """What each field of a dataclass means."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {}
    for field in dataclasses.fields(cls):
        notes = getattr(hints[field.name], "__metadata__", ())
        found[field.name] = next((note.documentation for note in notes if isinstance(note, Doc)), "")
    return found


def _bare(annotation: Any) -> Any:
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is Annotated else annotation


def _optional_group(annotation: Any) -> Any:
    """The component or dataclass of `X | None`, or None for any other annotation."""
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else ()
    groups = [kind for kind in kinds if kind in KINDS or dataclasses.is_dataclass(kind)]
    return groups[0] if len(kinds) == 2 and len(groups) == 1 and types.NoneType in kinds else None


def _listed(annotation: Any) -> Any:
    """The component of `tuple[X, ...]`, or None for any other annotation."""
    kinds = typing.get_args(annotation) if typing.get_origin(annotation) is tuple else ()
    return kinds[0] if len(kinds) == 2 and kinds[1] is ... and kinds[0] in KINDS else None


def _list(kind: type, value: Any, where: str) -> tuple[Any, ...]:
    """Components, each of another name; one may be given without a list."""
    found = tuple(_component(kind, each, where) for each in (value if isinstance(value, list) else [value]))
    given = [name_of(each) for each in found]
    twice = next((name for name in given if given.count(name) > 1), None)
    if twice or not found:
        raise InputError(f"{where}: {f'{twice} is there twice' if twice else 'empty'}: give each once")
    return found


def _has_top(annotation: Any) -> bool:
    notes = getattr(annotation, "__metadata__", ())
    return any(isinstance(note, Le | Lt | Interval) for note in notes)


def _faults(value: Any, largest: float) -> Iterator[tuple[Any, str]]:
    """What types let through and no field can mean, anywhere in a value."""
    if isinstance(value, str):
        if not value.strip():
            yield value, "empty: give a text, or leave the key out"
        if any(unicodedata.category(each) in ("Cc", "Cs") for each in value):
            yield value, "holds control characters: take them out"
    elif isinstance(value, int) and abs(value) > largest:
        yield value, f"input should be at most {largest}"
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _faults(each, largest)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _faults(key, largest)
            yield from _faults(each, largest)


def _component(kind: type, value: Any, where: str) -> Any:
    """`name` or `{name: {option: value}}`."""
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise InputError(f"{where}: give one name, or one name with options, of {', '.join(names(kind))}")
    ((name, options),) = value.items()
    try:
        cls = find(kind, str(name))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return _dataclass(cls, {} if options is None else options, f"{where}.{name}")


def _dataclass(cls: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        left_out = ", or leave the key out for its defaults" if value is None else ""
        raise InputError(f"{where}: {quoted(value)}: give its options as key: value{left_out}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in value:
        if key not in fields:
            name = shortened(str(key))
            raise InputError(f"{_join(where, name)}: no such key{nearest(name, fields)}")
    for name, field in fields.items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and name not in value:
            raise InputError(f"{_join(where, name)}: missing: {docs(cls)[name] or 'give it'}")
    hints = typing.get_type_hints(cls, include_extras=True)
    return cls(**{key: construct(hints[key], each, _join(where, key)) for key, each in value.items()})


def _kind_of(value: object) -> type | None:
    return next((kind for kind in KINDS if isinstance(value, kind)), None)


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
