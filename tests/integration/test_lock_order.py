"""Every transaction locks several rows in one order, as the statements show that PostgreSQL is really sent.

Two transactions that lock the same rows in two orders deadlock.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from tests.integration.stage import Overheard, Stage, a_stage

#: So many that they are in order by chance once in some three and a half million times.
NUMBER = 10

NAMES = [f"s-{number}" for number in range(NUMBER)]
CANCELLATIONS = [token_canceled(f"token-of-{name}") for name in NAMES]


@pytest.fixture
def stage(postgresql_url: str, alipay_key: RSAPrivateKey) -> Iterator[Stage]:
    stage = a_stage(postgresql_url, alipay_key)
    yield stage
    stage.database.close()


def notify_batch(stage: Stage, drafts: list[Draft]) -> Overheard:
    with stage.overheard() as overheard:
        stage.notify_batch([draft.body() for draft in drafts])
    return overheard


def rows_of(overheard: Overheard, beginning: str) -> list[dict[str, Any]]:
    """Take the rows out of the one statement that begins so: they travel in one parameter."""
    (parameters,) = [parameters for statement, parameters in overheard.statements if statement.startswith(beginning)]
    (rows,) = parameters.values()
    return list(json.loads(rows))


def lockings(overheard: Overheard) -> list[str]:
    return [statement for statement, _ in overheard.statements if "FOR UPDATE" in statement]


def test_redeliveries_are_counted_in_inbox_sequence(stage: Stage) -> None:
    notify_batch(stage, CANCELLATIONS)
    ids = [row["id"] for row in rows_of(notify_batch(stage, CANCELLATIONS[::-1]), "UPDATE inbox")]
    assert len(ids) == NUMBER
    assert ids == sorted(ids)


def test_key_locks_are_taken_in_the_order_of_their_keys(stage: Stage) -> None:
    creations = [token_created(name, f"token-of-{name}") for name in NAMES]
    rows = rows_of(notify_batch(stage, creations), "INSERT INTO rendezvous")
    keys = [(row["client_id"], row["kind"], row["key"]) for row in rows]
    assert len(keys) == 2 * NUMBER
    assert keys == sorted(keys)


def test_entries_are_stored_in_the_order_of_their_fingerprints(stage: Stage) -> None:
    """Each locks its fingerprint, which another process may be about to store as well."""
    fingerprints = [row["fingerprint"] for row in rows_of(notify_batch(stage, CANCELLATIONS), "INSERT INTO inbox")]
    assert len(fingerprints) == NUMBER
    assert fingerprints == sorted(fingerprints)


def test_rows_that_are_there_are_locked_in_the_order_of_their_ids(stage: Stage) -> None:
    """Authorizations, and then the entries that wait for them."""
    for name in NAMES:
        stage.consult(name)
    notify_batch(stage, [token_created(name, f"token-of-{name}") for name in NAMES])
    overheard = notify_batch(stage, [authcode_created(name, f"code-of-{name}") for name in NAMES])
    assert {entry.outcome for entry in stage.entries()} == {"applied"}
    found = [re.search(r"ORDER BY (\w+)\.id FOR UPDATE$", statement) for statement in lockings(overheard)]
    assert [each and each[1] for each in found] == ["authorizations", "inbox"]


def test_a_report_locks_what_waits_for_it_in_inbox_sequence(stage: Stage) -> None:
    for code in NAMES:
        stage.notify(authcode_created("s-1", code))
    with stage.overheard() as overheard:
        stage.consult("s-1")
    ordered = [statement for statement in lockings(overheard) if "FROM inbox" in statement]
    assert [statement.endswith("ORDER BY inbox.id FOR UPDATE") for statement in ordered] == [True]
