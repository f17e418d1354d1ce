"""One session: its state, its runs, its code and its setup."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Final

from era.client.aio.connection import AsyncConnection
from era.client.aio.files import AsyncFiles
from era.client.answers import Event, Host, Raw, Result, SessionInfo, SetupInfo, StoredCode, decode
from era.client.bodies import (
    UNSET,
    Setup,
    Unset,
    given,
    patch_body,
    segment,
    setup_body,
    strings,
)
from era.client.worlds import sleep_async

POLL_SECONDS: Final = 0.5


class AsyncSession:
    """A session by its id.  Making this object asks the server nothing.

    `files` are its files.
    """

    def __init__(self, connection: AsyncConnection, session_id: str) -> None:
        self._connection: Final = connection
        self._base: Final = f"/api/sessions/{segment(session_id)}"
        self.id: Final = session_id
        self.files: Final = AsyncFiles(connection, f"{self._base}/files")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    async def info(self) -> SessionInfo:
        """The session as it was last committed.

        Raises:
            NotFoundError: there is no such session.
        """
        return decode(SessionInfo, await self._connection.json("GET", self._base))

    async def update(
        self,
        *,
        data: Any = UNSET,
        metadata: Mapping[str, Any] | Unset = UNSET,
        allow_internet: bool | Unset = UNSET,
        allow_public: bool | Unset = UNSET,
        default_timeout: float | Unset | None = UNSET,
    ) -> SessionInfo:
        """Change what is named; data and metadata are replaced.  A timeout of None unsets it."""
        body = patch_body(
            data=data,
            metadata=metadata,
            allowInternetAccess=allow_internet,
            allowPublicAccess=allow_public,
            default_timeout=default_timeout,
        )
        answer = await self._connection.json("PATCH", self._base, body)
        return decode(SessionInfo, answer["metadata"])

    async def delete(self) -> None:
        """Delete the session with all it holds, and end its run."""
        await self._connection.json("DELETE", self._base)

    async def duplicate(
        self, new_id: str | None = None, *, data: Any = UNSET, include_files: bool | None = None
    ) -> AsyncSession:
        """A copy with files, data, settings, code and packages, independent from then on."""
        body = given(new_id=new_id, include_files=include_files) | patch_body(data=data)
        answer = await self._connection.json("POST", f"{self._base}/duplicate", body)
        return AsyncSession(self._connection, answer["id"])

    async def run(
        self,
        code: str | None = None,
        *,
        command: str | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        args: Sequence[str] | None = None,
        update_data: Mapping[str, Any] | None = None,
        wait_for_setup: bool | None = None,
        cancel_on_disconnect: bool | None = None,
    ) -> Result:
        """Run code, or a shell command, or the stored code where neither is given.

        Waits for the runs before it.  It is never sent twice, unless the server refused it untouched.

        Raises:
            ConflictError: `setup_pending`, `session_deleted`.
            BusyError: too many runs wait.
        """
        body = run_body(
            code=code,
            command=command,
            timeout=timeout,
            env=env,
            stdin=stdin,
            args=args,
            update_data=update_data,
            wait_for_setup=wait_for_setup,
            cancel_on_disconnect=cancel_on_disconnect,
        )
        answer = await self._connection.json("POST", f"{self._base}/run", body, waits=True)
        return decode(Result, answer)

    def stream(
        self,
        code: str | None = None,
        *,
        command: str | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        args: Sequence[str] | None = None,
        update_data: Mapping[str, Any] | None = None,
        wait_for_setup: bool | None = None,
        cancel_on_disconnect: bool | None = None,
    ) -> AsyncGenerator[Event]:
        """The same as `run`, with the output as it appears; the last event has the result.

        Leaving it early hangs up: the run goes on, unless `cancel_on_disconnect` ends it.
        """
        body = run_body(
            code=code,
            command=command,
            timeout=timeout,
            env=env,
            stdin=stdin,
            args=args,
            update_data=update_data,
            wait_for_setup=wait_for_setup,
            cancel_on_disconnect=cancel_on_disconnect,
        )
        return self._connection.events(f"{self._base}/stream", body)

    async def cancel(self) -> bool:
        """End the run in progress; what it did is kept.  Whether there was one."""
        answer = await self._connection.json("POST", f"{self._base}/cancel", {})
        return bool(answer["cancelled"])

    async def store_code(self, code: str, *, description: str | None = None) -> None:
        """Store the code that runs when none is given; without a description the old one stays."""
        body = given(code=code, description=description)
        await self._connection.json("PUT", f"{self._base}/code", body)

    async def code(self) -> StoredCode:
        """The stored code.

        Raises:
            NotFoundError: `code_not_found`, or no such session.
        """
        return decode(StoredCode, await self._connection.json("GET", f"{self._base}/code"))

    async def delete_code(self) -> None:
        """Forget the stored code."""
        await self._connection.json("DELETE", f"{self._base}/code")

    async def setup(self) -> SetupInfo:
        """How the setup stands.

        Raises:
            NotFoundError: `not_found`: the session has no setup.
        """
        return decode(SetupInfo, await self._connection.json("GET", f"{self._base}/setup"))

    async def retry_setup(self, setup: Setup | Mapping[str, Any] | None = None) -> SessionInfo:
        """Run the setup again, or another one instead.  It does not wait."""
        body = given(setup=setup_body(setup))
        answer = await self._connection.json("POST", f"{self._base}/setup", body)
        return decode(SessionInfo, answer)

    async def wait_for_setup(
        self,
        progress: Callable[[SetupInfo], object] | None = None,
        *,
        poll_seconds: float = POLL_SECONDS,
    ) -> SetupInfo:
        """Wait until the setup is completed; `progress` is called with each state that is seen.

        Raises:
            SetupFailedError: it failed.
        """
        while True:
            state = await self.setup()
            if progress is not None:
                progress(state)
            if state.finished:
                return state.check()
            await sleep_async(poll_seconds)

    async def host(self, port: int) -> Host:
        """Where a server that a run starts on `port` answers."""
        answer = await self._connection.json("GET", f"{self._base}/host", query={"port": port})
        return decode(Host, answer)


def run_body(
    *,
    env: Mapping[str, str] | None,
    args: Sequence[str] | None,
    update_data: Mapping[str, Any] | None,
    **members: Any,
) -> Raw:
    """The body of a run."""
    return given(
        **members,
        env=None if env is None else dict(env),
        args=strings(args, "args"),
        update_data=None if update_data is None else dict(update_data),
    )
