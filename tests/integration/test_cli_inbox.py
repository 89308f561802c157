"""`flask inbox`: what was kept, why it ended so, and how it is delivered, processed again and purged."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from app import create_app
from app.alipay.delivery import BODY_BYTES_MAX
from app.config import DEFAULT_NOTIFY_PATH
from app.models import InboxEntry
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from tests.builders import a_genuine_delivery, a_raw_request, an_environ
from tests.integration.shell import Shell


def change(shell: Shell, entry_id: str, **values: object) -> None:
    """Change a stored entry, as time or a broken version would."""

    def work(session: Session) -> None:
        session.execute(update(InboxEntry).where(InboxEntry.id == int(entry_id)).values(values))

    shell.service.database.run(work)


def consult(shell: Shell, auth_state: str = "s-1", flow: str = "auto_debit") -> None:
    shell.ask("authorizations", "consult", auth_state, "--flow", flow)


# --- list ------------------------------------------------------------------------------------------------------------


def test_list_narrows_by_outcome_type_and_auth_state(shell: Shell) -> None:
    consult(shell)
    applied = shell.notify(authcode_created("s-1", "code-1"))
    parked = shell.notify(token_created("s-2", "token-1"))

    def listed(*options: str) -> list[str]:
        return [row["id"] for row in shell.json("inbox", "list", *options)]

    assert listed() == [parked, applied]
    assert listed("--outcome", "parked") == [parked]
    assert listed("--type", "AUTHCODE_CREATED") == [applied]
    assert listed("--auth-state", "s-2") == [parked]
    assert listed("--limit", "1") == [parked]


def test_list_needs_no_keyring(shell: Shell, database_url: str, tmp_path: Path) -> None:
    shell.notify(authcode_created("s-1", "code-1"))
    settings = shell.service.settings
    without = create_app(an_environ(database_url, tmp_path / "none.toml"))
    without.extensions["notifyauth"].settings = replace(settings, keyring_path=tmp_path / "none.toml")
    result = without.test_cli_runner().invoke(args=["inbox", "list"])
    without.extensions["notifyauth"].database.close()
    assert result.exit_code == 0
    assert "parked: unknown_auth_state" in result.stdout


def test_list_narrows_by_reason_goes_on_after_a_cursor_and_begins_with_the_oldest(shell: Shell) -> None:
    first, second = (shell.notify(token_canceled(f"token-{number}")) for number in range(2))
    third = shell.notify(authcode_created("s-1", "code-1"))
    last = shell.notify(token_canceled("token-3"))

    def listed(*options: str) -> list[str]:
        return [row["id"] for row in shell.json("inbox", "list", *options)]

    assert listed("--reason", "unknown_token") == [last, second, first]
    assert listed("--reason", "unknown_token", "--cursor", last) == [second, first]
    assert listed("--oldest-first") == [first, second, third, last]
    assert listed("--oldest-first", "--cursor", second, "--limit", "1") == [third]


def test_a_listing_that_does_not_show_everything_says_how_to_go_on(shell: Shell) -> None:
    for number in range(3):
        shell.notify(token_canceled(f"token-{number}"))
    result = shell.run("inbox", "list", "--limit", "2", "--json")
    assert result.stderr == "Only 2 are shown: there are more. Go on with --cursor 2, or see --limit.\n"
    assert [row["id"] for row in shell.json("inbox", "list", "--cursor", "2")] == ["1"]


def test_a_slip_in_a_filter_is_no_empty_list(shell: Shell) -> None:
    """A known value that nothing has is one; so is an authState, of which nobody has a list."""
    shell.notify(Draft("TOKEN_PAUSED"))
    for filters in (("--type", "TOKEN_CANCELED"), ("--reason", "early"), ("--auth-state", "s-1")):
        assert shell.json("inbox", "list", *filters) == []
    for filters, known in (
        (("--type", "TOKEN_CANCELLED"), "AUTHCODE_CREATED, TOKEN_CANCELED, TOKEN_CREATED, TOKEN_PAUSED"),
        (("--reason", "erly"), "already_known, contradiction, early, "),
    ):
        result = shell.run("inbox", "list", *filters)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"Error: Nothing on record has {' '.join(filters)}. Known are: {known}")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("show", "abc"), "abc is not the ID of an entry, a number such as 17."),
        (("show", "0"), "0 is not the ID of an entry, a number such as 17."),
        (("show", "9" * 5000), "999… is not the ID of an entry, a number such as 17."),
        (("process", "1", "x"), "x is not the ID of an entry, a number such as 17."),
        (("list", "--cursor", "-1"), "-1 is not the ID of an entry, a number such as 17."),
        (("list", "--limit", "1001"), "1001 is not a number from 1 to 1000."),
        (("list", "--limit", "many"), "many is not a number from 1 to 1000."),
    ],
)
def test_what_is_no_number_is_a_usage_error_that_says_what_is_wanted(
    shell: Shell, arguments: tuple[str, ...], sentence: str
) -> None:
    result = shell.run("inbox", *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert "range" not in result.stderr


# --- show ------------------------------------------------------------------------------------------------------------


def applied(shell: Shell) -> str:
    consult(shell)
    return shell.notify(authcode_created("s-1", "secret-1"))


def known_code(shell: Shell) -> str:
    consult(shell)
    shell.ask("authorizations", "record", "authcode", "s-1", stdin="secret-1")
    return shell.notify(authcode_created("s-1", "secret-1"))


def known_token(shell: Shell) -> str:
    with_token(shell)
    return shell.notify(token_created("s-1", "secret-1"))


def canceled_twice(shell: Shell) -> str:
    with_token(shell)
    shell.ask("authorizations", "record", "canceled", "s-1")
    return shell.notify(token_canceled("secret-1"))


def superseded(shell: Shell) -> str:
    with_token(shell)
    refresh = json.dumps({"accessToken": "secret-2", "replaces": "secret-1"})
    shell.ask("authorizations", "record", "token", "s-1", stdin=refresh)
    return shell.notify(token_canceled("secret-1"))


def unknown_auth_state(shell: Shell) -> str:
    return shell.notify(authcode_created("s-1", "secret-1"))


def second_code(shell: Shell) -> str:
    consult(shell)
    shell.notify(authcode_created("s-1", "secret-1"))
    return shell.notify(authcode_created("s-1", "secret-2"))


def half_a_character(shell: Shell) -> str:
    return shell.notify(authcode_created("s-?", "secret-1").body().replace(b"?", rb"\ud800"))


def wrong_default_flow(shell: Shell) -> str:
    shell.ask("authorizations", "consult", "s-1")
    return shell.notify(token_created("s-1", "secret-1"))


def unknown_token(shell: Shell) -> str:
    return shell.notify(token_canceled("secret-1"))


def early(shell: Shell) -> str:
    consult(shell)
    return shell.notify(token_created("s-1", "secret-1"))


def unknown_type(shell: Shell) -> str:
    return shell.notify(Draft("TOKEN_PAUSED"))


def illegal(shell: Shell) -> str:
    with_token(shell)
    return shell.notify(authcode_created("s-1", "secret-1"))


def contradiction(shell: Shell) -> str:
    with_token(shell)
    consult(shell, "s-2", "direct")
    return shell.notify(token_created("s-2", "secret-1"))


def unsuccessful(shell: Shell) -> str:
    return shell.notify(Draft("TOKEN_CANCELED", access_token="secret-1", result_status="F"))


def failed(shell: Shell) -> str:
    entry_id = unknown_token(shell)
    change(shell, entry_id, outcome="failed", reason="KeyError")
    return entry_id


def malformed(shell: Shell) -> str:
    return shell.notify(Draft("TOKEN_CREATED", auth_state="s-1"))


def with_token(shell: Shell) -> None:
    consult(shell, flow="direct")
    shell.ask("authorizations", "record", "token", "s-1", stdin="secret-1")


EXPLANATIONS: dict[Callable[[Shell], str], str] = {
    applied: "applied: AUTHCODE_CREATED moved the authorization from consulted to authcode_issued.",
    known_code: "redundant: this auth code is on record already, so AUTHCODE_CREATED changed nothing.",
    known_token: "redundant: this token is on record already, so TOKEN_CREATED changed nothing.",
    canceled_twice: "redundant: the authorization was canceled already, so TOKEN_CANCELED changed nothing.",
    superseded: "redundant: a refresh had replaced this token, so its cancellation says nothing of the new one.",
    unknown_auth_state: "parked: no consult with this authState is registered; it is processed as soon as one is.",
    second_code: "applied: AUTHCODE_CREATED brought another auth code; the one that was received last is the one that "
    "is given out.",
    half_a_character: "parked: its authState contains half a character (a lone surrogate), which no consult can name, "
    "so nothing will ever resume it; a test, or a bug of the sender's, may have made it.",
    wrong_default_flow: "parked: TOKEN_CREATED is not legal in consulted, but in a state that can still be reached; it "
    "is processed when the authorization advances; its flow, auto_debit, was taken from default_flow: if that is "
    "wrong, run: flask authorizations consult s-1 --flow direct.",
    unknown_token: "parked: no creation or refresh of this token is applied; it is processed as soon as one is.",
    early: "parked: TOKEN_CREATED is not legal in consulted, but in a state that can still be reached; it is processed "
    "when the authorization advances.",
    unknown_type: "parked: this version does not know the type TOKEN_PAUSED; after an upgrade that does, run: "
    "flask inbox process 1.",
    illegal: "rejected: AUTHCODE_CREATED is not legal in token_active in the direct flow, and no state that can still "
    "be reached allows it.",
    contradiction: "rejected: TOKEN_CREATED was legal in consulted, but its token belongs to another authorization.",
    unsuccessful: "rejected: its resultStatus is not S, and only a success moves an authorization.",
    failed: "failed: processing broke with KeyError; the next redelivery processes it again, and so does: "
    "flask inbox process 1.",
    malformed: "malformed: accessToken is missing, so it could not be understood, and was answered with 400.",
}


@pytest.mark.parametrize("happen", EXPLANATIONS, ids=lambda happen: happen.__name__)
def test_show_says_in_one_sentence_why_an_entry_ended_so(shell: Shell, happen: Callable[[Shell], str]) -> None:
    entry_id = happen(shell)
    shown = shell.ask("inbox", "show", entry_id)
    assert shown.splitlines()[0] == EXPLANATIONS[happen]
    assert shell.json("inbox", "show", entry_id)["explanation"] == EXPLANATIONS[happen]
    assert "secret" not in shown


def test_what_waits_for_an_auth_state_that_no_consult_can_name_is_logged(
    shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    shell.notify(authcode_created("s-1", "secret-1"))
    assert "no consult can name" not in caplog.text
    half_a_character(shell)
    (said,) = [record for record in caplog.records if "no consult can name" in record.message]
    assert (said.levelname, said.entry) == ("WARNING", 2)  # type: ignore[attr-defined] # a field of the log line


def test_show_gives_the_facts_of_a_delivery(shell: Shell) -> None:
    entry_id = applied(shell)
    shell.notify(authcode_created("s-1", "secret-1"))
    document = shell.json("inbox", "show", entry_id)
    assert (document["deliveries"], document["keyVersion"], document["foundState"]) == (2, 1, "consulted")
    assert (document["uri"], document["requestTime"]) == (DEFAULT_NOTIFY_PATH, "1685599933871")
    assert document["bodyBytes"] == len(authcode_created("s-1", "secret-1").body())


def test_show_links_a_cancellation_to_its_authorization(shell: Shell) -> None:
    with_token(shell)
    shown = shell.ask("inbox", "show", shell.notify(token_canceled("secret-1")))
    assert "authState      s-1\n" in shown
    assert "state now      canceled\n" in shown


def test_show_explains_an_entry_whose_body_does_not_open(shell: Shell) -> None:
    entry_id = applied(shell)
    change(shell, entry_id, sealed_body=b"broken")
    assert "body           does not open under the vault keys\n" in shell.ask("inbox", "show", entry_id)
    assert shell.json("inbox", "show", entry_id)["bodyBytes"] is None


def test_show_of_an_unknown_id_is_not_found(shell: Shell) -> None:
    result = shell.run("inbox", "show", "7")
    assert result.exit_code == 1
    assert "There is no entry 7" in result.stderr


def test_show_says_the_same_in_json(shell: Shell) -> None:
    with_token(shell)
    canceled = shell.json("inbox", "show", shell.notify(token_canceled("secret-1")))
    assert (canceled["authState"], canceled["stateNow"], canceled["resultStatus"]) == ("s-1", "canceled", "S")
    created = shell.json("inbox", "show", shell.notify(Draft("TOKEN_CREATED", auth_state="s-2", access_token="x")))
    assert (created["authState"], created["stateNow"], created["userId"]) == ("s-2", None, None)


def test_what_is_malformed_is_found_by_what_it_names(shell: Shell) -> None:
    entry_id = malformed(shell)
    (row,) = shell.json("inbox", "list", "--auth-state", "s-1")
    assert (row["id"], row["outcome"]) == (entry_id, "malformed")
    assert "authState      s-1\n" in shell.ask("inbox", "show", entry_id)
    assert shell.json("inbox", "show", entry_id)["authState"] == "s-1"


@pytest.mark.parametrize(
    "body",
    [b'{"authState": "s-1", "authorizationNotif', b'\xff{"authState": "s-1"}', b"[]", b'{"authState": 1}', b"{}"],
)
def test_of_what_cannot_be_read_nothing_is_guessed(shell: Shell, body: bytes) -> None:
    shell.json("inbox", "show", shell.notify(body))
    (row,) = shell.json("inbox", "list")
    assert (row["type"], row["authState"], row["outcome"]) == (None, None, "malformed")


# --- find-token ------------------------------------------------------------------------------------------------------


def found_by_token(shell: Shell, token: str) -> tuple[list[str], list[str]]:
    result = shell.run("inbox", "find-token", "--json", stdin=f"{token}\n")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    return [each["authState"] for each in document["authorizations"]], [
        each["id"] for each in document["notifications"]
    ]


def test_find_token_finds_its_authorization_and_every_entry_that_names_it(shell: Shell) -> None:
    consult(shell)
    shell.notify(authcode_created("s-1", "code-1"))
    created = shell.notify(token_created("s-1", "secret-1"))
    illegal = shell.notify(token_created("s-1", "secret-2"))
    foreign = shell.notify(token_created("s-2", "secret-1"))
    broken = shell.notify(b'{"authorizationNotifyType": "TOKEN_CANCELED", "accessToken": "secret-1"}')
    canceled = shell.notify(token_canceled("secret-1"))
    assert found_by_token(shell, "secret-1") == (["s-1"], [canceled, broken, foreign, created])
    assert found_by_token(shell, "secret-2") == ([], [illegal])
    shown = shell.ask("inbox", "find-token", stdin="secret-1")
    assert "authState      s-1\n" in shown
    assert "secret" not in shown


def test_find_token_of_a_token_that_nothing_names_is_not_found(shell: Shell) -> None:
    consult(shell)
    result = shell.run("inbox", "find-token", stdin="secret-9")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: Nothing on record names this access token.\n"


def test_find_token_without_a_token_is_a_usage_error(shell: Shell) -> None:
    assert shell.run("inbox", "find-token").exit_code == 2


# --- deliver ---------------------------------------------------------------------------------------------------------


def deliver(shell: Shell, raw: bytes) -> tuple[int, str]:
    result = shell.run("inbox", "deliver", "-", stdin=raw)
    return result.exit_code, result.output


def test_a_delivered_file_is_acknowledged_and_processed(shell: Shell, tmp_path: Path) -> None:
    consult(shell)
    file = tmp_path / "request.http"
    file.write_bytes(a_raw_request(a_genuine_delivery(shell.keyring, authcode_created("s-1", "code-1"))))
    said = shell.ask("inbox", "deliver", str(file))
    assert [line.split(maxsplit=1) for line in said.splitlines()] == [
        ["status", "200 OK"],
        ["result", "S SUCCESS"],
        ["entry", "1"],
        ["outcome", "applied"],
    ]
    assert shell.json("authorizations", "show", "s-1")["state"] == "authcode_issued"


def test_a_forged_file_is_refused_and_not_stored(shell: Shell) -> None:
    genuine = a_genuine_delivery(shell.keyring, token_canceled("token-1"))
    forged = a_raw_request(replace(genuine, body=token_canceled("token-2").body()))
    exit_code, said = deliver(shell, forged)
    assert exit_code == 1
    assert "401 Unauthorized" in said
    assert "INVALID_SIGNATURE" in said
    assert shell.json("inbox", "list") == []


def test_a_malformed_file_is_stored_and_not_acknowledged(shell: Shell) -> None:
    exit_code, said = deliver(shell, a_raw_request(a_genuine_delivery(shell.keyring, b"{}")))
    assert exit_code == 1
    assert "400 Bad Request" in said
    assert "authorizationNotifyType: missing" in said
    assert shell.json("inbox", "show", "1")["outcome"] == "malformed"


@pytest.mark.parametrize("query", ["", "?tenant=1"])
def test_a_file_from_behind_the_proxy_is_verified_over_the_public_path(
    database_url: str, keyring: Path, query: str
) -> None:
    environ = an_environ(database_url, keyring, FLASK_PUBLIC_NOTIFY_PATH="/public/notify")
    shell = Shell(create_app(environ), keyring)
    delivery = a_genuine_delivery(keyring, token_canceled("token-1"), uri=f"/public/notify{query}")
    seen = replace(delivery, uri=f"{DEFAULT_NOTIFY_PATH}{query}")
    assert deliver(shell, a_raw_request(delivery))[0] == 0
    assert deliver(shell, a_raw_request(seen))[0] == 0
    assert shell.json("inbox", "show", "1")["deliveries"] == 2
    shell.service.database.close()


def test_what_the_door_would_not_let_in_is_refused(shell: Shell) -> None:
    genuine = a_genuine_delivery(shell.keyring, token_canceled("token-1"))
    too_large = a_genuine_delivery(shell.keyring, b" " * (BODY_BYTES_MAX + 1))
    elsewhere = a_genuine_delivery(shell.keyring, token_canceled("token-1"), uri=DEFAULT_NOTIFY_PATH + "/")
    refused = {
        a_raw_request(elsewhere): "404 Not Found",
        a_raw_request(genuine, method="PUT"): "405 Method Not Allowed",
        a_raw_request(too_large): "413 Request Entity Too Large",
        a_raw_request(genuine) + b" " * 10 * BODY_BYTES_MAX: "413 Request Entity Too Large",
        b"nonsense": "not a raw HTTP request",
        b"": "not a raw HTTP request",
    }
    for raw, sentence in refused.items():
        exit_code, said = deliver(shell, raw)
        assert exit_code == 1
        assert sentence in said
    assert shell.json("inbox", "list") == []


def test_a_file_that_is_not_there_is_a_usage_error(shell: Shell) -> None:
    assert shell.run("inbox", "deliver", "nowhere.http").exit_code == 2


# --- process ---------------------------------------------------------------------------------------------------------


def test_process_replays_all_that_failed_or_is_parked(shell: Shell) -> None:
    fails = shell.notify(authcode_created("s-1", "code-1"))
    change(shell, fails, outcome="failed", reason="KeyError")
    consult(shell)
    stays = shell.notify(token_canceled("token-1"))
    assert shell.ask("inbox", "process") == "Processed 2: 1 applied, 1 parked.\n"
    assert shell.json("inbox", "show", fails)["outcome"] == "applied"
    assert shell.json("inbox", "show", stays)["outcome"] == "parked"


def test_process_replays_one_outcome(shell: Shell) -> None:
    shell.notify(token_canceled("token-1"))
    assert shell.ask("inbox", "process", "--outcome", "failed") == "There was nothing to process.\n"
    assert shell.ask("inbox", "process", "--outcome", "parked") == "Processed 1: 1 parked.\n"


def test_process_counts_what_it_settles_once(shell: Shell) -> None:
    fails = shell.notify(authcode_created("s-1", "code-1"))
    change(shell, fails, outcome="failed", reason="KeyError")
    shell.notify(token_created("s-1", "token-1"))
    consult(shell)
    assert shell.ask("inbox", "process") == "Processed 2: 2 applied.\n"


def test_an_id_that_is_given_several_times_is_processed_once(shell: Shell) -> None:
    entry_id = shell.notify(token_canceled("token-1"))
    assert shell.ask("inbox", "process", entry_id, entry_id, entry_id) == "Processed 1: 1 parked.\n"


def test_an_entry_that_stays_parked_and_is_resumed_by_a_later_one_counts_once(shell: Shell) -> None:
    consult(shell)
    shell.notify(token_created("s-1", "token-1"))
    code = shell.notify(authcode_created("s-1", "code-1"))
    change(shell, code, outcome="failed", reason="KeyError")
    for statement in (
        "UPDATE authorizations SET state = 'consulted', version = 1, sealed_auth_code = NULL",
        "DELETE FROM access_tokens",
        "DELETE FROM transitions WHERE sequence > 1",
        "UPDATE inbox SET outcome = 'parked', reason = 'early' WHERE id = 1",
    ):
        shell.service.database.run(partial(Session.execute, statement=text(statement)))
    assert shell.ask("inbox", "process") == "Processed 2: 2 applied.\n"


def test_process_ends_with_1_if_one_fails_again(shell: Shell) -> None:
    entry_id = shell.notify(token_canceled("token-1"))
    change(shell, entry_id, sealed_body=b"broken")
    result = shell.run("inbox", "process", entry_id)
    assert result.exit_code == 1
    assert result.stdout == "Processed 1: 1 failed.\n"
    assert shell.json("inbox", "show", entry_id)["reason"] == "SealBrokenError"


def test_process_of_a_concluded_or_unknown_entry_is_refused_before_anything_is_done(shell: Shell) -> None:
    parked = shell.notify(token_canceled("token-1"))
    closed = applied(shell)
    change(shell, parked, sealed_body=b"broken")
    for other, sentence in ((closed, f"Entry {closed} is applied"), ("99", "There is no entry 99")):
        result = shell.run("inbox", "process", parked, other)
        assert result.exit_code == 1
        assert sentence in result.stderr
    assert shell.json("inbox", "show", parked)["outcome"] == "parked"


@pytest.mark.parametrize("arguments", [("1", "--outcome", "failed"), ("--outcome", "applied"), ("x",), ("0",)])
def test_an_impossible_replay_is_a_usage_error(shell: Shell, arguments: tuple[str, ...]) -> None:
    assert shell.run("inbox", "process", *arguments).exit_code == 2


# --- purge -----------------------------------------------------------------------------------------------------------


def test_purge_deletes_what_is_old_and_concluded_and_leaves_history(shell: Shell) -> None:
    consult(shell)
    old = datetime.now(UTC) - timedelta(days=91)
    for entry_id in (shell.notify(authcode_created("s-1", "code-1")), shell.notify(token_canceled("token-9"))):
        change(shell, entry_id, received_at=old, last_received_at=old)
    young = shell.notify(token_created("s-1", "token-1"))
    assert shell.ask("inbox", "purge", "--older-than", "90d") == "Purged 1.\n"
    assert [row["id"] for row in shell.json("inbox", "list")] == [young, "2"]
    assert [move["notificationId"] for move in shell.json("authorizations", "show", "s-1")["history"]] == [
        None,
        "1",
        "3",
    ]


def test_purge_leaves_what_was_repeated_lately_however_old_it_is(shell: Shell) -> None:
    """What Alipay still repeats must be known when it comes again."""
    consult(shell)
    entry_id = shell.notify(authcode_created("s-1", "code-1"))
    change(shell, entry_id, received_at=datetime.now(UTC) - timedelta(days=91))
    assert shell.ask("inbox", "purge", "--older-than", "90d") == "Purged 0.\n"


@pytest.mark.parametrize("age", ["47h", "1d", "0w"])
def test_purge_refuses_what_alipay_may_still_send_again(shell: Shell, age: str) -> None:
    result = shell.run("inbox", "purge", "--older-than", age)
    assert result.exit_code == 1
    assert "two days" in result.stderr


@pytest.mark.parametrize("age", ["48h", "2d", "1w", "99999w"])
def test_purge_takes_hours_days_and_weeks(shell: Shell, age: str) -> None:
    assert shell.ask("inbox", "purge", "--older-than", age) == "Purged 0.\n"


@pytest.mark.parametrize("age", ["", "90", "d", "-3d", "1.5d", "90 d", "1y", "999999d"])
def test_an_impossible_age_is_a_usage_error(shell: Shell, age: str) -> None:
    assert shell.run("inbox", "purge", "--older-than", age).exit_code == 2
