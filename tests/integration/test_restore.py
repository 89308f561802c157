"""A database restored from an older backup: what is gone, and how it comes to be so again."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from sqlalchemy import URL, make_url

from app import create_app
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from tests.builders import an_environ
from tests.integration.http_client import API_KEY, AUTHORIZATIONS, HttpClient, problem
from tests.integration.shell import Shell

Restore = Callable[[], None]


@dataclass
class Town:
    """Alipay, a merchant and an operator, around one service."""

    http: HttpClient
    shell: Shell
    database: URL

    def consult(self, auth_state: str, **said: str) -> None:
        self.http.consult(auth_state, **said)

    def report(self, auth_state: str, what: str, **said: str) -> int:
        response = self.http.post(self.http.at(self.authorization(auth_state), what), said)
        return response.status_code

    def notify(self, *drafts: Draft) -> None:
        assert {self.http.notify(draft).status_code for draft in drafts} == {200}

    def authorization(self, auth_state: str) -> dict[str, Any]:
        (found,) = self.http.get(f"{AUTHORIZATIONS}?authState={auth_state}").get_json()["authorizations"]
        document: dict[str, Any] = self.http.get(self.http.at(found)).get_json()
        return document

    def lives(self) -> dict[str, list[tuple[str, str]]]:
        """What happened to every authorization, and where that led."""
        listed = self.http.get(AUTHORIZATIONS).get_json()["authorizations"]
        documents = [self.authorization(each["authState"]) for each in listed]
        return {each["authState"]: [(move["event"], move["to"]) for move in each["history"]] for each in documents}

    @contextmanager
    def backup(self) -> Iterator[Restore]:
        """Back up now, and give what restores that while the service runs."""
        kind = sqlite_backup if self.database.get_backend_name() == "sqlite" else postgresql_backup
        self.shell.service.database.close()
        with kind(self.database) as restore:
            yield restore


@contextmanager
def sqlite_backup(database: URL) -> Iterator[Restore]:
    file = Path(database.database or "")
    copy = file.with_name("backup.db")

    def take(source: Path, target: Path) -> None:
        with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
            one.backup(other)

    take(file, copy)
    yield lambda: take(copy, file)


@contextmanager
def postgresql_backup(database: URL) -> Iterator[Restore]:
    name, copy = (Identifier(f"{database.database}{suffix}") for suffix in ("", "_backup"))
    elsewhere = database.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(elsewhere, autocommit=True) as connection:

        def restore() -> None:
            connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(name))
            connection.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(name, copy))

        connection.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(copy, name))
        try:
            yield restore
        finally:
            connection.execute(SQL("DROP DATABASE {}").format(copy))


@pytest.fixture
def town(database_url: str, keyring_path: Path) -> Iterator[Town]:
    """A town of the test's own; the test runs once on each kind of database."""
    app = create_app(an_environ(database_url, keyring_path, FLASK_API_KEYS=f"shop={API_KEY}"))
    town = Town(HttpClient(app, keyring_path), Shell(app, keyring_path), make_url(database_url))
    yield town
    town.shell.service.database.close()


def before_the_backup(town: Town) -> None:
    for name in ("revoked", "refreshed"):
        town.consult(name)
        town.notify(authcode_created(name, f"code-{name}"))
        town.report(name, "tokens", accessToken=f"token-{name}")
    town.consult("half")
    town.notify(authcode_created("half", "code-half"))
    town.notify(token_canceled("token-late"))


def after_the_backup(town: Town) -> None:
    town.notify(token_canceled("token-revoked"))
    town.report("refreshed", "tokens", accessToken="token-2", replaces="token-refreshed")
    town.notify(token_created("half", "token-half"))
    town.consult("new")
    town.notify(authcode_created("new", "code-new"))
    town.report("new", "tokens", accessToken="token-new", authCode="code-new")
    town.consult("late", flow="direct")
    town.notify(token_created("late", "token-late"))


def what_the_merchant_has_on_its_own_record(town: Town) -> None:
    town.consult("new")
    town.consult("late", flow="direct")
    what_followed_its_consults(town)


def what_followed_its_consults(town: Town) -> None:
    town.report("new", "tokens", accessToken="token-new", authCode="code-new")
    town.report("half", "tokens", accessToken="token-half")
    town.report("late", "tokens", accessToken="token-late")
    town.report("refreshed", "tokens", accessToken="token-2", replaces="token-refreshed")
    town.report("revoked", "canceled")


#: What was under way when the database was lost, and something that is in the backup too.
REPEATED = (token_canceled("token-new"), token_canceled("token-refreshed"), authcode_created("half", "code-half"))


def test_reports_and_redeliveries_lead_from_a_backup_back_to_the_truth(town: Town) -> None:
    before_the_backup(town)
    at_the_backup = town.lives()
    with town.backup() as restore:
        after_the_backup(town)
        town.notify(*REPEATED)
        truth = town.lives()
        assert {name: moves[-1][1] for name, moves in truth.items()} == {
            "revoked": "canceled",
            "refreshed": "token_active",
            "half": "token_active",
            "new": "canceled",
            "late": "canceled",
        }

        restore()
        # What was acknowledged since is gone, and nobody but the merchant will say it again.
        assert town.lives() == at_the_backup
        what_the_merchant_has_on_its_own_record(town)
        town.notify(*REPEATED)
        town.shell.ask("inbox", "process")
        assert town.lives() == truth
        assert town.shell.ask("authorizations", "verify") == "5 authorizations checked: everything agrees.\n"
        # And it may all be said once more: a consult of what is canceled by now is refused, and changes nothing.
        for name in ("new", "late"):
            assert problem(town.http.post(AUTHORIZATIONS, {"authState": name})) == (409, "canceled")
        what_followed_its_consults(town)
        town.notify(*REPEATED)
        assert town.lives() == truth


def test_after_a_restore_reports_come_before_notifications(town: Town) -> None:
    """The cancellation of a token that a forgotten refresh had replaced is taken for that of the current one."""
    before_the_backup(town)
    with town.backup() as restore:
        after_the_backup(town)
        restore()
        town.notify(token_canceled("token-refreshed"))
        path = town.http.at(town.authorization("refreshed"), "tokens")
        refused = town.http.post(path, {"accessToken": "token-2", "replaces": "token-refreshed"})
        assert problem(refused) == (409, "illegal-transition")


def test_an_authorization_that_a_restore_lost_gets_a_new_id(town: Town) -> None:
    """Its old id leads nowhere, rather than to somebody else's."""
    with town.backup() as restore:
        lost = town.http.consult("new")
        restore()
        assert town.http.get(town.http.at(lost)).status_code == 404
        assert town.http.consult("new")["id"] != lost["id"]
