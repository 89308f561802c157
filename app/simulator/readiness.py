"""Waits until a service that was started as a process of its own answers that it is ready."""

import subprocess
import time
from http import HTTPStatus

import urllib3

_PAUSE_SECONDS = 0.1
_ANSWER_SECONDS_MAX = 2


def gets_ready(process: subprocess.Popen[bytes], url: str, *, seconds_max: float) -> bool:
    """Say whether the service answers 200 at its `/readyz` in time, before its process ends."""
    deadline = time.monotonic() + seconds_max
    with urllib3.PoolManager(retries=False, timeout=_ANSWER_SECONDS_MAX) as http:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if http.request("GET", url).status == HTTPStatus.OK:
                    return True
            except urllib3.exceptions.HTTPError:
                pass
            time.sleep(_PAUSE_SECONDS)
    return False
