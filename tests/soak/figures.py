"""Count what was tried and what came of it, and write it down as a table."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

#: What is counted, in the order of the table, and what it means.
MEANINGS = {
    "schedules": "made-up schedules played step by step against the model",
    "lives": "authorizations told of over HTTP",
    "attempts": "deliveries attempted",
    "acknowledged": "deliveries acknowledged",
    "races": "lives of which everything was said at the same instant",
    "traps": "workers killed between a commit and its answer",
    "worker kills": "workers killed at any moment (SIGKILL)",
    "background kills": "the process that numbers and sends killed (SIGKILL), at any moment",
    "background traps": "… between two of its steps, such as a webhook's answer and its record",
    "service kills": "all processes of the service killed at once (SIGKILL)",
    "service stops": "the service stopped and started again (SIGTERM)",
    "database kills": "PostgreSQL shut down at once, or one of its processes killed",
    "failovers": "the primary's machine lost (SIGKILL), a standby promoted, the lost one back as a standby",
    "switchovers": "the primary shut down, a standby promoted in its place",
    "upgrades": "two machines of the release before replaced by this one, one by one, across a migration under load",
    "upgrade refusals": "… attempts that were answered 503 in those upgrades during which nothing else happened",
    "locks": "the database locked by somebody else, for seconds",
    "schedules without an end": "notifications that all eight attempts of Alipay did not bring in; a new schedule did",
    "calling lives": "authorizations for which the service makes the calls, with users who agree, decline and cancel",
    "calls": "… consults, exchanges, refreshes and revokes",
    "attempts at calls": "… requests to the pretend gateway, each of which may meet one of its faults",
    "call traps": "the process that makes calls killed between two of its steps, such as an answer and its record",
    "tokens given": "tokens that the pretend gateway gave",
    "late codes": "codes exchanged or told lost later than within their minute, since the service was down",
    "told": "events of the feed, each of which two endpoints have, or its code expired",
    "lost": "acknowledged, or given and answered, and not on record",
    "wrong": "on record twice, or otherwise than the lifecycle has it; or an answer that must not be",
    "secrets": "codes and tokens found in files, in logs or in what endpoints were sent",
}
Fault = Literal["lost", "wrong", "secrets"]
#: What must be nothing.
FAULTS: tuple[Fault, ...] = get_args(Fault)


@dataclass
class Figures:
    """What one run came to on one database."""

    counts: Counter[str] = field(default_factory=Counter)
    #: Whatever is wrong, in sentences.
    complaints: list[str] = field(default_factory=list)
    #: Where each is written at once, so that it outlives the run.
    file: Path | None = None

    def complain(self, fault: Fault, complaints: Iterable[str]) -> None:
        """Count faults, and keep each in a sentence."""
        for complaint in complaints:
            self.counts[fault] += 1
            self.complaints.append(complaint)
            if self.file is not None:
                with self.file.open("a", encoding="utf-8") as lines:
                    lines.write(f"{datetime.now(UTC).isoformat()} {fault}: {complaint}\n")

    def faults(self) -> int:
        return sum(self.counts[name] for name in FAULTS)


def table(runs: Mapping[str, Figures]) -> str:
    """Write the figures of each database beside each other, in Markdown."""
    lines = [f"| | {' | '.join(runs)} | |", f"|---|{'---:|' * len(runs)}---|"]
    for name, meaning in MEANINGS.items():
        counts = " | ".join(f"{run.counts[name]:,}" for run in runs.values())
        lines.append(f"| {name} | {counts} | {meaning} |")
    return "\n".join(lines) + "\n"
