"""Each question of support is answered by one command, and by one request to the API."""

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from app.authorization_search import Cursor, CursorError
from app.database import Database
from app.models import Authorization
from app.simulator.draft import authcode_created, token_canceled, token_created
from tests.integration.http_client import AUTHORIZATIONS, HttpClient, problem
from tests.integration.shell import Shell

NOW = datetime.now(UTC)


def listed(http: HttpClient, query: str) -> list[str]:
    """Read all pages, two authorizations on each."""
    states, cursor = list[str](), ""
    while True:
        page = http.get(f"{AUTHORIZATIONS}?{query}&limit=2{cursor}").get_json()
        states += [each["authState"] for each in page["authorizations"]]
        if page["nextCursor"] is None:
            return states
        cursor = f"&cursor={page['nextCursor']}"


def at_shell(shell: Shell, *arguments: str) -> list[str]:
    """Read all pages, two authorizations on each, with the cursor that the command tells."""
    states, cursor = list[str](), list[str]()
    while True:
        run = shell.run("authorizations", "list", *arguments, *cursor, "--limit", "2")
        assert run.exit_code == 0, run.output
        states += re.findall(r" (s-\w+)", run.stdout)
        if "--cursor" not in run.stderr:
            return states
        cursor = ["--cursor", run.stderr.split("--cursor ")[1].split(",")[0]]


def written(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


def activate(http: HttpClient, auth_state: str, *, wallet: str, ends_in: timedelta) -> None:
    document = http.consult(auth_state, customerBelongsTo=wallet, flow="direct")
    grant = {"accessToken": f"token of {auth_state}", "accessTokenExpiryTime": written(NOW + ends_in)}
    assert http.post(http.at(document, "tokens"), grant).status_code == 200


def shell_on(http: HttpClient) -> Shell:
    return Shell(http.app, http.keyring_path)


def test_users_of_one_wallet_whose_token_ends_within_ten_days(http: HttpClient) -> None:
    for number, days in enumerate((9, 3, 5, 30)):
        activate(http, f"s-{number}", wallet="GCASH", ends_in=timedelta(days=days))
    activate(http, "s-dana", wallet="DANA", ends_in=timedelta(days=1))
    activate(http, "s-ended", wallet="GCASH", ends_in=-timedelta(days=1))
    activate(http, "s-gone", wallet="GCASH", ends_in=timedelta(days=2))
    http.notify(token_canceled("token of s-gone"))
    before = written(NOW + timedelta(days=10))
    assert listed(http, f"customerBelongsTo=GCASH&expiresBefore={before}") == ["s-1", "s-2", "s-0"]
    assert listed(http, f"expiresBefore={before}") == ["s-dana", "s-1", "s-2", "s-0"]
    assert listed(http, f"expiresBefore={before}&state=canceled") == ["s-gone"]
    assert listed(http, f"expiresBefore={before}&expiresAfter=2020-01-01T00:00:00Z")[0] == "s-ended"
    assert at_shell(shell_on(http), "--wallet", "GCASH", "--expires-within", "10d") == ["s-1", "s-2", "s-0"]


def test_all_canceled_yesterday_with_their_reasons(http: HttpClient) -> None:
    for number in range(4):
        activate(http, f"s-{number}", wallet="GCASH", ends_in=timedelta(days=99))
    http.notify(token_canceled("token of s-0", "too dear"))
    http.notify(token_canceled("token of s-2", "\U0001f600 bye"))
    own = http.get(f"{AUTHORIZATIONS}?authState=s-1").get_json()["authorizations"][0]
    http.post(http.at(own, "canceled"), {"reason": "fraud"})
    window = f"state=canceled&updatedAfter={written(NOW)}&updatedBefore={written(NOW + timedelta(hours=1))}"
    assert listed(http, window) == ["s-1", "s-2", "s-0"]
    assert listed(http, f"{window}&order=oldest") == ["s-0", "s-2", "s-1"]
    assert listed(http, f"state=canceled&updatedBefore={written(NOW)}") == []
    # Without a state it is all that changed.
    assert listed(http, f"updatedAfter={written(NOW)}") == ["s-1", "s-2", "s-0", "s-3"]
    told = http.get(f"{AUTHORIZATIONS}?{window}&reasons=true").get_json()["authorizations"]
    why = {each["authState"]: each["cancellation"] for each in told}
    assert [why[each]["walletReason"] for each in ("s-0", "s-1", "s-2")] == ["too dear", None, "\U0001f600 bye"]
    assert (why["s-1"]["merchantReason"], why["s-1"]["by"], why["s-1"]["cause"]) == ("fraud", "shop", "api")
    shell = shell_on(http)
    assert at_shell(shell, "--canceled-since", "1d") == ["s-1", "s-2", "s-0"]
    shown = shell.ask("authorizations", "list", "--canceled-since", written(NOW), "--reasons")
    assert "too dear" in shown
    assert "api shop: fraud" in shown
    assert "too dear" not in shell.ask("authorizations", "list", "--canceled-since", written(NOW))
    rows = shell.json("authorizations", "list", "--canceled-since", "1d", "--reasons")
    assert rows[0]["cancellation"]["merchantReason"] == "fraud"
    assert at_shell(shell, "--canceled-before", "1d") == []
    assert shell.run("authorizations", "list", "--canceled-since", "1d", "--state", "consulted").exit_code == 2


def test_consults_older_than_a_day_without_a_code_oldest_first(http: HttpClient) -> None:
    for number, days in enumerate((2, 5, 3, 0)):
        add_consulted(http.service.database, f"s-{number}", NOW - timedelta(days=days))
    before = written(NOW - timedelta(days=1))
    query = f"state=consulted&createdBefore={before}&order=oldest"
    assert listed(http, query) == ["s-1", "s-2", "s-0"]
    assert listed(http, f"createdAfter={written(NOW - timedelta(days=4))}&createdBefore={before}") == ["s-0", "s-2"]
    arguments = ("--state", "consulted", "--created-before", "1d", "--oldest-first")
    assert at_shell(shell_on(http), *arguments) == ["s-1", "s-2", "s-0"]


def test_whose_a_parked_cancellation_is(http: HttpClient) -> None:
    http.notify(token_canceled("lost"))
    found = http.post("/v1/tokens/search", {"accessToken": "lost"}).get_json()
    assert [each["outcome"] for each in found["notifications"]] == ["parked"]
    assert found["authorizations"] == []
    http.consult("s-1")
    http.notify(authcode_created("s-1", "code-1"))
    http.notify(token_created("s-1", "lost"))
    found = http.post("/v1/tokens/search", {"accessToken": "lost"}).get_json()
    assert [each["authState"] for each in found["authorizations"]] == ["s-1"]
    assert {each["outcome"] for each in found["notifications"]} == {"applied"}
    assert '"lost"' not in http.post("/v1/tokens/search", {"accessToken": "lost"}).text
    none = http.post("/v1/tokens/search", {"accessToken": "never"}).get_json()
    assert none == {"authorizations": [], "notifications": []}
    assert http.post("/v1/tokens/search", {"accessToken": "lost", "clientId": "x"}).get_json() == none
    assert problem(http.post("/v1/tokens/search", {})) == (422, "invalid")


def test_which_of_our_keys_reported_it(http: HttpClient) -> None:
    http.consult("s-1")
    shown = shell_on(http).json("authorizations", "show", "s-1")
    assert shown["history"][0]["by"] == "shop"


def test_a_wallet_that_nobody_has_is_named(http: HttpClient) -> None:
    http.consult("s-1", customerBelongsTo="GCASH")
    refused = shell_on(http).run("authorizations", "list", "--wallet", "GCSH")
    assert (refused.exit_code, "Known are: GCASH" in refused.stderr) == (1, True)


def test_a_cursor_of_another_order_is_refused(http: HttpClient) -> None:
    for number in range(3):
        http.consult(f"s-{number}")
    by_id = http.get(f"{AUTHORIZATIONS}?limit=1").get_json()["nextCursor"]
    by_time = http.get(f"{AUTHORIZATIONS}?limit=1&updatedAfter=2020-01-01T00:00:00Z").get_json()["nextCursor"]
    for query in (f"cursor={by_time}", f"updatedAfter=2020-01-01T00:00:00Z&cursor={by_id}"):
        refused = http.get(f"{AUTHORIZATIONS}?{query}")
        assert problem(refused) == (422, "invalid")
        assert [each["field"] for each in refused.get_json()["errors"]] == ["cursor"]
    assert shell_on(http).run("authorizations", "list", "--cursor", by_time).exit_code == 2


@pytest.mark.parametrize("at", [None, NOW, datetime(1969, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_a_cursor_is_read_as_it_was_written(at: datetime | None) -> None:
    cursor = Cursor(UUID(int=5), at)
    assert Cursor.read(str(cursor)) == cursor


@pytest.mark.parametrize("written", ["", "x", "A" * 21, "A" * 22 + "==", "~" * 32, "A" * 64])
def test_what_no_listing_wrote_is_no_cursor(written: str) -> None:
    with pytest.raises(CursorError):
        Cursor.read(written)


def add_consulted(database: Database, auth_state: str, at: datetime) -> None:
    """Put a consult on record that was made then."""
    row = Authorization(
        id=UUID(int=(int(at.timestamp() * 1000) << 80) + 7),
        client_id="c",
        auth_state=auth_state,
        flow="auto_debit",
        state="consulted",
        version=0,
        created_at=at,
        updated_at=at,
    )
    database.run(lambda session: session.add(row))
