# Generated from ../aio by `scripts/sdk`; change that one.
"""One managed VM: shell commands in a place that stays."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Final

from era.client.answers import Event, Result, VmInfo, decode
from era.client.blocking.connection import Connection
from era.client.blocking.files import Files
from era.client.bodies import given, segment


class Vm:
    """A VM by its id.  Making this object asks the server nothing.

    `files` are the files of its working directory.
    """

    def __init__(self, connection: Connection, vm_id: str) -> None:
        self._connection: Final = connection
        self._base: Final = f"/api/vm/{segment(vm_id)}"
        self.id: Final = vm_id
        self.files: Final = Files(connection, f"{self._base}/files")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    def info(self) -> VmInfo:
        """The VM's record.

        Raises:
            NotFoundError: there is no such VM.
        """
        return decode(VmInfo, self._connection.json("GET", self._base))

    def run(
        self,
        command: str,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> Result:
        """Run a shell command in the VM's working directory.

        Raises:
            ConflictError: `vm_not_running`.
        """
        body = given(command=command, timeout=timeout, env=env and dict(env), stdin=stdin)
        answer = self._connection.json("POST", f"{self._base}/run", body, waits=True)
        return decode(Result, answer)

    def stream(
        self,
        command: str,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> Generator[Event]:
        """The same, with the output as it appears; the last event has the result."""
        body = given(command=command, timeout=timeout, env=env and dict(env), stdin=stdin)
        return self._connection.events(f"{self._base}/stream", body)

    def set_network(self, network_mode: str) -> VmInfo:
        """Change which network its runs have: `none`, or `allow_all` for the internet."""
        body = {"network_mode": network_mode}
        return decode(VmInfo, self._connection.json("PATCH", self._base, body))

    def stop(self) -> None:
        """End its run and refuse later ones; its files stay readable."""
        self._connection.json("POST", f"{self._base}/stop", {})

    def delete(self, *, keep_persist: bool = False) -> None:
        """Delete it; with `keep_persist` a persistent one's files are kept for the operator."""
        query = given(keep_persist="true" if keep_persist else None)
        self._connection.json("DELETE", self._base, query=query)
