"""Several processes on one SQLite file: one that writes all the time leaves the others their turns."""

import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import groupby

import pytest
from sqlalchemy import make_url
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from app.database import Database, DatabaseUnavailableError, within

#: Enough to tell turns from luck.
TURNS = 80


def test_two_busy_processes_take_turns(sqlite_url: str) -> None:
    """With SQLite's own way of waiting, one kept the other out for dozens of turns."""
    turns: list[int] = []

    def write_all_the_time(number: int) -> None:
        def write_for_a_while(connection: Connection) -> None:
            connection.exec_driver_sql("DELETE FROM rendezvous")
            turns.append(number)
            time.sleep(0.01)

        database = Database(sqlite_url)
        while len(turns) < TURNS:
            database.run_once(write_for_a_while)
            # What a process does between two transactions: answering, and reading what comes next.
            time.sleep(0.001)
        database.close()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write_all_the_time, range(2)))
    longest = max(len(list(run)) for _, run in groupby(turns))
    assert longest < TURNS / 8


#: Locks the bytes by which SQLite recovers its journal (its "WAL-mode File Format", 2.3), and spoils what is to be
#: recovered, for a moment.
RECOVER = """
import fcntl, os, sys, time
index = os.open(sys.argv[1], os.O_RDWR)
for byte in (120, 122):
    fcntl.lockf(index, fcntl.LOCK_EX, 1, byte)
head = os.pread(index, 96, 0)
os.pwrite(index, bytes(96), 0)
print("held", flush=True)
time.sleep(0.4)
os.pwrite(index, head, 0)
"""


def test_another_process_that_recovers_the_journal_is_waited_for(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    database.run_once(write)
    index = f"{make_url(sqlite_url).database}-shm"
    with subprocess.Popen([sys.executable, "-c", RECOVER, index], stdout=subprocess.PIPE, text=True) as recovering:
        assert recovering.stdout is not None
        assert recovering.stdout.readline() == "held\n"
        database.run_once(write)
    database.close()


def write(connection: Connection) -> None:
    connection.exec_driver_sql("DELETE FROM rendezvous")


#: SQLite's lock is waited for two seconds, and for no longer than there is time.
BUSY_TIMEOUT_S = 2
SECONDS_LEFT = 0.4


def test_the_lock_is_waited_for_no_longer_than_there_is_time(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    database.run_once(write)
    waited = []
    with closing(sqlite3.connect(make_url(sqlite_url).database or "", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        # The quickest of a few: a busy machine makes each longer, and none shorter.
        for _ in range(3):
            began = time.monotonic()
            with within(SECONDS_LEFT), pytest.raises(DatabaseUnavailableError):
                database.run(lambda session: write(session.connection()))
            waited.append(time.monotonic() - began)
    database.run_once(write)
    database.close()
    assert SECONDS_LEFT <= min(waited) < BUSY_TIMEOUT_S


@pytest.mark.parametrize("read_only", [False, True])
def test_no_statement_waits_for_the_lock_longer_than_there_is_time(sqlite_url: str, *, read_only: bool) -> None:
    """As one that reads does while another process recovers the journal."""
    database = Database(sqlite_url)

    def milliseconds(session: Session) -> int:
        found: int = session.connection().exec_driver_sql("PRAGMA busy_timeout").scalar_one()
        return found

    with within(SECONDS_LEFT):
        assert database.run(milliseconds, read_only=read_only) <= 1000 * SECONDS_LEFT
    assert database.run(milliseconds, read_only=read_only) == 1000 * BUSY_TIMEOUT_S
    database.close()
