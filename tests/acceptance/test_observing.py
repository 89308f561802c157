"""Nothing that counts or logs decides, delays or prevents an answer: `flask serve` with its log and its folder gone."""

import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import urllib3

from app.simulator.draft import authcode_created
from app.simulator.sender import headers_of
from tests.acceptance.server import FLASK, Server, running_server, starting_server, status, wait_until_ready
from tests.builders import a_genuine_delivery, a_raw_request, an_environ
from tests.conftest import ROOT
from tests.soak.receiver import Receiver, write_endpoints

#: The servers of test_server and test_server_workers run the same lines, and are measured.
pytestmark = pytest.mark.no_cover

#: Longer than anybody is to wait for an answer.
SECONDS_MAX = 10
#: A worker writes once a second, for the others to read, what it has counted.
WRITTEN_AFTER_SECONDS = 2
#: Each makes a line of 2 kB, and all of them more than what may wait to be written.
REFUSED = 3000
LONG_PATH = "/" + "%C3%A9" * 256


@pytest.fixture
def environ(sqlite_url: str, keyring_path: Path, tmp_path: Path) -> dict[str, str]:
    """The settings of a service under systemd, which names a folder for temporary files."""
    runtime = str(tmp_path / "run")
    return an_environ(
        sqlite_url, keyring_path, FLASK_METRICS_OPEN="1", FLASK_API_KEYS="shop=k-1", RUNTIME_DIRECTORY=runtime
    )


def figures(server: Server) -> dict[str, float]:
    """Every sample, by its name and labels as they are written."""
    page = server.get("/metrics").data.decode()
    lines = [line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def deliver(server: Server, keyring_path: Path, number: int) -> None:
    request = a_raw_request(a_genuine_delivery(keyring_path, authcode_created(f"s-{number}", "code-1")))
    assert status(server.say(request, seconds=SECONDS_MAX)) == 200


def folders(environ: Mapping[str, str]) -> list[Path]:
    return sorted((Path(environ["RUNTIME_DIRECTORY"]) / "counters").iterdir())


@pytest.fixture
def unread() -> Iterator[tuple[int, int]]:
    """A pipe: its end for who reads, and its end for who writes."""
    ends = os.pipe()
    yield ends
    os.close(ends[0])


def test_deliveries_are_answered_while_nobody_reads_the_log(
    environ: dict[str, str], keyring_path: Path, unread: tuple[int, int]
) -> None:
    reader, writer = unread
    with starting_server(environ, writer, "--workers", "1") as server:
        os.close(writer)
        wait_until_ready(server)
        delivery = a_genuine_delivery(keyring_path, authcode_created("s-1", "code-1"))
        with urllib3.HTTPConnectionPool("127.0.0.1", server.port, timeout=SECONDS_MAX, retries=False) as pool:
            for _ in range(REFUSED):
                assert pool.request("GET", LONG_PATH).status == 404
            for _ in range(100):
                answer = pool.request("POST", delivery.uri, body=delivery.body, headers=dict(headers_of(delivery)))
                assert answer.status == 200
        dropped = figures(server)["notifyauth_log_lines_dropped_total"]
        assert dropped > 0
        # Somebody reads again.
        read = b""
        while not (told := re.findall(rb"log lines dropped count=(\d+)\n", read)):
            assert select.select([reader], [], [], SECONDS_MAX)[0]
            read += os.read(reader, 1 << 20)
        assert told == [b"%d" % dropped]
        server.process.terminate()
        while os.read(reader, 1 << 20):
            pass
        assert server.process.wait(SECONDS_MAX) == 0


def test_a_server_whose_log_nobody_reads_stops_when_it_is_told_to(
    environ: dict[str, str], unread: tuple[int, int]
) -> None:
    _, writer = unread
    with starting_server(environ, writer, "--workers", "1") as server:
        os.close(writer)
        wait_until_ready(server)
        with urllib3.HTTPConnectionPool("127.0.0.1", server.port, timeout=SECONDS_MAX, retries=False) as pool:
            for _ in range(200):
                pool.request("GET", LONG_PATH)
        server.process.terminate()
        assert server.process.wait(2 * SECONDS_MAX) == 0


def test_deliveries_are_answered_and_counted_when_the_folder_of_the_counters_is_gone(
    environ: dict[str, str], keyring_path: Path, tmp_path: Path
) -> None:
    with running_server(environ, tmp_path / "log", "--workers", "2") as server:
        for number in range(10):
            deliver(server, keyring_path, number)
        shutil.rmtree(environ["RUNTIME_DIRECTORY"])
        os.kill(server.workers()[0], signal.SIGKILL)
        for number in range(20):
            deliver(server, keyring_path, number)
        wait_until_ready(server)
        for number in range(10):
            deliver(server, keyring_path, number)
        time.sleep(WRITTEN_AFTER_SECONDS)
        # What the killed worker had counted went with the folder.
        assert 20 < figures(server)['notifyauth_deliveries_total{status="200"}'] <= 40
        assert len(folders(environ)) == 1


def test_the_counts_of_a_killed_worker_stay(environ: dict[str, str], keyring_path: Path, tmp_path: Path) -> None:
    """And the one in its place goes on with its file, so that files do not pile up."""
    with running_server(environ, tmp_path / "log", "--workers", "1") as server:
        for number in range(10):
            deliver(server, keyring_path, number)
        assert figures(server)['notifyauth_deliveries_total{status="200"}'] == 10
        for _ in range(2):
            wait_until_ready(server)
            before = server.workers()
            os.kill(before[0], signal.SIGKILL)
            deadline = time.monotonic() + 3 * SECONDS_MAX
            while not (workers := server.workers()) or workers == before:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            wait_until_ready(server)
            # Two deaths within five seconds end the service.
            time.sleep(5)
        assert figures(server)['notifyauth_deliveries_total{status="200"}'] == 10
        (folder,) = folders(environ)
        # The other is that of the background process.
        assert sorted(path.name for path in folder.glob("*.json")) == ["0.json", "1.json"]


def test_a_folder_of_counters_is_removed_at_the_end_or_by_the_next_start(
    environ: dict[str, str], tmp_path: Path
) -> None:
    with running_server(environ, tmp_path / "log", "--workers", "1") as killed:
        (left,) = folders(environ)
        workers = killed.workers()
        killed.process.kill()
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        killed.process.wait(SECONDS_MAX)
    assert folders(environ) == [left]
    with running_server(environ, tmp_path / "log", "--workers", "1"):
        (first,) = folders(environ)
        assert first != left
        # A second service that uses the same place leaves the first one's alone.
        with running_server(environ, tmp_path / "log-2", "--workers", "1"):
            assert first in folders(environ)
            assert len(folders(environ)) == 2
        assert folders(environ) == [first]
    assert folders(environ) == []


def test_a_folder_that_the_operator_has_chosen_is_used_and_kept(
    environ: dict[str, str], keyring_path: Path, tmp_path: Path
) -> None:
    chosen = tmp_path / "chosen"
    with running_server(
        environ | {"PROMETHEUS_MULTIPROC_DIR": str(chosen)}, tmp_path / "log", "--workers", "2"
    ) as server:
        deliver(server, keyring_path, 1)
        time.sleep(WRITTEN_AFTER_SECONDS)
        assert figures(server)['notifyauth_deliveries_total{status="200"}'] == 1
    assert chosen.is_dir()
    assert not Path(environ["RUNTIME_DIRECTORY"]).exists()


def test_what_the_background_process_counts_is_shown_by_the_workers(
    environ: dict[str, str], keyring_path: Path, tmp_path: Path
) -> None:
    with Receiver("shop").listening() as shop:
        environ["FLASK_ENDPOINTS"] = str(write_endpoints(tmp_path / "endpoints.toml", shop))
        with running_server(environ, tmp_path / "log", "--workers", "2") as server:
            _tell_of_one(server, keyring_path, shop)
            assert worker_check(server) == "ok"


def test_flask_work_counts_together_with_a_server_that_does_without(
    environ: dict[str, str], keyring_path: Path, tmp_path: Path
) -> None:
    environ["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path / "counters")
    with Receiver("shop").listening() as shop:
        environ["FLASK_ENDPOINTS"] = str(write_endpoints(tmp_path / "endpoints.toml", shop))
        with running_server(environ, tmp_path / "log", "--workers", "1", "--no-work") as server:
            assert worker_check(server).startswith("no worker runs (none has run yet)")
            with (tmp_path / "work").open("w") as output:
                work = subprocess.Popen(
                    [FLASK, "work"], cwd=ROOT, env={"PATH": os.environ["PATH"], **environ}, stdout=output, stderr=output
                )
            try:
                _tell_of_one(server, keyring_path, shop)
                assert worker_check(server) == "ok"
            finally:
                work.terminate()
                assert work.wait(3 * SECONDS_MAX) == 0


def _tell_of_one(server: Server, keyring_path: Path, shop: Receiver) -> None:
    """Have one authorization consulted over HTTP, and wait until that is delivered and counted."""
    consult = {"authState": "s-1"}
    headers = {"Authorization": "Bearer k-1"}
    url = f"{server.url}/v1/authorizations"
    assert urllib3.request("POST", url, json=consult, headers=headers, retries=False).status == 201
    deliver(server, keyring_path, 1)
    delivered = 'notifyauth_webhook_attempts_total{endpoint="shop",outcome="delivered"}'
    deadline = time.monotonic() + 6 * SECONDS_MAX
    while figures(server)[delivered] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert [each.document["data"]["sequence"] for each in shop.taken] == [1, 2]
    time.sleep(WRITTEN_AFTER_SECONDS)
    assert figures(server)["notifyauth_code_told_seconds_count"] == 1


def worker_check(server: Server) -> str:
    ready = server.get("/readyz")
    assert ready.status == 200
    return str(ready.json()["checks"]["worker"])


#: Makes every folder that a temporary file could lie in read-only, for this process and its children alone.
_READ_ONLY = (
    "mount --make-rprivate / && for place in / /tmp /var/tmp; do "
    'mount --bind "$place" "$place" && mount -o remount,ro,bind "$place" || exit 99; done && exec "$@"'
)
_IN_READ_ONLY_ROOT = ("unshare", "--mount", "sh", "-c", _READ_ONLY, "sh")


def test_on_a_read_only_root_the_service_starts_and_each_worker_counts_alone(
    postgresql_url: str, keyring_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What measures coverage could not write its file either, and would say so in a traceback.
    for name in [name for name in os.environ if name.startswith("COVERAGE")]:
        monkeypatch.delenv(name)
    if subprocess.run([*_IN_READ_ONLY_ROOT, "true"], check=False, capture_output=True).returncode:
        pytest.skip("only root may make a root read-only")
    log = tmp_path / "log"
    with log.open("w") as output:
        environ = an_environ(postgresql_url, keyring_path)
        with starting_server(environ, output, "--workers", "1", through=_IN_READ_ONLY_ROOT) as server:
            wait_until_ready(server, log)
            deliver(server, keyring_path, 1)
    assert "each counts alone" in log.read_text()
    assert "Traceback" not in log.read_text()
