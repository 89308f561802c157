"""The wallets that `customerBelongsTo` may name, as far as Alipay's SDK knows them, and which one a slip meant.

The list is an open one: a wallet that is not in it is passed on as it is.
"""

import re
from difflib import get_close_matches

KNOWN_WALLETS = frozenset(
    {
        "ACH_DIRECT_DEBIT",
        "ALIPAY_CN",
        "ALIPAY_HK",
        "BOOST",
        "DANA",
        "DIRECT_DEBIT_KRUNGTHAIBANK",
        "DIRECT_DEBIT_SIAMCOMMERCIALBANK",
        "GCASH",
        "GRABPAY_MY",
        "GRABPAY_PH",
        "GRABPAY_SG",
        "HIPAY",
        "KAKAOPAY",
        "KPLUS",
        "MAYA",
        "MOMO",
        "MPAY",
        "NAVERPAY",
        "PAYPAY",
        "RABBIT_LINE_PAY",
        "TNG",
        "TOSSPAY",
        "TRUEMONEY",
        "VIETTELMONEY",
        "ZALOPAY",
    }
)

#: Two letters of five exchanged, or one of five wrong.
_SIMILARITY_MIN = 0.8


def meant_wallet(name: str) -> str | None:
    """Return the wallet that a name looks like a misspelling of; `None` where it is one, or like none."""
    if name in KNOWN_WALLETS:
        return None
    by_letters = {_letters(each): each for each in KNOWN_WALLETS}
    close = get_close_matches(_letters(name), by_letters, n=1, cutoff=_SIMILARITY_MIN)
    return by_letters[close[0]] if close else None


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()
