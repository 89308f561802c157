"""An operator at a shell, on a service of the test's own."""

import json
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click.testing
from flask import Flask
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.models import InboxEntry
from app.receiver import Receiver
from app.simulator.draft import Draft, authcode_created, token_created
from app.simulator.keys import SANDBOX_CLIENT_ID
from app.wiring import Service
from tests.builders import a_genuine_delivery
from tests.conftest import ROOT

FLASK = Path(sys.executable).with_name("flask")


@dataclass
class Shell:
    """Runs `flask …` commands in this process, and lets Alipay notify the same service."""

    app: Flask
    keyring_path: Path

    @property
    def service(self) -> Service:
        service: Service = self.app.extensions["notifyauth"]
        return service

    @property
    def receiver(self) -> Receiver:
        return self.service.receiver

    def run(self, *arguments: str, stdin: str | bytes = b"") -> click.testing.Result:
        """Run a command that may fail."""
        return self.app.test_cli_runner().invoke(args=arguments, input=stdin)

    def ask(self, *arguments: str, stdin: str | bytes = b"") -> str:
        """Run a command that must succeed."""
        result = self.run(*arguments, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *arguments: str) -> Any:  # noqa: ANN401 -- whatever the command prints
        return json.loads(self.ask(*arguments, "--json"))

    def consult(self, auth_state: str = "s-1", flow: str = "auto_debit") -> None:
        self.ask("authorizations", "consult", auth_state, "--flow", flow)

    def activate(self, auth_state: str) -> None:
        """Consult, and let Alipay notify of a code, of a token, and of another code, which has no effect."""
        self.consult(auth_state)
        self.notify(authcode_created(auth_state, f"code of {auth_state}"))
        self.notify(token_created(auth_state, f"token of {auth_state}"))
        self.notify(authcode_created(auth_state, "another code"))

    def change_entry(self, entry_id: str, **values: object) -> None:
        """Change a stored entry, as the passing of time or a broken release would."""

        def change(session: Session) -> None:
            session.execute(update(InboxEntry).where(InboxEntry.id == int(entry_id)).values(values))

        self.service.database.run(change)

    def notify(self, notification: Draft | bytes, *, client_id: str = SANDBOX_CLIENT_ID) -> str:
        """Let Alipay send a notification, and return the id of its entry."""
        receipt = self.receiver.receive(a_genuine_delivery(self.keyring_path, notification, client_id=client_id))
        assert receipt.entry_id is not None
        return str(receipt.entry_id)


def run_flask(*arguments: str, environ: Mapping[str, str], stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run the real `flask` in the project's folder, with pipes for all it reads and writes."""
    return subprocess.run(
        [FLASK, *arguments],
        cwd=ROOT,
        env=_environ(environ),
        input=stdin.decode(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def run_flask_at_terminal(
    *arguments: str, environ: Mapping[str, str], columns: int = 80, answers: Mapping[bytes, bytes] | None = None
) -> str:
    """Run the real `flask` at a terminal, and return all it shows, also an echo of what is typed.

    `answers` says what to type when the end of what is shown is a certain prompt.
    """
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, columns))
    program = subprocess.Popen(
        [FLASK, *arguments], cwd=ROOT, env=_environ(environ), stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    shown = b""
    while chunk := _read(master):
        shown += chunk
        for prompt, answer in (answers or {}).items():
            if shown.endswith(prompt):
                os.write(master, answer + b"\n")
    os.close(master)
    program.wait(timeout=60)
    return shown.decode().replace("\r\n", "\n")


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:
        # So Linux says that nobody holds the terminal open any more.
        return b""


def _environ(environ: Mapping[str, str]) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **environ}
