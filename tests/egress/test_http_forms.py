"""What of a message's head is understood, and what of it goes on."""

from __future__ import annotations

import h11
import pytest

from era.egress.dial import UpstreamProxy
from era.egress.http_forms import (
    AnswerError,
    Target,
    absolute_target,
    client_head,
    origin_target,
    upstream_head,
)


def _request(*headers: tuple[str, str], target: str = "http://a.example/") -> h11.Request:
    return h11.Request(method="GET", target=target, headers=[("Host", "a.example"), *headers])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"http://a.example/x?y=1", ("a.example", 80, b"/x?y=1")),
        (b"HTTP://A.Example:81", ("a.example", 81, b"/")),
        (b"http://a.example?q", ("a.example", 80, b"/?q")),
        (b"http://a.example/x#part", ("a.example", 80, b"/x")),
        (b"http://[2001:db8::1]:8/x", ("2001:db8::1", 8, b"/x")),
        (b"http://0x7f.1/", ("127.0.0.1", 80, b"/")),
        (b"http://a.example/x@b.example/", ("a.example", 80, b"/x@b.example/")),
        (b"http://a.example\\@b/", None),
        (b"http://u:p@a.example/", None),
        (b"http:///x", None),
        (b"http://a.example:0/", None),
        (b"http://a.example:80:80/", None),
        (b"https://a.example/", None),
        (b"ftp://a.example/", None),
        (b"/x", None),
        (b"*", None),
        (b"a.example:80", None),
    ],
)
def test_absolute_targets(text: bytes, expected: tuple[str, int, bytes] | None) -> None:
    if expected is None:
        with pytest.raises(AnswerError):
            absolute_target(text)
        return
    target = absolute_target(text)
    assert (target.host, target.port, target.path) == expected


def test_origin_targets_take_the_host_from_the_header() -> None:
    target = origin_target(_request(target="/x"), 8080)
    assert (target.host, target.port, target.path) == ("a.example", 8080, b"/x")


@pytest.mark.parametrize(
    "request_",
    [
        h11.Request(method="GET", target="/x", headers=[("Host", "a.example:81")]),
        h11.Request(method="GET", target="/x", headers=[("Host", "")]),
        h11.Request(method="GET", target="http://b.example/x", headers=[("Host", "a.example")]),
        h11.Request(method="GET", target="/x", headers=[], http_version="1.0"),
    ],
)
def test_origin_targets_that_are_not_plain(request_: h11.Request) -> None:
    with pytest.raises(AnswerError):
        origin_target(request_, 80)


def test_headers_of_one_connection_do_not_go_on() -> None:
    request = _request(
        ("Accept", "x"),
        ("Connection", "close, X-Secret, Host"),
        ("X-Secret", "1"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic eA=="),
        ("Keep-Alive", "5"),
        ("TE", "trailers"),
        ("Upgrade", "h2c"),
    )
    sent = upstream_head(request, Target("b.example", 81, b"/x"), None)
    assert sent.headers.raw_items() == [
        (b"Host", b"b.example:81"),
        (b"Accept", b"x"),
        (b"Connection", b"close"),
    ]
    assert sent.target == b"/x"


def test_of_two_framings_the_one_that_counts_goes_on() -> None:
    request = _request(("Content-Length", "3"), ("Transfer-Encoding", "chunked"))
    sent = upstream_head(request, Target("a.example", 80, b"/"), None)
    names = [name for name, _ in sent.headers]
    assert b"transfer-encoding" in names
    assert b"content-length" not in names


def test_through_an_upstream_proxy_the_target_is_absolute_and_carries_its_credentials() -> None:
    proxy = UpstreamProxy.parse("http://user:p%40ss@proxy.example:3129")
    sent = upstream_head(_request(), Target("a.example", 80, b"/x"), proxy)
    assert sent.target == b"http://a.example/x"
    assert dict(sent.headers)[b"proxy-authorization"] == b"Basic dXNlcjpwQHNz"


def test_a_response_loses_what_concerned_the_other_connection() -> None:
    response = h11.Response(
        status_code=200,
        reason="Fine",
        headers=[
            ("Connection", "X-Hop"),
            ("X-Hop", "1"),
            ("Set-Cookie", "a=1"),
            ("Set-Cookie", "b=2"),
            ("Transfer-Encoding", "chunked"),
            ("Content-Length", "3"),
        ],
    )
    head = client_head(response)
    assert head.headers.raw_items() == [(b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")]
    assert head.reason == b"Fine"


@pytest.mark.parametrize(
    "url", ["https://proxy.example:1", "socks5://proxy.example", "http://", "http://p:0"]
)
def test_upstream_proxies_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is for people
        UpstreamProxy.parse(url)


@pytest.mark.parametrize(
    ("host", "through"),
    [
        ("a.example", True),
        ("intern.example", False),
        ("x.intern.example", False),
        ("10.0.0.1", False),
    ],
)
def test_no_proxy_lists(host: str, through: bool) -> None:
    proxy = UpstreamProxy.parse("proxy.example:1", no_proxy=".intern.example, 10.0.0.1,10.0.0.0/8,")
    assert proxy.serves(host) is through
