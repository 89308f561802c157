"""`flask authorizations`: consults, reports, listings, and one authorization whole."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from app import create_app
from app.cli.current_service import operating_user
from app.cli.stdin import SECRET_CHARACTERS_MAX
from app.models import InboxEntry
from app.simulator.draft import authcode_created, token_canceled, token_created
from app.simulator.keys import SANDBOX_CLIENT_ID
from tests.builders import an_environ
from tests.integration.shell import Shell

OTHER_CLIENT_ID = "SANDBOX_5Y11111111111111"


def consult(shell: Shell, auth_state: str = "s-1", *options: str) -> str:
    shell.ask("authorizations", "consult", auth_state, *options)
    return str(shell.json("authorizations", "list")[0]["id"])


def record(shell: Shell, what: str, *options: str, stdin: str = "", auth_state: str = "s-1") -> str:
    return shell.ask("authorizations", "record", what, auth_state, *options, stdin=stdin)


def state(shell: Shell, auth_state: str = "s-1") -> str:
    return str(shell.json("authorizations", "show", auth_state)["state"])


@pytest.fixture
def two_clients(database_url: str, keyring_path: Path) -> Iterator[Shell]:
    """A shell of a service with two clients, and an authorization of each with the same authState."""
    path = keyring_path.with_name("two.toml")
    path.write_text(keyring_path.read_text() + keyring_path.read_text().replace(SANDBOX_CLIENT_ID, OTHER_CLIENT_ID))
    shell = Shell(create_app(an_environ(database_url, path)), keyring_path)
    for client_id in (SANDBOX_CLIENT_ID, OTHER_CLIENT_ID):
        shell.ask("authorizations", "consult", "s-1", "--client", client_id)
    yield shell
    shell.service.database.close()


# --- consult ---------------------------------------------------------------------------------------------------------


def test_consult_registers_what_it_is_told(shell: Shell) -> None:
    consult(shell, "s-1", "--client", SANDBOX_CLIENT_ID, "--flow", "direct", "--user-ref", "u-1", "--wallet", "GCASH")
    document = shell.json("authorizations", "show", "s-1")
    names = ("clientId", "authState", "flow", "state", "userRef", "customerBelongsTo")
    assert [document[name] for name in names] == [SANDBOX_CLIENT_ID, "s-1", "direct", "consulted", "u-1", "GCASH"]
    assert document["history"][0]["cause"] == "shell"


def test_consult_takes_the_only_client_and_its_flow(shell: Shell) -> None:
    consult(shell)
    assert shell.json("authorizations", "show", "s-1")["flow"] == "auto_debit"


def test_the_same_consult_again_is_nothing_new(shell: Shell) -> None:
    consult(shell)
    assert "Nothing new: s-1 is consulted." in shell.ask("authorizations", "consult", "s-1")


def test_a_contradicting_consult_is_refused(shell: Shell) -> None:
    consult(shell, "s-1", "--flow", "auto_debit")
    result = shell.run("authorizations", "consult", "s-1", "--flow", "direct")
    assert result.exit_code == 1
    assert "another flow" in result.stderr


def test_a_flow_that_was_left_unsaid_is_corrected_and_what_waited_is_told(shell: Shell) -> None:
    consult(shell)
    entry_id = shell.notify(token_created("s-1", "token-1"))
    said = shell.ask("authorizations", "consult", "s-1", "--flow", "direct")
    assert f"Notification {entry_id} waited for this, and was applied." in said
    shown = shell.ask("authorizations", "show", "s-1")
    assert "flow corrected from auto_debit to direct" in shown


def test_a_consult_for_a_canceled_auth_state_is_refused(shell: Shell) -> None:
    consult(shell, "s-1", "--flow", "direct")
    shell.notify(token_created("s-1", "token-1"))
    shell.notify(token_canceled("token-1"))
    result = shell.run("authorizations", "consult", "s-1")
    assert result.exit_code == 1
    assert "new authState" in result.stderr


def test_a_report_from_a_shell_names_who_ran_it(shell: Shell) -> None:
    consult(shell)
    (move,) = shell.json("authorizations", "show", "s-1")["history"]
    assert (move["cause"], move["by"]) == ("shell", operating_user())
    assert f"shell {operating_user()}" in shell.ask("authorizations", "show", "s-1")


def test_a_second_code_is_told_of(shell: Shell) -> None:
    consult(shell)
    shell.notify(authcode_created("s-1", "code-1"))
    said = shell.ask("authorizations", "record", "authcode", "s-1", stdin="code-2")
    assert "another auth code" in said


def test_consult_resumes_parked_notifications(shell: Shell) -> None:
    entry_id = shell.notify(authcode_created("s-1", "code-1"))
    said = shell.ask("authorizations", "consult", "s-1")
    assert f"Notification {entry_id} waited for this, and was applied." in said
    assert "s-1 is authcode_issued" in said


@pytest.mark.parametrize("auth_state", ["", "x" * 257])
def test_consult_of_an_impossible_auth_state_is_a_usage_error(shell: Shell, auth_state: str) -> None:
    assert shell.run("authorizations", "consult", auth_state).exit_code == 2


def test_consult_for_a_client_that_is_not_in_the_keyring_is_refused(shell: Shell) -> None:
    result = shell.run("authorizations", "consult", "s-1", "--client", "nobody")
    assert result.exit_code == 1
    assert "--client" in result.stderr


def test_consult_must_name_one_of_several_clients(two_clients: Shell) -> None:
    result = two_clients.run("authorizations", "consult", "s-2")
    assert result.exit_code == 1
    assert "--client" in result.stderr


# --- record ----------------------------------------------------------------------------------------------------------


def test_a_life_can_be_reported_line_by_line(shell: Shell) -> None:
    consult(shell)
    assert record(shell, "authcode", stdin="code-1\n") == "Recorded: s-1 is authcode_issued.\n"
    assert record(shell, "token", stdin="token-1\r\n") == "Recorded: s-1 is token_active.\n"
    assert record(shell, "canceled") == "Recorded: s-1 is canceled.\n"
    history = shell.json("authorizations", "show", "s-1")["history"]
    assert {move["cause"] for move in history} == {"shell"}


def test_a_reported_code_and_a_notified_code_are_the_same(shell: Shell) -> None:
    consult(shell)
    record(shell, "authcode", stdin="code-1\n")
    entry_id = shell.notify(authcode_created("s-1", "code-1"))
    assert shell.json("inbox", "show", entry_id)["outcome"] == "redundant"


def test_a_token_comes_with_all_that_is_known_of_it(shell: Shell) -> None:
    consult(shell)
    told = {
        "accessToken": "token-1",
        "refreshToken": "refresh-1",
        "refreshTokenExpiryTime": "2028-01-01T08:00:00+08:00",
        "authCode": "code-1",
    }
    record(shell, "token", "--expires-at", "2027-01-01T00:00:00Z", stdin=json.dumps(told))
    shown = shell.ask("authorizations", "show", "s-1")
    assert "*** until 2027-01-01T00:00:00Z" in shown
    assert "*** until 2028-01-01T00:00:00Z" in shown
    assert [move["event"] for move in shell.json("authorizations", "show", "s-1")["history"]] == [
        "consult",
        "authcode_created",
        "token_created",
    ]


def test_a_refresh_replaces_the_old_token(shell: Shell) -> None:
    consult(shell, "s-1", "--flow", "direct")
    record(shell, "token", stdin="token-1")
    record(shell, "token", stdin=json.dumps({"accessToken": "token-2", "replaces": "token-1"}))
    entry_id = shell.notify(token_canceled("token-1"))
    assert shell.json("inbox", "show", entry_id)["reason"] == "superseded_token"
    assert state(shell) == "token_active"


def test_an_answer_of_apply_token_is_taken_as_it_came(shell: Shell) -> None:
    consult(shell, "s-1", "--flow", "direct")
    answer = {
        "result": {"resultCode": "SUCCESS", "resultStatus": "S", "resultMessage": "success"},
        "accessToken": "token-1",
        "accessTokenExpiryTime": "9999-12-31T23:59:59-08:00",
        "refreshToken": "",
        "userLoginId": "some***@example.com",
        "extendInfo": '{"a": "b"}',
        "pspCustomerInfo": {"pspName": "GCASH"},
    }
    assert record(shell, "token", stdin="\ufeff" + json.dumps(answer)) == "Recorded: s-1 is token_active.\n"
    assert record(shell, "token", stdin=json.dumps(answer)).startswith("Nothing new: ")


def test_a_revoke_takes_its_reason_from_stdin(shell: Shell) -> None:
    consult(shell, "s-1", "--flow", "direct")
    record(shell, "token", stdin="token-1")
    assert "canceled" in record(shell, "canceled", "--with-reason", stdin="the user moved\n")


def test_a_report_that_is_early_is_refused_and_changes_nothing(shell: Shell) -> None:
    consult(shell)
    result = shell.run("authorizations", "record", "token", "s-1", stdin="token-1")
    assert result.exit_code == 1
    assert "token_created is not legal in consulted" in result.stderr
    assert state(shell) == "consulted"


@pytest.mark.parametrize(
    ("stdin", "problem"),
    [
        ('{"result": {"resultStatus": "F", "resultCode": "INVALID_AUTHCODE"}}', "applyToken did not succeed"),
        ('{"accessToken": "sEcReT", "refreshtoken": "sEcReT"}', "refreshtoken is none of"),
        ("{" + '"a": {' * 65, "nested deeper than 64 levels"),
        ("", "accessToken is missing"),
        ("\n", "accessToken is missing"),
        ("one\ntwo\n", "several lines"),
        ("{", "is not one"),
        ('{"refreshToken": "sEcReT"}', "accessToken is missing"),
        ('{"accessToken": "sEcReT", "replace": "sEcReT"}', "replace is none of"),
        ('{"accessToken": ["sEcReT"]}', "accessToken is not a string"),
        ('{"accessToken": "sEcReT", "accessTokenExpiryTime": "sEcReT"}', "accessTokenExpiryTime is not ISO 8601"),
        ("sEcReT" + "x" * SECRET_CHARACTERS_MAX, "accessToken has more than 128 characters"),
        ("sEcReT" * 10_000, "far longer"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_stdin_that_cannot_be_used_is_a_usage_error_that_quotes_no_secret(
    shell: Shell, stdin: str | bytes, problem: str
) -> None:
    consult(shell)
    result = shell.run("authorizations", "record", "token", "s-1", stdin=stdin)
    assert result.exit_code == 2
    assert problem in result.stderr
    assert "sEcReT" not in result.output
    assert state(shell) == "consulted"


def test_a_time_without_a_zone_is_a_usage_error(shell: Shell) -> None:
    consult(shell)
    options = ("--expires-at", "2027-01-01T00:00:00")
    assert shell.run("authorizations", "record", "token", "s-1", *options, stdin="token-1").exit_code == 2


# --- finding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("show",), ("record", "canceled")])
def test_an_unknown_authorization_is_not_found(shell: Shell, command: tuple[str, ...]) -> None:
    result = shell.run("authorizations", *command, "s-1")
    assert result.exit_code == 1
    assert "There is no authorization with authState or id s-1." in result.stderr


def test_an_auth_state_of_two_clients_is_ambiguous(two_clients: Shell) -> None:
    result = two_clients.run("authorizations", "show", "s-1")
    assert result.exit_code == 1
    assert f"{SANDBOX_CLIENT_ID}, {OTHER_CLIENT_ID}" in result.stderr
    assert two_clients.json("authorizations", "show", "s-1", "--client", OTHER_CLIENT_ID)["clientId"] == OTHER_CLIENT_ID


def test_an_authorization_is_found_by_its_id_too(two_clients: Shell) -> None:
    for row in two_clients.json("authorizations", "list"):
        assert two_clients.json("authorizations", "show", row["id"])["clientId"] == row["clientId"]


def test_an_auth_state_that_looks_like_an_id_is_an_auth_state(shell: Shell) -> None:
    first = consult(shell, "s-1")
    second = consult(shell, first)
    assert shell.json("authorizations", "show", first)["id"] == second


# --- listing and showing ---------------------------------------------------------------------------------------------


def test_list_shows_the_newest_first_and_says_if_there_are_more(shell: Shell) -> None:
    for number in range(3):
        consult(shell, f"s-{number}")
    result = shell.run("authorizations", "list", "--json", "--limit", "2")
    assert [row["authState"] for row in json.loads(result.stdout)] == ["s-2", "s-1"]
    assert "there are more" in result.stderr
    assert not shell.run("authorizations", "list", "--limit", "3").stderr


def test_list_narrows_by_state_user_and_client(two_clients: Shell) -> None:
    shell = two_clients
    consult(shell, "s-2", "--client", SANDBOX_CLIENT_ID, "--user-ref", "u-2")
    shell.notify(authcode_created("s-2", "code-1"))

    def listed(*options: str) -> list[tuple[str, str]]:
        return [(row["authState"], row["clientId"]) for row in shell.json("authorizations", "list", *options)]

    assert listed("--state", "authcode_issued") == [("s-2", SANDBOX_CLIENT_ID)]
    assert listed("--user-ref", "u-2") == [("s-2", SANDBOX_CLIENT_ID)]
    assert listed("--client", OTHER_CLIENT_ID) == [("s-1", OTHER_CLIENT_ID)]
    assert OTHER_CLIENT_ID in shell.ask("authorizations", "list")


@pytest.mark.parametrize("option", [("--limit", "0"), ("--limit", "1001"), ("--state", "active")])
def test_an_impossible_listing_is_a_usage_error(shell: Shell, option: tuple[str, str]) -> None:
    assert shell.run("authorizations", "list", *option).exit_code == 2


def test_a_listing_goes_on_after_a_cursor(shell: Shell) -> None:
    ids = [consult(shell, f"s-{number}") for number in range(3)]
    result = shell.run("authorizations", "list", "--limit", "1")
    assert f"Go on with --cursor {ids[2]}" in result.stderr
    rows = shell.json("authorizations", "list", "--cursor", ids[2])
    assert [row["id"] for row in rows] == [ids[1], ids[0]]


def test_a_filter_by_an_unknown_client_is_refused(shell: Shell) -> None:
    assert shell.json("authorizations", "list", "--client", SANDBOX_CLIENT_ID) == []
    consult(shell)
    result = shell.run("authorizations", "list", "--client", SANDBOX_CLIENT_ID.lower())
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: Nothing on record has --client {SANDBOX_CLIENT_ID.lower()}. Known are: {SANDBOX_CLIENT_ID}.\n"
    )


def test_a_client_that_has_left_the_keyring_is_known(shell: Shell, database_url: str, tmp_path: Path) -> None:
    consult(shell)
    settings = shell.service.settings
    without = create_app(an_environ(database_url, tmp_path / "none.toml"))
    without.extensions["notifyauth"].settings = replace(settings, keyring_path=tmp_path / "none.toml")
    listing = without.test_cli_runner().invoke(args=["authorizations", "list", "--client", SANDBOX_CLIENT_ID])
    slip = without.test_cli_runner().invoke(args=["authorizations", "list", "--client", "nobody"])
    without.extensions["notifyauth"].database.close()
    assert (listing.exit_code, slip.exit_code) == (0, 1)
    assert "s-1" in listing.stdout


def test_show_lists_what_was_not_understood_or_broke_too(shell: Shell) -> None:
    consult(shell)
    shell.notify(authcode_created("s-1", "code-1"))
    shell.notify(token_created("s-1", "token-1"))
    bodies = {
        "created": b'{"authorizationNotifyType": "TOKEN_CREATED", "authState": "s-1"}',
        "untyped": b'{"authState": "s-1"}',
        "canceled": b'{"authorizationNotifyType": "TOKEN_CANCELED", "accessToken": "token-1"}',
        "of another": b'{"authorizationNotifyType": "TOKEN_CREATED", "authState": "s-2", "accessToken": "token-1"}',
    }
    malformed = [shell.notify(body) for body in bodies.values()][:-1]
    failed = [shell.notify(authcode_created("s-1", "code-2")), shell.notify(token_canceled("token-1"))]
    breaking = update(InboxEntry).where(InboxEntry.id.in_(map(int, failed)))
    broken = {"outcome": "failed", "reason": "KeyError", "authorization_id": None}
    shell.service.database.run(lambda session: session.execute(breaking.values(broken)))
    listed = {each["id"]: each["outcome"] for each in shell.json("authorizations", "show", "s-1")["notifications"]}
    assert [listed.get(each) for each in malformed + failed] == ["malformed"] * 3 + ["failed"] * 2
    assert list(listed) == sorted(listed, key=int)
    assert len(listed) == 7
    assert "malformed: result: missing" in shell.ask("authorizations", "show", "s-1")
    assert "unreadable" in shell.ask("authorizations", "diagram", "s-1")


def test_show_lists_nothing_of_another_client(two_clients: Shell) -> None:
    two_clients.notify(b'{"authState": "s-1"}', client_id=OTHER_CLIENT_ID)
    for client_id, count in ((SANDBOX_CLIENT_ID, 0), (OTHER_CLIENT_ID, 1)):
        shown = two_clients.json("authorizations", "show", "s-1", "--client", client_id)
        assert len(shown["notifications"]) == count


def test_an_empty_listing_is_an_empty_array(shell: Shell) -> None:
    assert shell.json("authorizations", "list") == []
    assert shell.json("inbox", "list") == []


def test_show_tells_the_whole_story_and_no_secret(shell: Shell) -> None:
    consult(shell)
    secrets = ("the-code", "the-token")
    shell.notify(authcode_created("s-1", secrets[0]))
    shell.notify(token_created("s-1", secrets[1]))
    refused = shell.notify(authcode_created("s-1", "another-code"))
    shown = shell.ask("authorizations", "show", "s-1")
    for said in ("token_active", "notification 1", "rejected: illegal_transition"):
        assert said in shown
    everything = shown + shell.ask("authorizations", "show", "s-1", "--json") + shell.ask("inbox", "show", refused)
    assert not [secret for secret in (*secrets, "another-code") if secret in everything]


def test_show_prints_the_document_of_the_api(shell: Shell) -> None:
    consult(shell)
    shell.notify(authcode_created("s-1", "code-1"))
    document = shell.json("authorizations", "show", "s-1")
    assert set(document["history"][1]) == {
        *("sequence", "event", "from", "to", "cause", "by", "reason", "notificationId", "learnedAt", "at")
    }
    assert set(document["notifications"][0]) == {"id", "type", "outcome", "reason", "deliveries", "receivedAt"}


def test_secrets_are_not_taken_from_the_command_line(shell: Shell) -> None:
    consult(shell)
    assert shell.run("authorizations", "record", "token", "s-1", "token-1").exit_code == 2


def test_a_refused_refresh_says_how_the_shell_takes_the_old_token(shell: Shell) -> None:
    consult(shell, "s-1", "--flow", "direct")
    record(shell, "token", stdin="token-1")
    result = shell.run("authorizations", "record", "token", "s-1", stdin="token-2")
    assert result.exit_code == 1
    assert 'name the token it replaces as "replaces" in a JSON object on stdin.' in result.stderr


def test_a_slip_in_the_client_is_named_with_those_that_are_known(shell: Shell) -> None:
    consult(shell)
    for command in (("consult", "s-2"), ("show", "s-1"), ("diagram", "s-1")):
        result = shell.run("authorizations", *command, "--client", "SLIP")
        assert result.exit_code == 1
        assert "SLIP. Known are: SANDBOX_5Y00000000000000." in result.stderr
