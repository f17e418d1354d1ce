"""Which names and addresses a policy lets through."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era.egress.policy import (
    Address,
    EgressPolicy,
    HostRule,
    embedded,
    forbidden_reason,
    is_forbidden,
    normalise_host,
    parse_literal,
    split_authority,
)
from era.models import Network

BLOCKED = {
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "this host": ["0.0.0.0", "0.255.1.2", "::"],
    "private": ["10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1"],
    "link-local": ["169.254.169.254", "169.254.0.1", "fe80::1", "febf::1"],
    "carrier-grade NAT": ["100.64.0.1", "100.127.255.255"],
    "reserved for protocols": ["192.0.0.1", "192.0.0.255"],
    "reserved for benchmarks": ["198.18.0.1", "198.19.255.255"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1"],
    "reserved": ["240.0.0.1", "255.255.255.255"],
    "unique-local": ["fc00::1", "fd00:ec2::254", "fdff::1"],
    "site-local": ["fec0::1"],
    "local-use NAT64": ["64:ff9b:1::1", "64:ff9b:1:ffff::5db8:d822"],
}
OPEN = [
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.1",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    # Documentation ranges are not on the list.
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "2001:db8::1",
    "2606:4700::1111",
    "2001:4860:4860::8888",
    "64:ff9b:2::1",
    "fbff::1",
]
PUBLIC_V4 = ipaddress.IPv4Address("93.184.216.34")


def mapped_forms(inner: ipaddress.IPv4Address) -> dict[str, ipaddress.IPv6Address]:
    """Every IPv6 address that a network may translate to `inner`."""
    number = int(inner)
    six = ipaddress.IPv6Address
    return {
        "mapped": six((0xFFFF << 32) | number),
        "nat64": six((0x0064FF9B << 96) | number),
        "6to4": six((0x2002 << 112) | (number << 80) | 1),
        "teredo client": six((0x20010000 << 96) | (int(PUBLIC_V4) << 64) | (number ^ 0xFFFFFFFF)),
        "teredo server": six((0x20010000 << 96) | (number << 64) | (int(PUBLIC_V4) ^ 0xFFFFFFFF)),
        "isatap": six((0x20014860 << 96) | (0x5EFE << 32) | number),
        # ::0 and ::1 are addresses in their own right.
        **({"compatible": six(number)} if number > 1 else {}),
    }


@pytest.mark.parametrize(
    ("reason", "text"), [(reason, text) for reason, texts in BLOCKED.items() for text in texts]
)
def test_each_blocked_range_names_its_reason(reason: str, text: str) -> None:
    assert forbidden_reason(ipaddress.ip_address(text)) == reason


@pytest.mark.parametrize("text", OPEN)
def test_neighbours_of_blocked_ranges_are_open(text: str) -> None:
    assert not is_forbidden(ipaddress.ip_address(text))


@given(st.ip_addresses(v=4))
def test_a_form_that_stands_for_an_address_is_as_blocked_as_the_address(
    inner: ipaddress.IPv4Address,
) -> None:
    for form in mapped_forms(inner).values():
        assert inner in embedded(form)
        assert is_forbidden(form) == is_forbidden(inner), form


@pytest.mark.parametrize("text", [t for ts in BLOCKED.values() for t in ts if ":" not in t])
def test_forms_of_blocked_addresses_are_blocked(text: str) -> None:
    for name, form in mapped_forms(ipaddress.IPv4Address(text)).items():
        assert is_forbidden(form), name


@given(st.ip_addresses(v=4))
def test_no_private_address_of_the_library_is_missing(inner: ipaddress.IPv4Address) -> None:
    documentation = ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"]
    if any(inner in ipaddress.ip_network(each) for each in documentation):
        return
    if inner.is_private or inner.is_multicast or inner.is_reserved or inner.is_link_local:
        assert is_forbidden(inner)


@given(st.ip_addresses())
def test_an_exception_opens_exactly_what_it_names(address: Address) -> None:
    alone = ipaddress.ip_network(address)
    assert not is_forbidden(address, allow_networks=[alone])


def test_an_exception_holds_for_the_forms_that_stand_for_it_and_nothing_else() -> None:
    allowed = [ipaddress.ip_network("10.1.0.0/16")]
    for name, form in mapped_forms(ipaddress.IPv4Address("10.1.2.3")).items():
        assert not is_forbidden(form, allow_networks=allowed), name
    for name, form in mapped_forms(ipaddress.IPv4Address("10.2.2.3")).items():
        assert is_forbidden(form, allow_networks=allowed), name
    assert is_forbidden(
        ipaddress.ip_address("::1"), allow_networks=[ipaddress.ip_network("127.0.0.0/8")]
    )


def test_the_hosts_own_public_address_is_blocked_in_every_form() -> None:
    own = {PUBLIC_V4, ipaddress.ip_address("2606:4700::7")}
    assert forbidden_reason(PUBLIC_V4, own_addresses=own) == "an address of this host"
    for name, form in mapped_forms(PUBLIC_V4).items():
        assert is_forbidden(form, own_addresses=own), name
        assert not is_forbidden(form), name
    assert is_forbidden(ipaddress.ip_address("2606:4700::7%3"), own_addresses=own)


@pytest.mark.parametrize(
    "text",
    [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0xA9.0xFE.0xA9.0xFE",
        "0251.0376.0251.0376",
        "025177524776",
        "169.254.43518",
        "169.16689662",
        "169.254.169.254.",
        "１６９.254.169.254",
        "169。254。169。254",
    ],
)
def test_every_spelling_of_an_address_is_that_address(text: str) -> None:
    assert normalise_host(text) == "169.254.169.254"


@given(st.ip_addresses(v=4))
def test_numbers_are_read_as_the_c_library_reads_them(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for text in (str(number), hex(number), f"0{number:o}", str(address)):
        assert parse_literal(text) == ipaddress.IPv4Address(socket.inet_aton(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Example.ORG", "example.org"),
        ("example.org.", "example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.Example.", "xn--bcher-kva.example"),
        ("ｅxample.org", "example.org"),
        ("a_b.example", "a_b.example"),
        ("[::FFFF:127.0.0.1]", "::ffff:7f00:1"),
        ("[2001:DB8::0001]", "2001:db8::1"),
        ("1.2.3.4.example", "1.2.3.4.example"),
    ],
)
def test_one_spelling_of_each_host(text: str, expected: str) -> None:
    assert normalise_host(text) in (
        expected,
        str(ipaddress.ip_address(expected)) if ":" in expected else expected,
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a..b",
        "-a.example",
        "a-.example",
        "a b",
        "a\n.example",
        "a/b",
        "a@b",
        "a%2e.example",
        "256.1.1.1",
        "1.2.3.4.5",
        "example.0x7f",
        "09.1.1.1",
        "0x1ffffffff",
        "[127.0.0.1]",
        "[::1",
        "::g",
        "x" * 64 + ".example",
        "a." * 130 + "example",
        "\ud800.example",
    ],
)
def test_what_is_no_host_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is for people
        normalise_host(text)


@given(st.text(max_size=40))
def test_any_text_is_a_host_or_a_value_error_and_normal_forms_are_stable(text: str) -> None:
    try:
        host = normalise_host(text)
    except ValueError:
        return
    assert normalise_host(host) == host


@pytest.mark.parametrize(
    ("rule", "host", "port", "matches"),
    [
        ("example.org", "example.org", 443, True),
        ("example.org", "example.org", 80, True),
        ("example.org", "example.org", 8443, False),
        ("example.org:8443", "example.org", 8443, True),
        ("example.org:8443", "example.org", 443, False),
        ("example.org", "www.example.org", 443, False),
        ("example.org", "evil-example.org", 443, False),
        ("*.example.org", "www.example.org", 443, True),
        ("*.example.org", "a.b.example.org", 443, True),
        ("*.example.org", "example.org", 443, False),
        ("*.example.org", "evil-example.org", 443, False),
        ("*.example.org", "wwwexample.org", 443, False),
        ("*.example.org", "example.org.evil.test", 443, False),
        ("*.Example.ORG.", "www.example.org", 443, True),
        ("*.bücher.example", "www.xn--bcher-kva.example", 443, True),
        ("[::1]:8080", "::1", 8080, True),
        ("127.1:9", "127.0.0.1", 9, True),
    ],
)
def test_host_rules(rule: str, host: str, port: int, matches: bool) -> None:
    assert (
        HostRule.parse(rule).matches(normalise_host(host if ":" not in host else f"[{host}]"), port)
        is matches
    )


@pytest.mark.parametrize(
    "text", ["", "*", "*.", "**.a", "a.*.b", "*a.b", "a:0", "a:x", "a:65536", "a:1:2"]
)
def test_bad_host_rules_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is for people
        HostRule.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.example:8", ("a.example", 8)),
        ("a.example", ("a.example", 80)),
        ("[2001:db8::1]:8", ("2001:db8::1", 8)),
        ("[2001:db8::1]", ("2001:db8::1", 80)),
        ("0x7f.1:8", ("127.0.0.1", 8)),
    ],
)
def test_authorities(text: str, expected: tuple[str, int]) -> None:
    assert split_authority(text, 80) == expected


@pytest.mark.parametrize(
    "text",
    ["", ":80", "a:", "a:0", "a:65536", "a:8x", "a:٣", "u@a:8", "u:p@a:8", "::1:8", "a:-1", "a:+1"],
)
def test_bad_authorities(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is for people
        split_authority(text, 80)


def _policy(network: Network, **more: object) -> EgressPolicy:
    return EgressPolicy(network=network, allowed_hosts=(HostRule.parse("good.example"),), **more)  # type: ignore[arg-type]


def test_offline_refuses_everything() -> None:
    policy = _policy(Network.OFFLINE, allow_networks=(ipaddress.ip_network("0.0.0.0/0"),))
    assert policy.refusal("good.example", 443)
    assert policy.address_refusal(PUBLIC_V4, 443)


def test_registries_allows_its_hosts_only() -> None:
    policy = _policy(Network.REGISTRIES)
    assert policy.refusal("good.example", 443) is None
    assert policy.host_refusal("good.example", None) is None
    assert (
        policy.refusal("good.example", 22) == "good.example:22 is not among the package registries"
    )
    assert policy.refusal("bad.example", 443) == "bad.example is not among the package registries"
    assert policy.refusal(str(PUBLIC_V4), 443) is not None


def test_internet_allows_every_name_and_no_blocked_literal() -> None:
    policy = _policy(Network.INTERNET)
    assert policy.refusal("bad.example", 22) is None
    assert policy.refusal("127.0.0.1", 80) == "127.0.0.1 is blocked (loopback)"


def test_the_services_own_port_stays_closed_whatever_the_exceptions() -> None:
    own = frozenset({PUBLIC_V4})
    everything = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    policy = _policy(
        Network.INTERNET,
        allow_networks=everything,
        own_addresses=lambda: own,
        service_ports=frozenset({8787}),
    )
    for text in ("127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::", str(PUBLIC_V4)):
        assert policy.address_refusal(ipaddress.ip_address(text), 8787), text
        assert policy.address_refusal(ipaddress.ip_address(text), 8788) is None, text
    for name, form in mapped_forms(PUBLIC_V4).items():
        assert policy.address_refusal(form, 8787), name
    assert policy.address_refusal(ipaddress.ip_address("1.1.1.1"), 8787) is None


@given(st.lists(st.ip_addresses(), max_size=8))
def test_permitted_keeps_order_and_only_what_is_not_refused(addresses: list[Address]) -> None:
    policy = _policy(Network.INTERNET)
    kept = policy.permitted(addresses)
    assert kept == [each for each in addresses if policy.address_refusal(each) is None]
