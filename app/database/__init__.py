"""The database, SQLite or PostgreSQL: how they differ is hidden here, and nothing here knows the domain."""

from app.database.database import Database
from app.database.driver import seconds_left, within
from app.database.errors import DatabaseUnavailableError, UnfitDatabaseError, is_transient, name_of

__all__ = [
    "Database",
    "DatabaseUnavailableError",
    "UnfitDatabaseError",
    "is_transient",
    "name_of",
    "seconds_left",
    "within",
]
