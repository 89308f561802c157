"""What /readyz says of the database, as the conditions that alerts watch."""

import pytest

from app.preflight import OK
from app.wiring import UNKNOWN, WAITS, conditions

FINE = {"database": OK, "migrated": OK, "vault": OK, "worker": OK}


def true_of(**said: str) -> set[str]:
    return {name for name, is_so in conditions(FINE | said).items() if is_so}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, set()),
        ({"worker": "no worker runs (none has run yet): …"}, set()),
        ({"database": "unreachable: …", "migrated": UNKNOWN, "vault": UNKNOWN}, {"unavailable"}),
        ({"database": "the server is PostgreSQL 12, …", "migrated": UNKNOWN, "vault": UNKNOWN}, {"unavailable"}),
        ({"database": "read-only"}, {"not_writable"}),
        ({"database": WAITS}, {"standby_missing"}),
        ({"database": "set to forget (fsync = off)"}, {"unsafe_durability"}),
        (
            {"database": "set to forget (fsync = off)", "migrated": "newer (0011)"},
            {"unsafe_durability", "newer_schema"},
        ),
        ({"migrated": "run flask db upgrade", "vault": UNKNOWN}, {"not_migrated"}),
        ({"migrated": "too new (0099): install a newer release", "vault": UNKNOWN}, {"newer_schema"}),
        ({"vault": "does not open"}, {"vault_closed"}),
    ],
)
def test_each_condition_has_its_name(said: dict[str, str], expected: set[str]) -> None:
    assert true_of(**said) == expected
