"""After everything has happened, no secret is in any byte that anybody could find.

Not in a file of the database, nor in its write-ahead log; not in the log of PostgreSQL, which here writes down every
statement with its parameters; not in our own log at its most talkative; not in a figure, an error or the shell.
"""

import base64
import io
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app import create_app
from app.alipay.keyring import load_private_key
from app.config import new_vault_key
from app.index_key import INDEX_KEY_ID
from app.logs import FieldFormatter
from app.models import IndexKey
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from app.simulator.gateway.gateway import PretendGateway
from app.simulator.keys import MERCHANT_KEY_NAME
from app.simulator.sender import headers_of
from app.vault import INDEX_KEY_COLUMN
from app.wiring import Service
from tests.builders import a_genuine_delivery, a_raw_request, an_environ
from tests.conftest import migrate
from tests.integration.calling_http import CallingHttp, a_pretend_gateway, keyring_with_gateway
from tests.integration.http_client import AUTHORIZATIONS, NOTIFY_PATH, HttpClient
from tests.integration.shell import Shell
from tests.postgres import SERVER_SETTINGS, running_cluster

#: Each so odd that it cannot turn up by chance.
SECRETS = {
    "code": "code-5d1f0c7a-first",
    "code of the redirect": "code-77aa20be-redirect",
    "token": "token-e02b9d44-first",
    "token after a refresh": "token-9c31f6aa-next",
    "token of somebody else": "token-1f4e8b70-foreign",
    "refresh token": "refresh-b7c2d1e9",
    "login id": "someone-0f3c@example.com",
    "words": "the user wrote 8ee1: leave me alone",
    "API key": "api-key-66b0cd12",
    "guessed API key": "guess-3b9ad0f1",
}
#: Is nobody's secret: it shows that what is searched through is what was written.
PLAIN = "state-c4d1a9e0"

OLD, NEW = new_vault_key(), new_vault_key()

#: A server that writes down all it can, also what a statement's parameters were.
TALKATIVE = SERVER_SETTINGS | {
    "full_page_writes": "on",
    "log_statement": "all",
    "log_duration": "on",
    "log_min_messages": "debug1",
    "log_min_error_statement": "debug1",
    "log_error_verbosity": "verbose",
    "log_parameter_max_length": "-1",
    "log_parameter_max_length_on_error": "-1",
}


@dataclass
class Ground:
    """A database, and every byte that it leaves behind."""

    url: str
    files: Callable[[], Iterator[Path]]
    #: Parts of the paths of files that must hold what was written.
    written: tuple[str, ...]


@pytest.fixture(params=["sqlite", "postgresql"])
def ground(request: pytest.FixtureRequest, sqlite_url: str, tmp_path: Path) -> Iterator[Ground]:
    """A database of the test's own down to the server."""
    if request.param == "sqlite":
        yield Ground(sqlite_url, lambda: tmp_path.glob("notifyauth.db*"), ("notifyauth.db ", "notifyauth.db-wal"))
        return
    with running_cluster(TALKATIVE) as cluster:
        url = cluster.url.render_as_string(hide_password=False)
        migrate(url)

        def files() -> Iterator[Path]:
            with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
                connection.execute("CHECKPOINT")
            yield cluster.folder / "log"
            yield from (path for path in (cluster.folder / "data").rglob("*") if path.is_file())

        yield Ground(url, files, ("/data/base/", "/data/pg_wal/", "/log "))
        # Were a secret among the parameters of a statement, it would have been found.
        assert re.search(r"arameters: \$1 = '", (cluster.folder / "log").read_text())


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that the service and its libraries log, at every level."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(FieldFormatter())
    loggers = [logging.getLogger(name) for name in ("app", "sqlalchemy", "psycopg", "werkzeug", "alembic", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield stream
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


@dataclass
class Play:
    """Brings every secret in by every way, and keeps all that was answered without being asked for a secret."""

    http: HttpClient
    shell: Shell
    said: list[str]

    def post(self, path: str, body: object, *, status: int) -> None:
        answer = self.http.post(path, body, key=SECRETS["API key"])
        assert answer.status_code == status, answer.text
        self.said.append(answer.text)

    def notify(self, notification: Draft | bytes, *, status: int = 200) -> None:
        answer = self.http.notify(notification)
        assert answer.status_code == status, answer.text
        self.said += [answer.text, str(answer.headers)]

    def ask(self, *arguments: str, stdin: str | bytes = b"") -> None:
        result = self.shell.run(*arguments, stdin=stdin)
        self.said += [result.stdout, result.stderr, repr(result.exception)]

    def everything(self) -> None:
        key = SECRETS["API key"]
        consulted = self.http.call("POST", AUTHORIZATIONS, {"authState": PLAIN, "userRef": "u-1"}, key=key).get_json()
        at = f"{AUTHORIZATIONS}/{consulted['id']}"
        self.what_alipay_says()
        self.what_the_merchant_says(at)
        for what in ("authcode", "token"):
            given = self.http.get(f"{at}/{what}", key=key)
            assert SECRETS["code of the redirect" if what == "authcode" else "token after a refresh"] in given.text
        self.post(f"{at}/canceled", {"reason": SECRETS["words"]}, status=200)
        self.what_strangers_say()

    def what_alipay_says(self) -> None:
        """Applied, rejected, parked, malformed, unknown."""
        first = json.loads(authcode_created(PLAIN, SECRETS["code"]).body())
        self.notify(json.dumps(first | {"userLoginId": SECRETS["login id"], "userId": "2188"}).encode())
        self.notify(authcode_created(PLAIN, SECRETS["code of the redirect"]))
        self.notify(token_created(PLAIN, SECRETS["token"]))
        self.notify(token_canceled(SECRETS["token of somebody else"], reason=SECRETS["words"]))
        self.notify(Draft("NEWS", access_token=SECRETS["token of somebody else"], auth_code=SECRETS["code"]))
        self.notify(Draft("TOKEN_CREATED", access_token=SECRETS["token of somebody else"]), status=400)
        self.notify(SECRETS["words"].encode(), status=400)

    def what_the_merchant_says(self, at: str) -> None:
        """Reports that are recorded, refused, contradictory, and not of the form."""
        token = {"accessToken": SECRETS["token"], "refreshToken": SECRETS["refresh token"]}
        self.post(f"{at}/tokens", token, status=200)
        self.post(f"{at}/tokens", token | {"refreshToken": SECRETS["words"]}, status=409)
        self.post(f"{at}/tokens", token | {"replaces": SECRETS["token of somebody else"]}, status=409)
        self.post(f"{at}/tokens", token | {"accessTokenExpiryTime": SECRETS["words"]}, status=422)
        self.post(f"{at}/tokens", {"accessToken": SECRETS["token"] * 20}, status=422)
        self.post(f"{at}/authcode", {"authCode": [SECRETS["code"]], "userRef": SECRETS["login id"]}, status=422)
        self.post(f"{at}/authcode", {"authCode": SECRETS["code of the redirect"]}, status=200)
        self.post(f"{at}/authcode", {"authCode": SECRETS["words"]}, status=409)
        refreshed = {"accessToken": SECRETS["token after a refresh"], "replaces": SECRETS["token"]}
        self.post(f"{at}/tokens", refreshed, status=200)

    def what_the_service_asks(self, calling: CallingHttp) -> dict[str, bytes]:
        """A life with calls, answered in many ways; return what is secret of it."""
        calling.fail("unknown-done", "refresh")
        calling.fail("refused", "revoke", code="PROCESS_FAIL")
        document = calling.activate("calls")
        lost = calling.activate("lost")
        with calling.running():
            for what, state in (("refresh", lost), ("refresh", document), ("revoke", document), ("revoke", document)):
                self.said.append(calling.ask(what, state).text)
        calls, tokens = calling.gateway.ledger.calls(), calling.gateway.ledger.tokens()
        assert {each.operation for each in calls} == {"consult", "exchange", "refresh", "revoke"}
        assert [each.status for each in calling.calls()].count("failed") >= 1
        secrets = {f"subject {each.number}": each.subject for each in calls if each.operation != "consult"}
        secrets |= {f"token {number}": each.access_token for number, each in enumerate(tokens)}
        secrets |= {f"refresh token {number}": str(each.refresh_token) for number, each in enumerate(tokens)}
        secrets["page of the wallet"] = document["normalUrl"].rpartition("/")[2]
        return {name: text.encode() for name, text in secrets.items()}

    def what_strangers_say(self) -> None:
        """Forged deliveries and guessed keys, with secrets that somebody has got hold of."""
        forged = a_genuine_delivery(self.http.keyring_path, token_canceled(SECRETS["token after a refresh"]))
        headers = dict(headers_of(replace(forged, client_id=SECRETS["token"])))
        refused = self.http.app.test_client().post(NOTIFY_PATH, data=forged.body, headers=headers)
        assert refused.status_code == 401
        guessed = self.http.get(AUTHORIZATIONS, key=SECRETS["guessed API key"])
        assert guessed.status_code == 401
        self.said += [refused.text, guessed.text]

    def look_at_the_figures(self) -> None:
        self.said.append(self.http.get("/metrics", key=SECRETS["API key"]).text)

    def what_an_operator_asks(self) -> None:
        entries = self.shell.json("inbox", "list")
        for entry in entries:
            self.ask("inbox", "show", entry["id"])
            self.ask("inbox", "process", entry["id"])
        for command in (
            "inbox list",
            f"authorizations show {PLAIN}",
            "authorizations verify",
            "keys show",
            "keys reseal",
        ):
            self.ask(*command.split())
        again = a_genuine_delivery(self.http.keyring_path, token_canceled(SECRETS["token after a refresh"]))
        self.ask("inbox", "deliver", "-", stdin=a_raw_request(again))
        self.ask("authorizations", "record", "token", PLAIN, stdin=f"{SECRETS['token of somebody else']}\n\n\n")
        self.ask("authorizations", "record", "authcode", PLAIN, stdin=f"{SECRETS['code of the redirect']}\n")

    def while_the_database_refuses(self) -> None:
        """What cannot be stored is an error of the database too, which quotes a statement with its parameters."""
        rename = "ALTER TABLE {} RENAME TO {}".format
        with self.http.service.database.engine.begin() as connection:
            connection.exec_driver_sql(rename("inbox", "away"))
        self.notify(authcode_created(PLAIN, SECRETS["code"]), status=503)
        self.ask("inbox", "list")
        with self.http.service.database.engine.begin() as connection:
            connection.exec_driver_sql(rename("away", "inbox"))


def spelled(secret: bytes) -> Iterator[bytes]:
    """A secret as it is, and as programs write bytes: in hexadecimal, and in base64 wherever in a text it begins."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret)
        # The first and the last characters belong to the neighbors too.
        yield encoded[-(-before * 8 // 6) : len(encoded) // 4 * 4 - 4]


def found_in(content: bytes, secrets: dict[str, bytes]) -> list[str]:
    return [name for name, secret in secrets.items() if any(each in content for each in spelled(secret))]


def keys_of(service: Service, keyring_path: Path) -> dict[str, bytes]:
    """Every key the service works with, as bytes."""
    sealed = service.database.run(lambda session: session.get_one(IndexKey, INDEX_KEY_ID).sealed_key, read_only=True)
    private = load_private_key(keyring_path.with_name(MERCHANT_KEY_NAME).read_bytes())
    return {
        "old vault key": base64.b64decode(OLD),
        "new vault key": base64.b64decode(NEW),
        "index key": service.sealer.open(sealed, column=INDEX_KEY_COLUMN, row_key=bytes([INDEX_KEY_ID])),
        # One line of a PEM file, and not the first: that is the same in every key.
        "private key": private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())[384:432],
    }


def an_app(ground: Ground, keyring_path: Path, vault_keys: Sequence[str]) -> HttpClient:
    settings = {"FLASK_API_KEYS": f"shop={SECRETS['API key']}", "FLASK_VAULT_KEYS": ",".join(vault_keys)}
    return HttpClient(create_app(an_environ(ground.url, keyring_path, **settings)), keyring_path)


@pytest.mark.parametrize("before", [b"", b"\x01", b"\x01\x02", b"abc"])
def test_a_secret_is_found_however_it_is_spelled(before: bytes) -> None:
    text = before + b"token-e02b9d44-first" + b"\xff\xfe"
    for content in (text, text.hex().encode(), text.hex().upper().encode(), base64.b64encode(text)):
        assert found_in(b"--" + content + b"--", {"token": b"token-e02b9d44-first"}) == ["token"]
        assert found_in(b"--" + content + b"--", {"token": b"token-e02b9d44-furst"}) == []


@pytest.fixture
def gateway(keyring_path: Path) -> Iterator[PretendGateway]:
    with a_pretend_gateway(keyring_path) as gateway:
        yield gateway


def test_no_byte_anywhere_is_of_a_secret(
    ground: Ground, keyring_path: Path, gateway: PretendGateway, tmp_path: Path, log: io.StringIO
) -> None:
    keyring_path = keyring_with_gateway(keyring_path, tmp_path, gateway.url)
    said: list[str] = []
    places: dict[str, bytes] = {}
    secrets = {name: text.encode() for name, text in SECRETS.items()}
    for vault_keys in ([OLD], [NEW, OLD]):
        http = an_app(ground, keyring_path, vault_keys)
        play = Play(http, Shell(http.app, keyring_path), said)
        if vault_keys == [OLD]:
            play.everything()
            secrets |= play.what_the_service_asks(CallingHttp(http, gateway, SECRETS["API key"]))
        play.while_the_database_refuses()
        play.what_an_operator_asks()
        play.look_at_the_figures()
        secrets |= keys_of(http.service, keyring_path)
        # While it runs: SQLite takes its write-ahead log away when the last one leaves.
        places |= {f"{path} under {len(vault_keys)} keys": path.read_bytes() for path in ground.files()}
        http.service.database.close()
    places |= {"our log": log.getvalue().encode(), "what was said": "\n".join(said).encode()}
    assert {place: found for place, content in places.items() if (found := found_in(content, secrets))} == {}
    # It was searched where things are: what is no secret is found there.
    plain = [place for place, content in places.items() if PLAIN.encode() in content]
    assert all(any(part in place for place in plain) for part in ("what was said", *ground.written))
    assert "delivery not stored" in places["our log"].decode()
