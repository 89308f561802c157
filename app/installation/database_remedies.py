"""What to do about what a driver or a server says of the database, as a sentence for the doctor."""

import re

from app.limits import POOL_SIZE

#: A server has room for so many connections, and we may be those that take it.
_FEWER = f"each worker has up to {POOL_SIZE} connections: start fewer --workers, or put PgBouncer between"

#: What a driver or a server says, and what to do about it. The first that fits is meant.
_REMEDIES = tuple(
    (re.compile(said), remedy)
    for said, remedy in (
        (
            r"system is (starting up|shutting down|in recovery|not (yet )?accepting)",
            "wait until the server has started, or see its log",
        ),
        ("too many connections for role", f"{_FEWER}, or ALTER ROLE … CONNECTION LIMIT to more"),
        ("too many connections for database", f"{_FEWER}, or ALTER DATABASE … CONNECTION LIMIT to more"),
        ("no more connections allowed", f"raise max_client_conn of PgBouncer, or: {_FEWER}"),
        ("too many clients|connection slots", f"{_FEWER}, or raise max_connections of the server"),
        ("password authentication failed", "the user or its password is wrong in FLASK_DATABASE_URL"),
        ("no password supplied", "the password is missing in FLASK_DATABASE_URL: postgresql://user:password@host/name"),
        (
            "authentication failed|no pg_hba.conf entry",
            "the server lets this user, address or database in only with an entry in pg_hba.conf",
        ),
        ('role "[^"]*" does not exist', "there is no such user: correct it in FLASK_DATABASE_URL, or CREATE ROLE"),
        ("not permitted to log in", "ALTER ROLE … LOGIN, or name another user in FLASK_DATABASE_URL"),
        (
            'database "[^"]*" does not exist|no such database',
            "there is no database of this name: correct what is behind the last / of FLASK_DATABASE_URL, or createdb",
        ),
        ("permission denied for database", "GRANT CONNECT ON DATABASE … TO the user of FLASK_DATABASE_URL"),
        ("not currently accepting", "ALTER DATABASE … ALLOW_CONNECTIONS true, or name another in FLASK_DATABASE_URL"),
        ("resolve|translate host", "the host's name in FLASK_DATABASE_URL is wrong, or the resolver does not know it"),
        ("refused", "nobody listens at this host and port: start the server, or correct FLASK_DATABASE_URL"),
        ("No such file", "there is no socket there: correct the host in FLASK_DATABASE_URL, or start the server"),
        (r"\bSSL\b|certificate", "correct sslmode and the certificates in FLASK_DATABASE_URL"),
        (
            r"timed? ?out|in time|[Tt]imeout|unreachable|No route",
            "the host does not answer: its address or port in FLASK_DATABASE_URL, a firewall, or the server",
        ),
        # SQLite.
        ("is full", "make room where the file is: nothing can be stored on a full disk"),
        ("is locked", "another program holds the file: end it, a backup or a shell of SQLite for example"),
        (
            "malformed|disk I/O",
            "the file or its disk is damaged: restore a backup, as docs/backup-and-restore.md says",
        ),
        ("unable to open", "run the doctor as the account of the service, or correct the file's owner and mode"),
    )
)


def remedy_of(cause: str) -> str:
    """Say what to do; nothing where that is not known."""
    return next((remedy for said, remedy in _REMEDIES if said.search(cause)), "")
