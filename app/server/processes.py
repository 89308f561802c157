"""What holds for each process of a server: how long its start and end may take, and that it ends with its parent."""

import multiprocessing
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

from app.limits import STOP_SECONDS_MAX

#: Importing takes a second or two, on a busy machine ten; waiting for a database that is away, a few more.
START_SECONDS_MAX = 60
#: A process that lived for this long started well: its next death counts as the first.
STEADY_SECONDS = 60
#: The longest pause before a process is started again: seldom enough to cost nothing, soon after the cause is mended.
PAUSE_SECONDS_MAX = 60
#: How often to look for a signal while waiting for a process.
LOOK_SECONDS = 0.1


def pause_before(deaths: int, *, seconds_max: float = PAUSE_SECONDS_MAX) -> float:
    """Return for how many seconds to wait before a process is started that died this often in a row."""
    return 0 if deaths <= 1 else float(min(2 ** (deaths - 2), seconds_max))


def show_as(name: str) -> None:
    """Let `ps` and `top` show what this process is, in up to 15 characters (Linux)."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="ascii")


def tell_systemd_ready() -> None:
    """Tell systemd that requests are answered, where the unit waits for that: `Type=notify`, sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        # A socket in the abstract namespace is written with an at sign for its null byte.
        name = "\0" + address[1:] if address.startswith("@") else address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.sendto(b"READY=1", name)


def end_with_parent() -> None:
    """Stop as on SIGTERM once the parent is gone, however it went: nobody would ever tell this process to stop."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS_MAX)
    os._exit(1)
