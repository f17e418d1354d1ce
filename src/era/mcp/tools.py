"""What each tool does: its arguments into one call on the sessions, and the answer into text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from era import jsontext, wire
from era.errors import InputError, TooLargeError
from era.ids import check_session_id, new_mcp_session_id
from era.languages.asked import parse_setup
from era.languages.table import canonical
from era.mcp import texts
from era.mcp.arguments import Arguments, BadArgumentsError
from era.models import UNSET, NewSession, RunRequest, SessionPatch, SetupSpec
from era.relpath import user_path
from era.sessions.service import Sessions

MAX_READ_BYTES: Final = 1 << 20
"""Of a file that a tool gives back; larger ones are for HTTP."""
_INSTALLERS: Final = {"python": "pip", "node": "npm", "typescript": "npm", "go": "go"}
_SHELL_LANGUAGE: Final = "python"
"""A command of no session runs in any language's box; this one needs nothing of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a call may ask for."""

    max_timeout_seconds: float
    code_bytes: int
    file_bytes: int


class Tools:
    """The tools over the sessions of this server.  `clock` gives unix milliseconds, `base_url` is where
    clients reach this server."""

    def __init__(
        self, sessions: Sessions, limits: Limits, clock: Callable[[], int], base_url: str
    ) -> None:
        self._sessions = sessions
        self._limits = limits
        self._clock = clock
        self._base_url = base_url
        self._calls: Mapping[str, Callable[[Arguments], Awaitable[str]]] = {
            "era_python": self._one_language("python"),
            "era_node": self._one_language("node"),
            "era_typescript": self._one_language("typescript"),
            "era_deno": self._one_language("deno"),
            "era_shell": self._shell,
            "era_execute_code": self._execute,
            "era_create_session": self._create,
            "era_run_in_session": self._run,
            "era_list_sessions": self._list,
            "era_get_session": self._get,
            "era_update_session": self._update,
            "era_delete_session": self._delete,
            "era_upload_file": self._upload,
            "era_read_file": self._read,
            "era_list_files": self._files,
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Every tool."""
        return tuple(self._calls)

    @property
    def now_ms(self) -> int:
        """The time of the service."""
        return self._clock()

    async def call(self, name: str, members: Mapping[str, Any]) -> str:
        """What the tool says.

        Raises:
            BadArgumentsError: there is no such tool, or its arguments have another form.
            EraError: the service refuses, or fails.
        """
        tool = self._calls.get(name)
        if tool is None:
            raise BadArgumentsError(f"unknown tool: {name}")
        return await tool(Arguments(members))

    # -- running --

    def _one_language(self, language: str) -> Callable[[Arguments], Awaitable[str]]:
        async def run(given: Arguments) -> str:
            return await self._once(given, language, code=self._code(given))

        return run

    async def _execute(self, given: Arguments) -> str:
        return await self._once(given, given.text("language"), code=self._code(given))

    async def _once(
        self, given: Arguments, language: str, code: str | None = None, command: str | None = None
    ) -> str:
        files = {user_path(path): text.encode() for path, text in given.texts("files").items()}
        request = RunRequest(
            code=code,
            command=command,
            language=canonical(language),
            timeout_seconds=self._timeout(given),
            files=files,
            env=given.env("envs"),
            allow_internet=given.flag("allowInternetAccess"),
        )
        return texts.run_text(await self._sessions.execute(request))

    async def _shell(self, given: Arguments) -> str:
        command = given.text("command")
        if not command.strip() or "\0" in command:
            raise BadArgumentsError("command must be a command without NUL")
        if not given.has("session_id"):
            return await self._once(given, _SHELL_LANGUAGE, command=command)
        request = RunRequest(
            command=command, timeout_seconds=self._timeout(given), base_url=self._base_url
        )
        return texts.run_text(await self._sessions.run(given.session_id(), request))

    async def _run(self, given: Arguments) -> str:
        session_id = given.session_id()
        request = RunRequest(
            code=self._code(given),
            timeout_seconds=self._timeout(given),
            env=given.env("env"),
            base_url=self._base_url,
        )
        return texts.run_text(await self._sessions.run(session_id, request))

    def _code(self, given: Arguments) -> str:
        code = given.text("code")
        if not code.strip():
            raise BadArgumentsError("code is required")
        if len(code.encode()) > self._limits.code_bytes:
            raise TooLargeError("code_too_large", self._limits.code_bytes)
        return code

    def _timeout(self, given: Arguments) -> float | None:
        return given.seconds("timeout", self._limits.max_timeout_seconds)

    def _default_timeout(self, given: Arguments) -> float | None:
        longest = self._limits.max_timeout_seconds
        return given.seconds("default_timeout", longest, "invalid_default_timeout")

    # -- sessions --

    async def _create(self, given: Arguments) -> str:
        language = canonical(given.text("language"))
        wanted = given.text_or_none("session_id")
        new = NewSession(
            id=new_mcp_session_id(self._clock()) if wanted is None else check_session_id(wanted),
            language=language,
            persistent=given.flag("persistent") is not False,
            setup=_setup(given, language),
            allow_internet=given.flag("allowInternetAccess"),
            default_timeout_seconds=self._default_timeout(given),
        )
        return texts.created_text(await self._sessions.create(new))

    async def _list(self, _given: Arguments) -> str:
        page = await self._sessions.list()
        now_ms = self._clock()
        listed = [wire.session_object(view, now_ms=now_ms, full=False) for view in page.items]
        return texts.json_text({"sessions": listed, "count": len(listed)})

    async def _get(self, given: Arguments) -> str:
        return texts.session_text(await self._sessions.get(given.session_id()), self._clock())

    async def _update(self, given: Arguments) -> str:
        session_id = given.session_id()
        if not given.has("default_timeout", "allowInternetAccess", "allowPublicAccess"):
            raise BadArgumentsError("At least one field must be provided to update")
        timeout = self._default_timeout(given)
        internet, public = given.flag("allowInternetAccess"), given.flag("allowPublicAccess")
        patch = SessionPatch(
            default_timeout_seconds=UNSET if timeout is None else timeout,
            allow_internet=UNSET if internet is None else internet,
            allow_public=UNSET if public is None else public,
        )
        return texts.session_text(await self._sessions.patch(session_id, patch), self._clock())

    async def _delete(self, given: Arguments) -> str:
        session_id = given.session_id()
        await self._sessions.delete(session_id)
        return texts.json_text({"deleted": session_id, "success": True})

    # -- files --

    async def _upload(self, given: Arguments) -> str:
        session_id, path = given.session_id(), given.text("path", "file_path")
        content = given.text("content").encode()
        entry = await self._sessions.put_file(session_id, path, _pieces(content))
        return texts.json_text({"path": str(entry.path), "size": entry.size})

    async def _read(self, given: Arguments) -> str:
        session_id, path = given.session_id(), given.text("path", "file_path")
        opened = await self._sessions.open_file(session_id, path)
        if opened.entry.size > MAX_READ_BYTES:
            raise TooLargeError(
                "file_too_large", MAX_READ_BYTES, hint="Download it, or read a part by a command."
            )
        content = b"".join([piece async for piece in opened.read()])
        return content.decode("utf-8", "replace")

    async def _files(self, given: Arguments) -> str:
        return texts.files_text((await self._sessions.files(given.session_id())).items)


def _setup(given: Arguments, language: str) -> SetupSpec | None:
    """The setup that is asked for, packages included.  Raises InputError `invalid_setup`."""
    members = dict(given.object("setup") or {})
    packages = given.strings("packages")
    if packages:
        kind = _INSTALLERS.get(language)
        if kind is None:
            raise InputError(
                "invalid_setup",
                f"packages must be left out for {language}",
                hint="Import them by `npm:` or `jsr:` in the code.",
            )
        there = members.get(kind, [])
        if not isinstance(there, list):
            raise InputError("invalid_setup", f"setup.{kind} must be an array beside packages")
        members[kind] = [*there, *packages]
    if not members:
        return None
    # As text and back: what has the form of JSON is checked as such.
    spec, _ignored = parse_setup(jsontext.loads(jsontext.dumps(members)))
    return spec


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content
