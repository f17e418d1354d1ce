"""What an operator may have around a server: an authority of their own, and a proxy that leads out."""

from __future__ import annotations

import datetime
import socket
import socketserver
import ssl
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def authority(host: str) -> tuple[ssl.SSLContext, str]:
    """A server context for a host, and the certificate (PEM) of the authority behind it."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate("root", root_key, "root", root_key, is_authority=True)
    leaf = _certificate(host, key, "root", root_key, is_authority=False)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pair.pem"
        path.write_bytes(leaf.public_bytes(serialization.Encoding.PEM) + private)
        context.load_cert_chain(path)
    return context, root.public_bytes(serialization.Encoding.PEM).decode()


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), True)
    )
    if not is_authority:
        names = x509.SubjectAlternativeName([x509.DNSName(subject)])
        made = made.add_extension(names, False)
    return made.sign(issuer_key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


@dataclass(slots=True)
class Proxy:
    """A proxy on loopback that knows the addresses of `hosts`; `asked` are the targets of its tunnels,
    `refused` how many had not the `authorization` that it wants."""

    authorization: str
    hosts: Mapping[str, str]
    port: int = 0
    asked: list[str] = field(default_factory=list)
    refused: int = 0


@contextmanager
def proxy(authorization: str, hosts: Mapping[str, str]) -> Iterator[Proxy]:
    """A proxy that opens tunnels for whoever has the credential, while the context lasts."""
    made = Proxy(authorization, hosts)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline().decode()
            headers = {}
            while header := self.rfile.readline().decode().strip():
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            if headers.get("proxy-authorization") != made.authorization:
                made.refused += 1
                self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                return
            target = line.split()[1]
            made.asked.append(target)
            host, _, port = target.rpartition(":")
            with socket.create_connection((made.hosts[host], int(port)), 60) as far:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=_carry, args=(far, self.connection), daemon=True)
                back.start()
                _carry(self.connection, far)
                back.join(60)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        made.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
