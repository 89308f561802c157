"""How a transaction on PostgreSQL begins: with the settings that it needs, in the same message.

Behind a pool that lends a connection for one transaction (PgBouncer), settings made once a connection are lost, and
reach others who share the pool. So each transaction brings its own, and takes them away again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from app.limits import ANSWER_SECONDS_MAX, IDLE_TIMEOUT_MS, LOCK_TIMEOUT_MS, STATEMENT_TIMEOUT_MS

#: A transaction that waits keeps the locks that it has, and deliveries wait for those: a writer waits briefly.
_LOCK_TIMEOUT = {"lock_timeout": str(LOCK_TIMEOUT_MS)}
#: As long as a request may take. It ends the statements of a connection that was given up.
_GENEROUS_TIMEOUTS = {
    "statement_timeout": str(1000 * ANSWER_SECONDS_MAX),
    "idle_in_transaction_session_timeout": str(IDLE_TIMEOUT_MS),
}
_SHORT_TIMEOUTS = _LOCK_TIMEOUT | {
    "statement_timeout": str(STATEMENT_TIMEOUT_MS),
    "idle_in_transaction_session_timeout": str(IDLE_TIMEOUT_MS),
}
#: The warning of an unconfirmed commit must reach us, whatever the role's setting is.
_WARNINGS = {"client_min_messages": "warning"}
_PLANNER = {
    # Every statement of a unit of work finds its rows by an index. A plan stays with its connection, and one that reads
    # the whole of a small table would still do so when the table is large.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    # No statement runs long enough to be worth compiling.
    "jit": "off",
}


#: A server, a database or a role may be set to confirm commits that a power cut, or with standbys the loss of the
#: machine, still takes back. Ours are never confirmed before they last; remote_write and remote_apply stay as chosen.
_LASTING_COMMIT = (
    "set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN ('off', 'local') THEN 'on' "
    "ELSE current_setting('synchronous_commit') END, true)"
)


@dataclass(frozen=True)
class Opening:
    """What begins a transaction: its mode, and the settings that hold until it ends."""

    #: What BEGIN says of it. READ WRITE is never said: it would override that a database was made read-only.
    mode: str
    settings: Mapping[str, str]
    #: For a setting whose value depends on the one it has.
    calls: Sequence[str] = ()

    @cached_property
    def message(self) -> bytes:
        """All of it, for where a message may have several statements."""
        local = (f"SET LOCAL {name} = '{value}'" for name, value in self.settings.items())
        return "; ".join([self._begin, *local, *(f"SELECT {call}" for call in self.calls)]).encode()

    @cached_property
    def statements(self) -> Sequence[bytes]:
        """The same for where a message may not, in as few statements as there can be."""
        calls = (f"set_config('{name}', '{value}', true)" for name, value in self.settings.items())
        return self._begin.encode(), f"SELECT {', '.join([*calls, *self.calls])}".encode()

    @property
    def _begin(self) -> str:
        return f"BEGIN ISOLATION LEVEL {self.mode}"


#: A unit of work, which is a delivery, a replay or a report: with planner switches and short timeouts.
HOT = Opening("READ COMMITTED", _SHORT_TIMEOUTS | _WARNINGS | _PLANNER, (_LASTING_COMMIT,))
#: Anything else that writes, as PostgreSQL plans it.
WRITING = Opening("READ COMMITTED", _LOCK_TIMEOUT | _GENEROUS_TIMEOUTS | _WARNINGS, (_LASTING_COMMIT,))
#: Sees one snapshot and waits for no writer. Only a lock on a whole table blocks a read: it then gives its connection
#: back between tries, as writers do, because deliveries need connections. Planned as PostgreSQL plans.
READING = Opening("REPEATABLE READ READ ONLY", _LOCK_TIMEOUT | _GENEROUS_TIMEOUTS)

#: How a session reads and writes values. PgBouncer keeps these for each of its clients, unlike any other setting.
SESSION = {
    # The driver reads times in no other form.
    "datestyle": "ISO, MDY",
    # In the zone of a server, a token that "never" expires may end in the year 10000, which the driver cannot read.
    "timezone": "UTC",
    # SQLAlchemy asks the first connection alone how a backslash is to be written.
    "standard_conforming_strings": "on",
}
