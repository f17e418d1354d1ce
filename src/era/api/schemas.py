"""What requests may hold: one strict model per body, for the checks and for the OpenAPI document.

Null members are removed before a model sees a body, and unknown ones are reported by `parse`.
`Must` says what a field's value must be, in the words of the error; plain types have their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


@dataclass(frozen=True, slots=True)
class Must:
    """The end of "<field> must be ..." for a field whose type does not say it."""

    expectation: str


class Body(BaseModel):
    """A request body: types are strict, so `"10"` is no number and `true` is no number."""

    model_config = ConfigDict(strict=True, extra="ignore")


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


POSITIVE = "a positive number"
SECONDS = "a number of seconds, 0 or more"
MILLISECONDS = "a number of milliseconds, 0 or more"
LANGUAGE = (
    "python (py, python3), node (nodejs, js, javascript), typescript (ts), go (golang) or deno."
)
INTERNET = "Reach public addresses; default `ERA_DEFAULT_INTERNET_ACCESS`."
CPUS = "1 to `ERA_MAX_CPUS`; default `ERA_RUN_CPUS`."
MEMORY = "MiB for all of its processes together, 64 to `ERA_MAX_MEMORY_MIB`; default `ERA_RUN_MEMORY_MIB`."
ARGS = "Arguments after the program name: at most 1024, of 128 KiB together."

Positive = Annotated[float, Must(POSITIVE)]
Seconds = Annotated[float, Must(SECONDS)]
Milliseconds = Annotated[float, Must(MILLISECONDS)]
Whole = Annotated[int, BeforeValidator(_whole)]
"""An integer; JSON has one kind of number, so 4.0 is one too."""
Strings = Annotated[list[str], Must("an array of strings")]
Variables = Annotated[
    dict[str, Any],
    Field(json_schema_extra={"additionalProperties": {"type": "string"}}),
    Must("an object of strings"),
]
JsonObject = dict[str, Any]


class FileBody(BaseModel):
    """One file of a one-shot execution."""

    model_config = ConfigDict(strict=True, extra="ignore")

    content: str
    encoding: Literal["utf-8", "base64"] = "utf-8"


class ExecuteBody(Body):
    """POST /api/execute."""

    code: str = Field(description="The program; not empty.")
    language: str = Field(description=LANGUAGE)
    timeout: Seconds | None = Field(None, description="Seconds, fractions allowed; 0: the default.")
    timeout_ms: Milliseconds | None = Field(None, description="The same in milliseconds.")
    env: Variables | None = Field(None, description="Environment variables of the program.")
    envs: Variables | None = Field(None, description="The same as `env`.")
    files: (
        Annotated[
            dict[str, str | FileBody],
            Must('an object of path to text, or to {"content","encoding":"utf-8"|"base64"}'),
        ]
        | None
    ) = Field(
        None,
        description="Files placed in the workspace first: path to text, or to "
        '`{"content": ..., "encoding": "base64"}` for bytes.',
    )
    stdin: str | None = Field(None, description="Fed to the program, then end of file.")
    args: Strings | None = Field(None, description=ARGS)
    allowInternetAccess: bool | None = Field(None, description=INTERNET)  # noqa: N815 - wire name
    cpu_count: Whole | None = Field(None, description=CPUS)
    memory_mib: Whole | None = Field(None, description=MEMORY)


class RunBody(Body):
    """POST /api/sessions/{id}/run."""

    code: str | None = Field(None, description="The program; stored code when absent or blank.")
    command: str | None = Field(None, description="A shell command instead of code.")
    timeout: Seconds | None = Field(None, description="Seconds, fractions allowed; 0: the default.")
    timeout_ms: Milliseconds | None = Field(None, description="The same in milliseconds.")
    env: Variables | None = Field(None, description="For this run only; never stored.")
    envs: Variables | None = Field(None, description="The same as `env`.")
    stdin: str | None = Field(None, description="Fed to the program, then end of file.")
    args: Strings | None = Field(None, description=ARGS)
    update_data: JsonObject | None = Field(None, description="Merged into `data` before the run.")
    wait_for_setup: bool | None = Field(None, description="False: do not wait for the setup.")
    cancel_on_disconnect: bool | None = Field(None, description="End the run when you hang up.")


class CreateBody(Body):
    """POST /api/sessions."""

    id: str | None = Field(None, description="1 to 128 of A-Z a-z 0-9 - _; generated if absent.")
    session_id: str | None = Field(None, description="The same as `id`.")
    language: str = Field(description=LANGUAGE)
    persistent: bool | None = Field(None, description="Keep the files that runs leave; true.")
    metadata: JsonObject | None = Field(
        None, description="Stored and returned; code never sees it."
    )
    data: Any = Field(None, description="Shown to code as .session_data.json; default {}.")
    setup: JsonObject | None = Field(None, description="Packages and commands to install once.")
    allowInternetAccess: bool | None = Field(None, description=INTERNET)  # noqa: N815 - wire name
    allowPublicAccess: bool | None = None  # noqa: N815 - wire name
    default_timeout: Positive | None = Field(None, description="Seconds; the default of its runs.")
    cpu_count: Whole | None = Field(None, description=CPUS)
    memory_mib: Whole | None = Field(None, description=MEMORY)


class PatchBody(Body):
    """PATCH /api/sessions/{id}; a `default_timeout` of null unsets it."""

    default_timeout: Positive | None = None
    allowInternetAccess: bool | None = None  # noqa: N815 - wire name
    allowPublicAccess: bool | None = None  # noqa: N815 - wire name
    metadata: JsonObject | None = None
    data: Any = None


class CopyBody(Body):
    """POST /api/sessions/{id}/duplicate."""

    id: str | None = None
    session_id: str | None = None
    new_id: str | None = None
    data: Any = Field(None, description="Instead of the source's data.")
    include_files: bool | None = Field(None, description="Default: when the source is persistent.")


class SetupBody(Body):
    """POST /api/sessions/{id}/setup."""

    setup: JsonObject | None = Field(None, description="Instead of the stored setup.")


class CodeBody(Body):
    """PUT /api/sessions/{id}/code."""

    code: str = Field(description="Not empty.")
    description: str | None = Field(None, description="The old one stays when absent.")


class VmBody(Body):
    """POST /api/vm."""

    language: str = Field(description=LANGUAGE)
    cpu_count: Whole | None = Field(None, description="1.")
    memory_mib: Whole | None = Field(None, description="256.")
    network_mode: str | None = Field(
        None, description="`none`; or `bridge`, `host`, `allow_all`, `full`: public addresses."
    )
    persist: bool | None = Field(None, description="Lets a delete keep the workspace.")
    image: str | None = Field(None, description="Empty.")


class VmPatchBody(Body):
    """PATCH /api/vm/{id}."""

    network_mode: str | None = Field(None, description="Of later runs.")


class VmCommandBody(Body):
    """POST /api/vm/{id}/run and /stream."""

    command: str = Field(description="Run by bash in /workspace; not empty.")
    timeout: Seconds | None = Field(None, description="Seconds, fractions allowed; 0: the default.")
    timeout_ms: Milliseconds | None = Field(None, description="The same in milliseconds.")
    env: Variables | None = Field(None, description="For this run only; never stored.")
    envs: Variables | None = Field(None, description="The same as `env`.")
    stdin: str | None = Field(None, description="Fed to the command, then end of file.")
    cancel_on_disconnect: bool | None = Field(None, description="End the run when you hang up.")


class VmCreateBody(Body):
    """POST /api/vm/create."""

    language: str | None = Field(None, description="python.")
    image: str | None = Field(None, description="Empty.")
    cpu: Whole | None = Field(None, description="1.")
    memory: Whole | None = Field(None, description="MiB; 256.")
    mem: Whole | None = Field(None, description="The same as `memory`.")
    network: str | None = Field(None, description="As `network_mode` of POST /api/vm.")
    persist: bool | None = Field(None, description="Lets a clean keep the workspace.")


class VmExecuteBody(VmCommandBody):
    """POST /api/vm/execute."""

    vm_id: str


class VmTempBody(VmCommandBody):
    """POST /api/vm/temp."""

    language: str
    cpu: Whole | None = Field(None, description="1.")
    memory: Whole | None = Field(None, description="MiB; 256.")
    mem: Whole | None = Field(None, description="The same as `memory`.")
    network: str | None = Field(None, description="As `network_mode` of POST /api/vm.")
    image: str | None = Field(None, description="Empty.")


class VmStopBody(Body):
    """POST /api/vm/stop."""

    vm_id: str | None = Field(None, description="Required without `?all=true`.")


class VmCleanBody(VmStopBody):
    """POST /api/vm/clean."""

    keep_persist: bool | None = Field(None, description="Keep the workspace for the operator.")


class RpcBody(Body):
    """POST /mcp/v1: a request or a notification of JSON-RPC 2.0."""

    jsonrpc: Literal["2.0"] = Field(description="The version.")
    id: int | str | None = Field(None, description="Of a request; a notification has none.")
    method: str = Field(description="What is asked for, as MCP names it.")
    params: JsonObject | None = Field(None, description="What the method is given.")
