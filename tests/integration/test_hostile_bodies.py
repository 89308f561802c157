"""Any body that Alipay signs, nonsense too, is answered, stored and shown; and the service breaks on none of it."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session
from typing_extensions import override

from app import inbox
from app.alipay.delivery import BODY_BYTES_MAX
from app.alipay.keyring import load_private_key
from app.models import InboxEntry
from app.simulator.draft import authcode_created
from app.simulator.keys import SANDBOX_CLIENT_ID, SIMULATOR_KEY_NAME
from app.simulator.sender import Signer, headers_of
from tests.integration.http_client import NOTIFY_PATH, HttpClient
from tests.integration.shell import Shell

#: Any text a JSON string can hold, NUL and lone surrogates among it.
TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)
#: Texts as JSON, or nearly: escaped, as they are, and with whatever a string must not hold.
STRINGS = st.one_of(
    TEXTS.map(json.dumps), TEXTS.map(lambda text: json.dumps(text, ensure_ascii=False)), TEXTS.map('"{}"'.format)
)
#: What parsers stumble over.
STONES = [
    *("NaN", "-Infinity", "Infinity", "1e999999", "-0", "01", "0x10", "'s-1'", "undefined", "", "null", "true"),
    *("9" * 5_000, "1" + "0" * 40_000, "0." + "3" * 40_000, "-" * 1_000),
    *("[" * 30_000, "[" * 30_000 + "]" * 30_000, '{"a":' * 9_000 + "1" + "}" * 9_000),
    *(r'"\u0000"', r'"\ud800"', r'"\udc00\ud800"', r'"\ud83d\ude00"', r'"\x"', '"\x00"', '"\u2028"', '""'),
    *(
        "{}",
        "[]",
        '{"resultStatus": "F"}',
        '{"resultStatus": "S", "resultStatus": 1}',
        '{"resultStatus": "\\u0000"}',
    ),
    *('"' + "x" * 256 + '"', '"' + "x" * 257 + '"', '"' + "\\ud800" * 128 + '"'),
]
#: By their numbers: hypothesis tells of a failure with every stone in it.
VALUES = STRINGS | st.integers(0, len(STONES) - 1).map(STONES.__getitem__)
#: What a notification is made of, each with what makes it a good one.
FIELDS = {
    '"authorizationNotifyType"': ['"AUTHCODE_CREATED"', '"TOKEN_CREATED"', '"TOKEN_CANCELED"', '"NEWS"'],
    '"result"': ['{"resultStatus": "S"}', '{"resultStatus": "S"}', '{"resultStatus": "U"}'],
    '"authState"': ['"s-1"', '"s-2"', r'"s-\u0000"', r'"s-\ud800"', r'"s\\u0000"'],
    '"authCode"': ['"code-1"', '"code-2"', r'"\u0000\udfff"'],
    '"accessToken"': ['"token-1"', '"token-2"', r'"\u0000\udfff"'],
    '"userId"': ['"2188"', r'"\u0000"', "2188"],
    '"userLoginId"': ['"someone@example.com"', r'"\ud800"', "{}"],
}
NAMES = st.sampled_from(list(FIELDS)) | STRINGS


def to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@st.composite
def near_valid(draw: st.DrawFn) -> bytes:
    """A notification with fields that are missing, wrong, there twice or never heard of, in some encoding."""
    fields = [(name, draw(st.sampled_from(values))) for name, values in FIELDS.items()]
    for _ in range(draw(st.integers(0, 2))):
        fields.pop(draw(st.integers(0, len(fields) - 1)))
    fields += draw(st.lists(st.tuples(NAMES, VALUES), max_size=3))
    fields = draw(st.permutations(fields))
    text = "{" + ", ".join(f"{name}: {value}" for name, value in fields) + "}"
    encoding = draw(st.sampled_from(["utf-8"] * 8 + ["utf-8-sig", "utf-16", "utf-32"]))
    around = st.sampled_from([b""] * 8 + [b" \n", b"\x00", b"\xef\xbb\xbf", b"{}", b"\xff"])
    return draw(around) + text.encode(encoding, "surrogatepass") + draw(around)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good notification with some of its bytes replaced."""
    body = authcode_created("s-1", "code-1").body()
    start = draw(st.integers(0, len(body)))
    return body[:start] + draw(st.binary(max_size=8)) + body[start + draw(st.integers(0, 8)) :]


BODIES = st.one_of(near_valid(), near_valid(), near_valid(), damaged(), VALUES.map(to_bytes), st.binary())
#: What a server hands over of a query and of a header: bytes as Latin-1 characters, and no control character.
LATIN = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=30)


class Troubles(logging.Handler):
    """Keeps what the service logs as an error, or with a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[str] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.records.append(str(vars(record)))


@pytest.fixture
def troubles() -> Iterator[Troubles]:
    """What goes wrong, as the log tells it."""
    handler = Troubles()
    logging.getLogger("app").addHandler(handler)
    yield handler
    logging.getLogger("app").removeHandler(handler)


@pytest.fixture(scope="session")
def alipay(keyring_path: Path) -> Signer:
    """The pretend Alipay, whose key takes longer to read than a hundred signatures to make."""
    return Signer(SANDBOX_CLIENT_ID, load_private_key(keyring_path.with_name(SIMULATOR_KEY_NAME).read_bytes()))


def last_received(session: Session) -> InboxEntry | None:
    return session.scalars(
        select(InboxEntry).order_by(InboxEntry.last_received_at.desc(), InboxEntry.id.desc()).limit(1)
    ).first()


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODIES, query=LATIN, request_time=LATIN.filter(bool))
def test_any_signed_body_is_answered_stored_and_shown(
    http: HttpClient, alipay: Signer, troubles: Troubles, body: bytes, query: str, request_time: str
) -> None:
    uri = f"{NOTIFY_PATH}?{query}" if query else NOTIFY_PATH
    delivery = alipay.sign(body, uri=uri, request_time=request_time)
    headers = dict(headers_of(delivery))
    answer = http.app.test_client().post(
        NOTIFY_PATH, data=body, headers=headers, environ_overrides={"QUERY_STRING": query}
    )
    assert answer.status_code in ({413} if len(body) > BODY_BYTES_MAX else {200, 400})
    assert troubles.records == []
    if answer.status_code == 413:
        return
    entry = http.service.database.run(last_received, read_only=True)
    assert entry is not None
    assert (entry.outcome == "malformed") == (answer.status_code == 400)
    if entry.deliveries == 1:
        assert inbox.open_body(http.service.vault, entry) == body
        assert (entry.uri, entry.request_time) == (uri, request_time)
    shell = Shell(http.app, http.keyring_path)
    assert f"{entry.outcome}: " in shell.ask("inbox", "show", str(entry.id))
    document = shell.json("inbox", "show", str(entry.id))
    assert (document["authState"], document["type"]) == (entry.auth_state, entry.type)
