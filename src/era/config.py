"""Every setting of the server: its variable, its default, what it means.

The only module that reads the environment.  A flag goes before the environment, the environment
before the file that `ERA_CONFIG` names (TOML, keys are the variables in lower case), that before
the default.  Each of them is parsed alike: sizes as bytes or `512 MiB`, durations in seconds, ages
as `7d`, lists with commas.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from era.errors import InputError

CONFIG_FILE: Final = "ERA_CONFIG"
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B)?", re.IGNORECASE)
_SIZE_STEPS: Final = " KMGT"
_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", re.IGNORECASE)
_AGE_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class ConfigError(InputError):
    """A setting that cannot be used.  The text names the variable, `hint` says what would do."""

    default_code = "invalid_field"

    def __init__(self, text: str, hint: str) -> None:
        super().__init__("invalid_field", text, hint=hint)
        self.hint: Final = hint


@dataclass(frozen=True, slots=True)
class Must:
    """The end of "<variable> must be ..."."""

    expectation: str


def _size(value: Any) -> Any:
    """Bytes of `1048576`, `1 MiB`, `1MB` or `1m`; all of them powers of 1024."""
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return value
    number, step, _ = match.groups()
    return int(float(number) * 1024 ** _SIZE_STEPS.index(step.upper() or " "))


def _age(value: Any) -> Any:
    """Seconds of `90`, `30m` or `7 d`."""
    match = _AGE.fullmatch(value.strip()) if isinstance(value, str) else None
    return value if match is None else float(match[1]) * _AGE_SECONDS[match[2].lower()]


def _items(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


def _address(value: Any) -> Any:
    """An address as clients write it: scheme and host, perhaps a path, without a slash at the end."""
    if not isinstance(value, str) or not value.strip():
        return value
    value = value.strip().rstrip("/")
    try:
        parts = urlsplit(value)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or parts.query or parts.fragment or parts.username or not value.isprintable():
        raise ValueError("no address")
    return value


Address = Annotated[
    str,
    BeforeValidator(_address),
    Must("an address such as https://era.example, or empty"),
]
Size = Annotated[int, BeforeValidator(_size), Field(ge=0), Must("a size such as 512 MiB")]
Age = Annotated[float, BeforeValidator(_age), Field(ge=0), Must("a time such as 90, 30m or 7d")]
Count = Annotated[int, Field(ge=0), Must("a whole number, 0 or more")]
Positive = Annotated[int, Field(ge=1), Must("a whole number of at least 1")]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False), Must("a number of seconds")]
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False), Must("a positive number")]
Flag = Annotated[bool, Must("0 or 1")]
Items = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_items), Must("a list with commas")]


def _var(name: str, default: Any, meaning: str, *, secret: bool = False) -> Any:
    """A setting: its variable, its default, what it means."""
    return Field(default, validation_alias=name, description=meaning, repr=not secret)


def default_state_dir() -> str:
    """`era` below the system's state directory for root, else below the user's own."""
    if os.geteuid() == 0:
        return "/var/lib/era"
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return str(Path(base) / "era")


class _TomlFile(InitSettingsSource):
    """The file that `ERA_CONFIG` names."""

    def __init__(self, settings: type[BaseSettings]) -> None:
        path = os.environ.get(CONFIG_FILE)
        super().__init__(settings, _read_file(path, variables(settings)) if path else {})


def variables(settings: type[BaseSettings]) -> dict[str, FieldInfo]:
    """The variables in the order of the class, with their fields."""
    return {str(info.validation_alias): info for info in settings.model_fields.values()}


def _read_file(path: str, known: Mapping[str, FieldInfo]) -> dict[str, Any]:
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{CONFIG_FILE}: the file cannot be read: {error.strerror}",
            f"Mend the path or its rights, or unset {CONFIG_FILE}.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{CONFIG_FILE}: not TOML: {error}", "Mend the file.") from None
    for key in values:
        if key != key.lower() or key.upper() not in known:
            raise ConfigError(
                f"{CONFIG_FILE}: unknown key {key}",
                "Keys are the names of the variables in lower case.",
            )
    return {key.upper(): value for key, value in values.items()}


class Settings(BaseSettings):
    """What the operator decides.  Field by field: the variable, the default, the meaning."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, case_sensitive=True, strict=False
    )

    # -- where it listens, what it says --
    port: Annotated[int, Field(ge=0, le=65535), Must("a port from 0 to 65535")] = _var(
        "PORT", 8787, "Listening port; 0 takes any free one."
    )
    host: str = _var("ERA_HOST", "127.0.0.1", "Listening address.")
    agent_mode: str = _var(
        "AGENT_MODE", "", "`http` or `server`: `era` without a command runs the server."
    )
    log_level: Annotated[
        Literal["debug", "info", "warn", "error"], Must("debug, info, warn or error")
    ] = _var("AGENT_LOG_LEVEL", "info", "Least level that is logged.")
    log_file: str = _var("AGENT_LOG_FILE", "", "Where the log goes; standard error if empty.")
    state_dir: str = Field(
        default_factory=default_state_dir,
        validation_alias="AGENT_STATE_DIR",
        description="Everything the server keeps; for one server only.",
    )
    api_keys: Items = _var(
        "ERA_API_KEY", (), "API keys; any of them is let in. None: no authentication.", secret=True
    )
    cors_origins: Items = _var(
        "ERA_CORS_ORIGINS", ("*",), "Origins that browsers may call from; `*` is any."
    )
    public_url: Address = _var(
        "ERA_PUBLIC_URL", "", "Address under which clients reach the server."
    )
    trust_proxy: Flag = _var("ERA_TRUST_PROXY", False, "Believe `X-Forwarded-*` headers.")
    dashboard: Flag = _var("ERA_UI", True, "Serve the dashboard at `/ui`.")
    shutdown_grace: Seconds = _var(
        "ERA_SHUTDOWN_GRACE", 5.0, "Seconds that runs get to finish when the server stops."
    )

    # -- stores --
    database_url: Annotated[
        str,
        Field(pattern=r"^(postgres(ql)?://.*)?$"),
        Must("the URL of a PostgreSQL database, postgresql://user:password@host/name"),
    ] = _var(
        "ERA_DATABASE_URL",
        "",
        "PostgreSQL database for the records, `postgresql://user:password@host/name`;"
        " a SQLite file in the state directory if empty.",
        secret=True,
    )
    node_url: Annotated[
        str, Field(pattern=r"^(http://[^/?#]+)?$"), Must("an address such as http://10.0.0.5:8787")
    ] = _var(
        "ERA_NODE_URL",
        "",
        "With PostgreSQL: the address under which the other servers on the same database reach this"
        " one; by default its listening address.",
    )
    lease_seconds: Annotated[
        float, Field(ge=1, le=3600, allow_inf_nan=False), Must("a number of seconds from 1 to 3600")
    ] = _var(
        "ERA_LEASE_SECONDS",
        15.0,
        "With PostgreSQL: how long a server that has died keeps its sessions from the others.",
    )
    blobs_url: Annotated[
        str,
        Field(pattern=r"^((s3|gs|az)://.*)?$"),
        Must("the URL of an object store, s3://bucket/prefix, gs:// or az://"),
    ] = _var(
        "ERA_BLOBS_URL",
        "",
        "Object store for the bytes of files and layers, `s3://bucket/prefix`, `gs://` or `az://`;"
        " a directory in the state directory if empty.  Keys, region and endpoint come from the"
        " variables that the store's own tools read, such as `AWS_ENDPOINT_URL`.",
    )
    blob_cache_bytes: Size = _var(
        "ERA_BLOB_CACHE_BYTES",
        10 << 30,
        "With an object store: how much of it is kept at hand in the state directory.",
    )

    state_driver: Annotated[Literal["local", "worker"], Must("local or worker")] = _var(
        "ERA_STATE_DRIVER",
        "local",
        "Who keeps the state: this server and the stores above, or the Worker that it is behind.",
    )
    state_url: Annotated[
        str, Field(pattern=r"^(https?://.+)?$"), Must("an address such as https://host/_state")
    ] = _var("ERA_STATE_URL", "", "With `worker`: where it keeps the state.")
    state_token: str = _var(
        "ERA_STATE_TOKEN", "", "With `worker`: what it knows this server by.", secret=True
    )

    # -- requests --
    max_body_bytes: Size = _var("ERA_MAX_BODY_BYTES", 16 << 20, "Largest JSON body.")
    max_code_bytes: Size = _var("ERA_MAX_CODE_BYTES", 1 << 20, "Largest `code`.")
    max_data_bytes: Size = _var("ERA_MAX_DATA_BYTES", 128 << 10, "Largest `data`, compact.")
    max_metadata_bytes: Size = _var("ERA_MAX_METADATA_BYTES", 64 << 10, "Largest `metadata`.")
    max_file_bytes: Size = _var("ERA_MAX_FILE_BYTES", 1 << 30, "Largest uploaded file.")
    max_session_bytes: Size = _var(
        "ERA_MAX_SESSION_BYTES", 10 << 30, "All files of a session together; 0: no bound."
    )
    max_session_files: Count = _var(
        "ERA_MAX_SESSION_FILES", 100_000, "Files of a session; 0: no bound."
    )

    # -- managed VMs --
    max_vms: Positive = _var("ERA_MAX_VMS", 256, "Managed VMs there may be at once.")

    # -- runs --
    default_timeout: Amount = _var("ERA_DEFAULT_TIMEOUT", 30.0, "Seconds a run may take.")
    max_timeout: Amount = _var("ERA_MAX_TIMEOUT", 3600.0, "Seconds a request may ask for.")
    max_output_bytes: Size = _var("ERA_MAX_OUTPUT_BYTES", 1 << 20, "Output kept of each stream.")
    run_memory_mib: Positive = _var("ERA_RUN_MEMORY_MIB", 1024, "Memory of a run, MiB.")
    run_cpus: Amount = _var("ERA_RUN_CPUS", 1.0, "CPUs of a run.")
    run_pids: Positive = _var("ERA_RUN_PIDS", 512, "Processes and threads of a run.")
    max_memory_mib: Positive = _var("ERA_MAX_MEMORY_MIB", 8192, "Memory a request may ask for.")
    max_cpus: Positive = _var("ERA_MAX_CPUS", 4, "CPUs a request may ask for.")
    run_disk_bytes: Size = _var(
        "ERA_RUN_DISK_BYTES", 4 << 30, "What a run may write: workspace, HOME and /tmp together."
    )
    ready_boxes: Count = _var(
        "ERA_READY_BOXES",
        4,
        "Boxes kept ready for each language that can be; 0 makes all on demand.",
    )
    go_ahead: Flag = _var(
        "ERA_GO_AHEAD", True, "Compile Go's standard library in idle time, before it is needed."
    )
    session_queue: Count = _var("ERA_SESSION_QUEUE", 16, "Runs that may wait in one session.")
    max_concurrent_runs: Positive = Field(
        default_factory=lambda: 2 * (os.cpu_count() or 1),
        validation_alias="ERA_MAX_CONCURRENT_RUNS",
        description="Runs executing at once; by default twice the number of CPUs.",
    )
    global_queue: Count = _var("ERA_GLOBAL_QUEUE", 256, "Runs that may wait on the whole server.")

    # -- isolation and network --
    isolation: Annotated[
        Literal["auto", "microvm", "gvisor", "namespaces", "process"],
        Must("auto, microvm, gvisor, namespaces or process"),
    ] = _var("ERA_ISOLATION", "auto", "Isolation tier; `auto` takes the strongest that works.")
    allow_process_tier: Flag = _var(
        "ERA_ALLOW_PROCESS_TIER", False, "Allow the tier `process`, which is no boundary."
    )
    placement: str = _var(
        "ERA_PLACEMENT",
        "",
        "How the platform spreads sessions over servers: `session` says that this one has a machine"
        " of its own for one session alone, which the tier `process` needs.",
    )
    allow_unenforced_network: Flag = _var(
        "ERA_ALLOW_UNENFORCED_NETWORK",
        False,
        "Run offline code also where the network cannot be cut off; results warn of it.",
    )
    default_internet_access: Flag = _var(
        "ERA_DEFAULT_INTERNET_ACCESS", False, "Default of `allowInternetAccess`."
    )
    allow_networks: Items = _var(
        "ERA_ALLOW_NETWORKS", (), "Networks (CIDR) that boxes may reach though they are private."
    )
    runtime_root: str = _var(
        "ERA_RUNTIME_ROOT", "", "Directory that is the read-only root of boxes."
    )

    # -- languages and setups --
    python_packages: Items = _var(
        "ERA_PYTHON_PACKAGES",
        (),
        "Python packages of the server's own environment that every box has; `none`: none."
        "  By default those of the extra `data` that are installed.",
    )
    resolve_timeout: Amount = _var(
        "ERA_RESOLVE_TIMEOUT", 120.0, "Seconds for resolving the modules of a Deno program."
    )
    deno_import_hosts: Items = _var(
        "ERA_DENO_IMPORT_HOSTS", (), "Further hosts that Deno programs may import from."
    )
    setup_network: Annotated[Literal["internet", "registries"], Must("internet or registries")] = (
        _var("ERA_SETUP_NETWORK", "internet", "What setups may reach.")
    )
    setup_timeout: Seconds = _var(
        "ERA_SETUP_TIMEOUT", 3600.0, "Seconds for a whole setup; 0: no bound."
    )
    setup_wait: Seconds = _var(
        "ERA_SETUP_WAIT", 60.0, "Seconds a run waits for the first setup of its session."
    )
    setup_memory_mib: Positive = _var("ERA_SETUP_MEMORY_MIB", 2048, "Memory of a setup, MiB.")
    setup_cpus: Amount = _var("ERA_SETUP_CPUS", 2.0, "CPUs of a setup.")
    layer_max_bytes: Size = _var("ERA_LAYER_MAX_BYTES", 4 << 30, "What a setup may leave.")
    layer_max_age: Age = _var(
        "ERA_LAYER_MAX_AGE",
        7 * 86400.0,
        "How old a finished setup may be to serve another session.",
    )
    max_concurrent_setups: Positive = _var(
        "ERA_MAX_CONCURRENT_SETUPS", 2, "Setups running at once."
    )
    pip_index_url: str = _var("ERA_PIP_INDEX_URL", "", "Mirror for Python packages.")
    npm_registry: str = _var("ERA_NPM_REGISTRY", "", "Mirror for node packages.")
    goproxy: str = _var("ERA_GOPROXY", "", "Mirror for Go modules.")
    secret_key: str = _var(
        "ERA_SECRET_KEY",
        "",
        "Key for secrets at rest; made in the state directory if empty.",
        secret=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, file; nothing else."""
        return init_settings, env_settings, _TomlFile(settings_cls)


VARIABLES: Final[Mapping[str, FieldInfo]] = variables(Settings)
"""Every variable and its field, for the reference and for messages."""


def load(flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings; `flags` holds values of the command line by variable, None for not given.

    Raises:
        ConfigError: naming the variable, and what its value must be.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise _explain(error.errors(include_url=False)[0]) from None
    _check_together(settings)
    return settings


_OF_CLIENTS: Final = ("ERA_API_URL", "ERA_SLEEP_AFTER", "ERA_START_SECONDS")
"""What `era.environment` reads and the server does not."""


def misspelt() -> Iterator[str]:
    """What is wrong with variables of the environment that look like settings and are none, in
    words."""
    for name in sorted(os.environ):
        if not name.startswith("ERA_") or name in VARIABLES or name in _OF_CLIENTS:
            continue
        near = difflib.get_close_matches(name, VARIABLES, 1, 0.8)
        stem = [name.removeprefix("ERA_")] if name.removeprefix("ERA_") in VARIABLES else near
        yield f"{name} is no setting" + (f"; did you mean {stem[0]}?" if stem else "")


def _explain(detail: ErrorDetails) -> ConfigError:
    name = str(detail["loc"][0])
    info = VARIABLES[name]
    must = next((rule for rule in info.metadata if isinstance(rule, Must)), Must("text"))
    value = f", not {detail['input']!r}" if info.repr else ""
    return ConfigError(
        f"{name} must be {must.expectation}{value}",
        f"Mend or unset {name}: {info.description}",
    )


def _check_together(settings: Settings) -> None:
    if settings.state_driver == "worker":
        _check_worker(settings)
    pairs = (
        ("ERA_DEFAULT_TIMEOUT", settings.default_timeout, "ERA_MAX_TIMEOUT", settings.max_timeout),
        (
            "ERA_RUN_MEMORY_MIB",
            settings.run_memory_mib,
            "ERA_MAX_MEMORY_MIB",
            settings.max_memory_mib,
        ),
        ("ERA_RUN_CPUS", settings.run_cpus, "ERA_MAX_CPUS", settings.max_cpus),
    )
    for low, low_value, high, high_value in pairs:
        if low_value > high_value:
            raise ConfigError(
                f"{low} ({low_value:g}) must be at most {high} ({high_value:g})",
                f"Lower {low} or raise {high}.",
            )


_INSTALLERS: Final = re.compile(
    r"(?i:npm_config_.*)|PIP_[A-Z_]+|GO[A-Z]+|(?:https?|no)_proxy|(?:HTTPS?|NO)_PROXY"
    r"|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|NODE_EXTRA_CA_CERTS|HOME|XDG_CONFIG_HOME"
)


def _check_worker(settings: Settings) -> None:
    needed = {
        "ERA_STATE_URL": settings.state_url,
        "ERA_STATE_TOKEN": settings.state_token,
        "ERA_SECRET_KEY": settings.secret_key,
    }
    for name, value in needed.items():
        if not value:
            raise ConfigError(
                f"{name} must be set with ERA_STATE_DRIVER=worker",
                "The Worker sets it for the containers that it starts.",
            )
    if settings.database_url or settings.blobs_url:
        raise ConfigError(
            "ERA_DATABASE_URL and ERA_BLOBS_URL have no use with ERA_STATE_DRIVER=worker",
            "Unset them, or use ERA_STATE_DRIVER=local.",
        )


def installer_variables() -> dict[str, str]:
    """What tells pip, npm and Go on this host where to fetch packages from."""
    return {name: value for name, value in os.environ.items() if _INSTALLERS.fullmatch(name)}
