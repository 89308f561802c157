"""`flask inbox show`: the facts of a notification, and why it has its outcome."""

import json
from collections.abc import Callable

import pytest

from app.config import DEFAULT_NOTIFY_PATH
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from tests.integration.shell import Shell


def applied(shell: Shell) -> str:
    shell.consult()
    return shell.notify(authcode_created("s-1", "secret-1"))


def known_code(shell: Shell) -> str:
    shell.consult()
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
    shell.consult()
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
    shell.consult()
    return shell.notify(token_created("s-1", "secret-1"))


def unknown_type(shell: Shell) -> str:
    return shell.notify(Draft("TOKEN_PAUSED"))


def illegal(shell: Shell) -> str:
    with_token(shell)
    return shell.notify(authcode_created("s-1", "secret-1"))


def contradiction(shell: Shell) -> str:
    with_token(shell)
    shell.consult("s-2", "direct")
    return shell.notify(token_created("s-2", "secret-1"))


def unsuccessful(shell: Shell) -> str:
    return shell.notify(Draft("TOKEN_CANCELED", access_token="secret-1", result_status="F"))


def failed(shell: Shell) -> str:
    entry_id = unknown_token(shell)
    shell.change_entry(entry_id, outcome="failed", reason="KeyError")
    return entry_id


def malformed(shell: Shell) -> str:
    return shell.notify(Draft("TOKEN_CREATED", auth_state="s-1"))


def with_token(shell: Shell) -> None:
    shell.consult(flow="direct")
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


def test_an_entry_parked_for_an_auth_state_that_no_consult_can_name_is_logged(
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
    shell.change_entry(entry_id, sealed_body=b"broken")
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


def test_a_malformed_entry_is_found_by_the_auth_state_or_token_it_names(shell: Shell) -> None:
    entry_id = malformed(shell)
    (row,) = shell.json("inbox", "list", "--auth-state", "s-1")
    assert (row["id"], row["outcome"]) == (entry_id, "malformed")
    assert "authState      s-1\n" in shell.ask("inbox", "show", entry_id)
    assert shell.json("inbox", "show", entry_id)["authState"] == "s-1"


@pytest.mark.parametrize(
    "body",
    [b'{"authState": "s-1", "authorizationNotif', b'\xff{"authState": "s-1"}', b"[]", b'{"authState": 1}', b"{}"],
)
def test_nothing_is_guessed_of_a_body_that_cannot_be_read(shell: Shell, body: bytes) -> None:
    shell.json("inbox", "show", shell.notify(body))
    (row,) = shell.json("inbox", "list")
    assert (row["type"], row["authState"], row["outcome"]) == (None, None, "malformed")
