"""Read from a database's URL what SQLAlchemy would hand to the driver as text, though the driver wants a number."""

from typing import Any

from sqlalchemy.engine import URL

_PREPARE_THRESHOLD = "prepare_threshold"


class DatabaseUrlError(ValueError):
    """A parameter of the database's URL has a value that it cannot have."""


def driver_arguments(url: URL) -> tuple[URL, dict[str, Any]]:
    """Take out of a URL of PostgreSQL what only the driver understands, and read it for the driver.

    `prepare_threshold` says how often a statement is run before it is prepared: `none` never prepares any, for pools
    that lend a connection for one transaction. Raises `DatabaseUrlError`.
    """
    given = url.query.get(_PREPARE_THRESHOLD)
    if given is None:
        return url, {}
    if isinstance(given, str) and given.isascii() and given.isdecimal():
        threshold = int(given)
    elif isinstance(given, str) and given.lower() == "none":
        threshold = None
    else:
        message = f"has a {_PREPARE_THRESHOLD} that is neither a whole number nor none."
        raise DatabaseUrlError(message)
    return url.difference_update_query([_PREPARE_THRESHOLD]), {_PREPARE_THRESHOLD: threshold}
