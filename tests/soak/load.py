"""Load: Alipay and the merchant tell of life after life; their books are then held against the database."""

import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from uuid import uuid4

from app.simulator.sender import Signer
from app.wiring import Service
from tests.soak.audit import audit, last_entry
from tests.soak.ledger import Ledger
from tests.soak.lives import lives
from tests.soak.senders import Alipay, Merchant

#: Lives of which one sender tells at a time, everything of them in any order.
_BATCH = 4


@contextmanager
def load(
    urls: Sequence[str], service: Service, signer: Signer, *, api_key: str, senders: int = 4, seed: int = 1
) -> Iterator[Ledger]:
    """Tell the servers at these URLs of lives until the end of the block, and then until all of them is acknowledged.

    Each sender goes to one server. Nothing may be lost or wrong afterwards; `service` is the auditor's own.
    """
    before = last_entry(service)
    ledger = Ledger()
    with telling(urls, service, signer, ledger, api_key=api_key, senders=senders, seed=seed):
        yield ledger
    lost, wrong = audit(service, [ledger], after=before)
    assert [*lost, *wrong] == [], dict(ledger.answers)


@contextmanager
def telling(
    urls: Sequence[str], service: Service, signer: Signer, ledger: Ledger, *, api_key: str, senders: int, seed: int
) -> Iterator[None]:
    """Tell of lives until the end of the block, and then until all of them is acknowledged. It is all in the books."""
    over = threading.Event()
    chances = random.Random(seed)

    def tell(number: int, chance: random.Random) -> None:
        url = urls[number % len(urls)]
        alipay = Alipay(f"{url}{service.settings.notify_path}", signer, ledger)
        merchant = Merchant(url, api_key, ledger)
        made_up = lives(chance, prefix=uuid4().hex)
        while not over.is_set():
            told = list(islice(made_up, _BATCH))
            ledger.live(told)
            parts = [partial(merchant.live, life) for life in told if life.is_consulted]
            parts += [partial(alipay.notify, draft, chance) for life in told for draft in life.notifications]
            for part in chance.sample(parts, len(parts)):
                part()

    with ThreadPoolExecutor(senders) as threads:
        telling = [threads.submit(tell, number, random.Random(chances.random())) for number in range(senders)]
        try:
            yield
        finally:
            over.set()
            for each in telling:
                each.result()
