"""What was understood when it came is understood when it is processed, and what was not can be by a later release."""

import json

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app import inbox
from app.alipay.json_text import NESTING_MAX
from app.models import InboxEntry
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from tests.integration.http_client import HttpClient
from tests.integration.shell import Shell
from tests.integration.stage import Stage
from tests.integration.test_consistency import inconsistencies

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def nested(notification: Draft, depth: int) -> bytes:
    """A notification with an optional field that makes it nest so deep."""
    levels = depth - 1
    return notification.body()[:-1] + b', "extendInfo": ' + b"[" * levels + b"]" * levels + b"}"


def store_as_an_older_release(stage: Stage, entry_id: int | None, body: bytes, **values: str | None) -> None:
    """Make an entry what a release with other limits made of this body."""

    def work(session: Session) -> None:
        entry = session.get_one(InboxEntry, entry_id)
        sealed = stage.vault.seal(body, column=inbox.BODY_COLUMN, row_key=entry.fingerprint)
        session.execute(update(InboxEntry).where(InboxEntry.id == entry_id).values(sealed_body=sealed, **values))

    stage.database.run(work)


def store_as_malformed(stage: Stage, body: bytes) -> int:
    """Make an entry of what an older release did not understand, and answered with 400."""
    receipt = stage.notify(b"{}" + body)
    assert (receipt.answer.status, receipt.entry_id is not None) == (400, True)
    assert receipt.entry_id is not None

    def work(session: Session) -> None:
        fingerprint = stage.vault.blind_index("fingerprint of bytes", receipt_client(session, receipt.entry_id), body)
        sealed = stage.vault.seal(body, column=inbox.BODY_COLUMN, row_key=fingerprint)
        session.execute(
            update(InboxEntry)
            .where(InboxEntry.id == receipt.entry_id)
            .values(fingerprint=fingerprint, sealed_body=sealed)
        )

    stage.database.run(work)
    return receipt.entry_id


def receipt_client(session: Session, entry_id: int | None) -> str:
    return session.get_one(InboxEntry, entry_id).client_id


# --- depth ---


def test_a_cancellation_as_deep_as_the_limit_is_resumed_as_it_was_understood(stage: Stage) -> None:
    receipt = stage.notify(nested(token_canceled("token-1"), NESTING_MAX))
    assert (receipt.answer.status, receipt.outcome) == (200, "parked")
    authorization_id = stage.consult(flow="direct")
    stage.report_token(authorization_id, "token-1")
    assert stage.state() == "canceled"


def test_a_body_deeper_than_the_limit_is_malformed_at_the_endpoint_and_when_processed_again(stage: Stage) -> None:
    receipt = stage.notify(nested(token_canceled("token-1"), NESTING_MAX + 1))
    assert (receipt.answer.status, receipt.outcome) == (400, "malformed")
    assert receipt.entry_id is not None
    (again,) = stage.process(receipt.entry_id)
    assert (
        (again.outcome, again.reason)
        == ("malformed", receipt.reason)
        == ("malformed", "body: nested deeper than 64 levels")
    )


@pytest.mark.parametrize("depth", [NESTING_MAX + 1, 900])
def test_an_entry_of_an_older_release_is_applied_however_deep_it_nests(stage: Stage, depth: int) -> None:
    """It had no bound but Python's. Alipay will not send it again."""
    parked = stage.notify(token_canceled("token-1"))
    store_as_an_older_release(stage, parked.entry_id, nested(token_canceled("token-1"), depth))
    authorization_id = stage.consult(flow="direct")
    stage.report_token(authorization_id, "token-1")
    assert (stage.state(), stage.outcomes()) == ("canceled", [("applied", None)])
    assert inconsistencies(stage) == []


def test_an_entry_that_failed_because_it_nests_too_deeply_is_applied_by_a_replay(stage: Stage) -> None:
    parked = stage.notify(token_canceled("token-1"))
    failed = {"outcome": "failed", "reason": "NoLongerUnderstoodError"}
    store_as_an_older_release(stage, parked.entry_id, nested(token_canceled("token-1"), 900), **failed)
    authorization_id = stage.consult(flow="direct")
    stage.report_token(authorization_id, "token-1")
    assert parked.entry_id is not None
    (again,) = stage.process(parked.entry_id)
    assert (again.outcome, again.reason, stage.state()) == ("applied", None, "canceled")


def test_an_entry_that_was_understood_once_fails_and_stays_open_when_it_cannot_be_read(stage: Stage) -> None:
    """It was acknowledged: Alipay will not send it again."""
    parked = stage.notify(token_canceled("token-1"))
    store_as_an_older_release(stage, parked.entry_id, nested(token_canceled("token-1"), 900)[:-1])
    authorization_id = stage.consult(flow="direct")
    stage.report_token(authorization_id, "token-1")
    assert stage.outcomes() == [("failed", "NoLongerUnderstoodError")]
    assert parked.entry_id is not None
    (again,) = stage.process(parked.entry_id)
    assert (again.outcome, again.reason) == ("failed", "NoLongerUnderstoodError")
    assert stage.notify(token_canceled("token-1")).answer.status == 200


def test_an_entry_that_cannot_be_read_any_more_takes_nothing_else_with_it(stage: Stage) -> None:
    parked = stage.notify(token_canceled("token-9"))
    store_as_an_older_release(stage, parked.entry_id, b"[" * 70, auth_state="s-1")
    stage.consult()
    stage.notify(authcode_created("s-1", "code-1"))
    stage.notify(token_created("s-1", "token-1"))
    assert stage.state() == "token_active"
    assert stage.outcomes()[0] == ("failed", "NoLongerUnderstoodError")


# --- what was malformed to an older release ---


def test_an_entry_that_was_malformed_is_processed_when_this_release_understands_it(stage: Stage) -> None:
    stage.consult()
    entry_id = store_as_malformed(stage, BYTE_ORDER_MARK + authcode_created("s-1", "code-1").body())
    (done,) = stage.process(entry_id)
    assert (done.type, done.outcome) == ("AUTHCODE_CREATED", "applied")
    assert stage.state() == "authcode_issued"
    assert stage.process(entry_id) == []


def test_its_redelivery_changes_nothing_more_and_is_acknowledged(stage: Stage) -> None:
    stage.consult()
    body = BYTE_ORDER_MARK + authcode_created("s-1", "code-1").body()
    stage.process(store_as_malformed(stage, body))
    again = stage.notify(body)
    assert (again.answer.status, again.outcome, again.reason) == (200, "redundant", "already_known")
    assert len(stage.moves()) == 2


def test_a_redelivery_that_this_release_understands_processes_the_malformed_entry_it_repeats(stage: Stage) -> None:
    """An unknown type is known by its bytes, as what is malformed is."""
    body = BYTE_ORDER_MARK + Draft("TOKEN_PAUSED").body()
    entry_id = store_as_malformed(stage, body)
    again = stage.notify(body)
    assert (again.entry_id, again.answer.status, again.outcome) == (entry_id, 200, "parked")


def test_a_duplicate_of_what_is_still_malformed_is_answered_400_again(stage: Stage) -> None:
    first = stage.notify(b"{}")
    assert first.entry_id is not None
    stage.process(first.entry_id)
    again = stage.notify(b"{}")
    assert (again.entry_id, again.answer.status, again.outcome) == (first.entry_id, 400, "malformed")


def test_a_malformed_entry_whose_body_does_not_open_stays_malformed(stage: Stage) -> None:
    """It was never acknowledged, and ending failed would acknowledge its duplicates."""
    first = stage.notify(b"{}")
    assert first.entry_id is not None
    broken = update(InboxEntry).where(InboxEntry.id == first.entry_id).values(sealed_body=b"broken")
    stage.database.run(lambda session: session.execute(broken))
    (done,) = stage.process(first.entry_id)
    assert done.outcome == "malformed"
    assert stage.notify(b"{}").answer.status == 400


def test_process_takes_malformed_entries_by_id_and_by_outcome_and_not_unasked(shell: Shell) -> None:
    entry_id = shell.notify(b"{}")
    assert shell.ask("inbox", "process") == "There was nothing to process.\n"
    assert shell.ask("inbox", "process", entry_id) == "Processed 1: 1 malformed.\n"
    assert shell.ask("inbox", "process", "--outcome", "malformed") == "Processed 1: 1 malformed.\n"


# --- at the endpoint ---


def test_a_byte_order_mark_before_a_notification_is_passed_over(http: HttpClient) -> None:
    http.consult("s-1")
    assert http.notify(BYTE_ORDER_MARK + authcode_created("s-1", "code-1").body()).status_code == 200
    assert http.consult("s-1")["state"] == "authcode_issued"


def test_a_notification_of_another_family_is_told_so_and_kept(http: HttpClient) -> None:
    body = json.dumps({"notifyType": "PAYMENT_RESULT", "result": {"resultStatus": "S"}}).encode()
    answer = http.notify(body)
    assert answer.status_code == 400
    said = answer.get_json()["result"]
    assert said["resultCode"] == "PARAM_ILLEGAL"
    assert "notifyType is PAYMENT_RESULT: this is a notification of another family" in said["resultMessage"]
    shell = Shell(http.app, http.keyring_path)
    assert "notifyType is PAYMENT_RESULT" in shell.ask("inbox", "show", "1")


def test_the_type_that_a_malformed_body_names_is_shown(shell: Shell) -> None:
    entry_id = shell.notify(Draft("TOKEN_CANCELED"))
    assert shell.json("inbox", "show", entry_id)["type"] is None
    shown = shell.ask("inbox", "show", entry_id)
    assert shown.startswith("malformed: ")
    assert "TOKEN_CANCELED" in next(line for line in shown.splitlines() if line.startswith("type "))
