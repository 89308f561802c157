"""The vault key changes under load: every token and code can be read at every moment, on every instance."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from app import create_app, rotation
from app.alipay.keyring import load_private_key
from app.cli.long_running import sharing_the_write_lock
from app.config import new_vault_key
from app.database import DatabaseUnavailableError
from app.models import InboxEntry
from app.rotation import SEALED_COLUMNS, SealedColumn
from app.simulator.draft import Draft, authcode_created, token_created
from app.simulator.keys import SANDBOX_CLIENT_ID, SIMULATOR_KEY_NAME
from app.simulator.sender import Signer, headers_of
from app.vocabulary import Outcome
from app.wiring import Service
from tests.builders import an_environ
from tests.integration.http_client import API_KEY, AUTHORIZATIONS, NOTIFY_PATH

OLD, NEW = new_vault_key(), new_vault_key()
#: Enough for the readers to come back to each while it is sealed again, and again.
AUTHORIZATIONS_COUNT = 8
#: How much must have happened while keys rotated.
READS, WRITES = 40, 15
#: So few that a whole rotation is many transactions, with reads and writes between any two.
BATCH_SIZE = 20
#: Alipay comes eight times, and so may a merchant.
REPETITIONS_MAX = 8
KEY = {"Authorization": f"Bearer {API_KEY}"}
#: Everybody here shares one interpreter, and on SQLite one lock, which is not given to who has waited longest.
PAUSE_SECONDS = 0.02


@dataclass
class Instance:
    """One running instance of the service: its vault keys are those it was started with."""

    name: str
    app: Flask
    alipay: Signer

    @property
    def service(self) -> Service:
        service: Service = self.app.extensions["notifyauth"]
        return service

    def consult(self, auth_state: str) -> str:
        return str(self.report(AUTHORIZATIONS, {"authState": auth_state})["id"])

    def report(self, path: str, body: object) -> Any:  # noqa: ANN401 -- the document that is given
        return self._repeated(partial(self.app.test_client().post, path, json=body, headers=KEY)).get_json()

    def notify(self, notification: Draft) -> None:
        delivery = self.alipay.sign(notification.body(), uri=NOTIFY_PATH, request_time="1")
        headers = dict(headers_of(delivery))
        self._repeated(partial(self.app.test_client().post, NOTIFY_PATH, data=delivery.body, headers=headers))

    def _repeated(self, post: Callable[[], TestResponse]) -> TestResponse:
        """Write, and repeat what SQLite did not let in: it does not give its lock to who has waited longest."""
        response = post()
        for _ in range(REPETITIONS_MAX):
            if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
                response = post()
        assert response.status_code in {200, 201}, (self.name, response.status_code, response.text)
        return response

    def read(self, authorization_id: str) -> tuple[str, str]:
        """The code and the token, at the first attempt."""
        at = f"{AUTHORIZATIONS}/{authorization_id}"
        answers = [self.app.test_client().get(f"{at}/{what}", headers=KEY) for what in ("authcode", "token")]
        for answer in answers:
            assert answer.status_code == HTTPStatus.OK, (self.name, answer.status_code, answer.text)
        code, token = (answer.get_json() for answer in answers)
        return code["authCode"], token["accessToken"]

    def reseal(self) -> int:
        """Seal everything again under this instance's first key, as `flask keys reseal` does, in small batches."""
        return sum(self._reseal(sealed_column) for sealed_column in SEALED_COLUMNS)

    def _reseal(self, sealed_column: SealedColumn) -> int:
        count, after = 0, None
        while True:
            batch = partial(rotation.reseal_batch, vault=self.service.vault, sealed_column=sealed_column, after=after)
            with self.app.app_context(), sharing_the_write_lock(), suppress(DatabaseUnavailableError):
                done = self.service.database.run(partial(batch, limit=BATCH_SIZE))
                count, after = count + done.count, done.up_to
                if after is None:
                    return count


@dataclass
class Everybody:
    """A client that uses the service until it is stopped."""

    stopped: threading.Event = field(default_factory=threading.Event)
    #: What they have done: one name of an instance for each time.
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)

    def have_come_by(self) -> bool:
        return len(self.reads) >= READS and len(self.writes) >= WRITES

    def keep_reading(self, instance: Instance, ids: list[str]) -> None:
        for number, authorization_id in itertools.cycle(enumerate(ids)):
            if self.stopped.wait(PAUSE_SECONDS):
                return
            code, token = instance.read(authorization_id)
            assert code == f"code-{number}"
            assert token.startswith(f"token-{number}.")
            self.reads.append(instance.name)

    def keep_refreshing(self, instance: Instance, ids: list[str]) -> None:
        for turn in itertools.count():
            for number, authorization_id in enumerate(ids):
                if self.stopped.wait(PAUSE_SECONDS):
                    return
                body = {"accessToken": f"token-{number}.{turn + 1}", "refreshToken": f"refresh-{number}.{turn}"}
                body["replaces"] = f"token-{number}.{turn}"
                instance.report(f"{AUTHORIZATIONS}/{authorization_id}/tokens", body)
                self.writes.append(instance.name)

    def keep_notifying(self, first: Instance, second: Instance) -> None:
        """Every notification comes to one instance; what it leads to is asked of the other."""
        for number in itertools.count():
            if self.stopped.wait(PAUSE_SECONDS):
                return
            first.notify(authcode_created(f"{first.name}-{number}", f"{first.name}-code-{number}"))
            authorization_id = second.consult(f"{first.name}-{number}")
            first.notify(token_created(f"{first.name}-{number}", f"{first.name}-token-{number}"))
            assert second.read(authorization_id) == (f"{first.name}-code-{number}", f"{first.name}-token-{number}")
            # The same again, once all of it may have been sealed anew.
            second.notify(authcode_created(f"{first.name}-{number}", f"{first.name}-code-{number}"))
            self.writes.append(first.name)


@pytest.fixture
def start(database_url: str, keyring_path: Path) -> Iterator[Callable[..., Instance]]:
    """Starts an instance with vault keys, on the one database of the test."""
    alipay = Signer(SANDBOX_CLIENT_ID, load_private_key(keyring_path.with_name(SIMULATOR_KEY_NAME).read_bytes()))
    started: list[Instance] = []

    def start(name: str, *vault_keys: str) -> Instance:
        settings = {"FLASK_API_KEYS": API_KEY, "FLASK_VAULT_KEYS": ",".join(vault_keys)}
        app = create_app(an_environ(database_url, keyring_path, **settings))
        instance = Instance(name, app, alipay)
        started.append(instance)
        instance.service.open_all()
        return instance

    yield start
    for instance in started:
        instance.service.database.close()


def failed_entries(session: Session) -> int:
    return session.scalars(select(func.count()).where(InboxEntry.outcome == Outcome.FAILED)).one()


def test_no_read_fails_while_keys_rotate(start: Callable[..., Instance]) -> None:
    before = start("before", OLD)
    ids = [before.consult(f"s-{number}") for number in range(AUTHORIZATIONS_COUNT)]
    for number, authorization_id in enumerate(ids):
        report = {"accessToken": f"token-{number}.0", "authCode": f"code-{number}"}
        before.report(f"{AUTHORIZATIONS}/{authorization_id}/tokens", report)
    # Started one after the other, so some seal under the old key still; all of them open both.
    late, early = start("late", OLD, NEW), start("early", NEW, OLD)
    everybody = Everybody()
    with ThreadPoolExecutor(max_workers=6) as pool:
        working = [
            pool.submit(everybody.keep_reading, late, ids),
            pool.submit(everybody.keep_reading, early, ids),
            pool.submit(everybody.keep_refreshing, late, ids),
            pool.submit(everybody.keep_notifying, late, early),
            pool.submit(everybody.keep_notifying, early, late),
        ]
        try:
            # To the new key and back to the old one, until everybody has come by often enough.
            for instance in itertools.cycle((early, late)):
                assert instance.reseal() >= AUTHORIZATIONS_COUNT
                if everybody.have_come_by() or any(each.done() for each in working):
                    break
        finally:
            everybody.stopped.set()
    for done in working:
        done.result()
    assert before.service.database.run(failed_entries, read_only=True) == 0
    # Once nobody seals under the old key any more, one last time leaves nothing that needs it.
    early.reseal()
    after = start("after", NEW)
    for number, authorization_id in enumerate(ids):
        code, token = after.read(authorization_id)
        assert (code, token.partition(".")[0]) == (f"code-{number}", f"token-{number}")
    assert after.reseal() == 0
