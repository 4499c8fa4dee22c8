"""A small HTTP server over real sockets that takes uploads as a test tells it to, even badly."""

import contextlib
import datetime
import ipaddress
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.patience import PATIENCE

CREATED = b"HTTP/1.1 201 Created\r\nX-Seen: yes\r\nContent-Length: 4\r\n\r\ndone"


class Upload:
    """The server's side of one connection."""

    def __init__(self, connection: socket.socket, stop: threading.Event) -> None:
        self.connection = connection
        self.stop = stop
        """Set when the test is over. A behaviour that waits on purpose waits for this event."""
        self.head = b""
        self.body = b""

    def read_head(self) -> None:
        while b"\r\n\r\n" not in self.head:
            received = self.connection.recv(4096)
            if not received:
                return
            self.head += received
        self.head, self.body = self.head.split(b"\r\n\r\n", 1)

    def read_body(self, count: int | None = None, *, step: int = 1 << 18) -> None:
        """Read until there are `count` bytes, or the whole body if `count` is None."""
        count = int(self.headers["content-length"]) if count is None else count
        parts, missing = [self.body], count - len(self.body)
        while missing > 0:
            received = self.connection.recv(min(step, missing))
            if not received:
                break
            parts.append(received)
            missing -= len(received)
        self.body = b"".join(parts)

    def answer(self, answer: bytes = CREATED) -> None:
        self.connection.sendall(answer)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}


class UploadServer:
    def __init__(self, behaviour: Callable[[Upload], None], tls: ssl.SSLContext | None) -> None:
        self.uploads: list[Upload] = []
        self.ended = threading.Event()
        """Set when the server's side of an upload is over."""
        self._behaviour = behaviour
        self._tls = tls
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/v2/images/1/file"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._stop.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10 * PATIENCE)

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                upload = Upload(connection, self._stop)
                self.uploads.append(upload)
                try:
                    upload.read_head()
                    self._behaviour(upload)
                finally:
                    self.ended.set()


@contextmanager
def upload_server(behaviour: Callable[[Upload], None], *, tls: ssl.SSLContext | None = None) -> Iterator[UploadServer]:
    server = UploadServer(behaviour, tls)
    try:
        yield server
    finally:
        server.close()


def self_signed(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a server's context with a new certificate for 127.0.0.1, and the certificate's file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = directory / "certificate.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file = directory / "key.pem"
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key_file)
    return context, pem
