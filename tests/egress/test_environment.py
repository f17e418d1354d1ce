"""The variables that lead programs to the broker."""

from __future__ import annotations

from era.egress.environment import LOOPBACK, PROXY_PORT, RESOLV_CONF, proxy_environment


def test_both_spellings_lead_to_the_broker() -> None:
    env = proxy_environment()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        assert env[name] == env[name.lower()]
    assert env["HTTPS_PROXY"] == f"http://{LOOPBACK}:{PROXY_PORT}"


def test_the_boxes_own_loopback_is_reached_directly() -> None:
    assert {"localhost", "127.0.0.1", "::1"} <= set(proxy_environment()["NO_PROXY"].split(","))


def test_the_callers_copy_is_its_own() -> None:
    dict(proxy_environment())["HTTP_PROXY"] = "changed"
    assert "changed" not in proxy_environment().values()


def test_names_are_asked_of_the_broker_only() -> None:
    servers = [line for line in RESOLV_CONF.decode().splitlines() if line.startswith("nameserver")]
    assert servers == [f"nameserver {LOOPBACK}"]
