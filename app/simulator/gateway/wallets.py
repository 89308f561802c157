"""The wallets that a user can consent in, as far as they differ, and the users that have them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_YEAR = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Wallet:
    """A wallet: its name for people, and how long its tokens live (Antom's guide of 2024)."""

    name: str
    #: How long from now, or until when.
    token_life: timedelta | datetime = 2 * _YEAR
    #: A token that lives for ever, as good as, is never refreshed.
    refreshes: bool = True


_WALLETS = {
    "ALIPAY_CN": Wallet("Alipay", datetime(2115, 1, 1, tzinfo=UTC), refreshes=False),
    "ALIPAY_HK": Wallet("AlipayHK", datetime(2038, 1, 1, tzinfo=UTC)),
    "BOOST": Wallet("Boost", _YEAR),
    "DANA": Wallet("DANA", 10 * _YEAR),
    "GCASH": Wallet("GCash"),
    "KAKAOPAY": Wallet("KakaoPay", datetime(2120, 1, 1, tzinfo=UTC), refreshes=False),
    "MAYA": Wallet("Maya", _YEAR),
    "NAVERPAY": Wallet("NAVER Pay", _YEAR),
    "TNG": Wallet("Touch 'n Go eWallet"),
    "TRUEMONEY": Wallet("TrueMoney"),
}


def wallet_of(customer_belongs_to: str) -> Wallet:
    """Give the wallet of this name. The list is an open one: any other name is a wallet like GCash."""
    return _WALLETS.get(customer_belongs_to.upper(), Wallet(customer_belongs_to))


@dataclass(frozen=True, slots=True)
class User:
    """A user of the wallets. Nobody has to log in."""

    key: str
    name: str
    #: Masked, as wallets send it.
    login_id: str


USERS = {
    each.key: each
    for each in (
        User("alma", "Alma Reyes", "al***@example.com"),
        User("budi", "Budi Santoso", "+62-8*****41"),
        User("chen", "Chen Mei", "ch***@example.com"),
    )
}
DEFAULT_USER = "alma"
