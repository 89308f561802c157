"""Several processes on one SQLite file: whoever writes all the time leaves the others their turns."""

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

from sqlalchemy.engine import Connection

from app.database import Database

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
