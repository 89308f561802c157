"""Machines of the service before one database: processes with folders of their own, which start, end and are lost."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from app import create_app
from app.alipay.delivery import Delivery
from app.alipay.keyring import load_private_key
from app.simulator.draft import Draft
from app.simulator.keys import SANDBOX_CLIENT_ID, SIMULATOR_KEY_NAME, make_sandbox
from app.simulator.sender import Sender, ServiceResponse, Signer
from app.wiring import Service
from tests.acceptance.server import CHECKOUT, Program, Server, a_free_port, wait_until_ready
from tests.builders import an_environ
from tests.replicas import wait_until

API_KEY = "the-key-of-the-site"


@dataclass
class Machine:
    """One machine: its own folder, port and settings, and a release that may be exchanged while it is down."""

    folder: Path
    environ: dict[str, str]
    program: Program = CHECKOUT
    port: int = field(default_factory=a_free_port)
    workers: int = 1
    server: Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        """Start the service, and wait until it is ready, with every worker."""
        self.begin()
        server = self.server
        assert server is not None
        wait_until_ready(server, self.log)
        wait_until(lambda: len(server.workers()) == self.workers, "every worker has started")

    def begin(self) -> None:
        """Start the service."""
        # The measuring of coverage, where there is any, is for this release.
        measured = {} if self.program is not CHECKOUT else _measured()
        with self.log.open("a") as output:
            process = subprocess.Popen(
                [self.program.path, "serve", "--port", str(self.port), "--workers", str(self.workers)],
                cwd=self.program.folder,
                env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **measured, **self.program.environ, **self.environ},
                stdout=output,
                stderr=output,
                text=True,
                # A group of its own can be killed whole.
                start_new_session=True,
            )
        self.server = Server(process, self.port)

    def process_id(self) -> int:
        assert self.server is not None
        return self.server.process.pid

    def stop(self) -> None:
        """Stop it as an operator does."""
        assert self.server is not None
        self.server.process.terminate()
        self.server.process.wait(timeout=40)

    def replace(self, program: Program) -> None:
        """Let the machine go on with another release."""
        self.stop()
        self.program = program
        self.start()

    def kill(self) -> None:
        """Lose the machine: all of its processes at once."""
        assert self.server is not None
        os.killpg(self.server.process.pid, signal.SIGKILL)
        self.server.process.wait(timeout=40)

    def end(self) -> None:
        if self.server is not None and self.server.process.poll() is None:
            self.stop()

    def is_ready(self) -> bool:
        assert self.server is not None
        return self.server.get("/readyz").status == HTTPStatus.OK

    def checks(self) -> dict[str, str]:
        """What /readyz says."""
        assert self.server is not None
        return self.server.checks()


@dataclass
class Site:
    """The machines, an auditor with the same keys, and a pretend Alipay that sends to them."""

    folder: Path
    environ: dict[str, str]
    service: Service
    signer: Signer
    _stack: ExitStack
    machines: list[Machine] = field(default_factory=list)

    def machine(self, *, program: Program = CHECKOUT, workers: int = 1, **settings: str) -> Machine:
        """A machine that is not started yet; it ends with the site."""
        folder = self.folder / f"machine-{len(self.machines) + 1}"
        folder.mkdir()
        # Where its workers count together, and nobody else.
        environ = self.environ | {"RUNTIME_DIRECTORY": str(folder)} | settings
        machine = Machine(folder, environ, program, workers=workers)
        self.machines.append(machine)
        self._stack.callback(machine.end)
        return machine

    def sign(self, draft: Draft) -> Delivery:
        path = self.service.settings.notify_path
        return self.signer.sign(draft.body(), uri=path, request_time="1685599933871")

    def deliver(self, url: str, draft: Draft) -> ServiceResponse:
        """Make one attempt to deliver a notification."""
        with Sender(f"{url}{self.service.settings.notify_path}") as sender:
            return sender.send(self.sign(draft))


@contextmanager
def a_site(folder: Path, database_url: str, **settings: str) -> Iterator[Site]:
    """Make the files that the machines share, beside a database, and end all machines afterwards."""
    keyring_path = folder / "keyring.toml"
    make_sandbox(keyring_path)
    environ = an_environ(database_url, keyring_path, FLASK_API_KEYS=f"shop={API_KEY}", FLASK_METRICS_OPEN="1")
    environ |= settings
    key = load_private_key(keyring_path.with_name(SIMULATOR_KEY_NAME).read_bytes())
    service: Service = create_app(environ).extensions["notifyauth"]
    with closing(service.database), ExitStack() as stack:
        yield Site(folder, environ, service, Signer(SANDBOX_CLIENT_ID, key, 1), stack)


def _measured() -> Mapping[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}
