"""Statements that are made once are shared by all threads, from the first moment on."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import Engine, Executable, select, union_all

from app.database.bulk import KeyedStatement, KeyFilter
from app.database.pipeline import execute
from app.models import Authorization
from tests.builders import CLIENT_ID
from tests.integration.stage import a_stage

THREADS = 8


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Threads that hardly get anything done in one go, so that whatever can come in between does."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("restless_threads")
def test_threads_that_are_the_first_to_look_find_the_same(database_url: str, alipay_key: RSAPrivateKey) -> None:
    stage = a_stage(database_url, alipay_key)
    stage.consult("s-1")
    found = [names for _ in range(15) for names in found_at_once(stage.database.engine, KeyedStatement(by_auth_state))]
    stage.database.close()
    assert found == [["s-1"]] * len(found)


def by_auth_state(keys_in: KeyFilter) -> Executable:
    one, other = (
        keys_in.find(select(Authorization), name, Authorization.client_id, Authorization.auth_state)
        for name in ("one", "other")
    )
    return union_all(one, other)


def found_at_once(engine: Engine, lookup: KeyedStatement) -> list[list[str]]:
    engine.clear_compiled_cache()
    start = Barrier(THREADS)

    def look(_: int) -> list[str]:
        start.wait()
        with engine.connect() as connection:
            (found,) = execute(connection, lookup(one=[(CLIENT_ID, "s-1")], other=[]))
            return [each.auth_state for each in found.of(Authorization)]

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(look, range(THREADS)))
