"""Races: of what happens at one instant, one entry, one transition and nothing parked is left, in any order."""

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from threading import Barrier
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import text

from app import authorizations, tokens
from app.authorizations import Cause
from app.secret import Secret
from app.simulator.draft import authcode_created, token_canceled, token_created
from app.state_machine import Event
from app.tokens import Grant
from app.unit_of_work import UnitOfWork
from app.vocabulary import CauseKind
from tests.builders import CLIENT_ID
from tests.integration.stage import NOON, Stage, a_stage

#: Enough for the losing order of a pair to come up many times over.
ROUNDS = 25


def at_once(*acts: Callable[[], object]) -> None:
    """Start every act at the same instant, each on a thread and so on a connection of its own."""
    barrier = Barrier(len(acts))

    def start(act: Callable[[], object]) -> object:
        barrier.wait()
        return act()

    with ThreadPoolExecutor(len(acts)) as pool:
        for done in [pool.submit(start, act) for act in acts]:
            done.result()


def test_the_same_notification_from_many_connections_is_one_entry_and_one_transition(stage: Stage) -> None:
    stage.consult()
    at_once(*[lambda: stage.notify(authcode_created("s-1", "code-1"))] * 8)
    (entry,) = stage.entries()
    assert (entry.outcome, entry.deliveries) == ("applied", 8)
    assert len(stage.moves()) == 2


def test_a_cancellation_at_the_instant_of_the_creation_always_ends_canceled(stage: Stage) -> None:
    for number in range(ROUNDS):
        stage.consult(f"s-{number}", flow="direct")
        at_once(
            partial(stage.notify, token_created(f"s-{number}", f"token-{number}")),
            partial(stage.notify, token_canceled(f"token-{number}")),
        )
        assert stage.state(f"s-{number}") == "canceled"
    assert (stage.waiting(), stage.key_locks()) == ({}, [])


def test_a_notification_at_the_instant_of_its_consult_is_never_left_behind(stage: Stage) -> None:
    for number in range(ROUNDS):
        at_once(
            partial(stage.consult, f"s-{number}"),
            partial(stage.notify, authcode_created(f"s-{number}", f"code-{number}")),
        )
        assert stage.state(f"s-{number}") == "authcode_issued"
    assert (stage.waiting(), stage.key_locks()) == ({}, [])


def test_the_same_consult_from_many_connections_opens_one_authorization(stage: Stage) -> None:
    at_once(*[lambda: stage.consult(user_ref="u-1")] * 8)
    assert len(stage.moves()) == 1


def test_a_whole_life_at_one_instant_ends_canceled(stage: Stage) -> None:
    for number in range(ROUNDS):
        at_once(
            partial(stage.consult, f"s-{number}"),
            partial(stage.notify, authcode_created(f"s-{number}", f"code-{number}")),
            partial(stage.notify, token_created(f"s-{number}", f"token-{number}")),
            partial(stage.notify, token_canceled(f"token-{number}")),
        )
        assert [event for _, event, _, _ in stage.moves(f"s-{number}")] == [
            "consult",
            "authcode_created",
            "token_created",
            "token_canceled",
        ]
    assert (stage.waiting(), stage.key_locks()) == ({}, [])


def test_of_two_authorizations_that_claim_one_token_at_one_instant_one_gets_it(stage: Stage) -> None:
    for number in range(ROUNDS):
        stage.consult(f"a-{number}", flow="direct")
        stage.consult(f"b-{number}", flow="direct")
        at_once(
            partial(stage.notify, token_created(f"a-{number}", f"token-{number}")),
            partial(stage.notify, token_created(f"b-{number}", f"token-{number}")),
        )
        assert sorted([stage.state(f"a-{number}"), stage.state(f"b-{number}")]) == ["consulted", "token_active"]
    assert sorted(set(stage.outcomes())) == [("applied", None), ("rejected", "contradiction")]


def test_two_replays_and_a_redelivery_of_one_failed_entry_apply_it_once(stage: Stage) -> None:
    authorization_id = stage.consult()
    with stage.broken_code(authorization_id):
        entry_id = stage.notify(authcode_created("s-1", "code-1")).entry_id
    assert entry_id is not None
    at_once(
        lambda: stage.process(entry_id),
        lambda: stage.process(entry_id),
        lambda: stage.notify(authcode_created("s-1", "code-1")),
    )
    assert stage.outcomes() == [("applied", None)]
    assert len(stage.moves()) == 2


def test_two_authorizations_do_not_wait_for_each_other_on_postgresql(
    postgresql_url: str, alipay_key: RSAPrivateKey
) -> None:
    stage = a_stage(postgresql_url, alipay_key)
    first = stage.consult("s-1")
    stage.consult("s-2")
    with stage.database.engine.connect() as other, other.begin():
        other.execute(text("SELECT id FROM authorizations WHERE id = :id FOR UPDATE"), {"id": first})
        assert stage.notify(authcode_created("s-2", "code-2")).outcome == "applied"
    stage.database.close()


def test_a_cancellation_starts_over_when_its_token_becomes_known_while_it_waits(
    postgresql_url: str, alipay_key: RSAPrivateKey
) -> None:
    """The narrowest moment, held open: the token is looked for and not found, and known before it can be parked."""
    stage = a_stage(postgresql_url, alipay_key)
    stage.consult(flow="direct")
    with ThreadPoolExecutor(1) as pool, stage.database.engine.connect() as connection:
        work = UnitOfWork(connection, stage.vault)
        token_index = tokens.index(stage.vault, CLIENT_ID, Secret("token-1"))
        work.lock_and_load(states=[(CLIENT_ID, "s-1")], token_keys=[(CLIENT_ID, token_index)])
        authorization = work.authorization(CLIENT_ID, "s-1")
        assert authorization is not None
        canceling = pool.submit(stage.notify, token_canceled("token-1"))
        wait_until_somebody_waits(stage)
        work.make_known(authorization, Grant(Secret("token-1")), at=NOON)
        work.advance(authorization, Event.TOKEN_CREATED, cause=Cause(CauseKind.NOTIFICATION, at=NOON))
        work.close()
        connection.commit()
        assert canceling.result().outcome == "applied"
    assert stage.state() == "canceled"
    assert stage.key_locks() == []
    stage.database.close()


@pytest.mark.parametrize("look", [1, 2])
def test_a_cancellation_starts_over_when_its_token_becomes_known_between_two_looks(
    postgresql_url: str, alipay_key: RSAPrivateKey, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    """Nobody is waited for: it is known when tokens are read, and was not when authorizations were locked."""
    stage = a_stage(postgresql_url, alipay_key)
    stage.consult(flow="direct")
    execute, looks = psycopg.Cursor.execute, count(1)

    def execute_late(cursor: Any, statement: Any, *rest: Any, **options: Any) -> Any:  # noqa: ANN401 -- the driver's own
        if re.match(r"SELECT (?!.*FOR UPDATE).*\.sealed_access_token", str(statement), re.DOTALL):
            this = next(looks)
            if this == look:
                monkeypatch.setattr(psycopg.Cursor, "execute", execute)
                with cursor.connection.pipeline():
                    # Entering it waits until all that was sent before is done.
                    assert stage.notify(token_created("s-1", "token-1")).outcome == "applied"
            elif this == 1:
                # The second look is that of the delivery alone, once it would not go together.
                raise RuntimeError
        return execute(cursor, statement, *rest, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", execute_late)
    assert stage.notify(token_canceled("token-1")).outcome == "applied"
    assert stage.state() == "canceled"
    assert {entry.outcome for entry in stage.entries()} == {"applied"}
    stage.database.close()


def test_a_delivery_that_waited_for_a_lock_judges_the_state_after_it(
    postgresql_url: str, alipay_key: RSAPrivateKey
) -> None:
    """Held open: another transaction records the same code, and has not committed yet when the delivery comes."""
    stage = a_stage(postgresql_url, alipay_key)
    stage.consult()
    with ThreadPoolExecutor(1) as pool, stage.database.engine.connect() as connection:
        work = UnitOfWork(connection, stage.vault)
        work.lock_and_load(states=[(CLIENT_ID, "s-1")])
        authorization = work.authorization(CLIENT_ID, "s-1")
        assert authorization is not None
        delivering = pool.submit(stage.notify, authcode_created("s-1", "code-1"))
        wait_until_somebody_waits(stage)
        authorizations.store_auth_code(stage.vault, authorization, Secret("code-1"), received_at=NOON, now=NOON)
        work.advance(authorization, Event.AUTHCODE_CREATED, cause=Cause(CauseKind.API, at=NOON))
        work.close()
        connection.commit()
        assert delivering.result().reason == "already_known"
    assert len(stage.moves()) == 2
    stage.database.close()


def wait_until_somebody_waits(stage: Stage) -> None:
    """Return once a connection of this database waits for a lock."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    for _ in range(500):
        if stage.database.run(lambda session: session.scalar(query)):
            return
        time.sleep(0.01)
    raise AssertionError
