"""Machines whose clocks differ agree by the database's clock on when a call is due, and when its time is up."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy.engine import make_url

from app.database import Database
from app.database.clock import clock_lead
from tests.integration.calling import CallingStage, a_calling_stage
from tests.integration.stage import NOON, Clock, Stage, a_stage

#: By how much a machine's clock is off.
OFF = timedelta(seconds=90)
#: Schemas whose clock stands in for the database's: that it is ahead means that the machine is behind.
CLOCKS = {"machine_behind": OFF, "machine_ahead": -OFF}


@pytest.fixture(scope="session")
def merchant_key() -> RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def make_clocks(url: str) -> None:
    """Make a schema for each machine, in which the database shows what such a machine would see."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        for schema, lead in CLOCKS.items():
            connection.execute(f"CREATE SCHEMA {schema}")
            connection.execute(
                f"CREATE FUNCTION {schema}.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS "
                f"$$ SELECT pg_catalog.clock_timestamp() + interval '{lead.total_seconds()} seconds' $$"
            )


@contextmanager
def a_machine(url: str, schema: str) -> Iterator[tuple[Database, Clock]]:
    """A machine's way to the database, and its clock: at noon by the database's it shows something else."""
    options = {"options": f"-csearch_path={schema},public,pg_catalog"}
    database = Database(make_url(url).update_query_dict(options).render_as_string(hide_password=False))
    yield database, Clock(NOON - CLOCKS[schema])
    database.close()


@contextmanager
def two_machines(
    url: str, alipay_key: RSAPrivateKey, merchant_key: RSAPrivateKey, receiving: str, calling: str
) -> Iterator[tuple[CallingStage, CallingStage]]:
    """A machine that receives, and one whose background worker calls."""
    make_clocks(url)
    with ExitStack() as opened:
        database, clock = opened.enter_context(a_machine(url, receiving))
        stage = replace(a_stage(url, alipay_key), database=database, clock=clock)
        receiver = opened.enter_context(contextmanager(a_calling_stage)(stage, merchant_key))
        database, clock = opened.enter_context(a_machine(url, calling))
        # These clocks stand still, and to ask the database for its takes some of the time that goes by.
        clock.forward(seconds=1)
        yield receiver, CallingStage(replace(receiver.stage, database=database, clock=clock), receiver.gateway)


@pytest.mark.parametrize(
    ("receiving", "calling"), [("machine_behind", "machine_ahead"), ("machine_ahead", "machine_behind")]
)
def test_machines_whose_clocks_differ_by_minutes_lose_no_code(
    postgresql_url: str, alipay_key: RSAPrivateKey, merchant_key: RSAPrivateKey, receiving: str, calling: str
) -> None:
    with two_machines(postgresql_url, alipay_key, merchant_key, receiving, calling) as (receiver, worker):
        with worker.running():
            receiver.consult()
            receiver.wait_for(lambda: receiver.statuses() == [("consult", "done")])
            receiver.notify_code()
            receiver.wait_for(lambda: receiver.statuses()[1:] == [("exchange", "done")])
            receiver.ask_refresh()
            receiver.wait_for(lambda: receiver.statuses()[2:] == [("refresh", "done")])
        assert receiver.stage.state() == "token_active"
        moments = [at for each in receiver.calls() for at in (each.created_at, each.finished_at) if at is not None]
        assert all(abs(at - NOON) < timedelta(seconds=10) for at in moments)


@pytest.mark.parametrize("calling", CLOCKS)
def test_a_code_is_given_up_when_its_minute_is_over_by_the_clock_of_the_database(
    postgresql_url: str, alipay_key: RSAPrivateKey, merchant_key: RSAPrivateKey, calling: str
) -> None:
    with two_machines(postgresql_url, alipay_key, merchant_key, "machine_behind", calling) as (receiver, worker):
        receiver.consult()
        with worker.running():
            receiver.wait_for(lambda: receiver.statuses() == [("consult", "done")])
        receiver.notify_code()
        worker.fail("in-process", "exchange", times=None)
        with worker.running():
            receiver.wait_for(lambda: receiver.calls()[-1].attempts == 1 and not receiver.calls()[-1].is_in_flight)
            worker.forward_until(lambda: receiver.statuses()[1:] != [("exchange", "due")])
        assert receiver.statuses()[1:] == [("exchange", "undetermined")]
        lasted = worker.stage.clock.now + CLOCKS[calling] - NOON
        assert timedelta(seconds=50) < lasted < timedelta(seconds=61)


def test_a_machine_whose_clock_agrees_with_that_of_the_database_sees_no_lead(stage: Stage) -> None:
    assert stage.database.run(clock_lead, read_only=True) == timedelta(0)
