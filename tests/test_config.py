"""Settings: where each value comes from, what is refused, and that nothing secret is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from era.config import VARIABLES, ConfigError, Settings, load, misspelt

CONTRACT = """
PORT ERA_HOST AGENT_MODE AGENT_LOG_LEVEL AGENT_LOG_FILE AGENT_STATE_DIR ERA_API_KEY
ERA_CORS_ORIGINS ERA_PUBLIC_URL ERA_TRUST_PROXY ERA_DEFAULT_INTERNET_ACCESS ERA_ISOLATION
ERA_ALLOW_PROCESS_TIER ERA_ALLOW_UNENFORCED_NETWORK ERA_SHUTDOWN_GRACE ERA_RUNTIME_ROOT
ERA_SETUP_NETWORK ERA_SETUP_TIMEOUT ERA_SETUP_WAIT ERA_SETUP_MEMORY_MIB ERA_SETUP_CPUS
ERA_LAYER_MAX_BYTES ERA_LAYER_MAX_AGE ERA_MAX_CONCURRENT_SETUPS ERA_PIP_INDEX_URL
ERA_NPM_REGISTRY ERA_GOPROXY ERA_ALLOW_NETWORKS ERA_SECRET_KEY ERA_MAX_BODY_BYTES
ERA_MAX_CODE_BYTES ERA_MAX_DATA_BYTES ERA_MAX_METADATA_BYTES ERA_MAX_FILE_BYTES
ERA_MAX_SESSION_BYTES ERA_MAX_SESSION_FILES ERA_DEFAULT_TIMEOUT ERA_MAX_TIMEOUT
ERA_MAX_OUTPUT_BYTES ERA_RUN_MEMORY_MIB ERA_RUN_CPUS ERA_RUN_PIDS ERA_MAX_MEMORY_MIB ERA_MAX_CPUS
ERA_STATE_DRIVER ERA_STATE_URL ERA_STATE_TOKEN ERA_RUN_DISK_BYTES ERA_SESSION_QUEUE
ERA_MAX_CONCURRENT_RUNS ERA_GLOBAL_QUEUE
""".split()


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "ERA_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def value(settings: Settings, variable: str) -> Any:
    for field, info in Settings.model_fields.items():
        if info.validation_alias == variable:
            return getattr(settings, field)
    raise KeyError(variable)


def test_every_variable_of_the_contract_exists_and_says_what_it_means() -> None:
    assert set(CONTRACT) <= set(VARIABLES)
    for name, info in VARIABLES.items():
        assert info.description, name


def test_defaults() -> None:
    settings = load()
    assert (settings.host, settings.port) == ("127.0.0.1", 8787)
    assert settings.max_data_bytes == 131072
    assert settings.run_disk_bytes == 4 << 30
    assert settings.layer_max_age == 7 * 86400
    assert settings.default_internet_access is False


def test_a_flag_beats_the_environment_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "era.toml"
    file.write_text('port = 1\nera_host = "file"\nera_run_pids = 7\n')
    monkeypatch.setenv("ERA_CONFIG", str(file))
    monkeypatch.setenv("PORT", "2")
    monkeypatch.setenv("ERA_HOST", "environment")
    settings = load({"PORT": 3, "ERA_ISOLATION": None})
    assert (settings.port, settings.host, settings.run_pids) == (3, "environment", 7)
    assert settings.isolation == "auto"


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("ERA_MAX_BODY_BYTES", "1000", 1000),
        ("ERA_MAX_BODY_BYTES", "4 GiB", 4 << 30),
        ("ERA_MAX_BODY_BYTES", "512MiB", 512 << 20),
        ("ERA_MAX_BODY_BYTES", "1.5k", 1536),
        ("ERA_LAYER_MAX_AGE", "7d", 604800.0),
        ("ERA_LAYER_MAX_AGE", "90", 90.0),
        ("ERA_LAYER_MAX_AGE", "2 h", 7200.0),
        ("ERA_API_KEY", " a , b,", ("a", "b")),
        ("ERA_TRUST_PROXY", "1", True),
        ("ERA_TRUST_PROXY", "false", False),
        ("ERA_MAX_SESSION_FILES", "0", 0),
        ("ERA_HOST", "", "127.0.0.1"),
    ],
)
def test_forms_of_values(
    variable: str, text: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    assert value(load(), variable) == expected


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("PORT", "eighty", "PORT must be a port from 0 to 65535, not 'eighty'"),
        ("PORT", "70000", "PORT must be a port from 0 to 65535, not '70000'"),
        ("ERA_MAX_BODY_BYTES", "much", "ERA_MAX_BODY_BYTES must be a size such as 512 MiB"),
        ("ERA_MAX_BODY_BYTES", "-1", "ERA_MAX_BODY_BYTES must be a size such as 512 MiB"),
        ("ERA_LAYER_MAX_AGE", "7 y", "ERA_LAYER_MAX_AGE must be a time such as 90, 30m or 7d"),
        ("ERA_DEFAULT_TIMEOUT", "nan", "ERA_DEFAULT_TIMEOUT must be a positive number"),
        ("ERA_DEFAULT_TIMEOUT", "0", "ERA_DEFAULT_TIMEOUT must be a positive number"),
        ("ERA_DEFAULT_TIMEOUT", "4000", "ERA_DEFAULT_TIMEOUT (4000) must be at most ERA_MAX_TIM"),
        ("ERA_TRUST_PROXY", "maybe", "ERA_TRUST_PROXY must be 0 or 1, not 'maybe'"),
        ("ERA_ISOLATION", "docker", "ERA_ISOLATION must be auto, microvm, gvisor, namespaces or"),
        ("ERA_PUBLIC_URL", "foo", "ERA_PUBLIC_URL must be an address such as https://era.example"),
        ("ERA_PUBLIC_URL", "ftp://a", "ERA_PUBLIC_URL must be an address"),
        ("ERA_PUBLIC_URL", "https://", "ERA_PUBLIC_URL must be an address"),
        ("ERA_PUBLIC_URL", "https://a:port", "ERA_PUBLIC_URL must be an address"),
        ("ERA_PUBLIC_URL", "https://a/?q", "ERA_PUBLIC_URL must be an address"),
        ("AGENT_LOG_LEVEL", "loud", "AGENT_LOG_LEVEL must be debug, info, warn or error"),
    ],
)
def test_a_bad_value_names_its_variable(
    variable: str, text: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        load()
    assert "\n" not in caught.value.text
    assert variable in caught.value.hint


@pytest.mark.parametrize("address", ["", "https://era.example", "http://[::1]:8787/below"])
def test_an_address_under_which_the_server_is_reached(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERA_PUBLIC_URL", f" {address}/ " if address else "")
    assert load().public_url == address


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("port = ", "ERA_CONFIG: not TOML"),
        ("prot = 1", "ERA_CONFIG: unknown key prot"),
        ("PORT = 1", "ERA_CONFIG: unknown key PORT"),
        ('port = "x"', "PORT must be a port"),
        (None, "ERA_CONFIG: the file cannot be read: No such file"),
    ],
)
def test_a_bad_file_is_refused(
    content: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "era.toml"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("ERA_CONFIG", str(file))
    with pytest.raises(ConfigError, match=re.escape(words)):
        load()


def test_lists_and_sizes_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "era.toml"
    file.write_text('era_cors_origins = ["https://a", "https://b"]\nera_max_file_bytes = "1 MiB"\n')
    monkeypatch.setenv("ERA_CONFIG", str(file))
    settings = load()
    assert settings.cors_origins == ("https://a", "https://b")
    assert settings.max_file_bytes == 1 << 20


WORKER = {
    "ERA_STATE_DRIVER": "worker",
    "ERA_STATE_URL": "https://era.example.com/_state",
    "ERA_STATE_TOKEN": "token",
    "ERA_SECRET_KEY": "key",
}


def test_state_at_a_worker_needs_to_be_told_where(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(WORKER).state_driver == "worker"
    for name in ("ERA_STATE_URL", "ERA_STATE_TOKEN", "ERA_SECRET_KEY"):
        with pytest.raises(ConfigError, match=f"{name} must be set"):
            load(WORKER | {name: None})
        monkeypatch.setenv(name, "https://x")  # one alone says nothing about the driver
        assert load().state_driver == "local"
        monkeypatch.delenv(name)
    for name, value in (("ERA_DATABASE_URL", "postgresql://x/y"), ("ERA_BLOBS_URL", "s3://x")):
        with pytest.raises(ConfigError, match="have no use"):
            load(WORKER | {name: value})


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERA_API_KEY", "top-secret")
    monkeypatch.setenv("ERA_SECRET_KEY", "key-material")
    shown = f"{load()!r} {load()}"
    assert "top-secret" not in shown
    assert "key-material" not in shown


def test_the_state_directory_of_an_ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/some/state")
    assert load().state_dir == "/some/state/era"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/u")
    assert load().state_dir == "/home/u/.local/state/era"


def test_a_variable_that_is_no_setting_is_told_with_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ERA_PORT", "ERA_RUN_CPU", "ERA_WHAT_IS_THIS", "ERA_HOST"):
        monkeypatch.setenv(name, "1")
    assert list(misspelt()) == [
        "ERA_PORT is no setting; did you mean PORT?",
        "ERA_RUN_CPU is no setting; did you mean ERA_RUN_CPUS?",
        "ERA_WHAT_IS_THIS is no setting",
    ]
