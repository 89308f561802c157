"""Name a process so that others on its machine can say for certain that it has ended.

A number alone would not do: it is given again, and another container has the same ones.
"""

import hashlib
import os
import re
from functools import cache
from pathlib import Path

_NAME = re.compile(r"(?P<space>[0-9a-f]{16})/(?P<id>[0-9]{1,10})/(?P<started>[0-9]{1,20})")
_PROC = Path("/proc")


def name_of_this_process() -> str | None:
    """Name this process: the space that its number counts in, the number, and its start; `None` without /proc."""
    space, started = _space(), _started(os.getpid())
    return None if space is None or started is None else f"{space}/{os.getpid()}/{started}"


def has_ended(name: str) -> bool:
    """Say whether a process has ended for certain. Of another machine's or container's nobody here can say that."""
    found = _NAME.fullmatch(name)
    if found is None or found["space"] != _space():
        return False
    process = int(found["id"])
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        # There is one, of another user, whose start may be hidden.
        pass
    started = _started(process)
    return started is not None and started != found["started"]


@cache
def _space() -> str | None:
    """Name what numbers of processes are unique in: one container, since the machine was started."""
    try:
        parts = (_PROC / "sys/kernel/random/boot_id").read_bytes(), bytes((_PROC / "self/ns/pid").readlink())
    except OSError:
        return None
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _started(process: int) -> str | None:
    """Say when a process started, in ticks since the machine did; `ended` once it has, also before it is reaped."""
    try:
        # Its second field is its name, in which anything may stand.
        fields = (_PROC / str(process) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return "ended" if fields[0] in {"Z", "X"} else fields[19]
