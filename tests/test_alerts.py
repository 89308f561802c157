"""The alerts and the dashboard in `alerts/`: each parses, names what there is, and fires just beyond its threshold."""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from app import create_app
from app.counters import Memory
from app.vocabulary import CallKind
from tests.alerting import ALERTS, RULES, assert_fires, figures_of, promtool, rules, selectors, with_promtool
from tests.builders import an_environ
from tests.conftest import ROOT
from tests.integration.http_client import API_KEY, HttpClient
from tests.readme import anchors

DASHBOARD = ALERTS / "grafana.json"
#: A row of panels is so wide.
GRID_WIDTH = 24
#: The labels that are put on by Prometheus, not by us.
OF_PROMETHEUS = {"instance", "job", "le"}

each_alert = pytest.mark.parametrize("name", rules())


# --- what they say ---


@with_promtool
def test_the_rules_parse() -> None:
    promtool("check", "rules", RULES)


@each_alert
def test_an_alert_says_what_it_is_about_and_leads_to_its_runbook(name: str) -> None:
    rule = rules()[name]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert re.fullmatch(r"\d+[mhd]", rule["for"])
    assert rule["annotations"]["summary"]
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert anchor == name.lower()
    assert anchor in anchors(ROOT / page)


@each_alert
def test_a_runbook_says_what_it_means_what_to_look_at_and_what_to_do(name: str) -> None:
    page = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
    section = re.search(rf"^### {name}\n\n(.+?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    assert section is not None
    meaning, look, do, *_ = [line for line in section[1].splitlines() if line]
    assert not meaning.startswith("- ")
    assert look.startswith("- **Look:** ")
    assert do.startswith("- **Do:** ")


def test_every_runbook_belongs_to_an_alert() -> None:
    page = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### (.+)$", page, re.MULTILINE)) == set(rules())


# --- the names ---


@pytest.fixture
def shown(sqlite_url: str, keyring_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that /metrics shows from the start, each with the values of its labels."""
    monkeypatch.setattr("app.metrics._memory", Memory())
    endpoints = tmp_path / "endpoints.toml"
    endpoints.write_text(
        '[endpoints.shop]\nurl = "http://127.0.0.1:9/"\nsecrets = ["whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"]\n'
    )
    environ = an_environ(sqlite_url, keyring_path, FLASK_API_KEYS=f"shop={API_KEY}", FLASK_ENDPOINTS=str(endpoints))
    http = HttpClient(create_app(environ), keyring_path)
    found: dict[str, dict[str, set[str]]] = {}
    for name, labels in figures_of(http.get("/metrics").text):
        values = found.setdefault(name, {})
        for label, value in labels:
            values.setdefault(label, set()).add(value)
    http.service.database.close()
    return found


def assert_names_exist(expression: str, shown: Mapping[str, Mapping[str, set[str]]]) -> None:
    named = selectors(expression)
    assert named
    for name, matchers in named:
        assert name in shown, expression
        for label, (how, value) in matchers.items():
            assert label in shown[name], expression
            if "$" in value:
                continue
            wanted = value.split("|") if how.endswith("~") else [value]
            assert set(wanted) <= shown[name][label], expression
    groups = {label for each in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in re.split(r",\s*", each)}
    assert groups - OF_PROMETHEUS <= {label for name, _ in named for label in shown[name]}, expression


def test_every_metric_and_label_of_an_alert_is_shown_from_the_start(shown: dict[str, Any]) -> None:
    for rule in rules().values():
        assert_names_exist(rule["expr"], shown)
        labels = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert labels <= {label for name, _ in selectors(rule["expr"]) for label in shown[name]}


# --- the dashboard ---


@cache
def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return document


def panels() -> list[dict[str, Any]]:
    """Every panel but the headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def test_every_metric_and_label_of_the_dashboard_is_shown_from_the_start(shown: dict[str, Any]) -> None:
    for panel in panels():
        for target in panel["targets"]:
            assert_names_exist(target["expr"], shown)
            groups = {label for each in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in each.split(", ")}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= groups


def test_every_metric_is_on_the_dashboard(shown: dict[str, Any]) -> None:
    expressions = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    counted = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in shown}
    assert {name for name in counted if not re.search(rf"\b{name}(_bucket)?\b", expressions)} == set()


@with_promtool
def test_every_expression_of_the_dashboard_parses(tmp_path: Path) -> None:
    """A dashboard's expression is a rule's, once Grafana has put in the interval."""
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    expressions += [each["expr"] for each in dashboard()["annotations"]["list"]]
    rules = [
        {"record": f"panel:{number}", "expr": each.replace("$__rate_interval", "5m")}
        for number, each in enumerate(expressions)
    ]
    path = tmp_path / "dashboard.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    promtool("check", "rules", path)


def test_the_panels_lie_side_by_side_and_each_asks_the_chosen_prometheus() -> None:
    """Grafana itself is not at hand here: this is what it would complain about, or show one above the other."""
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < GRID_WIDTH
        taken |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)
    (variable,) = dashboard()["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels():
        assert panel["title"]
        assert all(each["datasource"] == source for each in (panel, *panel["targets"]))
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


# --- the thresholds ---


class Threshold(NamedTuple):
    """Series with which an alert fires, and such that are just in order, as promtool reads them."""

    fires: Mapping[str, str]
    quiet: Mapping[str, str]
    #: When it is looked.
    minute: int = 60
    #: What fires with it.
    also: tuple[str, ...] = ()


def gauge(series: str, fires: float, quiet: float, *, minute: int = 60) -> Threshold:
    """A figure that is beyond the threshold, or on it."""
    return Threshold({series: f"{fires}x{minute + 1}"}, {series: f"{quiet}x{minute + 1}"}, minute)


def rise(series: str, *, other: str | None = None) -> Threshold:
    """A count that rises once; what is in order is one that stands, or another that rises."""
    return Threshold({series: "0x50 1x20"}, {series: "1x70", **({} if other is None else {other: "0x50 1x20"})})


def condition(name: str) -> Threshold:
    return gauge(f'notifyauth_database_condition{{condition="{name}"}}', 1, 0)


def parked(reason: str) -> Threshold:
    series = f'notifyauth_parked_entries_by_age{{reason="{reason}",older_than="%s"}}'
    return Threshold({series % "1h": "1x70"}, {series % "1h": "0x70", series % "10m": "1x70"})


def differ(name: str, label: str, *, minutes: int) -> Threshold:
    """Two machines of which one is changed and the other is not, or only later: while all are reloaded."""
    series = f'{name}{{instance="%s",{label}="%s"}}'
    changed = {series % ("a", "old"): "1x10 stale", series % ("a", "new"): f"_x11 1x{minutes + 20}"}
    late = {series % ("b", "old"): f"1x{minutes} stale", series % ("b", "new"): f"_x{minutes + 1} 1x20"}
    return Threshold(changed | {series % ("b", "old"): f"1x{minutes + 20}"}, changed | late, minute=minutes + 15)


def call(kind: str) -> Threshold:
    series = f'notifyauth_calls_total{{kind="{kind}",outcome="%s"}}'
    return Threshold({series % "undetermined": "0x50 1x20"}, {series % "failed": "1x70", series % "done": "0+1x70"})


def slow(name: str, slow_from: str, quick_to: str) -> Threshold:
    """A histogram of which every observation is in one bucket."""

    def all_in(first: str) -> dict[str, str]:
        bounds = [slow_from, quick_to, "+Inf"] if float(quick_to) > float(slow_from) else [quick_to, slow_from, "+Inf"]
        is_in = False
        series = {}
        for bound in bounds:
            is_in = is_in or bound == first
            series[f'{name}_bucket{{le="{bound}"}}'] = "0+1x70" if is_in else "0x70"
        return series

    return Threshold(all_in(slow_from), all_in(quick_to))


VERIFIED = 'notifyauth_last_verified_timestamp_seconds{client_id="c"}'
REFUSED = 'notifyauth_signature_failures_total{client_id="%s",cause="mismatch"}'
ATTEMPTS = 'notifyauth_call_attempts_total{kind="consult",outcome="%s"}'

THRESHOLDS: Mapping[str, Threshold] = {
    "NotifyauthAbsent": Threshold({}, {}),
    "NotifyauthNotReady": gauge("notifyauth_ready", 0, 1),
    "NotifyauthDatabaseCannotWork": condition("not_writable"),
    "NotifyauthUnsafeDurability": condition("unsafe_durability"),
    "NotifyauthStandbyMissing": condition("standby_missing"),
    "NotifyauthNewerSchema": Threshold(
        {'notifyauth_database_condition{condition="newer_schema"}': "1x1500"},
        # An upgrade takes its time.
        {'notifyauth_database_condition{condition="newer_schema"}': "1x1000 0x500"},
        minute=1450,
    ),
    "NotifyauthKeyringsDiffer": differ("notifyauth_keyring_info", "digest", minutes=15),
    "NotifyauthVaultKeysDiffer": differ("notifyauth_vault_info", "key_id", minutes=60),
    "NotifyauthUnavailable": Threshold(
        {'notifyauth_deliveries_total{status="503"}': "0+1x70"},
        # A failover of two minutes.
        {'notifyauth_deliveries_total{status="503"}': "0x50 1 2 2x20"},
    ),
    "NotifyauthBroken": rise(
        'notifyauth_refused_requests_total{where="notify",status="500"}',
        other='notifyauth_refused_requests_total{where="elsewhere",status="404"}',
    ),
    "NotifyauthSlow": slow("notifyauth_delivery_seconds", "2.5", "1"),
    "NotifyauthApiRefused": Threshold(
        {'notifyauth_refused_requests_total{where="api",status="401"}': "0+1x70"},
        {
            'notifyauth_refused_requests_total{where="api",status="401"}': "0+0.5x70",
            'notifyauth_refused_requests_total{where="elsewhere",status="401"}': "0+9x70",
            'notifyauth_refused_requests_total{where="api",status="404"}': "0+9x70",
        },
    ),
    "NotifyauthLogLinesDropped": rise("notifyauth_log_lines_dropped_total"),
    "NotifyauthMaintenanceStopped": Threshold(
        {'notifyauth_last_run_timestamp_seconds{maintenance="verify"}': "-172800x80"},
        {
            'notifyauth_last_run_timestamp_seconds{maintenance="verify"}': "-168000x80",
            'notifyauth_last_run_timestamp_seconds{maintenance="reseal"}': "-999999x80",
        },
        minute=65,
    ),
    "NotifyauthNothingVerified": Threshold(
        # Later than the restart that made it 0.
        {VERIFIED: "60x100 0x400"},
        {VERIFIED: "7200x100 0x320"},
        minute=400,
    ),
    "NotifyauthAllSignaturesFail": Threshold(
        {REFUSED % "c": "0+1x70", VERIFIED: "60x70"},
        # Both come: a stranger sends what is forged.
        {REFUSED % "unknown": "0x70", REFUSED % "c": "5x70", VERIFIED: "60x70"},
        also=("NotifyauthSignatureFails",),
    ),
    "NotifyauthSignatureFails": rise(REFUSED % "c", other=VERIFIED),
    "NotifyauthUnknownClient": rise('notifyauth_signature_failures_total{client_id="unknown",cause="unknown_client"}'),
    "NotifyauthMisdirected": rise('notifyauth_misdirected_deliveries_total{status="404"}'),
    "NotifyauthMalformed": rise(
        'notifyauth_notifications_total{type="other",outcome="malformed"}',
        other='notifyauth_notifications_total{type="other",outcome="rejected"}',
    ),
    "NotifyauthFailed": gauge("notifyauth_failed_entries", 1, 0),
    "NotifyauthConsultNotReported": parked("unknown_auth_state"),
    "NotifyauthTokenNotReported": parked("unknown_token"),
    "NotifyauthEarly": parked("early"),
    "NotifyauthUnknownType": gauge('notifyauth_parked_entries{reason="unknown_type"}', 1, 0),
    "NotifyauthNoWorker": Threshold(
        {"notifyauth_worker_last_seen_timestamp_seconds": "0+60x50 3000x20"},
        # Seen by one of two machines that are scraped.
        {
            'notifyauth_worker_last_seen_timestamp_seconds{instance="a"}': "0+60x70",
            'notifyauth_worker_last_seen_timestamp_seconds{instance="b"}': "0x70",
        },
    ),
    "NotifyauthEventsNotNumbered": gauge("notifyauth_events_not_numbered_oldest_seconds", 10.1, 10),
    "NotifyauthEventRefused": rise("notifyauth_events_refused_total"),
    "NotifyauthEndpointFailing": gauge('notifyauth_endpoint_failing{endpoint="shop"}', 1, 0),
    "NotifyauthToldLate": gauge('notifyauth_webhooks_due_oldest_seconds{endpoint="shop"}', 60.1, 60),
    "NotifyauthDeliveriesDead": Threshold(
        {'notifyauth_webhooks_dead{endpoint="shop"}': "3x50 4x20"},
        # A purge.
        {'notifyauth_webhooks_dead{endpoint="shop"}': "4x50 3x20"},
    ),
    "NotifyauthCodesExpire": rise(
        'notifyauth_webhook_attempts_total{endpoint="shop",outcome="expired"}',
        other='notifyauth_webhook_attempts_total{endpoint="shop",outcome="failed"}',
    ),
    "NotifyauthCodesToldLate": slow("notifyauth_code_told_seconds", "20", "10"),
    "NotifyauthCallsLate": gauge("notifyauth_calls_due_oldest_seconds", 10.1, 10),
    "NotifyauthExchangeFailed": call(CallKind.EXCHANGE),
    "NotifyauthExchangeSlow": slow("notifyauth_code_to_token_seconds", "20", "10"),
    "NotifyauthRefreshFailed": call(CallKind.REFRESH),
    "NotifyauthRevokeFailed": call(CallKind.REVOKE),
    "NotifyauthConsultFailed": Threshold(
        {'notifyauth_calls_total{kind="consult",outcome="failed"}': "0+1x70"},
        # A user whose wallet is not the one that was named.
        {'notifyauth_calls_total{kind="consult",outcome="failed"}': "0x50 1 2 2x20"},
    ),
    "NotifyauthGatewayUnanswered": Threshold(
        {ATTEMPTS % "unknown": "0+2x70", ATTEMPTS % "done": "0+1x70"},
        {ATTEMPTS % "unknown": "0+1x70", ATTEMPTS % "done": "0+1x70"},
    ),
    "NotifyauthTokensEnd": Threshold(
        {'notifyauth_tokens_ending{within="7d"}': "1x130"},
        # The hour in which it is refreshed.
        {'notifyauth_tokens_ending{within="7d"}': "0x60 1x50 0x20"},
        minute=125,
    ),
}

#: That the service answers at all.
PRESENT = {"series": "notifyauth_build_info", "values": "1x1600"}


def series_of(said: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"series": series, "values": values} for series, values in said.items()]


@with_promtool
@each_alert
def test_an_alert_fires_beyond_its_threshold(name: str, tmp_path: Path) -> None:
    threshold = THRESHOLDS[name]
    series = series_of(threshold.fires) + [PRESENT] * (name != "NotifyauthAbsent")
    assert_fires(tmp_path, series, {name, *threshold.also}, minute=threshold.minute)


@with_promtool
@each_alert
def test_an_alert_is_quiet_on_its_threshold(name: str, tmp_path: Path) -> None:
    threshold = THRESHOLDS[name]
    assert_fires(tmp_path, [*series_of(threshold.quiet), PRESENT], (), minute=threshold.minute)


@with_promtool
def test_after_a_restart_what_was_verified_before_it_counts(tmp_path: Path) -> None:
    """The time of the last one begins with 0 again; what a stranger sends does not make it the first that fails."""
    series = [*series_of({REFUSED % "c": "0+1x70", VERIFIED: "3000x52 0x20"}), PRESENT]
    assert_fires(tmp_path, series, {"NotifyauthSignatureFails"}, minute=65)
    assert_fires(tmp_path, series, {"NotifyauthSignatureFails"}, minute=78)
    longer = [*series_of({REFUSED % "c": "0+1x99", VERIFIED: "3000x52 0x50"}), PRESENT]
    assert_fires(tmp_path, longer, {"NotifyauthSignatureFails", "NotifyauthAllSignaturesFail"}, minute=90)
