"""How late a call is, is said by the clock that it is due by: the database's."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from tests.integration.calls_shell import CallShell, a_call_shell

#: So far is this machine's clock ahead of the database's, or behind it.
OFF = timedelta(minutes=2)


@contextmanager
def a_shell_off_by(ahead: timedelta, url: str, keyring_path: Path, tmp_path: Path) -> Iterator[CallShell]:
    """A service before a database whose clock shows something else than the machine's."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA off")
        connection.execute(
            "CREATE FUNCTION off.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS "
            f"$$ SELECT pg_catalog.clock_timestamp() - interval '{ahead.total_seconds()} seconds' $$"
        )
    options = {"options": "-csearch_path=off,public,pg_catalog"}
    off_url = make_url(url).update_query_dict(options).render_as_string(hide_password=False)
    with a_call_shell(off_url, keyring_path, tmp_path, FLASK_METRICS_OPEN="1") as shell:
        yield shell


def seconds_late(shell: CallShell) -> float:
    page = shell.app.test_client().get("/metrics").text
    return float(page.split("\nnotifyauth_calls_due_oldest_seconds ")[1].split()[0])


@pytest.mark.parametrize("ahead", [OFF, -OFF], ids=["ahead", "behind"])
def test_a_call_that_was_begun_just_now_is_not_late_whatever_the_machines_clock_shows(
    ahead: timedelta, postgresql_url: str, keyring_path: Path, tmp_path: Path
) -> None:
    with a_shell_off_by(ahead, postgresql_url, keyring_path, tmp_path) as shell:
        call = shell.agree()
        assert seconds_late(shell) < 60
        assert "due at" in shell.ask("calls", "show", call).splitlines()[0]
