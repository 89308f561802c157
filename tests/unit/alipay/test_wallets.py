"""A misspelt wallet is noticed, and one that nobody knows yet is none."""

import pytest

from app.alipay.wallets import KNOWN_WALLETS, meant_wallet
from app.simulator.gateway.wallets import _WALLETS


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("GCSAH", "GCASH"),
        ("GCASHH", "GCASH"),
        ("gcash", "GCASH"),
        ("TRUE_MONEY", "TRUEMONEY"),
        ("KAKAO_PAY", "KAKAOPAY"),
        ("ALIPAYHK", "ALIPAY_HK"),
        ("DANNA", "DANA"),
    ],
)
def test_a_slip_is_taken_for_the_wallet_that_it_is_like(name: str, meant: str) -> None:
    assert meant_wallet(name) == meant


@pytest.mark.parametrize("name", [*sorted(KNOWN_WALLETS), "OVO", "GOPAY", "SHOPEEPAY_SG", "TINABA", ""])
def test_a_known_wallet_and_one_that_is_new_are_no_slips(name: str) -> None:
    assert meant_wallet(name) is None


def test_what_the_pretend_gateway_knows_are_such_wallets() -> None:
    assert _WALLETS.keys() <= KNOWN_WALLETS
