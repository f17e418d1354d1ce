"""Real servers on the host's loopback, for boxes to reach or not to reach."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from era.egress.policy import Address


class Resolver:
    """Answers from a table; a list of answers is given out one a question, the last for ever."""

    def __init__(self, table: Mapping[str, list[list[str]]]) -> None:
        self._table = {name: list(answers) for name, answers in table.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str) -> tuple[Address, ...]:
        self.asked.append(host)
        answers = self._table.get(host)
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        texts = answers.pop(0) if len(answers) > 1 else answers[0]
        return tuple(ipaddress.ip_address(text) for text in texts)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OriginServer

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        if self.path.startswith("/redirect?"):
            self._answer(302, b"", {"Location": self.path.partition("?")[2]})
        elif self.path == "/chunked":
            self._chunked()
        elif self.path == "/cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            self.close_connection = True
        elif self.path == "/endless":
            self._endless()
        else:
            self._answer(200, f"hello from {self.headers['Host']}{self.path}".encode())

    do_HEAD = do_GET  # noqa: N815 - the name is the standard library's

    def do_POST(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, body)

    def _chunked(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "X-Hop")
        self.send_header("X-Hop", "1")
        self.end_headers()
        for part in (b"one", b"two"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def _endless(self) -> None:
        """Counts what the kernel took, until the other side goes away."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        block = bytes(1 << 16)
        try:
            while True:
                self.connection.sendall(block)
                self.server.sent += len(block)
        except OSError:
            self.close_connection = True
        finally:
            self.server.endless_over.set()

    def log_message(self, *args: Any) -> None:
        pass


class OriginServer(http.server.ThreadingHTTPServer):
    """An HTTP server that remembers what it was asked."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self, address: str, port: int = 0, *, context: ssl.SSLContext | None = None
    ) -> None:
        super().__init__((address, port), _Handler)
        if context is not None:
            self.socket = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self.endless_over = threading.Event()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, *args: Any) -> None:
        pass  # clients that break off are part of the tests


@contextmanager
def running(server: OriginServer) -> Iterator[OriginServer]:
    """Serve in a thread."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def certificate(*names: str) -> tuple[ssl.SSLContext, str]:
    """A server context with a self-signed certificate for `names`, and the certificate in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    public = cert.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pair.pem"
        path.write_bytes(public + private)
        context.load_cert_chain(path)
    return context, public.decode()


def client_hello(name: str | None) -> bytes:
    """What OpenSSL sends first when it asks for `name`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()
