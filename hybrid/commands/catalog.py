"""`hybrid list` and `hybrid describe`: what is installed, and what can be set."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import click

from hybrid.backends.registry import NO_MODEL
from hybrid.canonical import Json, encode
from hybrid.errors import UsageError, nearest
from hybrid.machine.terminal import clean, clean_line
from hybrid.plugins import installed
from hybrid.protocols import Role
from hybrid.settings import Setting, ranges
from hybrid.settings import describe as settings_of

KINDS: tuple[installed.PluginKind, ...] = ("pipelines", "graders")


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def list_names(as_json: bool) -> None:
    """List the installed pipelines and graders, and the distribution that each comes from."""
    for kind in KINDS:
        for name, source in installed.names(kind).items():
            if as_json:
                click.echo(encode({"kind": kind[:-1], "name": name, **dataclasses.asdict(source)}))
            else:
                rivals = f", claimed by {' and '.join(source.rivals)} too: not loaded" if source.rivals else ""
                click.echo(clean_line(f"{kind[:-1]:10}{name:20}{source.distribution}{rivals}"))


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def describe(name: str, as_json: bool) -> None:
    """Show what the pipeline or grader NAME does, and its settings with types and defaults."""
    for kind in _kinds_of(name):
        loaded = installed.load(kind, name)
        if as_json:
            click.echo(encode(_as_json(kind, name, loaded)))
        else:
            click.echo(clean("\n".join(_lines(kind, name, loaded))))


def _kinds_of(name: str) -> list[installed.PluginKind]:
    known = {kind: installed.names(kind) for kind in KINDS}
    found = [kind for kind in KINDS if name in known[kind]]
    if not found:
        raise UsageError(
            f"there is no pipeline or grader '{name}'", hint=nearest(name, {n for k in KINDS for n in known[k]})
        )
    return found


def _settings(loaded: type[Any]) -> list[Setting]:
    """The settings with the ranges that their checks name."""
    known = ranges(loaded)
    return [dataclasses.replace(setting, range=str(known.get(setting.name, ""))) for setting in settings_of(loaded)]


def _presets(loaded: type[Any]) -> dict[str, dict[str, Any]]:
    return {name: dict(values) for name, values in getattr(loaded, "presets", {}).items()}


def _as_json(kind: installed.PluginKind, name: str, loaded: type[Any]) -> dict[str, Json]:
    roles = _roles(loaded)
    return {
        "kind": kind[:-1],
        "name": name,
        "distribution": installed.names(kind)[name].distribution,
        "help": inspect.getdoc(loaded) or "",
        "settings": [dataclasses.asdict(setting) for setting in _settings(loaded)],
        "presets": _presets(loaded),
        **({"roles": {role: dataclasses.asdict(about) for role, about in roles.items()}} if roles else {}),
    }


def _roles(loaded: type[Any]) -> Mapping[str, Role]:
    return dict(getattr(loaded, "roles", {}))


def _lines(kind: installed.PluginKind, name: str, loaded: type[Any]) -> Iterator[str]:
    yield f"{kind[:-1]} {name}, from {installed.names(kind)[name].distribution}"
    yield ""
    yield inspect.getdoc(loaded) or "(no help)"
    settings = _settings(loaded)
    yield ""
    yield "Settings (--set name=value):" if settings else "No settings."
    for setting in settings:
        yield f"  {setting.name}={_default(setting)}"
        typed = f"{setting.type}{', ' if setting.range else ''}{setting.range}"
        yield f"      {typed}{'. ' if setting.help else ''}{setting.help}"
    for role, about in _roles(loaded).items():
        yield from _role(role, about)
    for preset, values in _presets(loaded).items():
        yield f"Preset {preset}: " + " ".join(f"{key}={_text(value)}" for key, value in values.items())


def _role(role: str, about: Role) -> Iterator[str]:
    if not role:
        usual = f"{about.model or 'of --model'} on {about.backend or 'the usual backend'}, unless others are named"
        yield f"Model: {'no language model is asked' if about.model == NO_MODEL else usual}"
        return
    yield f"Model {role} (--model {role}=NAME){'' if about.optional else ', required'}: {about.help}"
    yield f"      backend {about.backend or 'of the first model'}, unless --backend {role}=NAME names another"


def _default(setting: Setting) -> str:
    return "... (required)" if setting.required else _text(setting.default)


def _text(value: Any) -> str:
    """A value as it is written after `--set name=`."""
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
