"""The way in: a server, what it runs once, and its sessions and VMs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from era.client.aio.connection import AsyncConnection
from era.client.aio.session import AsyncSession
from era.client.aio.vm import AsyncVm
from era.client.answers import Health, Raw, Result, SessionInfo, VmInfo, decode
from era.client.bodies import LIST_LIMIT, Setup, files_body, given, setup_body, strings
from era.environment import api_key as environment_key
from era.environment import server_url

TIMEOUT_SECONDS: Final = 60.0
RETRIES: Final = 3


class AsyncEra:
    """A client of the server at `url`, else at `ERA_API_URL`, else on this machine.

    `timeout` bounds each wait for the server in seconds, but not how long a program may take.
    Requests that nothing came of are sent again, up to `retries` times; a run never is otherwise.

        async with AsyncEra() as era:
            result = await era.execute("print(6 * 7)", language="python")
            print(result.stdout)
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        retries: int = RETRIES,
    ) -> None:
        key = environment_key() if api_key is None else api_key
        self._connection: Final = AsyncConnection(url or server_url(), key, timeout, retries)

    @property
    def url(self) -> str:
        """The server's address."""
        return self._connection.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections to the server."""
        await self._connection.aclose()

    async def request(
        self, method: str, path: str, body: Raw | None = None, *, query: Raw | None = None
    ) -> Raw:
        """The JSON object that any request is answered with, for what has no method here."""
        return await self._connection.json(method, path, body, query=query, waits=True)

    async def health(self) -> Health:
        """How the server is.

        Raises:
            UnreachableError: it does not answer.
        """
        return decode(Health, await self._connection.json("GET", "/health"))

    async def execute(
        self,
        code: str,
        *,
        language: str,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        files: Mapping[str, str | bytes] | None = None,
        stdin: str | None = None,
        args: Sequence[str] | None = None,
        allow_internet: bool | None = None,
        cpu_count: int | None = None,
        memory_mib: int | None = None,
    ) -> Result:
        """Run a program once; nothing of it is kept.

        `timeout` is in seconds; `files` are there before it starts, by path; it can read `stdin`
        and gets `args`.

        Raises:
            InputError: the server does not take it as it is, `unsupported_language` for example.
            BusyError: the server has too much to do.
        """
        body = given(
            code=code,
            language=language,
            timeout=timeout,
            env=None if env is None else dict(env),
            files=files_body(files),
            stdin=stdin,
            args=strings(args, "args"),
            allowInternetAccess=allow_internet,
            cpu_count=cpu_count,
            memory_mib=memory_mib,
        )
        answer = await self._connection.json("POST", "/api/execute", body, waits=True)
        return decode(Result, answer)

    def session(self, session_id: str) -> AsyncSession:
        """A session by its id.  This asks the server nothing."""
        return AsyncSession(self._connection, session_id)

    async def create_session(
        self,
        language: str,
        *,
        id: str | None = None,
        persistent: bool | None = None,
        data: Any = None,
        metadata: Mapping[str, Any] | None = None,
        setup: Setup | Mapping[str, Any] | None = None,
        allow_internet: bool | None = None,
        allow_public: bool | None = None,
        default_timeout: float | None = None,
        cpu_count: int | None = None,
        memory_mib: int | None = None,
    ) -> AsyncSession:
        """Make a session; its setup goes on in the background.

        Raises:
            InputError: `invalid_id`, `unsupported_language`, `invalid_setup`.
            ConflictError: `session_exists`.
        """
        body = given(
            id=id,
            language=language,
            persistent=persistent,
            data=data,
            metadata=None if metadata is None else dict(metadata),
            setup=setup_body(setup),
            allowInternetAccess=allow_internet,
            allowPublicAccess=allow_public,
            default_timeout=default_timeout,
            cpu_count=cpu_count,
            memory_mib=memory_mib,
        )
        answer = await self._connection.json("POST", "/api/sessions", body)
        return AsyncSession(self._connection, answer["id"])

    async def list_sessions(self, prefix: str = "") -> list[SessionInfo]:
        """All sessions whose ids begin so, oldest first; without their data."""
        listed: list[SessionInfo] = []
        query = given(prefix=prefix or None, limit=LIST_LIMIT)
        while True:
            answer = await self._connection.json("GET", "/api/sessions", query=query)
            listed += [decode(SessionInfo, entry) for entry in answer["sessions"]]
            if "next_cursor" not in answer:
                return listed
            query["cursor"] = answer["next_cursor"]

    async def delete_sessions(self, prefix: str = "") -> list[str]:
        """Delete all sessions whose ids begin so; the ids."""
        query = given(prefix=prefix or None)
        answer = await self._connection.json("DELETE", "/api/sessions", query=query)
        return list(answer["deleted_sessions"])

    def vm(self, vm_id: str) -> AsyncVm:
        """A VM by its id.  This asks the server nothing."""
        return AsyncVm(self._connection, vm_id)

    async def create_vm(
        self,
        language: str,
        *,
        cpu_count: int | None = None,
        memory_mib: int | None = None,
        network_mode: str | None = None,
        persist: bool | None = None,
        image: str | None = None,
    ) -> AsyncVm:
        """Make a VM: a place for shell commands that stays until it is deleted."""
        body = given(
            language=language,
            cpu_count=cpu_count,
            memory_mib=memory_mib,
            network_mode=network_mode,
            persist=persist,
            image=image,
        )
        answer = await self._connection.json("POST", "/api/vm", body)
        return AsyncVm(self._connection, answer["id"])

    async def list_vms(self) -> list[VmInfo]:
        """All VMs."""
        answer = await self._connection.json("GET", "/api/vms")
        return [decode(VmInfo, record) for record in answer["vms"]]
