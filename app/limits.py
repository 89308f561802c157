"""The limits that depend on each other, on one page: how long each wait may take, and how many of each thing there are.

Every answer comes within `ANSWER_SECONDS_MAX`, and no wait before it may use up what those after it need.
`tests/unit/test_limits.py` has the inequalities between them, and docs/capacity.md tells operators the same numbers.
The unit is at the end of a name; a name without one is a number of things.
"""

# --- one request, from when it is whole ---

#: Every request is answered by then, whatever it waits for: Alipay redelivers what it did not hear about in time.
ANSWER_SECONDS_MAX = 4
#: A request that has waited this long for a thread is refused unread: behind a stuck database a queue hardly moves.
THREAD_WAIT_SECONDS_MAX = 3
#: A queued call with less time left is failed before its batch begins: else the whole batch would have to hurry.
BATCH_SECONDS_MIN = 1
#: A single call with less time left is not tried: the try would be given up in the middle.
TRY_SECONDS_MIN = 0.2
#: A call that needs a held row is tried again at least this often: rows are held for milliseconds.
RETRY_PAUSE_SECONDS_MAX = 0.25
#: Work with less time left is not begun in the database: the wait for a connection alone may take as long.
WORK_SECONDS_MIN = 0.3
#: A transaction that has failed after this long is not tried once more: the sender does better to come again.
LAST_TRY_SECONDS = 2
#: A row that is held for longer than this is held by something broken.
HELD_ROW_SECONDS_MAX = 2
#: A command of the shell may read for this long: a person waits longer than a request.
LOOK_UP_SECONDS_MAX = 60
#: Work that no answer waits for has a connection for no longer than this.
UNAWAITED_SECONDS_MAX = 1

# --- the waits within the database ---

#: Transactions of ours hold a row for less. A call waits for longer than that without a connection.
LOCK_TIMEOUT_MS = 100
#: No statement of a delivery takes a tenth of this. It ends those of a connection that was given up.
STATEMENT_TIMEOUT_MS = 3_000
#: A process that froze in the middle of a transaction would keep its locks for hours.
IDLE_TIMEOUT_MS = 10_000
#: The lock of an SQLite file is held for milliseconds.
BUSY_TIMEOUT_MS = 2_000
#: A pooled connection is lent for milliseconds.
POOL_TIMEOUT_SECONDS = 1
#: The least that libpq takes, for each address that the host's name stands for.
CONNECT_TIMEOUT_SECONDS = 2
#: A resolver answers within milliseconds. One that takes longer is taken for mute, if it has answered before.
RESOLVE_SECONDS_MAX = 1.0
#: A connection that took this long met an address that does not answer.
SILENT_ADDRESS_SECONDS = 1.0
#: Work that failed sooner was told at once, and held nobody up: the circuit breaker does not count it.
SLOW_FAILURE_SECONDS = 1.0

# --- how often ---

#: A transaction that lost a deadlock wins the next try almost surely.
ATTEMPTS_MAX = 3
#: One slow failure may have met a lock of its own; two in a row open the circuit breaker.
SLOW_FAILURES_MAX = 2

# --- how many, of one worker process ---

#: An open connection counts while it is idle too, and a proxy keeps dozens open. An idle one costs a few kilobytes.
#: Each has one request in hand at a time, so no more deliveries can be queued for a transaction either.
CONNECTIONS_MAX = 256
#: Threads for calls of the API: a delivery needs none.
THREADS_DEFAULT = 16
#: The database lets no more in, and refuses what comes beyond that.
THREADS_MAX = 32
#: Requests that wait for a thread, for each thread: more would be answered after their clients have given up.
WAITING_PER_THREAD_MAX = 16
#: Database connections: as many as there are threads, for deliveries share a few of them.
POOL_SIZE = 16
#: One piece of work that has a connection and three that wait, for each of them; more would only wait for each other.
INSIDE_MAX = 4 * POOL_SIZE
#: Of the threads, one in so many may wait for a row that somebody holds. The others are for other work.
HELD_ROW_THREADS_DIVISOR = 4

# --- how many, of one transaction ---

#: Parked entries of one authorization that are resumed. Judging and writing so many takes a tenth of a second, during
#: which SQLite lets nobody else write; fewer would only make more commits. A batch for which more wait runs one by one.
RESUMED_AT_ONCE_MAX = 200

# --- how many, of the group commit ---

#: Calls in one transaction: a larger batch holds more locks, and hardly saves any more.
BATCH_SIZE_MAX = 64
#: Threads: one that runs a batch, and one that still resolves the futures of the batch before.
LEADERS_MAX = 2
#: Calls that run one by one at a time, after their batch broke.
SINGLES_AT_ONCE_MAX = 8
#: Calls that try again at a time, since somebody held their row: the other connections are for those that get through.
RETRIES_AT_ONCE_MAX = 4
#: Calls that wait for held rows: senders that wait leave room for all others.
HELD_MAX = 64
#: Calls that do more once they are stored. Each may wait for a row, without a connection; many at once are rare.
REPLAYS_AT_ONCE_MAX = 8

# --- how many, and how long, of the calls that wait for something to happen ---

#: Each has a connection: the other half of them is for notifications and everybody else.
LONG_POLLS_MAX = CONNECTIONS_MAX // 2
#: Proxies and clients give up on an answer after 30 seconds or later.
LONG_POLL_SECONDS_MAX = 25
#: Nobody notices a fifth of a second, nor a database that it is asked a small question five times in a second.
LOOK_PAUSE_SECONDS = 0.2

# --- the calls to Alipay, of the one background worker that makes them ---

#: Requests to Alipay at a time. One that hangs takes ten seconds.
CALLS_AT_ONCE_MAX = 64
#: Of those, how many may be to one client's gateway: it must not keep the others' calls waiting when it hangs.
CLIENT_CALLS_AT_ONCE_MAX = 48
#: Of those, how many may be refreshes: thousands may be due at once, and none is urgent.
REFRESHES_AT_ONCE_MAX = 8
#: How often to look what is due. A user waits.
CALLS_POLL_SECONDS = 0.05
#: What ends within this time is recorded in one transaction.
CALLS_RECORD_SECONDS = 0.02
#: No request of a background worker that has lost the lease is under way for longer.
CALL_ABANDONED_SECONDS = 12

# --- the server ---

#: A head may take this long from its first byte: a sender writes it in one go.
HEAD_SECONDS_MAX = 10
#: A body may take this long: a kilobyte takes milliseconds.
BODY_SECONDS_MAX = 10
#: A client may leave a response unread for this long: a slow one reads on, a little at a time.
WRITE_SECONDS_MAX = 30
#: A worker that has not finished by then is not going to.
STOP_SECONDS_MAX = 30
