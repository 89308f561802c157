"""A rolling upgrade: a migration under load, and then one machine after the other goes on with the new release."""

import io
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tests.acceptance.server import CHECKOUT, FLASK, Program, flask, run
from tests.acceptance.site import API_KEY, Site
from tests.conftest import ROOT
from tests.replicas import wait_until
from tests.soak.ledger import Ledger
from tests.soak.load import load

#: The last commit whose tables are at revision 0007: the release before this one.
RELEASE_BEFORE = "b90a6c6"

#: On a busy machine a migration waits again and again for the transactions of the running service.
_MIGRATION_SECONDS_MAX = 300
_MIGRATION_TRIES = 3


class Replaceable(Protocol):
    """A machine of the service that can go on with another release."""

    def replace(self, program: Program) -> None:
        """Stop the machine as an operator does, and start it with another release."""

    def checks(self) -> Mapping[str, str]:
        """Give what /readyz says."""


def release_before(folder: Path) -> Program | None:
    """The code of the release before, with the libraries of this one; `None` where the checkout does not have it."""
    git = shutil.which("git")
    if git is None:
        return None
    archived = subprocess.run([git, "archive", RELEASE_BEFORE], cwd=ROOT, capture_output=True, check=False)
    if archived.returncode != 0:
        return None
    with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as files:
        files.extractall(folder, filter="data")
    return Program(FLASK, folder, {"PYTHONPATH": str(folder)})


def make_tables_of(program: Program, environ: Mapping[str, str]) -> None:
    """Make the tables as a release has them."""
    _succeeded(run(program, environ, "db", "upgrade"))


def roll(machines: Sequence[Replaceable], environ: Mapping[str, str], *, between: Callable[[], None]) -> None:
    """Migrate, and let one machine after the other go on with this release; `between` is called around each step."""
    between()
    _migrate(environ)
    _wait_until_migrated_is(machines, "newer")
    between()
    for machine in machines:
        machine.replace(CHECKOUT)
        between()
    _wait_until_migrated_is(machines, "ok")


def upgrade(site: Site, before: Program, *, calm_seconds: float, seed: int = 1) -> Ledger:
    """Upgrade two machines under load, and give the books, which were held against the database.

    Everything but an acknowledgement, a 503 and no answer at all is in those as wrong.
    """
    make_tables_of(before, site.environ)
    machines = [site.machine(program=before) for _ in range(2)]
    for machine in machines:
        machine.start()
    urls = [machine.url for machine in machines]
    with load(urls, site.service, site.signer, api_key=API_KEY, seed=seed) as ledger:
        roll(machines, site.environ, between=lambda: time.sleep(calm_seconds))
    for machine in machines:
        machine.end()
    return ledger


def _migrate(environ: Mapping[str, str]) -> None:
    """Migrate as an operator does: again where a table that is to be changed was in use for too long."""
    said = []
    for _ in range(_MIGRATION_TRIES):
        done = flask(environ, "db", "upgrade", seconds_max=_MIGRATION_SECONDS_MAX)
        if done.returncode == 0:
            return
        said.append(done.stderr)
    raise AssertionError(said)


def _wait_until_migrated_is(machines: Sequence[Replaceable], word: str) -> None:
    wait_until(
        lambda: {machine.checks()["migrated"].split()[0] for machine in machines} == {word},
        f"every machine says {word} of the tables",
    )


def _succeeded(done: "subprocess.CompletedProcess[str]") -> None:
    assert done.returncode == 0, done.stderr
