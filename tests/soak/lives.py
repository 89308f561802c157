"""Make up the lives of authorizations, and say beforehand how each must end, in whatever order its parts arrive."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from app.simulator.draft import Draft, authcode_created, token_canceled, token_created

#: Who knows which code and which token the merchant tells beside the notifications, and how often.
_MERCHANT_TELLS = 0.3
_MERCHANT_REFRESHES = 0.5
_USER_CANCELS = 0.6
#: The user goes back and agrees again, which makes another code, and then leaves it at that.
_USER_AGREES_AGAIN = 0.05
#: The merchant leaves the flow unsaid, which makes it that of the keyring, and corrects it.
_FLOW_IS_CORRECTED = 0.3
#: Alipay notifies of something that this service was never told of: stored, and parked for good.
_IS_STRANGE = 0.05
#: A notification is sent over so many connections at once, each of which redelivers until it is acknowledged.
_COPIES_MAX = 3


@dataclass(frozen=True)
class Life:
    """One authorization: what is said of it, by whom, and what must be on record once all of it was said."""

    auth_state: str
    flow: str
    notifications: tuple[Draft, ...]
    #: Every transition, in its only right order; nothing at all if nobody consults.
    events: tuple[str, ...]
    #: The merchant reports, in this order, the consult, then these tokens, each of which replaces the one before.
    reported_tokens: tuple[str, ...] = ()
    auth_code: str | None = None
    flow_is_corrected: bool = False

    @property
    def is_consulted(self) -> bool:
        return self.events != ()


def a_life(name: str, flow: str = "auto_debit", *, is_canceled: bool = True) -> Life:
    """Make up a life without surprises."""
    code = f"code-{name}" if flow == "auto_debit" else None
    token = f"token-{name}"
    notifications = [authcode_created(name, code)] if code else []
    notifications += [token_created(name, token)]
    notifications += [token_canceled(token)] if is_canceled else []
    return Life(name, flow, tuple(notifications), _events(notifications), auth_code=code)


def a_stranger(name: str) -> Life:
    """Make up notifications of an authState that is never consulted."""
    return Life(name, "auto_debit", (authcode_created(name, f"code-{name}"), token_canceled(f"token-{name}")), ())


def lives(chance: random.Random, *, prefix: str) -> Iterator[Life]:
    """Make up life after life, endlessly, no two of them with anything in common."""
    number = 0
    while True:
        number += 1
        name = f"{prefix}-{number}"
        yield a_stranger(name) if chance.random() < _IS_STRANGE else _any_life(chance, name)


def _any_life(chance: random.Random, name: str) -> Life:
    code = f"code-{name}" if chance.random() < 1 / 2 else None
    if code and chance.random() < _USER_AGREES_AGAIN:
        return _two_codes(name, code)
    notifications = [authcode_created(name, code)] if code else []
    notifications.append(token_created(name, f"token-{name}"))
    reported = []
    if chance.random() < _MERCHANT_TELLS:
        reported = [f"token-{name}"]
        reported += [f"token-{name}-refreshed"] if chance.random() < _MERCHANT_REFRESHES else []
    events = [*_events(notifications), *["token_refreshed"] * (len(reported) - 1)]
    if chance.random() < _USER_CANCELS:
        # What is canceled is the last token: an older one's end means nothing, and which is older depends on the order.
        notifications.append(token_canceled(reported[-1] if reported else f"token-{name}"))
        events.append("token_canceled")
    copied = [each for each in notifications for _ in range(chance.randint(1, _COPIES_MAX))]
    flow = "auto_debit" if code else "direct"
    is_corrected = not code and chance.random() < _FLOW_IS_CORRECTED
    if is_corrected:
        # Nothing of it is legal in the flow that is taken by default, so this always comes first.
        events.insert(1, "consult")
    return Life(name, flow, tuple(copied), tuple(events), tuple(reported), code, flow_is_corrected=is_corrected)


def _two_codes(name: str, code: str) -> Life:
    notifications = [authcode_created(name, code), authcode_created(name, f"{code}-again")]
    return Life(name, "auto_debit", tuple(notifications), _events(notifications), auth_code=code)


def _events(notifications: list[Draft]) -> tuple[str, ...]:
    return ("consult", *[each.type.lower() for each in notifications])
