"""Measure how many forged deliveries a second are refused with the quarantine and without it, in turns.

`python -m tests.flood [SECONDS]`: SQLite in a folder for temporary files, one process, one thread, no log.
"""

import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from cryptography.hazmat.primitives.asymmetric import rsa

from app.alipay.delivery import Delivery
from app.quarantine import Quarantine, Refused
from app.receiver import Receiver
from app.simulator.keys import SANDBOX_CLIENT_ID, make_sandbox
from app.wiring import Service
from tests.builders import a_signed_delivery, some_settings
from tests.conftest import migrate

_ROUNDS = 6


def measure(seconds: float) -> None:
    """Print the figures of each round, and the median of each way."""
    logging.getLogger("app").setLevel(logging.CRITICAL)
    forger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with tempfile.TemporaryDirectory() as folder:
        make_sandbox(Path(folder) / "keyring.toml")
        url = f"sqlite:///{folder}/notifyauth.db"
        migrate(url)
        service = Service(some_settings(url, Path(folder)))
        quarantine = Quarantine(service.database, service.vault)

        def drop(_: Refused) -> None:
            pass

        ways: dict[str, Callable[[Refused], None]] = {"without": drop, "with": quarantine.offer}
        floods = {
            "mismatch": a_signed_delivery(forger, client_id=SANDBOX_CLIENT_ID),
            "unknown client": a_signed_delivery(forger, client_id="made up"),
        }
        for kind, delivery in floods.items():
            found: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(_ROUNDS):
                for name, when_refused in ways.items():
                    receiver = Receiver(service.database, service.keyring, service.vault, when_refused=when_refused)
                    found[name].append(_refused_in(receiver, delivery, seconds) / seconds)
                    receiver.close()
            for name, rates in found.items():
                shown = " ".join(f"{rate:.0f}" for rate in rates)
                sys.stdout.write(f"{kind}, {name}: {median(rates):.0f} a second ({shown})\n")
        quarantine.close()
        service.database.close()


def _refused_in(receiver: Receiver, delivery: Delivery, seconds: float) -> int:
    count, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        receiver.receive_later(delivery)
        count += 1
    return count


if __name__ == "__main__":
    measure(float(sys.argv[1]) if len(sys.argv) > 1 else 2)
