"""A real nginx, set up by `deploy/nginx.conf`, in front of the service: TLS, and the notification path alone."""

import ipaddress
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.alipay.delivery import BODY_BYTES_MAX
from app.config import DEFAULT_NOTIFY_PATH
from app.simulator.draft import authcode_created
from app.simulator.sender import headers_of
from tests.acceptance.server import Server, a_free_port, flask, running_server
from tests.builders import a_genuine_delivery, an_environ
from tests.conftest import ROOT

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

#: A path that was registered with Alipay and is not the service's own.
REGISTERED = "/pay/notify"


@dataclass(frozen=True)
class Front:
    """nginx in front of a service."""

    server: Server
    port: int
    certificate: Path

    def ask(self, method: str, path: str, *, body: bytes = b"", **headers: str) -> urllib3.BaseHTTPResponse:
        with urllib3.PoolManager(ca_certs=str(self.certificate)) as pool:
            url = f"https://127.0.0.1:{self.port}{path}"
            return pool.request(method, url, body=body, headers=headers, retries=False)

    def connected(self) -> socket.socket:
        """A connection by TLS."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        return context.wrap_socket(socket.create_connection(("127.0.0.1", self.port)), server_hostname="127.0.0.1")

    def connections_behind(self) -> int:
        """How many connections to the service the kernel knows, also of those that have just been closed."""
        at_service = re.compile(rf"^ *\d+: \w+:\w+ \w+:{self.server.port:04X} ", re.MULTILINE)
        return len(at_service.findall(Path("/proc/net/tcp").read_text(encoding="ascii")))


@contextmanager
def nginx(
    folder: Path, server: Server, *others: Server, registered: str | None = None, backup_port: int | None = None
) -> Iterator[Front]:
    """Run nginx by our file, of which only the places of this machine are written anew."""
    behind = " ".join(f"server 127.0.0.1:{each.port} max_fails=0;" for each in (server, *others))
    port, certificate, key = a_free_port(), folder / "certificate.pem", folder / "key.pem"
    write_certificate(certificate, key)
    ours = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    replacements = {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "server 127.0.0.1:8000 max_fails=0;": behind,
        "server 127.0.0.1:8001 ": f"server 127.0.0.1:{backup_port or a_free_port()} ",
        "/etc/ssl/your.host.pem": str(certificate),
        "/etc/ssl/private/your.host.key": str(key),
    }
    if registered is not None:
        replacements[f"location = {DEFAULT_NOTIFY_PATH} {{"] = f"location = {registered} {{"
        replacements["proxy_pass http://notifyauth;"] = f"proxy_pass http://notifyauth{DEFAULT_NOTIFY_PATH};"
    for written, place in replacements.items():
        assert written in ours
        ours = ours.replace(written, place)
    whole = folder / "nginx.conf"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    user = "user root;\n" if os.geteuid() == 0 else ""
    whole.write_text(
        f"{user}worker_processes 1;\ndaemon off;\npid {folder}/nginx.pid;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{ours}}}\n",
        encoding="utf-8",
    )
    assert NGINX is not None
    command = [NGINX, "-e", str(folder / "nginx.log"), "-p", str(folder), "-c", str(whole)]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_until_it_listens(port)
        yield Front(server, port, certificate)
    finally:
        process.terminate()
        process.wait(timeout=10)


def wait_until_it_listens(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def write_certificate(path: Path, key_path: Path) -> None:
    """Make a certificate for this machine that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key_path.write_bytes(private)


@pytest.fixture
def front(sqlite_url: str, keyring_path: Path, tmp_path: Path) -> Iterator[Front]:
    environ = an_environ(sqlite_url, keyring_path)
    with running_server(environ, tmp_path / "log", "--workers", "1") as server, nginx(tmp_path, server) as proxy:
        yield proxy


def test_a_notification_comes_through_as_it_was_signed(front: Front, keyring_path: Path) -> None:
    """Its query too, in the sender's spelling."""
    uri = f"{DEFAULT_NOTIFY_PATH}?a=%2F&b=+"
    delivery = a_genuine_delivery(keyring_path, authcode_created(auth_state="s-1", auth_code="c-1"), uri=uri)
    answer = front.ask("POST", uri, body=delivery.body, **headers_of(delivery))
    assert (answer.status, answer.json()["result"]["resultStatus"]) == (HTTPStatus.OK, "S")


def test_a_rewritten_path_is_verified_as_the_one_that_alipay_called(
    sqlite_url: str, keyring_path: Path, tmp_path: Path
) -> None:
    environ = an_environ(sqlite_url, keyring_path, FLASK_PUBLIC_NOTIFY_PATH=REGISTERED)
    assert flask(environ, "authorizations", "consult", "s-1").returncode == 0
    with (
        running_server(environ, tmp_path / "log", "--workers", "1") as server,
        nginx(tmp_path, server, registered=REGISTERED) as front,
    ):
        uri = f"{REGISTERED}?a=1"
        delivery = a_genuine_delivery(keyring_path, authcode_created(auth_state="s-1", auth_code="c-1"), uri=uri)
        assert front.ask("POST", uri, body=delivery.body, **headers_of(delivery)).status == HTTPStatus.OK
        # The path within is none that can be called from outside.
        assert front.ask("POST", DEFAULT_NOTIFY_PATH).status == HTTPStatus.NOT_FOUND
    listed = flask(environ, "inbox", "list").stdout
    assert "applied" in listed


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/authorizations",
        "/%761/authorizations",
        "/metrics",
        "/readyz",
        "/version",
        "//v1/authorizations",
        f"{DEFAULT_NOTIFY_PATH}/../../v1/authorizations",
        f"{DEFAULT_NOTIFY_PATH}/",
    ],
)
def test_nothing_else_can_be_reached_from_outside(front: Front, path: str) -> None:
    with front.connected() as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: your.host\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"X-Request-Id" not in answer


def test_a_body_that_is_too_large_does_not_reach_the_service(front: Front) -> None:
    answer = front.ask("POST", DEFAULT_NOTIFY_PATH, body=b"x" * (BODY_BYTES_MAX + 1))
    assert (answer.status, "X-Request-Id" in answer.headers) == (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, False)
    largest = front.ask("POST", DEFAULT_NOTIFY_PATH, body=b"x" * BODY_BYTES_MAX)
    assert (largest.status, "X-Request-Id" in largest.headers) == (HTTPStatus.UNAUTHORIZED, True)


def test_a_slow_sender_costs_the_service_no_connection(front: Front) -> None:
    before = front.connections_behind()
    with front.connected() as connection:
        head = f"POST {DEFAULT_NOTIFY_PATH} HTTP/1.1\r\nHost: your.host\r\nContent-Length: 10\r\n\r\n"
        connection.sendall(f"{head}12345".encode())
        time.sleep(0.3)
        assert front.connections_behind() == before
        connection.sendall(b"67890")
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_requests_share_the_connections_to_the_service(front: Front) -> None:
    before = front.connections_behind()
    assert {front.ask("POST", DEFAULT_NOTIFY_PATH).status for _ in range(20)} == {HTTPStatus.UNAUTHORIZED}
    assert front.connections_behind() == before + 1


def test_the_second_instance_serves_while_the_first_one_is_away(
    sqlite_url: str, keyring_path: Path, tmp_path: Path
) -> None:
    """And only then: a restart on one machine is not noticed, and nothing has to listen there at other times."""
    environ = an_environ(sqlite_url, keyring_path)
    delivery = a_genuine_delivery(keyring_path, authcode_created(auth_state="s-1", auth_code="c-1"))

    def deliver(front: Front) -> int:
        return front.ask("POST", DEFAULT_NOTIFY_PATH, body=delivery.body, **headers_of(delivery)).status

    first, second = tmp_path / "first", tmp_path / "second"
    with running_server(environ, first, "--workers", "1") as server, nginx(tmp_path, server) as alone:
        assert deliver(alone) == HTTPStatus.OK
    with running_server(environ, second, "--workers", "1") as backup:
        with (
            running_server(environ, first, "--workers", "1") as server,
            nginx(tmp_path, server, backup_port=backup.port) as front,
        ):
            assert deliver(front) == HTTPStatus.OK
            assert "delivery stored" not in second.read_text()
            server.process.terminate()
            server.process.wait(timeout=60)
            assert deliver(front) == HTTPStatus.OK
        assert "delivery stored" in second.read_text()
