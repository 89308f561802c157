"""Whatever happens to workers, answers and notifications, no token is lost and no code exchanged twice at once."""

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from tests.integration.stage import Stage
from tests.schedules.calls import Words, play
from tests.schedules.calls_exploration import explore_calls
from tests.schedules.calls_promises import BrokenPromiseError

#: As many as a test run has time for; `python -m tests.schedules soak` tries more.
SCHEDULES = {"sqlite": 60, "postgresql": 25}


@pytest.fixture(scope="module")
def merchant_key() -> RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.no_cover
def test_whatever_happens_all_calls_end_well(stage: Stage, merchant_key: RSAPrivateKey) -> None:
    explore_calls(stage, merchant_key, schedules=SCHEDULES[stage.database.engine.dialect.name])


CALLED: list[Words] = [("code", "s-1"), ("notify", "0"), ("turn", "a")]
ACTIVE: list[Words] = [*CALLED, ("serve", "0", "well"), ("turn", "a")]

#: Each of these was wrong once.
ONCE_WRONG: dict[str, list[Words]] = {
    "the answer to the commit that begins a call is lost": [
        ("code", "s-1"),
        ("notify", "0"),
        ("lie", "a", "raise"),
        ("turn", "a"),
    ],
    "the database layer repeats the commit that begins a call": [
        ("code", "s-1"),
        ("notify", "0"),
        ("lie", "a", "twice"),
        ("turn", "a"),
    ],
    "a worker takes too long to begin a call": [("code", "s-1"), ("notify", "0"), ("slow", "a", "6"), ("turn", "a")],
    "a stalled worker records an answer while the call is made again": [
        ("code", "s-1"),
        ("notify", "0"),
        ("turn", "a"),
        ("turn", "b"),
        ("cut", "0"),
        ("pass", "9"),
        ("turn", "b"),
        ("pass", "1"),
        ("pass", "3"),
        ("turn", "b"),
        ("pass", "3"),
        ("turn", "b"),
        ("pass", "3"),
        ("turn", "b"),
        ("pass", "3"),
        ("turn", "b"),
        ("record", "a"),
    ],
    "a worker has the lease again, and the next one has died with an attempt that it made again": [
        *CALLED,
        ("kill", "a"),
        ("turn", "a"),
        ("pass", "9"),
        ("turn", "a"),
        ("turn", "b"),
        ("pass", "9"),
        ("turn", "b"),
        *[("pass", "4"), ("turn", "b")] * 3,
        ("turn", "b"),
        ("turn", "a"),
        ("kill", "b"),
        ("pass", "8.5"),
        ("turn", "a"),
        ("turn", "a"),
    ],
}


@pytest.mark.parametrize("steps", ONCE_WRONG.values(), ids=ONCE_WRONG)
def test_what_was_wrong_once_ends_well(stage: Stage, merchant_key: RSAPrivateKey, steps: list[Words]) -> None:
    calls = play(stage, merchant_key, steps)
    assert stage.state() == "token_active"
    assert len(calls.promises.calls) == 1


#: Where much is decided by a step, and chance comes by seldom.
CROSSROADS: dict[str, list[Words]] = {
    "a token cannot be recorded": [*CALLED, ("break", "a"), ("serve", "0", "well"), ("turn", "a")],
    "a token cannot be recorded, and the database layer repeats the commit that says so": [
        *CALLED,
        ("serve", "0", "well"),
        ("break", "a"),
        ("lie", "a", "twice"),
        ("turn", "a"),
    ],
    "the database is away when a token is recorded": [*CALLED, ("away", "a"), ("serve", "0", "well"), ("record", "a")],
    "a worker dies with a token that it was given": [*CALLED, ("strike", "a")],
    "a refreshing worker dies so": [*ACTIVE, ("refresh", "s-1"), ("turn", "a"), ("strike", "a"), ("lose", "0")],
    "a merchant refreshes first": [*ACTIVE, ("refresh", "s-1"), ("renewal", "s-1"), ("report", "s-1"), ("turn", "a")],
    "a token is refreshed while it is revoked": [
        *ACTIVE,
        ("revoke", "s-1"),
        ("turn", "a"),
        ("renewal", "s-1"),
        ("report", "s-1"),
        ("serve", "0", "well"),
        ("turn", "a"),
    ],
    "a token is revoked while it is refreshed": [
        *ACTIVE,
        ("refresh", "s-1"),
        ("turn", "a"),
        ("revoke", "s-1"),
        ("turn", "a"),
    ],
    "the old token is canceled while it is refreshed": [
        *ACTIVE,
        ("refresh", "s-1"),
        ("turn", "a"),
        ("reach", "0", "well"),
        ("notify", "0"),
        ("notify", "0"),
        ("answer", "0"),
        ("turn", "a"),
    ],
    "a first code is answered for after a second": [
        *CALLED,
        ("code", "s-1"),
        ("notify", "0"),
        ("serve", "0", "well"),
        ("turn", "a"),
    ],
    "a merchant exchanges the first code, and the service the second": [
        ("code", "s-1"),
        ("own", "s-1"),
        ("code", "s-1"),
        ("notify", "0"),
        ("notify", "0"),
        ("turn", "a"),
        ("report", "s-1"),
        ("serve", "0", "well"),
        ("turn", "a"),
    ],
    "a first code is answered for after a second is": [
        *CALLED,
        ("reach", "0", "well"),
        ("answer", "0"),
        ("code", "s-1"),
        ("notify", "1"),
        ("turn", "b"),
        ("pass", "9"),
        ("turn", "b"),
        *[("pass", "4"), ("turn", "b")] * 4,
        ("serve", "0", "well"),
        ("turn", "b"),
        ("record", "a"),
    ],
    "a token of a first code cannot be recorded before that of the second is": [
        *CALLED,
        ("serve", "0", "well"),
        ("break", "a"),
        ("turn", "a"),
        ("code", "s-1"),
        ("notify", "1"),
        ("turn", "a"),
        ("serve", "0", "well"),
        ("turn", "a"),
        ("retry", "s-1"),
    ],
    "nobody answers for a minute": [*CALLED, ("cut", "0"), ("pass", "61"), ("turn", "a"), ("turn", "a")],
    "a refresh of what was canceled is asked for once more": [
        *ACTIVE,
        ("refresh", "s-1"),
        ("turn", "a"),
        ("serve", "0", "refused"),
        ("turn", "a"),
        ("cancel", "s-1"),
        ("notify", "0"),
        ("notify", "0"),
        ("retry", "s-1"),
        ("turn", "a"),
    ],
}


@pytest.mark.parametrize("steps", CROSSROADS.values(), ids=CROSSROADS)
def test_at_every_crossroads_calls_end_well(stage: Stage, merchant_key: RSAPrivateKey, steps: list[Words]) -> None:
    play(stage, merchant_key, steps)


def test_a_broken_promise_would_be_seen(
    stage: Stage, merchant_key: RSAPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.gateway.abandoned.CALL_ABANDONED_SECONDS", 0)
    begun_and_killed = [("code", "s-1"), ("notify", "0"), ("turn", "a"), ("turn", "b"), ("kill", "a")]
    taken_over = [("pass", "9"), ("turn", "b"), ("turn", "b")]
    with pytest.raises(BrokenPromiseError, match="exchange is sent while exchange"):
        play(stage, merchant_key, [*begun_and_killed, *taken_over])
