"""Forgetting one user: nothing that names the user is left, and what proves the history is."""

import json
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app import authorizations, consistency, inbox, rotation
from app.erasure import ENTRIES_AT_ONCE_MAX, Erasure, ErasureRefusedError
from app.events import deliveries
from app.events.deliveries import Attempt, Status
from app.models import (
    AccessToken,
    AuditLine,
    Authorization,
    Base,
    FeedEvent,
    InboxEntry,
    WebhookAttempt,
    WebhookDelivery,
)
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from app.vault import Vault
from tests.integration.http_client import AUTHORIZATIONS, HttpClient, problem
from tests.integration.shell import Shell
from tests.integration.stage import Stage

#: None of these may be found anywhere once their user is forgotten.
NAMES = ("user-ref-1", "user-id-1", "login-id-1", "code-1", "token-1", "token-2", "refresh-1", "said why", "own words")


def live(stage: Stage, auth_state: str = "s-1", *, token: str = "token-1", is_canceled: bool = True) -> Authorization:
    """Let a user consent and, after a refresh, take it back; all names of the user come along."""
    opened = stage.consult(auth_state, user_ref="user-ref-1", customer_belongs_to="GCASH")
    stage.notify(authcode_created(auth_state, f"code-1 of {auth_state}"))
    created = json.loads(token_created(auth_state, token).body()) | {
        "userId": "user-id-1",
        "userLoginId": "login-id-1",
    }
    stage.notify(json.dumps(created).encode())
    stage.notify(authcode_created(auth_state, f"code-1 again of {auth_state}"))
    refreshed = token.replace("1", "2")
    stage.report_token(opened, refreshed, replaces=token, refresh_token=None)
    if is_canceled:
        stage.notify(token_canceled(refreshed, "said why"))
    return stage.database.run(lambda session: session.get_one(Authorization, opened), read_only=True)


def secrets_of(session: Session, vault: Vault) -> str:
    """Read all that is on record, opened, as text."""
    everything = []
    for mapper in Base.registry.mappers:
        sealed = {each.attribute.key: each for each in rotation.SEALED_COLUMNS if each.model is mapper.class_}
        for row in session.scalars(select(mapper.class_)):
            for name in mapper.columns.keys():  # noqa: SIM118 -- a collection of columns is no dictionary
                value = getattr(row, name)
                if name in sealed and value is not None and name != "sealed_key":
                    column = sealed[name]
                    value = vault.open_bytes(value, column=column.name, row_key=column.row_key(row))
                everything.append(value.decode("latin-1") if isinstance(value, bytes) else str(value))
    return "\n".join(everything)


def on_record(stage: Stage) -> list[str]:
    told = stage.database.run(lambda session: secrets_of(session, stage.vault), read_only=True)
    return [each for each in NAMES if each in told]


def inconsistencies(stage: Stage) -> list[str]:
    found = stage.database.run(lambda session: consistency.verify_batch(session, stage.vault), read_only=True)
    return [each.what for each in found.inconsistencies]


def test_nothing_that_names_the_user_is_left_and_the_history_is(stage: Stage) -> None:
    authorization = live(stage)
    before = stage.document()
    assert len(on_record(stage)) >= 6
    stage.receiver.erase(Erasure(authorization.id, by="ops", reason="a request of 2026-11-26"))
    assert on_record(stage) == []
    after = stage.document()
    assert after["history"] == before["history"]
    assert (after["state"], after["authState"], after["updatedAt"]) == ("canceled", "s-1", before["updatedAt"])
    assert (after["userRef"], after["userId"], after["customerBelongsTo"]) == (None, None, "GCASH")
    assert [each["outcome"] for each in after["notifications"]] == [each["outcome"] for each in before["notifications"]]
    assert inconsistencies(stage) == []


def test_who_did_it_is_on_record(stage: Stage) -> None:
    authorization = live(stage)
    stage.receiver.erase(Erasure(authorization.id, by="ops", reason="asked to"))
    (line,) = stage.database.run(lambda session: list(session.scalars(select(AuditLine))), read_only=True)
    assert (line.who, line.action, line.reason) == ("ops", "erase", "asked to")
    assert (line.subject, line.at) == (str(authorization.id), stage.clock.now)


def test_other_users_are_left_alone(stage: Stage) -> None:
    authorization = live(stage)
    live(stage, "s-2", token="other-1")
    stage.receiver.erase(Erasure(authorization.id))
    assert "user-ref-1" in on_record(stage)
    assert stage.auth_code("s-2") is not None
    assert inconsistencies(stage) == []


def test_an_active_token_refuses_unless_forced(stage: Stage) -> None:
    authorization = live(stage, is_canceled=False)
    with pytest.raises(ErasureRefusedError, match="its token is active"):
        stage.receiver.erase(Erasure(authorization.id))
    assert "token-1" in on_record(stage)
    stage.receiver.erase(Erasure(authorization.id, is_forced=True))
    assert on_record(stage) == []
    assert inconsistencies(stage) == []


@pytest.mark.parametrize("has_code", [False, True])
def test_what_has_just_begun_refuses_and_what_was_abandoned_does_not(stage: Stage, *, has_code: bool) -> None:
    opened = stage.consult(user_ref="user-ref-1")
    if has_code:
        stage.notify(authcode_created("s-1", "code-1"))
    with pytest.raises(ErasureRefusedError, match="not two days old"):
        stage.receiver.erase(Erasure(opened))
    stage.clock.forward(days=2)
    stage.receiver.erase(Erasure(opened))
    assert on_record(stage) == []
    assert inconsistencies(stage) == []


def test_a_cancellation_that_comes_later_finds_its_authorization_and_leaves_no_body(stage: Stage) -> None:
    authorization = live(stage, is_canceled=False)
    stage.receiver.erase(Erasure(authorization.id, is_forced=True))
    receipt = stage.notify(token_canceled("token-2", "said why"))
    assert (receipt.outcome, receipt.answer.status) == ("applied", 200)
    assert (stage.state(), on_record(stage)) == ("canceled", [])
    assert stage.notify(token_canceled("token-2", "said why"), request_time="2").outcome == "applied"
    assert stage.notify(token_canceled("token-1")).reason == "superseded_token"
    assert stage.notify(token_created("s-1", "token-3")).reason == "illegal_transition"
    assert on_record(stage) == []
    assert stage.moves()[-1][1:] == ("token_canceled", "token_active", "canceled")
    assert inconsistencies(stage) == []


def test_a_batch_of_later_notifications_leaves_no_body_either(stage: Stage) -> None:
    authorization = live(stage)
    stage.receiver.erase(Erasure(authorization.id))
    receipts = stage.notify_batch([token_canceled("token-1").body(), token_created("s-1", "token-2").body()])
    assert {each.outcome for each in receipts} == {"redundant"}
    assert on_record(stage) == []
    assert inconsistencies(stage) == []


def test_what_waited_is_not_processed_any_more(stage: Stage) -> None:
    opened = stage.consult(user_ref="user-ref-1")
    early = stage.notify(token_created("s-1", "token-1"))
    broken = stage.notify(b'{"authorizationNotifyType": "AUTHCODE_CREATED", "authState": "s-1", "userId": "user-id-1"}')
    assert (early.outcome, broken.outcome, early.entry_id is not None) == ("parked", "malformed", True)
    stage.receiver.erase(Erasure(opened, is_forced=True))
    assert on_record(stage) == []
    assert stage.outcomes()[0] == ("rejected", "erased")
    assert stage.outcomes()[1][0] == "malformed"
    assert stage.process(early.entry_id or 0) == []
    assert stage.waiting() == {}
    assert stage.notify(token_created("s-1", "token-1"), request_time="2").answer.status == 200
    assert inconsistencies(stage) == []


def test_a_token_that_is_legal_later_is_another_consent(stage: Stage) -> None:
    opened = stage.consult(flow="direct", user_ref="user-ref-1")
    stage.receiver.erase(Erasure(opened, is_forced=True))
    assert stage.notify(token_created("s-1", "token-1")).outcome == "applied"
    assert on_record(stage) == ["token-1"]
    assert inconsistencies(stage) == []
    stage.notify(token_canceled("token-1"))
    stage.receiver.erase(Erasure(opened))
    assert on_record(stage) == []


def test_more_notifications_than_one_transaction_takes(stage: Stage) -> None:
    authorization = live(stage)

    def add(session: Session) -> None:
        for number in range(ENTRIES_AT_ONCE_MAX):
            fingerprint = number.to_bytes(32)
            session.add(
                InboxEntry(
                    fingerprint=fingerprint,
                    client_id=authorization.client_id,
                    auth_state="s-1",
                    sealed_body=stage.vault.seal(b"user-id-1", column=inbox.BODY_COLUMN, row_key=fingerprint),
                    uri="/",
                    request_time="1",
                    signature="",
                    deliveries=1,
                    received_at=stage.clock.now,
                    last_received_at=stage.clock.now,
                    outcome="failed",
                )
            )

    stage.database.run(add)
    assert stage.receiver.erase(Erasure(authorization.id)) == ENTRIES_AT_ONCE_MAX + 4
    assert on_record(stage) == []


def test_what_is_sealed_can_still_be_sealed_again(stage: Stage) -> None:
    authorization = live(stage)
    stage.receiver.erase(Erasure(authorization.id))

    def reveal(session: Session) -> set[bytes]:
        bodies = {inbox.open_body(stage.vault, each) for each in session.scalars(select(InboxEntry))}
        tokens = session.scalars(select(AccessToken)).all()
        return bodies | {str(each.sealed_refresh_token).encode() for each in tokens}

    assert stage.database.run(reveal, read_only=True) == {b"", b"None"}
    found = stage.database.run(
        lambda session: authorizations.find(session, authorization.client_id, "s-1"), read_only=True
    )
    assert found is not None
    assert found.erased_at == stage.clock.now


# --- at the shell, and over HTTP -------------------------------------------------------------------------------------


def erased(shell: Shell, *arguments: str) -> tuple[int, str, str]:
    run = shell.run("authorizations", "erase", *arguments)
    return run.exit_code, run.stdout, run.stderr


def test_the_command_asks_first_and_says_what_it_did(shell: Shell) -> None:
    shell.ask("authorizations", "consult", "s-1", "--user-ref", "u-1", "--flow", "direct")
    shell.notify(token_created("s-1", "token-1"))
    code, _, said = erased(shell, "--user-ref", "u-1", "--yes")
    assert (code, "its token is active" in said, "--force" in said) == (1, True, True)
    shell.notify(token_canceled("token-1"))
    code, _, said = erased(shell, "--user-ref", "u-1")
    assert (code, "Add --yes" in said) == (1, True)
    assert shell.json("authorizations", "list", "--user-ref", "u-1") != []
    code, said, _ = erased(shell, "--user-ref", "u-1", "--yes", "--reason", "asked to")
    assert (code, said.startswith("Erased the user of 1 authorization.")) == (0, True)
    assert shell.json("authorizations", "list", "--user-ref", "u-1") == []
    assert "everything agrees" in shell.ask("authorizations", "verify")
    assert "user erased" in shell.ask("authorizations", "show", "s-1")
    evidence = shell.json("authorizations", "evidence", "s-1", "--reveal")
    assert [each["reason"] for each in evidence["erasures"]] == ["asked to"]
    assert [move["notification"]["isErased"] for move in evidence["moves"] if move["notification"]] == [True, True]
    assert "erased with its user" in shell.ask("authorizations", "evidence", "s-1")
    assert "its user was forgotten" not in shell.ask("inbox", "show", "1")
    code, _, said = erased(shell, "--user-ref", "u-1", "--yes")
    assert (code, "No authorization names this user" in said, "u-1" in said) == (1, True, False)


@pytest.mark.parametrize("arguments", [(), ("--user-ref", "u-1", "--user-id", "x")])
def test_the_command_wants_one_name_of_the_user(shell: Shell, arguments: tuple[str, ...]) -> None:
    assert erased(shell, *arguments, "--yes")[0] == 2


def test_a_user_is_found_by_the_id_of_the_wallet_and_by_an_auth_state(shell: Shell) -> None:
    shell.consult("s-1", "direct")
    created: dict[str, Any] = json.loads(Draft("TOKEN_CREATED", auth_state="s-1", access_token="token-1").body())
    shell.notify(json.dumps(created | {"userId": "2088-1"}).encode())
    assert erased(shell, "--user-id", "2088-1", "--force", "--yes")[0] == 0
    assert erased(shell, "--auth-state", "s-1", "--force", "--yes")[0] == 0
    assert erased(shell, "--auth-state", "s-9", "--yes")[0] == 1


def test_a_token_that_was_erased_is_given_to_nobody(http: HttpClient) -> None:
    document = http.consult("s-1", userRef="u-1", flow="direct")
    http.post(http.at(document, "tokens"), {"accessToken": "token-1", "refreshToken": "refresh-1"})
    shell = Shell(http.app, http.keyring_path)
    assert erased(shell, "--user-ref", "u-1", "--force", "--yes")[0] == 0
    assert problem(http.get(http.at(document, "token"))) == (409, "erased")
    assert http.get(f"{AUTHORIZATIONS}?userRef=u-1").get_json()["authorizations"] == []
    events = shell.json("events", "list")
    assert all(each["data"]["userRef"] is None for each in events)


def test_an_open_call_is_waited_for(stage: Stage) -> None:
    authorization = live(stage)
    insert = text(
        "INSERT INTO calls (id, authorization_id, client_id, kind, status, attempts, is_in_flight, is_uncertain, cause,"
        " created_at, due_at) SELECT id, id, client_id, 'revoke', 'due', 0, false, false, 'api', created_at, created_at"
        " FROM authorizations"
    )
    stage.database.run(lambda session: session.execute(insert))
    with pytest.raises(ErasureRefusedError, match="not final yet"):
        stage.receiver.erase(Erasure(authorization.id, is_forced=True))


def told(stage: Stage, authorization: Authorization, *, number: int = 1) -> None:
    """Let an endpoint that repeats what it was told answer the first event of an authorization."""
    at = stage.clock.now

    def record(session: Session) -> None:
        sent = session.scalars(select(WebhookDelivery)).one()
        answer = "thanks for user-ref-1"
        attempt = Attempt(sent.id, number, at, 1, 500, "It answered 500.", answer, Status.DUE, at, None)
        deliveries.record(session, [attempt])

    if number == 1:
        event = {"position": 1, "authorization_id": authorization.id, "expires_at": None}
        row = FeedEvent(**event, event_id=uuid4(), type="authorization.canceled", sequence=1, at=at, numbered_at=at)
        stage.database.run(lambda session: session.add(row))
        stage.database.run(lambda session: deliveries.add(session, [(event, "shop")], at=at))
    stage.database.run(record)


def test_what_an_endpoint_repeated_is_gone_also_where_it_answers_later(stage: Stage) -> None:
    authorization = live(stage)
    told(stage, authorization)
    answers = select(WebhookAttempt.answer).order_by(WebhookAttempt.number)
    read = partial(stage.database.run, lambda session: session.scalars(answers).all(), read_only=True)
    assert read() == ["thanks for user-ref-1"]
    stage.receiver.erase(Erasure(authorization.id))
    # The event was on its way, with the user's name in it.
    told(stage, authorization, number=2)
    assert read() == [None, None]
    assert on_record(stage) == []
