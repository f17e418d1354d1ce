"""What a setup asks for: its request, checked member by member."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from era import jsontext
from era.errors import InputError
from era.languages import entries, environment
from era.models import JsonText, SetupSpec

MAX_PACKAGES: Final = 256
MAX_COMMANDS: Final = 64
MAX_COMMAND_BYTES: Final = 16 << 10

_MASK: Final = "***"


def parse_setup(obj: Mapping[str, Any]) -> tuple[SetupSpec, tuple[str, ...]]:
    """A setup request, checked, and the names of the members that were ignored.

    Raises:
        InputError: `invalid_setup` naming the entry and the rule; `conflicting_fields`.
    """
    given = {name: value for name, value in obj.items() if value is not None}
    ignored = [name for name in given if name not in _MEMBERS]
    pip, pip_form = _packages(given, "pip", "requirements", ignored)
    npm, npm_form = _packages(given, "npm", "packageJson", ignored)
    go, go_form = _packages(given, "go", "goMod", ignored)
    spec = SetupSpec(
        pip=tuple(entry.strip() for entry in pip),
        requirements=None if pip_form is None else _requirements(pip_form),
        npm=npm,
        package_json=None if npm_form is None else _package_json(npm_form),
        go=go,
        go_mod=None if go_form is None else _go_mod(go_form),
        commands=_commands(given.get("commands", [])),
        envs=_envs(given),
        request=_request(given),
    )
    return spec, tuple(ignored)


_MEMBERS: Final = ("pip", "npm", "go", "commands", "envs", "env")
_PROBLEMS: Final[Mapping[str, Callable[[str], str | None]]] = MappingProxyType(
    {"pip": entries.pip_problem, "npm": entries.npm_problem, "go": entries.go_problem}
)


def _refuse(entry: str, rule: str) -> InputError:
    return InputError("invalid_setup", f"invalid setup: {entry} {rule}")


def _packages(
    given: Mapping[str, Any], kind: str, form: str, ignored: list[str]
) -> tuple[tuple[str, ...], Any]:
    """The package strings of `kind`, or the content of its object form."""
    value = given.get(kind)
    if value is None:
        return (), None
    if isinstance(value, Mapping):
        ignored += [f"{kind}.{name}" for name in value if name != form]
        return (), value.get(form)
    if not isinstance(value, list):
        raise _refuse(kind, f"must be an array of strings or an object with {form}")
    if len(value) > MAX_PACKAGES:
        raise _refuse(kind, f"must have at most {MAX_PACKAGES} entries")
    for index, entry in enumerate(value):
        if not isinstance(entry, str):
            raise _refuse(f"{kind}[{index}]", "must be a string")
        rule = _PROBLEMS[kind](entry)
        if rule is not None:
            raise _refuse(f"{kind}[{index}] {_shown(entry)}", rule)
    return tuple(value), None


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else f"{text[:77]}...")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _refuse(name, "must be a string")
    if len(value.encode(errors="surrogatepass")) > entries.MAX_TEXT_BYTES:
        raise _refuse(name, f"must have at most {entries.MAX_TEXT_BYTES} bytes")
    return value


def _requirements(value: Any) -> str:
    lines, problem = entries.requirements(_text("pip.requirements", value))
    if problem is not None:
        raise _refuse("pip.requirements", problem)
    return "".join(f"{line}\n" for line in lines)


def _package_json(value: Any) -> str:
    manifest = value
    if isinstance(value, str):
        try:
            manifest = jsontext.loads(_text("npm.packageJson", value))
        except jsontext.JsonTextError as error:
            raise _refuse("npm.packageJson", f"must be JSON: {error}") from None
    if not isinstance(manifest, Mapping):
        raise _refuse("npm.packageJson", "must be a JSON object")
    problem = entries.package_json_problem(manifest)
    if problem is not None:
        raise _refuse("npm.packageJson", problem)
    return _text("npm.packageJson", jsontext.dumps(dict(manifest)))


def _go_mod(value: Any) -> str:
    text = _text("go.goMod", value)
    problem = entries.go_mod_problem(text)
    if problem is not None:
        raise _refuse("go.goMod", problem)
    return text


def _commands(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _refuse("commands", "must be an array of strings")
    if len(value) > MAX_COMMANDS:
        raise _refuse("commands", f"must have at most {MAX_COMMANDS} entries")
    for index, command in enumerate(value):
        problem = _command_problem(command)
        if problem is not None:
            raise _refuse(f"commands[{index}]", problem)
    return tuple(value)


def _command_problem(command: Any) -> str | None:
    if not isinstance(command, str):
        return "must be a string"
    if not command.strip():
        return "must not be empty"
    try:
        size = len(command.encode())
    except UnicodeEncodeError:
        return "must be valid Unicode"
    if "\0" in command:
        return "must not hold NUL"
    return f"must have at most {MAX_COMMAND_BYTES} bytes" if size > MAX_COMMAND_BYTES else None


def _envs(given: Mapping[str, Any]) -> dict[str, str]:
    values = [given[name] for name in ("envs", "env") if name in given]
    if len(values) == 2 and values[0] != values[1]:
        raise InputError("conflicting_fields", "setup.envs and setup.env differ")
    value = values[0] if values else {}
    problem = environment.problem(value)
    if problem is not None:
        raise _refuse("envs", f"must be {problem}")
    return dict(value)


def _request(given: Mapping[str, Any]) -> JsonText:
    shown = {name: value for name, value in given.items() if name in _MEMBERS}
    for name in ("envs", "env"):
        if name in shown:
            shown[name] = dict.fromkeys(shown[name], _MASK)
    return jsontext.dumps(shown)
