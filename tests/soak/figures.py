"""Count what was tried and what came of it, and write it down as a table."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

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
#: What must be nothing.
FAULTS = ("lost", "wrong", "secrets")


@dataclass
class Figures:
    """What one run came to on one database."""

    counts: Counter[str] = field(default_factory=Counter)
    #: Whatever is wrong, in sentences.
    complaints: list[str] = field(default_factory=list)

    def faults(self) -> int:
        return sum(self.counts[name] for name in FAULTS)


def table(runs: Mapping[str, Figures]) -> str:
    """Write the figures of each database beside each other, in Markdown."""
    lines = [f"| | {' | '.join(runs)} | |", f"|---|{'---:|' * len(runs)}---|"]
    for name, meaning in MEANINGS.items():
        counts = " | ".join(f"{run.counts[name]:,}" for run in runs.values())
        lines.append(f"| {name} | {counts} | {meaning} |")
    return "\n".join(lines) + "\n"
