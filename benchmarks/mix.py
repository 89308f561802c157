"""Make up the notifications that every contestant is sent: codes, tokens, cancellations, repetitions, some too early.

One connection sends the whole life of an authorization, a few lives in turns, so that the right end of every life is
known beforehand and the work is the same for all contestants.
"""

import os
import random
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from app.alipay.keyring import load_private_key
from app.config import DEFAULT_NOTIFY_PATH
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from app.simulator.keys import SANDBOX_CLIENT_ID, SIMULATOR_KEY_NAME
from app.simulator.sender import Signer, headers_of

#: What every authState begins with.
NAME_PREFIX = "bench-"
#: EasySafePay has no code; the other wallets do.
DIRECT_SHARE = 1 / 4
#: More than in earnest, where most authorizations live for years; a bench has no years.
CANCELED_SHARE = 1 / 2
#: Of all that is sent. Alipay says that it repeats, not how often.
REPEATED_SHARE = 1 / 10
#: Of all that is sent for the first time: they overtake what they wait for.
EARLY_SHARE = 1 / 20
#: So many lives take turns on a connection.
_LIVES_AT_ONCE = 8
#: What is repeated is one of so many that were sent last.
_REMEMBERED = 16
_SEED = 1
#: So many are signed by a process before it takes the next.
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Life:
    """One authorization: what is said of it, in the order in which it is sent, and how it must end."""

    auth_state: str
    flow: str
    notifications: tuple[Draft, ...]
    ends_as: str


@dataclass(frozen=True, slots=True)
class Mix:
    """All that is going to be sent. A notification goes by its number."""

    lives: list[Life]
    #: The life that each notification belongs to, by its number.
    life_of: list[int]
    notifications: list[Draft]
    #: What each connection sends, in this order.
    lanes: list[list[int]]


@dataclass(frozen=True, slots=True)
class SignedMix:
    """The same as bytes: one HTTP request for each notification, and the signature it carries."""

    mix: Mix
    requests: list[bytes]
    signatures: list[str]


class _Shares:
    """Keeps the shares of what is early and of what is repeated, as exactly as whole numbers can."""

    def __init__(self) -> None:
        self.sent = self.repeated = self.first = self.early = 0

    def wants_repetition(self) -> bool:
        return self.repeated < REPEATED_SHARE * self.sent

    def wants_early(self) -> bool:
        return self.early < EARLY_SHARE * self.first


def make_mix(length: int, *, connections: int) -> Mix:
    """Make up so many requests, the same each time."""
    chance = random.Random(_SEED)
    mix = Mix([], [], [], [])
    shares = _Shares()
    for _ in range(connections):
        mix.lanes.append(list(islice(_lane(mix, shares, chance), length // connections)))
    return mix


def _lane(mix: Mix, shares: _Shares, chance: random.Random) -> Iterator[int]:
    """Give the numbers that one connection sends, endlessly."""
    open_lives = [_begin(mix, shares, chance) for _ in range(_LIVES_AT_ONCE)]
    recent: deque[int] = deque(maxlen=_REMEMBERED)
    while True:
        shares.sent += 1
        if recent and shares.wants_repetition():
            shares.repeated += 1
            yield chance.choice(recent)
            continue
        place = chance.randrange(_LIVES_AT_ONCE)
        number = open_lives[place].popleft()
        if not open_lives[place]:
            open_lives[place] = _begin(mix, shares, chance)
        recent.append(number)
        yield number


def _begin(mix: Mix, shares: _Shares, chance: random.Random) -> deque[int]:
    """Make up another life, and give the numbers of its notifications in the order in which they are sent."""
    life = _a_life(len(mix.lives), shares, chance)
    first = len(mix.notifications)
    mix.notifications.extend(life.notifications)
    mix.life_of.extend([len(mix.lives)] * len(life.notifications))
    mix.lives.append(life)
    return deque(range(first, len(mix.notifications)))


def _a_life(number: int, shares: _Shares, chance: random.Random) -> Life:
    name = f"{NAME_PREFIX}{number:08}"
    has_code, is_canceled = chance.random() >= DIRECT_SHARE, chance.random() < CANCELED_SHARE
    token = f"2810{number:016}"
    said = [authcode_created(name, f"2810{number:012}")] if has_code else []
    said += [token_created(name, token)]
    said += [token_canceled(token)] if is_canceled else []
    shares.first += len(said)
    if len(said) > 1 and shares.wants_early():
        shares.early += 1
        place = chance.randrange(1, len(said))
        said[place - 1], said[place] = said[place], said[place - 1]
    return Life(
        auth_state=name,
        flow="auto_debit" if has_code else "direct",
        notifications=tuple(said),
        ends_as="canceled" if is_canceled else "token_active",
    )


def sign_mix(mix: Mix, keyring: Path) -> SignedMix:
    """Sign everything beforehand, on every core: a signature costs thirty times what checking it does."""
    chunks = [mix.notifications[first : first + _CHUNK] for first in range(0, len(mix.notifications), _CHUNK)]
    key = keyring.with_name(SIMULATOR_KEY_NAME)
    # Forked processes would share what the caller has opened. An interrupt of the bench reaches them too.
    with ProcessPoolExecutor(
        os.cpu_count(),
        mp_context=get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    ) as pool:
        signed = [pair for done in pool.map(_sign, [key] * len(chunks), chunks) for pair in done]
    return SignedMix(mix, [request for request, _ in signed], [signature for _, signature in signed])


def _sign(key_path: Path, notifications: Sequence[Draft]) -> list[tuple[bytes, str]]:
    signer = Signer(SANDBOX_CLIENT_ID, load_private_key(key_path.read_bytes()))
    signed = []
    for number, notification in enumerate(notifications):
        delivery = signer.sign(
            notification.body(), uri=DEFAULT_NOTIFY_PATH, request_time=str(1_700_000_000_000 + number)
        )
        lines = [f"POST {delivery.uri} HTTP/1.1", "Host: 127.0.0.1"]
        lines += [f"{name}: {value}" for name, value in headers_of(delivery).items()]
        head = "\r\n".join([*lines, f"Content-Length: {len(delivery.body)}", "", ""])
        signed.append((head.encode("latin-1") + delivery.body, delivery.signature))
    return signed
