"""What is tried, round after round: races, a trap, and a storm. After each the books are held against the database."""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from uuid import uuid4

from app.simulator.sender import Sender
from tests.soak.audit import audit, last_entry
from tests.soak.ledger import Ledger
from tests.soak.lives import Life, a_life, lives
from tests.soak.load import telling
from tests.soak.receiver import Manner
from tests.soak.told import MOODY, SECRET
from tests.soak.upgrading import roll
from tests.soak.world import API_KEY, World

#: How many speak at once in a storm: more than there are threads to answer them.
SENDERS = 16
#: Fewer during an upgrade: machines are replaced one by one where the other one has room.
_SENDERS_OF_AN_UPGRADE = 6
#: Of the notifications of an upgrade, so many may be answered 503 once: while the migration holds a lock.
_REFUSED_OF_AN_UPGRADE = 0.1
#: Lives are told of in batches, everything of a batch in any order.
_BATCH = 8
#: Some lives are still told of while others begin, and a part that comes again and again does not hold up the rest.
_WAITING_MAX = 10 * SENDERS
#: How long nothing happens to the service between two mishaps.
_CALM_SECONDS = (0.2, 3)
#: A process that is killed is started again within a second or two, and another waits some seconds for its leases.
_SECONDS_MAX = 60

#: Where the background process is killed: as it sends this statement, or when that is committed.
BACKGROUND_TRAPS = (
    "before INTO events",
    "after INTO events",
    "before INTO webhook_attempts",
    "after INTO webhook_attempts",
)
#: The same where it makes calls.
CALL_TRAPS = (
    "before INTO call_attempts",
    "after INTO call_attempts",
    "before UPDATE call_attempts",
    "after UPDATE call_attempts",
)
#: So many lives are lived at once whose calls the service makes.
CALLING = 8
#: How long one manner of an endpoint lasts.
_MANNER_SECONDS = (0.2, 3)
_MANNERS: tuple[Manner, ...] = ("take", "take", "refuse", "hang", "drop", "deny", "babble", "redirect")

Part = Callable[[], None]


def race(world: World, chance: random.Random, *, races: int) -> None:
    """Say everything of a life at the same instant, over connections of their own, one life after another.

    So the cancellation of a token races its creation, a consult its first notification, and each its own copies.
    """
    with _books(world) as ledger, ThreadPoolExecutor(SENDERS) as senders:
        for life in islice(lives(chance, prefix=uuid4().hex), races):
            parts = _parts(world, ledger, chance, [life])
            start = threading.Barrier(len(parts))
            list(senders.map(partial(_at_once, start), parts))
    world.figures.counts["races"] += races


def spring_the_trap(world: World, chance: random.Random) -> None:
    """Kill a worker after it has committed and before it has answered, at each notification of a life in turn."""
    with _books(world) as ledger:
        life = a_life(uuid4().hex, chance.choice(["auto_debit", "direct"]))
        ledger.live([life])
        world.merchant(ledger).live(life)
        alipay = world.alipay(ledger)
        for draft in life.notifications:
            workers = world.server.workers()
            world.trap.touch()
            with Sender(alipay.url) as sender:
                ledger.attempt(draft)
                answer = sender.send(alipay.sign(draft, sender.uri))
                ledger.answer(draft, answer)
            if world.trap.exists() or answer.status is not None:
                ledger.complain(f"the worker lived on, and answered {answer}")
                world.trap.unlink(missing_ok=True)
            else:
                world.server.recover(workers)
            world.figures.counts["traps"] += 1
            # The worker that takes the redelivery has not seen it, and finds it on record.
            alipay.notify(draft, chance)


def spring_the_background_trap(world: World, chance: random.Random, trap: str) -> None:
    """Kill the background process between two of its steps: nothing of what it tells is lost for that."""
    with _books(world) as ledger:
        world.trap.write_text(trap)
        life = a_life(uuid4().hex)
        ledger.live([life])
        world.merchant(ledger).live(life)
        for draft in life.notifications:
            world.alipay(ledger).notify(draft, chance)
        deadline = time.monotonic() + _SECONDS_MAX
        while world.trap.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        if world.trap.exists():
            ledger.complain(f"the background process lived on {trap}")
            world.trap.unlink(missing_ok=True)
        world.figures.counts["background traps"] += 1
    tell(world)


def spring_the_call_trap(world: World, chance: random.Random, trap: str) -> None:
    """Kill the background process between two steps of a call: nothing that Alipay gave is lost for that.

    A request that was answered and not recorded is one that nobody has the answer of, and its call says so.
    """
    ledger = Ledger()
    world.trap.write_text(trap)
    world.calling.live(world.merchant(ledger), chance, uuid4().hex)
    if world.trap.exists():
        ledger.complain(f"the background process lived on {trap}")
        world.trap.unlink(missing_ok=True)
    world.figures.counts["call traps"] += 1
    _audit_calls(world, ledger)
    tell(world)


def _audit_calls(world: World, ledger: Ledger) -> None:
    """Hold the gateway's ledger against the database, once every call has ended."""
    stuck = world.calling.settle()
    lost, wrong, counts = world.calling.audit()
    world.figures.complain("lost", lost)
    world.figures.complain("wrong", [*stuck, *ledger.wrong, *wrong])
    world.figures.counts.update(counts)


def tell(world: World) -> None:
    """Hold what the endpoints were told against what has happened, once all of it is told."""
    # An endpoint that was failing would be tried once a minute; whoever begins knows nothing of that.
    world.server.kill_background()
    before = world.told.position
    world.figures.complain("wrong", world.told.audit())
    world.figures.counts["told"] += world.told.position - before


def storm(world: World, chance: random.Random, *, seconds: float) -> None:
    """Let many senders deliver at once for a while, during one mishap of the service after another.

    Notifications that are not acknowledged by then are delivered in the calm that follows, however slow the recovery.
    """
    end = time.monotonic() + seconds
    over = threading.Event()

    def befall() -> None:
        while not over.wait(chance.uniform(*_CALM_SECONDS)) and time.monotonic() < end:
            chance.choice(world.mishaps())(chance)
        world.server.recover()

    def change_manners() -> None:
        moods = random.Random(chance.random())
        while not over.wait(moods.uniform(*_MANNER_SECONDS)):
            world.receivers[MOODY].manner = moods.choice(_MANNERS)
        world.receivers[MOODY].manner = "take"

    calling = Ledger()

    def live(dice: random.Random) -> None:
        merchant = world.merchant(calling)
        while time.monotonic() < end and not befalling.done():
            world.calling.live(merchant, dice, uuid4().hex)

    with (
        _books(world) as ledger,
        ThreadPoolExecutor(2) as fate,
        ThreadPoolExecutor(SENDERS) as senders,
        ThreadPoolExecutor(CALLING) as callers,
    ):
        world.calling.go_wrong(random.Random(chance.random()))
        befalling, changing = fate.submit(befall), fate.submit(change_manners)
        living = [callers.submit(live, random.Random(chance.random())) for _ in range(CALLING)]
        try:
            made_up = lives(random.Random(chance.random()), prefix=uuid4().hex)
            dice = random.Random(chance.random())
            waiting: deque[Future[None]] = deque()
            while time.monotonic() < end and not befalling.done():
                parts = _parts(world, ledger, dice, list(islice(made_up, _BATCH)))
                waiting += [senders.submit(part) for part in dice.sample(parts, len(parts))]
                while len(waiting) > _WAITING_MAX:
                    waiting.popleft().result()
            for each in (*waiting, *living):
                each.result()
        finally:
            over.set()
            befalling.result()
            changing.result()
    _audit_calls(world, calling)
    tell(world)


def upgrade_machines(world: World, chance: random.Random) -> None:
    """Let two machines of the release before be replaced by this one, one by one, across a migration, while lives run.

    In every other upgrade a mishap comes before and after each step; in the others only single attempts may be 503.
    """
    is_calm = chance.random() < 1 / 2

    def between() -> None:
        time.sleep(chance.uniform(*_CALM_SECONDS))
        if not is_calm:
            chance.choice(world.mishaps())(chance)
            world.server.recover()

    with (
        _books(world) as ledger,
        world.second_machine() as other,
        telling(
            [world.server.url, other.url],
            world.service,
            world.signer,
            ledger,
            api_key=API_KEY,
            senders=_SENDERS_OF_AN_UPGRADE,
            seed=chance.randrange(1_000_000),
        ),
    ):
        roll([world.server, other], world.environ, between=between)
    refused = sum(count for words, count in ledger.answers.items() if words.startswith("503"))
    if is_calm:
        world.figures.counts["upgrade refusals"] += refused
        if refused > len(ledger.sent) * _REFUSED_OF_AN_UPGRADE:
            said = f"{refused} attempts at {len(ledger.sent)} notifications were answered 503 during an upgrade"
            world.figures.complain("wrong", [said])
    world.figures.counts["upgrades"] += 1
    tell(world)
    world.take_up_calls()


def _parts(world: World, ledger: Ledger, chance: random.Random, told: Sequence[Life]) -> list[Part]:
    """Give everything that is to be said of these lives, by whomever, each to be called once."""
    ledger.live(told)
    alipay, merchant = world.alipay(ledger), world.merchant(ledger)
    parts: list[Part] = [partial(merchant.live, life) for life in told if life.is_consulted]
    for life in told:
        parts += [partial(alipay.notify, draft, random.Random(chance.random())) for draft in life.notifications]
    return parts


def _at_once(start: threading.Barrier, part: Part) -> None:
    start.wait()
    part()


@contextmanager
def _books(world: World) -> Iterator[Ledger]:
    """Keep the books of a round, and audit them at its end."""
    before = last_entry(world.service)
    ledger = Ledger()
    yield ledger
    lost, wrong = audit(world.service, [ledger], after=before)
    world.figures.complain("lost", lost)
    world.figures.complain("wrong", wrong)
    world.figures.counts.update(
        {
            "lives": len(ledger.lives),
            "attempts": sum(sent.attempts for sent in ledger.sent.values()),
            "acknowledged": sum(sent.acknowledged for sent in ledger.sent.values()),
            "schedules without an end": ledger.answers["a schedule ended without an acknowledgement"],
        }
    )


def search(world: World) -> None:
    """Look through every byte that is left behind for a code or a token."""
    for path in world.files():
        found = SECRET.findall(path.read_bytes())
        world.figures.complain("secrets", (f"{path.name} has {each.decode()} in it" for each in found))
