"""What tests know of the alerts: their rules, and what fires where the metrics go as a test says. Promtool judges."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT

ALERTS = ROOT / "alerts"
RULES = ALERTS / "notifyauth.rules.yml"

PROMTOOL = shutil.which("promtool")
with_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed: it comes with Prometheus")

#: A series by its name and labels.
SeriesKey = tuple[str, tuple[tuple[str, str], ...]]
Figures = Mapping[SeriesKey, float]

#: How long everything was in order before a trouble.
QUIET_MINUTES = 60


@cache
def rules() -> Mapping[str, Mapping[str, Any]]:
    """Every alert by its name."""
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    listed = [rule for group in document["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in listed}) == len(listed)
    return {rule["alert"]: rule for rule in listed}


def selectors(expression: str) -> list[tuple[str, dict[str, tuple[str, str]]]]:
    """Each metric of ours that an expression names, with its matchers: the operator and the value by label."""
    found = re.findall(r"\b(notifyauth_\w+)(?:\{([^}]*)\})?", expression)
    return [
        (name, {label: (how, value) for label, how, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', matchers)})
        for name, matchers in found
    ]


def figures_of(page: str) -> dict[SeriesKey, float]:
    """Every sample of ours on a page of metrics."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name.startswith("notifyauth_")
    }


@dataclass(frozen=True)
class Story:
    """An hour in which all is as it was in one scrape, and then a trouble that goes on as another scrape shows it.

    What was counted between the scrapes is counted again in each minute of the trouble. What stands still since the
    trouble began are the times that these metrics tell; all other times move on, as in a service that works.
    """

    before: Figures
    after: Figures
    scraped_at: float
    minutes: int = 30
    still: tuple[str, ...] = ()

    @property
    def ends_at(self) -> int:
        return QUIET_MINUTES + self.minutes

    def series(self) -> list[dict[str, str]]:
        """Write it as promtool reads it."""
        return [
            {"series": written(name, labels), "values": self._values(name, (name, labels))}
            for name, labels in sorted({*self.before, *self.after})
        ]

    def _values(self, name: str, key: SeriesKey) -> str:
        first, last = self.before.get(key), self.after.get(key)
        if name.endswith("_timestamp_seconds"):
            return " ".join([self._times(first, 0, name, moves=True), self._times(last, QUIET_MINUTES, name)])
        quiet = f"_x{QUIET_MINUTES}" if first is None else f"{first}x{QUIET_MINUTES - 1}"
        if last is None:
            return f"{quiet} stale"
        is_counted = re.search(r"_(total|bucket|count|sum)$", name) is not None
        step = last - (first or 0) if is_counted else 0.0
        return f"{quiet} {last}{'-' if step < 0 else '+'}{abs(step)}x{self.minutes}"

    def _times(self, value: float | None, minute: int, name: str, *, moves: bool = False) -> str:
        minutes = QUIET_MINUTES - 1 if moves else self.minutes
        if value is None:
            return "stale"
        if value == 0:
            return f"0x{minutes}"
        begins = value - self.scraped_at + minute * 60
        step = 60 if moves or name not in self.still else 0
        return f"{begins:.3f}+{step}x{minutes}".replace("+-", "-")


def written(name: str, labels: Iterable[tuple[str, str]]) -> str:
    """Write a series as PromQL does."""
    return name + "{" + ", ".join(f'{label}="{value}"' for label, value in labels) + "}"


def assert_fires(folder: Path, series: Sequence[Mapping[str, str]], expected: Iterable[str], *, minute: int) -> None:
    """Require that just these alerts fire at that minute."""
    samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(expected)]
    question = {
        "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{minute}m",
        "exp_samples": samples,
    }
    document = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": list(series), "promql_expr_test": [question]}],
    }
    path = folder / "story.yml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    promtool("test", "rules", path)


def promtool(*arguments: str | Path) -> None:
    """Let promtool check something, which has to be in order."""
    assert PROMTOOL is not None
    found = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert found.returncode == 0, found.stdout + found.stderr
