"""`flask events`: what was told to whom is listed and shown, and told again when somebody asks."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app import create_app
from app.events import deliveries, feed
from app.events.deliveries import Attempt, Status
from app.models import FeedEvent, OutboxEvent, WebhookDelivery
from app.simulator.draft import authcode_created, token_canceled, token_created
from app.simulator.listener import new_secret
from tests.builders import an_environ
from tests.integration.shell import Shell, run_flask_at_terminal
from tests.integration.stage import Stage

SECRET = new_secret()
#: Nobody listens there.
NOBODY = "http://127.0.0.1:1/hooks?key=secret"
ENDPOINTS = f"""
[endpoints.shop]
url = "{NOBODY}"
secrets = ["{SECRET}"]

[endpoints.books]
url = "http://127.0.0.1:1/books"
secrets = ["{SECRET}"]
types = ["authorization.canceled"]
"""
NO_EVENT = "0193b0de-0000-7000-8000-000000000000"


@pytest.fixture
def shell(database_url: str, keyring_path: Path, tmp_path: Path) -> Iterator[Shell]:
    """An operator of a service that tells two endpoints."""
    path = tmp_path / "endpoints.toml"
    path.write_text(ENDPOINTS)
    shell = Shell(create_app(an_environ(database_url, keyring_path, FLASK_ENDPOINTS=str(path))), keyring_path)
    yield shell
    shell.service.database.close()


def a_life(shell: Shell, auth_state: str = "s-1") -> None:
    shell.consult(auth_state)
    shell.notify(authcode_created(auth_state, f"code-{auth_state}"))
    shell.notify(token_created(auth_state, f"token-{auth_state}"))
    shell.notify(token_canceled(f"token-{auth_state}"))


def number(shell: Shell, *, told: bool = True, now: datetime | None = None) -> None:
    subscribers = shell.service.endpoints.subscribers if told else lambda _type: ()
    shell.service.database.run(partial(feed.number, subscribers=subscribers, now=now or datetime.now(UTC)))


def kinds(rows: Any) -> list[str]:  # noqa: ANN401 -- whatever the command prints
    return [row["type"].removeprefix("authorization.") for row in rows]


def all_deliveries(shell: Shell) -> list[WebhookDelivery]:
    statement = select(WebhookDelivery).order_by(WebhookDelivery.id)
    return shell.service.database.run(lambda session: list(session.scalars(statement)), read_only=True)


def conclude(shell: Shell, status: Status, *, error: str | None = None) -> None:
    """Let every delivery that is due end so."""

    def record(session: Session) -> None:
        due = session.scalars(select(WebhookDelivery).where(WebhookDelivery.status == Status.DUE)).all()
        now = datetime.now(UTC)
        code = 200 if error is None else 500
        attempts = [
            Attempt(each.id, each.attempts + 1, now, 12, code, error, "the answer \x1b", status, None, now)
            for each in due
        ]
        deliveries.record(session, attempts)

    shell.service.database.run(record)


# --- looking ---------------------------------------------------------------------------------------------------------


def test_events_are_listed_newest_first_and_as_the_feed_has_them(shell: Shell) -> None:
    a_life(shell)
    number(shell)
    newest_first = shell.json("events", "list")
    assert kinds(newest_first) == ["canceled", "token_active", "authcode_issued", "consulted"]
    assert newest_first[0]["data"]["authState"] == "s-1"
    assert shell.json("events", "list", "--after", "0") == newest_first[::-1]
    assert kinds(shell.json("events", "list", "--after", "2")) == ["token_active", "canceled"]


def test_a_listing_is_narrowed_by_type_and_auth_state(shell: Shell) -> None:
    a_life(shell, "s-1")
    a_life(shell, "s-2")
    number(shell)
    assert len(shell.json("events", "list")) == 8
    rows = shell.json("events", "list", "--auth-state", "s-1", "--type", "authorization.canceled")
    assert [(row["type"], row["data"]["authState"]) for row in rows] == [("authorization.canceled", "s-1")]
    assert shell.json("events", "list", "--auth-state", "s-9") == []
    assert shell.run("events", "list", "--type", "canceled").exit_code == 2


@pytest.mark.parametrize(("option", "last", "rest"), [("--cursor", "3", 2), ("--after", "2", 2)])
def test_a_listing_says_how_to_go_on(shell: Shell, option: str, last: str, rest: int) -> None:
    a_life(shell)
    number(shell)
    begin = ("--after", "0") if option == "--after" else ()
    result = shell.run("events", "list", "--limit", "2", *begin)
    assert f"Go on with {option} {last}," in result.stderr
    assert len(shell.json("events", "list", option, last)) == rest


def test_a_listing_goes_one_way_or_the_other(shell: Shell) -> None:
    result = shell.run("events", "list", "--after", "0", "--cursor", "3")
    assert (result.exit_code, "Give either --after or --cursor." in result.stderr) == (2, True)


def test_a_cursor_that_is_older_than_the_feed_or_newer_is_named(shell: Shell) -> None:
    a_life(shell)
    # With nobody to be told, so that all of it can be purged.
    shell.service.database.run(partial(feed.number, subscribers=lambda _: [], now=datetime.now(UTC)))
    assert shell.run("events", "list", "--after", "4").stderr == ""
    shell.service.database.run(partial(feed.purge, before=datetime.now(UTC) + timedelta(days=1)))
    said = "What came right after 2 is purged: the feed can be read on from 4."
    assert said in shell.run("events", "list", "--after", "2").stderr
    assert "This feed never had an event 9" in shell.run("events", "list", "--after", "9").stderr
    assert shell.run("events", "list", "--after", "0").stderr == ""
    assert shell.run("events", "list").stderr == ""


def test_what_no_worker_numbers_is_named(shell: Shell) -> None:
    shell.consult()
    assert shell.run("events", "list").stderr == ""
    long_ago = datetime.now(UTC) - timedelta(minutes=1)
    shell.service.database.run(lambda session: session.execute(update(OutboxEvent).values(at=long_ago)))
    assert "are not in the feed yet: no worker numbers them" in shell.run("events", "list").stderr


def test_show_has_the_deliveries_and_how_each_attempt_was_answered(shell: Shell) -> None:
    a_life(shell)
    number(shell)
    conclude(shell, Status.DEAD, error="It answered 500.")
    event_id = shell.json("events", "list")[0]["id"]
    document = shell.json("events", "show", event_id)
    assert {each["endpoint"] for each in document["deliveries"]} == {"shop", "books"}
    assert document["deliveries"][0]["attemptsMade"][0]["error"] == "It answered 500."
    shown = shell.ask("events", "show", event_id)
    for part in ("authorization.canceled", "s-1", "shop", "books", "dead", r"It answered 500. the answer"):
        assert part in shown
    assert "\x1b" not in shown


def test_an_event_that_nobody_is_told_of_is_shown(shell: Shell) -> None:
    shell.consult()
    number(shell, told=False)
    event_id = shell.json("events", "list")[0]["id"]
    assert shell.ask("events", "show", event_id).endswith("\nDeliveries\nnone\n")


@pytest.mark.parametrize("command", ["show", "resend"])
def test_an_event_that_is_not_there_is_refused(shell: Shell, command: str) -> None:
    result = shell.run("events", command, NO_EVENT)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"There is no event {NO_EVENT} in the feed" in result.stderr
    assert shell.run("events", command, "17").exit_code == 2


def test_no_code_token_or_secret_is_shown(shell: Shell) -> None:
    a_life(shell)
    number(shell)
    event_id = shell.json("events", "list", "--type", "authorization.authcode_issued")[0]["id"]
    shown = [
        shell.ask(*command, *options)
        for command in (("events", "list"), ("events", "show", event_id), ("endpoints", "list"))
        for options in ((), ("--json",))
    ]
    for secret in ("code-s-1", "token-s-1", SECRET, "key=secret"):
        assert not any(secret in each for each in shown)


# --- again -----------------------------------------------------------------------------------------------------------


def test_resend_makes_new_deliveries_and_leaves_the_old_ones(shell: Shell) -> None:
    a_life(shell)
    number(shell)
    conclude(shell, Status.DELIVERED)
    before = len(all_deliveries(shell))
    event_id = shell.json("events", "list")[0]["id"]
    said = shell.ask("events", "resend", event_id)
    assert len(said.splitlines()) == 2
    made = all_deliveries(shell)[before:]
    assert {(each.endpoint, each.status, each.attempts) for each in made} == {("shop", "due", 0), ("books", "due", 0)}
    shell.ask("events", "resend", event_id, "--endpoint", "books")
    assert [each.endpoint for each in all_deliveries(shell)[before + 2 :]] == ["books"]
    assert all(each.status == "delivered" for each in all_deliveries(shell)[:before])


def test_resend_of_a_code_that_has_expired_does_not_expire(shell: Shell) -> None:
    a_life(shell)
    number(shell)
    event_id = shell.json("events", "list", "--type", "authorization.authcode_issued")[0]["id"]
    shell.ask("events", "resend", event_id)
    assert all_deliveries(shell)[-1].expires_at is None


def test_resend_refuses_what_was_never_told_and_whom_nobody_knows(shell: Shell) -> None:
    shell.consult()
    number(shell)
    event_id = shell.json("events", "list")[0]["id"]
    never = shell.run("events", "resend", event_id, "--endpoint", "books")
    assert (never.exit_code, "was never told to endpoint books" in never.stderr) == (1, True)
    unknown = shell.run("events", "resend", event_id, "--endpoint", "shoop")
    assert unknown.exit_code == 1
    assert "endpoints.toml has no endpoint shoop. Known are: books, shop." in unknown.stderr
    shell.service.database.run(lambda session: session.execute(update(WebhookDelivery).values(endpoint="old")))
    assert "was told to no endpoint of endpoints.toml" in shell.run("events", "resend", event_id).stderr


LONG_AGO = "2026-01-01T00:00:00Z"


def test_recover_makes_what_was_not_got_and_is_not_to_be_got_anyway(shell: Shell) -> None:
    a_life(shell, "s-1")
    number(shell)
    conclude(shell, Status.DEAD, error="It answered 500.")
    a_life(shell, "s-2")
    number(shell)
    conclude(shell, Status.DELIVERED)
    a_life(shell, "s-3")
    number(shell)
    before = len(all_deliveries(shell))
    assert shell.ask("events", "recover", "--since", LONG_AGO) == "Made 5 new deliveries: books 1, shop 4.\n"
    made = all_deliveries(shell)[before:]
    assert [(each.position, each.endpoint) for each in made] == [
        (1, "shop"),
        (2, "shop"),
        (3, "shop"),
        (4, "shop"),
        (4, "books"),
    ]
    assert [each.expires_at is not None for each in made] == [False, True, False, False, False]
    assert shell.ask("events", "recover", "--since", LONG_AGO) == "Made 0 new deliveries.\n"


def test_recover_tells_a_new_endpoint_what_it_takes(shell: Shell) -> None:
    a_life(shell)
    number(shell, told=False)
    assert shell.ask("events", "recover", "--since", LONG_AGO, "--endpoint", "books") == (
        "Made 1 new delivery: books 1.\n"
    )


def test_recover_leaves_out_codes_that_have_expired_and_says_so(shell: Shell) -> None:
    a_life(shell)
    number(shell, told=False)
    past = datetime.now(UTC) - timedelta(seconds=1)
    has_code = FeedEvent.expires_at.is_not(None)
    shell.service.database.run(
        lambda session: session.execute(update(FeedEvent).where(has_code).values(expires_at=past))
    )
    assert shell.ask("events", "recover", "--since", LONG_AGO, "--endpoint", "shop").splitlines() == [
        "Made 3 new deliveries: shop 3.",
        "1 was left out, since its code has expired.",
    ]


def test_recover_begins_at_its_time(shell: Shell) -> None:
    shell.consult("s-1")
    number(shell, told=False, now=datetime.now(UTC) - timedelta(hours=2))
    shell.consult("s-2")
    number(shell, told=False)
    since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    assert shell.ask("events", "recover", "--since", since) == "Made 1 new delivery: shop 1.\n"
    assert all_deliveries(shell)[0].position == 2


@pytest.mark.parametrize(
    "arguments", [[], ["--since", "yesterday"], ["--since", "2026-01-01T00:00:00"], ["--since", ""]]
)
def test_recover_needs_a_time_with_its_zone(shell: Shell, arguments: list[str]) -> None:
    assert shell.run("events", "recover", *arguments).exit_code == 2


def test_recovery_goes_batch_by_batch(stage: Stage) -> None:
    for auth_state in range(5):
        stage.consult(f"s-{auth_state}")
        stage.database.run(partial(feed.number, subscribers=lambda _type: [], now=stage.clock()))
        stage.clock.forward(seconds=1)
    after, looked_at = None, []
    while True:
        step = partial(deliveries.recover, since=stage.clock() - timedelta(days=1), now=stage.clock(), limit=2)
        batch = stage.database.run(partial(step, subscribers=lambda _type: ["shop"], after=after))
        if batch.up_to is None:
            break
        looked_at.append((batch.looked_at, batch.made["shop"]))
        after = batch.up_to
    assert looked_at == [(2, 2), (2, 2), (1, 1)]


# --- purging ---------------------------------------------------------------------------------------------------------


def test_purge_takes_what_is_old_and_told(shell: Shell) -> None:
    a_life(shell, "s-1")
    number(shell, now=datetime.now(UTC) - timedelta(days=31))
    conclude(shell, Status.DELIVERED)
    a_life(shell, "s-2")
    number(shell)
    assert shell.ask("events", "purge", "--yes") == "Purged 4.\n"
    assert len(shell.json("events", "list")) == 4
    assert len(shell.json("authorizations", "show", "s-1")["history"]) == 4


def test_purge_leaves_what_is_still_to_be_told(shell: Shell) -> None:
    a_life(shell)
    number(shell, now=datetime.now(UTC) - timedelta(days=31))
    assert shell.ask("events", "purge", "--older-than", "30d", "--yes") == "Purged 0.\n"


@pytest.mark.parametrize("age", ["47h", "1d", "0w"])
def test_purge_keeps_what_a_reader_of_the_feed_may_not_have_read(shell: Shell, age: str) -> None:
    result = shell.run("events", "purge", "--older-than", age, "--yes")
    assert (result.exit_code, "two days" in result.stderr) == (2, True)


@pytest.mark.parametrize("stdin", [b"", b"y\n"], ids=["nothing", "a yes in a pipe"])
def test_purge_without_a_terminal_needs_a_yes_among_its_options(shell: Shell, stdin: bytes) -> None:
    result = shell.run("events", "purge", stdin=stdin)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Nothing was done: there is no terminal to ask at. Add --yes to do it without." in result.stderr


def test_purge_asks_first_at_a_terminal(sqlite_url: str, keyring_path: Path) -> None:
    environ = an_environ(sqlite_url, keyring_path)
    question = b"[y/N]: "
    assert "Purged" not in run_flask_at_terminal("events", "purge", environ=environ, answers={question: b"n"})
    assert "Purged 0." in run_flask_at_terminal("events", "purge", environ=environ, answers={question: b"y"})


# --- endpoints -------------------------------------------------------------------------------------------------------


def test_test_says_how_the_endpoint_answered_and_stores_nothing(shell: Shell) -> None:
    result = shell.run("events", "test", "shop")
    assert (result.exit_code, result.stdout.split(" That took")[0]) == (1, "It refused the connection.")
    assert json.loads(shell.run("events", "test", "shop", "--json").stdout)["httpStatus"] is None
    assert shell.run("events", "test", "nobody").exit_code == 1
    assert all_deliveries(shell) == []


def test_endpoints_are_listed_with_what_is_still_to_be_sent(shell: Shell) -> None:
    a_life(shell)
    number(shell)
    rows = shell.json("endpoints", "list")
    assert [(row["id"], row["due"], row["secrets"]) for row in rows] == [("shop", 4, 1), ("books", 1, 1)]
    assert rows[0]["url"] == "http://127.0.0.1:1/hooks?***"
    assert "authorization.canceled" in shell.ask("endpoints", "list")


def test_check_names_what_keeps_an_endpoint_from_being_told(shell: Shell) -> None:
    a_life(shell)
    number(shell)
    conclude(shell, Status.DUE, error="It answered 500.")
    result = shell.run("endpoints", "check")
    assert result.exit_code == 1
    assert "no worker sends to it" in result.stdout
    assert "4 deliveries are to be sent again" in result.stdout
    assert "It answered 500" in result.stdout


def test_check_names_deliveries_to_an_endpoint_that_is_configured_no_more(shell: Shell) -> None:
    a_life(shell)
    number(shell)
    shell.service.database.run(lambda session: session.execute(update(WebhookDelivery).values(endpoint="old")))
    assert "old: 5 deliveries are to be sent to it, and endpoints.toml does not name it." in (
        shell.run("endpoints", "check").stdout
    )


def test_check_says_which_host_does_not_resolve(shell: Shell) -> None:
    path = shell.service.settings.endpoints_path
    assert path is not None
    path.write_text(ENDPOINTS.replace("127.0.0.1:1/books", "nowhere.invalid/"))
    assert "its host nowhere.invalid cannot be resolved" in shell.run("endpoints", "check").stdout


def test_check_is_content_where_nobody_is_told(shell: Shell) -> None:
    path = shell.service.settings.endpoints_path
    assert path is not None
    path.write_text("")
    assert shell.ask("endpoints", "check") == f"Nobody is told of events: {path} names no endpoint.\n"


@pytest.mark.parametrize("command", [("endpoints", "check"), ("endpoints", "list"), ("events", "test", "shop")])
def test_endpoints_that_cannot_be_used_are_a_usage_error_without_their_secrets(
    shell: Shell, command: tuple[str, ...]
) -> None:
    path = shell.service.settings.endpoints_path
    assert path is not None
    path.write_text(ENDPOINTS.replace("types", "typos"))
    result = shell.run(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "has an unknown setting typos" in result.stderr
    assert SECRET not in result.stderr
