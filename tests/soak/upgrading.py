"""A rolling upgrade: a migration under load, and then one machine after the other goes on with the new release."""

import io
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

from tests.acceptance.server import CHECKOUT, FLASK, Program, flask, run
from tests.acceptance.site import API_KEY, Machine, Site
from tests.conftest import ROOT
from tests.soak.ledger import Ledger
from tests.soak.load import load

#: The last commit whose tables are at revision 0007: the release before this one.
RELEASE_BEFORE = "b90a6c6"


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
    return Program(FLASK, folder)


def upgrade(site: Site, before: Program, *, calm_seconds: float, seed: int = 1) -> Ledger:
    """Upgrade two machines under load, and give the books, which were held against the database.

    Everything but an acknowledgement, a 503 and no answer at all is in those as wrong.
    """
    path = str(before.folder)
    _succeeded(run(before, site.environ | {"PYTHONPATH": path}, "db", "upgrade"))
    machines = [site.machine(program=before, PYTHONPATH=path) for _ in range(2)]
    for machine in machines:
        machine.start()
    urls = [machine.url for machine in machines]
    with load(urls, site.service, site.signer, api_key=API_KEY, seed=seed) as ledger:
        time.sleep(calm_seconds)
        _succeeded(flask(site.environ, "db", "upgrade"))
        assert [machine.checks()["migrated"].split()[0] for machine in machines] == ["newer", "newer"]
        time.sleep(calm_seconds)
        for machine in machines:
            _exchange(machine)
            time.sleep(calm_seconds)
    assert [machine.checks()["migrated"] for machine in machines] == ["ok", "ok"]
    for machine in machines:
        machine.end()
    return ledger


def _exchange(machine: Machine) -> None:
    """Let a machine go on with this release."""
    machine.stop()
    machine.program = CHECKOUT
    del machine.environ["PYTHONPATH"]
    machine.start()


def _succeeded(done: "subprocess.CompletedProcess[str]") -> None:
    assert done.returncode == 0, done.stderr
