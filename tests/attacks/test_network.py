"""The network, through the API: nothing when it is off, the public alone when it is on.

What needs a world of names and servers (rebinding, forged names in TLS, redirects, registries) is tried
on the broker itself, in `tests/egress`: it serves every box of either path alike.
"""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.attacks.conftest import Start
from tests.attacks.served import PATHS, SMALL, Served, said
from tests.sandbox.census import until

pytestmark = pytest.mark.xdist_group("attacks")


@dataclass(slots=True)
class Bait:
    """A web server on every address of this host; it counts who comes."""

    port: int
    address: str
    """One of this host that is not loopback."""
    visits: list[str] = field(default_factory=list)


@pytest.fixture
def bait() -> Iterator[Bait]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: asks the routing table for our address
        address = probe.getsockname()[0]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.visits.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(b"reached")

        def log_message(self, *_args: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("", 0), Handler) as server:
        made = Bait(server.server_address[1], address)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture
def exempt(started: Start, bait: Bait) -> Iterator[Served]:
    """The mirror: a server whose operator excepts every network."""
    environment = SMALL | {"ERA_READY_BOXES": PATHS["warm"], "ERA_ALLOW_NETWORKS": "0.0.0.0/0"}
    server = started("exempt", environment)
    with server.unharmed():
        yield server


TRY = """
import errno, http.client, json, os, socket, sys, urllib.request
def outcome(act):
    try: return act() or "nothing"
    except urllib.error.HTTPError as error: return str(error.code)
    except OSError as error:
        error = getattr(error, "reason", error)
        return type(error).__name__ if isinstance(error, socket.gaierror) else errno.errorcode.get(getattr(error, "errno", 0), type(error).__name__)
    except http.client.HTTPException as error: return type(error).__name__
def proxied(host, port):
    for name in ("no_proxy", "NO_PROXY"): os.environ.pop(name, None)
    proxy = os.environ.get("http_proxy", "http://127.0.0.1:3128")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy}))
    return opener.open(f"http://{host}:{port}/proxied", timeout=20).read().decode()
def tunnelled(host, port):
    with socket.create_connection(("127.0.0.1", 3128), 20) as sock:
        sock.sendall(f"CONNECT {host}:{port} HTTP/1.1\\r\\nHost: {host}:{port}\\r\\n\\r\\n".encode())
        status = sock.recv(4096).split(b"\\r\\n")[0].decode()
        if " 200 " not in status + " ": return status.split()[1]
        sock.sendall(b"GET /tunnel HTTP/1.0\\r\\n\\r\\n")
        return b"".join(iter(lambda: sock.recv(4096), b"")).rpartition(b"\\r\\n")[2].decode()
def direct(host, port):
    with socket.create_connection((host.strip("[]"), port), 20) as sock:
        sock.sendall(b"GET /direct HTTP/1.0\\r\\n\\r\\n")
        return b"".join(iter(lambda: sock.recv(4096), b"")).rpartition(b"\\r\\n")[2].decode()
found = {}
for host, port in json.loads(sys.argv[1]):
    for way in (proxied, tunnelled, direct):
        found[f"{way.__name__} {host}:{port}"] = outcome(lambda: way(host, port))
print(json.dumps(found))
"""  # noqa: E501


def tried(served: Served, places: list[tuple[str, int]], **members: Any) -> dict[str, str]:
    """What came of it to go to each place each way."""
    result = served.client.execute(TRY, args=[json.dumps(places)], timeout=100, **members)
    return dict(json.loads(said(result)))


REFUSALS = {
    *("403", "400", "nothing", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "EHOSTUNREACH", "EACCES"),
    *("EPERM", "RemoteDisconnected", "gaierror", "TimeoutError", "EADDRNOTAVAIL", "502", "EINVAL"),
}  # fmt: skip


def places_of(bait: Bait, served: Served) -> list[tuple[str, int]]:
    """Every place that is nobody's business, in many spellings."""
    port = bait.port
    of_the_host = [
        *("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0.0.0.0"),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "127.0.0.1.", "LOCALHOST"),
        *(bait.address, f"[::ffff:{bait.address}]", str(_number(bait.address)), socket.gethostname()),
    ]  # fmt: skip
    others = [
        *("169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518"),
        *("[fd00:ec2::254]", "[fe80::1]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]"),
        *("10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "224.0.0.1", "255.255.255.255"),
        *(
            "192.0.2.1",
            "198.18.0.1",
            "240.0.0.1",
            "[ff02::1]",
            "[2002:7f00:1::]",
            "metadata.google.internal",
        ),
    ]
    return [
        *((host, port) for host in of_the_host),
        *((host, 80) for host in others),
        (bait.address, served.server.port),
        ("127.0.0.1", served.server.port),
    ]


def _number(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "big")


def test_a_program_without_network_reaches_nothing(server: Served, bait: Bait) -> None:
    """68: no name, no loopback but its own, no address of the host, no abstract socket, no vsock."""
    name = f"era-attack-{bait.port}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        found = tried(
            server, [(bait.address, bait.port), ("127.0.0.1", bait.port), ("[::1]", bait.port)]
        )
        assert set(found.values()) <= REFUSALS, found
        assert json.loads(said(server.client.execute(OFFLINE, args=[name]))) == {
            "name": "gaierror", "abstract": "ECONNREFUSED", "link-local": "ENETUNREACH",
            "udp": "ENETUNREACH", "vsock": "no", "own": "yes", "interfaces": ["lo"],
        }  # fmt: skip
    assert bait.visits == []


OFFLINE = """
import errno, json, os, socket, sys
def outcome(act):
    try: act()
    except socket.gaierror: return "gaierror"
    except OSError as error: return errno.errorcode[error.errno]
    return "yes"
def connect(family, address, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as sock: sock.connect(address)
def own():
    with socket.create_server(("127.0.0.1", 0)) as server: connect(socket.AF_INET, server.getsockname())
print(json.dumps({
    "name": outcome(lambda: socket.getaddrinfo("example.com", 80)),
    "abstract": outcome(lambda: connect(socket.AF_UNIX, "\\0" + sys.argv[1])),
    "link-local": outcome(lambda: connect(socket.AF_INET6, ("fe80::1", 80, 0, 1))),
    "udp": outcome(lambda: connect(socket.AF_INET, ("192.0.2.1", 53), socket.SOCK_DGRAM)),
    "vsock": "yes" if os.path.exists("/dev/vsock") else "no",
    "own": outcome(own),
    "interfaces": [name for _, name in socket.if_nameindex()],
}))
"""


def test_a_program_with_network_reaches_no_place_that_is_not_public(
    server: Served, bait: Bait
) -> None:
    """69, 71, 73: through the proxy, through a tunnel, and directly, in every spelling."""
    found = tried(server, places_of(bait, server), allowInternetAccess=True)
    assert len(found) > 100
    assert {way: it for way, it in found.items() if it not in REFUSALS} == {}
    assert bait.visits == []


def test_what_the_operator_excepts_is_reached(exempt: Served, bait: Bait) -> None:
    """The mirror, each way; but the service's own port stays closed."""
    places = [(bait.address, bait.port), (bait.address, exempt.server.port)]
    found = tried(exempt, places, allowInternetAccess=True)
    reached = {f"{way} {bait.address}:{bait.port}" for way in ("proxied", "tunnelled", "direct")}
    assert {way for way, it in found.items() if it == "reached"} == reached
    assert sorted(bait.visits) == ["/direct", "/proxied", "/tunnel"]
    without = tried(exempt, places)
    assert "reached" not in without.values()


DATAGRAMS = """
import errno, json, socket, struct
def query(kind, name=(b"c2VjcmV0", b"example", b"com")):
    labels = b"".join(bytes([len(part)]) + part for part in name) + b"\\0"
    return struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + struct.pack("!2H", kind, 1)
def ask(address, port, data):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        try:
            sock.connect((address, port)); sock.send(data)
            answer = sock.recv(4096)
        except OSError as error: return errno.errorcode.get(error.errno, type(error).__name__)
        return f"code {answer[3] & 15}, {struct.unpack('!H', answer[6:8])[0]} answers"
found = {}
for name, kind in (("TXT", 16), ("NULL", 10), ("MX", 15), ("ANY", 255), ("HTTPS", 65)):
    for address in ("127.0.0.1", "192.0.2.1"):
        found[f"{name} of {address}"] = ask(address, 53, query(kind))
for port in (443, 853, 784, 123, 161):
    found[f"datagram to {port}"] = ask("192.0.2.1", port, b"x" * 1200)
print(json.dumps(found))
"""


def test_names_and_datagrams_carry_nothing_out(server: Served) -> None:
    """70, 73: records that hold text are refused whoever is asked; other datagrams go nowhere."""
    result = server.client.execute(DATAGRAMS, allowInternetAccess=True, timeout=100)
    found = json.loads(said(result))
    names = {it for what, it in found.items() if " of " in what}
    assert names <= {"code 5, 0 answers", "code 4, 0 answers"}, found
    others = {it for what, it in found.items() if "datagram" in what}
    assert others <= {"EPERM", "EACCES", "ECONNREFUSED", "ENETUNREACH"}, found
    assert json.loads(said(server.client.execute(MIRROR_OF_DATAGRAMS))) == "hello"


MIRROR_OF_DATAGRAMS = """
import json, socket
a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
a.bind(("127.0.0.1", 0)); b.sendto(b"hello", a.getsockname())
print(json.dumps(a.recv(10).decode()))
"""
LISTENER = """
import socket, threading, time
def serve(sock):
    while True: sock.accept()[0].sendall(b"mine")
for host in ("0.0.0.0", "::"):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, PORT if family == socket.AF_INET else PORT + 1), family=family)
    threading.Thread(target=serve, args=(sock,), daemon=True).start()
with socket.create_connection(("127.0.0.1", PORT)) as own: print(own.recv(4).decode(), flush=True)
time.sleep(600)
"""


def test_boxes_reach_no_other_box(server: Served, bait: Bait) -> None:
    """69, 74: a server in one is reached by itself, and by no neighbour on any address."""
    code = LISTENER.replace("PORT", "18321")
    with server.session(allowInternetAccess=True) as session, ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.run, code, timeout=600)
        until(lambda: bool(server.client.call("GET", session.path).json["running"]), "the run")
        hosts = ("127.0.0.1", "[::1]", "localhost", bait.address, "0.0.0.0")
        places = [(host, 18321 + ("::" in host)) for host in hosts]
        for members in ({}, {"allowInternetAccess": True}):
            found = tried(server, places, **members)
            assert set(found.values()) <= REFUSALS, found
        session.client.call("POST", f"{session.path}/cancel")
        assert running.result()["stdout"] == "mine\n"
