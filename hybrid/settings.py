"""Settings: the fields of a frozen dataclass, parsed from `name=value` texts, stored as JSON and restored.

A field is a `str`, `int`, `float`, `bool`, `Literal`, a tuple of one of them (`tuple[str, ...]`), or one of these
`| None`. `field(default=..., metadata=help_of("..."))` documents it; `presets` names whole sets of values.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

from hybrid.bounds import Bounds, noted_bounds
from hybrid.canonical import Json, encode
from hybrid.errors import KINDS, BadData, HybridError, PluginFault, UsageError, listed, nearest
from hybrid.machine.late_imports import import_object

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as `hybrid describe` shows it. `default` is JSON; a `required` setting has none. `range` are the
    numbers that it takes, "" where it names no bounds.
    """

    name: str
    type: str
    default: Json
    help: str
    required: bool = False
    range: str = ""


def build(
    cls: type[T],
    texts: Iterable[str] = (),
    preset: str = "",
    called: str = "",
    given: Mapping[str, Json] = MappingProxyType({}),
) -> T:
    """An instance of `cls` from `name=value` texts, and `given` values as JSON has them, on top of a preset.

    `called` is the name of the class in messages, by default its own. Raises UsageError that names the setting.
    """
    called = called or cls.__name__
    chosen = {**_preset(cls, preset, called), **parsed(cls, texts, called)}
    fields = _fields(cls)
    for name, value in given.items():
        if name not in fields:
            raise UsageError(f"{called} has no setting '{name}'", hint=nearest(name, fields))
        chosen[name] = _check(name, fields[name], value)
    return _construct(cls, chosen, called)


def parsed(cls: type[Any], texts: Iterable[str], called: str) -> dict[str, Any]:
    """The values in `name=value` texts, each typed as the field of `cls` declares. Raises UsageError."""
    fields = _fields(cls)
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"a setting is written name=value, got '{text}'", hint=_known(cls, called))
        if name not in fields:
            raise UsageError(f"{called} has no setting '{name}'", hint=nearest(name, fields))
        if other := _instead(cls, name).get(value):
            raise UsageError(f"setting '{name}': '{value}' is said by another setting", hint=f"--set {other}")
        found[name] = _parse(name, fields[name], value)
    return found


def _instead(cls: type[Any], name: str) -> Mapping[str, str]:
    """Values that people give a setting and that are another one's: value -> `name=value` (metadata `instead`)."""
    return next((one.metadata.get("instead", {}) for one in dataclasses.fields(cls) if one.name == name), {})


def freeze(obj: Any) -> dict[str, Json]:
    """All settings of `obj` as JSON, typed as declared (an int in a float field becomes a float)."""
    fields = _fields(type(obj))
    return {name: _plain(_check(name, hint, getattr(obj, name))) for name, hint in fields.items()}


def restore(cls: type[T], frozen: Any, called: str = "") -> T:
    """The instance that `freeze` stored, from data that is not trusted. Raises BadData."""
    called = called or cls.__name__
    fields = _fields(cls)
    if wrong := _misfit(frozen, fields):
        raise BadData(
            f"the stored settings do not fit {called}: {wrong}",
            hint="they were written by another version of hybrid, or changed by hand; submit the run again",
        )
    try:
        return _construct(cls, {name: _check(name, hint, frozen[name]) for name, hint in fields.items()}, called)
    except UsageError as error:
        raise BadData(f"the stored settings do not fit {called}: {error.message}") from error


def _misfit(frozen: Any, fields: Mapping[str, Any]) -> str:
    """In which names a stored value is other than the fields of a class; "" if in none."""
    if not isinstance(frozen, Mapping):
        return f"{KINDS.get(type(frozen), 'something else')} instead of an object"
    missing, unknown = fields.keys() - frozen.keys(), {str(name) for name in frozen.keys() - fields.keys()}
    each = (("without", missing), ("with the unknown", unknown))
    return ", ".join(f"{words} {listed(names)}" for words, names in each if names)


def ranges(cls: type[Any]) -> dict[str, Bounds]:
    """The numbers that settings of `cls` take, as its own check names them; without those that have none."""
    if not any("number" in _type_text(hint) for hint in _fields(cls).values()):
        return {}  # a check may load a library
    fields = dataclasses.fields(cls)
    made: Any = object.__new__(cls)
    for field in fields:
        value = _default(field)
        object.__setattr__(made, field.name, None if value is MISSING else value)
    with noted_bounds(made) as found, suppress(Exception):  # a required setting has no value that could be right
        made.__post_init__()
    return {field.name: found[field.name] for field in fields if field.name in found}


def describe(cls: type[Any]) -> list[Setting]:
    """Every setting of `cls` in the order of its fields."""
    hints = _fields(cls)
    fields = [field for field in dataclasses.fields(cls) if field.name in hints]
    return [
        Setting(
            name=field.name,
            type=_type_text(hints[field.name]),
            default=_plain(_default(field)),
            help=str(field.metadata.get("help", "")),
            required=_default(field) is MISSING,
        )
        for field in fields
    ]


def _fields(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _default(field: dataclasses.Field[Any]) -> Any:
    factory: Any = field.default_factory
    return field.default if factory is MISSING else factory()


def _known(cls: type[Any], called: str) -> str:
    return f"settings of {called}: {', '.join(_fields(cls)) or 'none'}"


def _about(cls: type[Any], message: str) -> str:
    """The setting that a message such as `balance=3.0 is not 0 to 1` begins with, and what it means; "" for others."""
    name = re.split(r"\W", message, maxsplit=1)[0]
    one = next((setting for setting in describe(cls) if setting.name == name), None)
    if one is None:
        return ""
    default = "" if one.required else f"; the default is {_typed(one.default)}"
    return f"{name}: {one.help or one.type}{default}"


def _typed(value: Json) -> str:
    """A default as it is typed after `--set name=`."""
    if isinstance(value, list):
        return ",".join(map(_typed, value)) or "empty"
    if isinstance(value, str):
        return value or "empty"
    return "none" if value is None else encode(value).decode()


def _preset(cls: type[Any], preset: str, called: str) -> dict[str, Any]:
    if not preset:
        return {}
    presets: Mapping[str, Mapping[str, Any]] = getattr(cls, "presets", {})
    if preset not in presets:
        raise UsageError(f"{called} has no preset '{preset}'", hint=nearest(preset, presets))
    fields = _fields(cls)
    return {name: _check(name, fields[name], value) for name, value in presets[preset].items()}


def _construct(cls: type[T], values: Mapping[str, Any], called: str) -> T:
    missing = [setting.name for setting in describe(cls) if setting.required and setting.name not in values]
    if missing:
        raise UsageError(f"{called} needs the setting '{missing[0]}'", hint=f"--set {missing[0]}=...")
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:  # from __post_init__, about values that contradict each other
        raise UsageError(f"{called}: {error}", hint=_about(cls, str(error)) or _known(cls, called)) from error
    except HybridError:
        raise
    except Exception as error:  # __post_init__ is third-party code
        raise PluginFault(
            f"{cls.__module__}.{cls.__name__} cannot be made with these settings: {type(error).__name__}: {error}",
            hint=_known(cls, called),
        ) from error


def _parse(name: str, hint: Any, text: str) -> Any:
    """The value in `text` for a field of type `hint`: `none`, `a,b,c`, or one plain value."""
    options = _options(hint)
    if type(None) in options and text.lower() == "none":
        return None
    for option in options:
        if typing.get_origin(option) is tuple:
            element = typing.get_args(option)[0]
            return tuple(_parse(name, element, part.strip()) for part in text.split(",")) if text else ()
        if typing.get_origin(option) is Literal:
            return _choice(name, option, text)
    return _validate(name, hint, text, lambda adapter: adapter.validate_python(text))


def _choice(name: str, hint: Any, text: str) -> Any:
    choices = {str(choice): choice for choice in typing.get_args(hint)}
    if text not in choices:
        raise UsageError(f"setting '{name}': '{text}' is not {_type_text(hint)}", hint=nearest(text, choices))
    return choices[text]


def _check(name: str, hint: Any, value: Any) -> Any:
    """`value` as JSON has it, checked strictly against `hint`; lists become tuples."""

    def strict(adapter: TypeAdapter[Any]) -> Any:
        return adapter.validate_json(encode(value), strict=True)

    return _validate(name, hint, value, strict)


def _validate(name: str, hint: Any, value: Any, how: Callable[[TypeAdapter[Any]], Any]) -> Any:
    adapter = import_object("pydantic:TypeAdapter", needed_for="settings")  # takes long, and defaults need none
    try:
        return how(adapter(hint, config={"allow_inf_nan": False}))
    except (ValueError, TypeError) as error:  # pydantic's own is a ValueError
        raise UsageError(
            f"setting '{name}': {value!r} is not {_type_text(hint)}", hint=f"--set {name}={_example(hint)}"
        ) from error


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _plain(value: Any) -> Json:
    if value is MISSING:
        return None
    plain: Json = list(value) if isinstance(value, tuple) else value
    return plain


_NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "none",
}
_EXAMPLES = {str: "text", int: "1", float: "0.5", bool: "true"}


def _type_text(hint: Any) -> str:
    """The type of a setting, in words: `a number`, `one of a, b`, `a list with commas between, each a text`."""
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"a list with commas between, each {_type_text(typing.get_args(hint)[0])}"
    if len(_options(hint)) > 1:
        return " or ".join(_type_text(option) for option in _options(hint))
    return _NAMES.get(hint, getattr(hint, "__name__", str(hint)))


def _example(hint: Any) -> str:
    option = _options(hint)[0]
    if typing.get_origin(option) is Literal:
        return str(typing.get_args(option)[0])
    if typing.get_origin(option) is tuple:
        element = _example(typing.get_args(option)[0])
        return f"{element},{element}"
    return _EXAMPLES.get(option, "...")
