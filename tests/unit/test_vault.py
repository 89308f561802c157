"""What is sealed opens only where it belongs; what is indexed says nothing."""

import os

import pytest
from hypothesis import given, strategies as st

from app.vault import SealBrokenError, Sealer, UnknownVaultKeyError, Vault

OLD, NEW = b"o" * 32, b"n" * 32
INDEX_KEY = b"i" * 32

#: Any text a JSON string can hold, lone surrogates among it.
TEXTS = st.text(st.characters(codec=None, exclude_categories=()))


def a_vault(*keys: bytes) -> Vault:
    return Vault(Sealer(keys or (OLD,)), INDEX_KEY)


@given(TEXTS)
def test_a_sealed_value_opens_again(plain: str) -> None:
    sealed = a_vault().seal(plain, column="table.column", row_key=b"1")
    assert a_vault().open_text(sealed, column="table.column", row_key=b"1") == plain


def test_two_seals_of_one_text_have_nothing_in_common() -> None:
    first, second = (a_vault().seal("token", column="table.column", row_key=b"1") for _ in range(2))
    assert first[9:] != second[9:]
    assert b"token" not in first


@pytest.mark.parametrize(("place", "row"), [("table.column", b"2"), ("table.other", b"1"), ("table.colum", b"n1")])
def test_a_sealed_value_does_not_open_in_another_row_or_column(place: str, row: bytes) -> None:
    sealed = a_vault().seal("token", column="table.column", row_key=b"1")
    with pytest.raises(SealBrokenError):
        a_vault().open_text(sealed, column=place, row_key=row)


def test_a_sealed_value_with_any_bit_changed_does_not_open() -> None:
    sealed = a_vault().seal("t", column="table.column", row_key=b"1")
    for position in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises((SealBrokenError, UnknownVaultKeyError)):
            a_vault().open_text(bytes(changed), column="table.column", row_key=b"1")


@pytest.mark.parametrize("length", range(40))
def test_a_sealed_value_cut_short_does_not_open(length: int) -> None:
    sealed = a_vault().seal("a longer token", column="table.column", row_key=b"1")
    with pytest.raises((SealBrokenError, UnknownVaultKeyError)):
        a_vault().open_text(sealed[:length], column="table.column", row_key=b"1")


def test_a_new_key_put_first_seals_and_the_old_one_still_opens() -> None:
    before = a_vault(OLD).seal("token", column="table.column", row_key=b"1")
    rotated = a_vault(NEW, OLD)
    after = rotated.seal("token", column="table.column", row_key=b"1")
    assert rotated.open_text(before, column="table.column", row_key=b"1") == "token"
    assert a_vault(NEW).open_text(after, column="table.column", row_key=b"1") == "token"
    assert after.startswith(rotated.sealer.sealing_prefix)
    assert not before.startswith(rotated.sealer.sealing_prefix)


def test_a_key_that_was_taken_away_is_named_by_its_id() -> None:
    sealed = a_vault(OLD).seal("token", column="table.column", row_key=b"1")
    with pytest.raises(UnknownVaultKeyError, match=a_vault(OLD).sealer.key_ids[0]):
        a_vault(NEW).open_text(sealed, column="table.column", row_key=b"1")


def test_an_index_is_the_same_for_the_same_parts_and_survives_rotation() -> None:
    assert a_vault(OLD).blind_index("token", "client", "t") == a_vault(NEW, OLD).blind_index("token", "client", "t")


@pytest.mark.parametrize(
    "other",
    [("token", "clien", "tt"), ("token", "client", "t", ""), ("other", "client", "t"), ("token", "client", "T")],
)
def test_an_index_differs_for_other_parts(other: tuple[str, ...]) -> None:
    assert a_vault().blind_index(*other) != a_vault().blind_index("token", "client", "t")


def test_an_index_needs_its_key() -> None:
    other = Vault(Sealer([OLD]), os.urandom(32))
    assert other.blind_index("token", "t") != a_vault().blind_index("token", "t")
