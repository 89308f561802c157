"""Tell the database's troubles from errors of ours."""

from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
    SQLAlchemyError,
    TimeoutError as PoolTimeoutError,
)

#: What PostgreSQL calls a lock of somebody else's that was waited for in vain.
_LOCK_NOT_AVAILABLE = "LockNotAvailable"


class DatabaseUnavailableError(Exception):
    """The database could not do the work, though trying again later may succeed."""

    def __init__(self, cause: str) -> None:
        self.cause = cause
        super().__init__(f"The database is unavailable ({cause}).")

    @property
    def is_of_one_row(self) -> bool:
        """Whether somebody held what this work needed; others may not need it."""
        return self.cause == _LOCK_NOT_AVAILABLE


def name_of(error: SQLAlchemyError) -> str:
    """Name the class of the driver's error. Its message stays out: it may quote what a stranger wrote."""
    return type(getattr(error, "orig", None) or error).__name__


def is_transient(error: BaseException) -> bool:
    """Tell the database's troubles, worth another try, from errors of ours, which another try repeats.

    Deadlock, serialization failure, lost connection, lock timeout, a full disk and a read-only server are all reported
    as operational, interface or internal errors. What a statement of ours can cause (data, integrity, programming
    errors) is none of them.
    """
    if isinstance(error, PoolTimeoutError):
        return True
    return isinstance(error, DBAPIError) and (
        error.connection_invalidated or isinstance(error, OperationalError | InterfaceError | InternalError)
    )
