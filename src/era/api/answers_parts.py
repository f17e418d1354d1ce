"""Shapes inside of answers, and those of JSON-RPC; the rest is in `answers_schema`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """A JSON answer: these members and no others."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Progress(Answer):
    """How far a running setup is."""

    step: str
    step_index: int
    steps_total: int
    started_at: str
    elapsed_ms: int
    last_line: str


class SetupResult(Answer):
    """What came of a setup; `error` and what follows it only when it failed."""

    success: bool
    duration_ms: int
    cached: bool
    pip_packages: list[str] | None = None
    npm_packages: list[str] | None = None
    go_modules: list[str] | None = None
    commands_run: list[str] | None = None
    installed: dict[str, list[str]] | None = None
    stdout: str | None = None
    stderr: str | None = None
    error: str | None = None
    step: str | None = None
    command: str | None = None
    exit_code: int | None = None


class RpcError(Answer):
    """Why a request of JSON-RPC was refused."""

    code: int
    message: str
    data: Any = None


class RpcAnswer(Answer):
    """POST /mcp/v1: `result`, or `error`."""

    jsonrpc: Literal["2.0"]
    id: int | str | None
    result: dict[str, Any] | None = None
    error: RpcError | None = None
