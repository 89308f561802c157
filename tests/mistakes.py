"""Everything that happens to notifications between Alipay and a merchant, done on purpose, one mistake at a time.

Each says what was signed and what arrived, and in the doctor's words what happened. `tests/vectors/diagnosis.json` has
one delivery for each, signed by Alipay's SDK where that can sign so.
"""

import base64
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import quote, unquote

CLIENT_ID = "SANDBOX_5Y00000000000000"
OTHER_CLIENT_ID = "SANDBOX_5Y11111111111111"
PRODUCTION_CLIENT_ID = "5Y00000000000000"
PATH = "/alipay/notifyAuthorization"
REQUEST_TIME = "1685599933871"

#: Alipay's key that signs unless a mistake says otherwise; the others of the keyring; the merchant's; a stranger's.
KeyName = Literal["alipay 1", "alipay 2", "other client", "production", "merchant", "stranger"]
#: Whose they are: a client and a version, and no version for the merchant's own. A stranger's is not in the keyring.
KEYS: Mapping[KeyName, tuple[str, int | None] | None] = {
    "alipay 1": (CLIENT_ID, 1),
    "alipay 2": (CLIENT_ID, 2),
    "other client": (OTHER_CLIENT_ID, 1),
    "production": (PRODUCTION_CLIENT_ID, 1),
    "merchant": (CLIENT_ID, None),
    "stranger": None,
}
Scheme = Literal["sha256", "sha1", "md5", "sha512", "pss", "pss with the longest salt"]

RESULT = {"resultCode": "SUCCESS", "resultMessage": "success", "resultStatus": "S"}
DOCUMENT = {
    "authorizationNotifyType": "TOKEN_CANCELED",
    "accessToken": "28100103_20215703001538122119",
    "reason": "用户在钱包中取消了授权 – voilà 🙂 <a/b>",
    "result": RESULT,
}
#: As Alipay's SDK for Java writes it.
BODY = json.dumps(DOCUMENT, ensure_ascii=False, separators=(",", ":")).encode()
ESCAPED_BODY = json.dumps(DOCUMENT, separators=(",", ":")).encode()
INDENTED_BODY = json.dumps(DOCUMENT, ensure_ascii=False, indent=2).encode()
#: In one of the charsets that hold few characters.
LATIN_BODY = json.dumps({**DOCUMENT, "reason": "voilà"}, ensure_ascii=False, separators=(",", ":")).encode()
CHINESE_BODY = json.dumps({**DOCUMENT, "reason": "取消"}, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Message:
    """What is signed, and what arrives, which for a genuine delivery is the same."""

    method: str = "POST"
    uri: str = PATH
    client_id: str = CLIENT_ID
    request_time: str = REQUEST_TIME
    body: bytes = BODY
    #: The whole header.
    signature: str = ""
    #: Other headers that a proxy adds.
    headers: Mapping[str, str] = field(default_factory=dict)
    #: What whoever asks the doctor knows.
    registered_url: str = ""
    paths: tuple[str, ...] = (PATH,)


@dataclass(frozen=True)
class Mistake:
    """One mistake: what is done to a message after it is signed, and the words for it."""

    name: str
    changes: tuple[str, ...]
    alter: Callable[[Message], Message] = lambda message: message
    sent: Message = Message()
    signed_by: KeyName = "alipay 1"
    scheme: Scheme = "sha256"
    #: Whether the doctor can find what was signed; otherwise it says only what is certain without.
    content_is_found: bool = True


def _uri(uri: str, **known: Any) -> Callable[[Message], Message]:  # noqa: ANN401 -- fields of a message
    return lambda message: replace(message, uri=uri, **known)


def _body(rewrite: Callable[[bytes], bytes]) -> Callable[[Message], Message]:
    return lambda message: replace(message, body=rewrite(message.body))


def _signature(rewrite: Callable[[str], str]) -> Callable[[Message], Message]:
    """Change the value of the signature, and nothing else in its header."""

    def alter(message: Message) -> Message:
        head, _, value = message.signature.partition("signature=")
        return replace(message, signature=f"{head}signature={rewrite(value)}")

    return alter


def _header(rewrite: Callable[[str], str]) -> Callable[[Message], Message]:
    return lambda message: replace(message, signature=rewrite(message.signature))


def _bytes_of(value: str) -> bytes:
    return base64.b64decode(unquote(value))


def _parsed(**options: Any) -> Callable[[bytes], bytes]:  # noqa: ANN401 -- options of json.dumps
    """Parse JSON and write it again, as a framework does."""
    options = {"ensure_ascii": False, **options}
    return lambda body: json.dumps(json.loads(body), **options).encode()


def _with_field(body: bytes) -> bytes:
    return json.dumps({**json.loads(body), "receivedBy": "gateway"}, ensure_ascii=False, separators=(",", ":")).encode()


KEY_MISTAKES = (
    Mistake("signed by the merchant's own key", ("own_key",), signed_by="merchant"),
    Mistake("signed by the key of another client", ("other_client_key",), signed_by="other client"),
    Mistake("signed by the key of another version", ("other_version",), signed_by="alipay 2"),
    Mistake("signed by a stranger", ("unknown_key",), signed_by="stranger", content_is_found=False),
    Mistake("signed by the production key", ("sandbox_and_production_swapped",), signed_by="production"),
)

HEADER_MISTAKES = (
    Mistake("signed with SHA-1", ("digest_sha1",), scheme="sha1"),
    Mistake("signed with MD5", ("digest_md5",), scheme="md5"),
    Mistake("signed with SHA-512", ("digest_sha512",), scheme="sha512"),
    Mistake("padded with PSS", ("pss",), scheme="pss"),
    Mistake("padded with PSS, salt of the longest length", ("pss",), scheme="pss with the longest salt"),
    Mistake(
        "plus decoded as a form does",
        ("plus_became_blank",),
        _signature(lambda value: unquote(value).replace("+", " ")),
    ),
    Mistake("escaped twice", ("escaped_twice",), _signature(lambda value: quote(value, safe=""))),
    Mistake(
        "base64url",
        ("base64url",),
        _signature(lambda value: base64.urlsafe_b64encode(_bytes_of(value)).decode().rstrip("=")),
    ),
    Mistake("hex", ("base64url",), _signature(lambda value: _bytes_of(value).hex())),
    Mistake("base64 in lines", ("base64url",), _signature(lambda value: quote(base64.encodebytes(_bytes_of(value))))),
    Mistake("truncated", ("truncated",), _signature(lambda value: value[:200]), content_is_found=False),
    Mistake("padding cut off", ("truncated",), _signature(lambda value: unquote(value).rstrip("="))),
    Mistake("signature header doubled", ("missing_header",), _header(lambda header: f"{header},{header}")),
    Mistake("no algorithm", ("missing_header",), _header(lambda header: header.partition(",")[2])),
    Mistake("semicolons for commas", ("missing_header",), _header(lambda header: header.replace(",", ";"))),
    Mistake("no signature", ("missing_header",), _header(lambda _: ""), content_is_found=False),
    Mistake("no client id", ("missing_header",), lambda message: replace(message, client_id="")),
    Mistake(
        "no request-time",
        ("missing_header",),
        lambda message: replace(message, request_time=""),
        content_is_found=False,
    ),
    Mistake(
        "client id doubled", ("missing_header",), lambda message: replace(message, client_id=f"{CLIENT_ID},{CLIENT_ID}")
    ),
)

PATH_MISTAKES = (
    Mistake(
        "prefix stripped, registered URL known",
        ("prefix_stripped",),
        _uri(PATH, registered_url=f"https://merchant.example/shop/7{PATH}"),
        Message(uri=f"/shop/7{PATH}"),
    ),
    Mistake(
        "prefix stripped, the proxy says which",
        ("prefix_stripped",),
        _uri(PATH, headers={"x-forwarded-prefix": "/eu-1"}),
        Message(uri=f"/eu-1{PATH}"),
    ),
    Mistake("a common prefix stripped", ("prefix_stripped",), _uri(PATH), Message(uri=f"/api{PATH}")),
    Mistake("two common prefixes stripped", ("prefix_stripped",), _uri(PATH), Message(uri=f"/api/v1{PATH}")),
    Mistake("one segment added", ("prefix_added",), _uri(f"/internal{PATH}")),
    Mistake("three segments added", ("prefix_added",), _uri(f"/one/two/three{PATH}")),
    Mistake(
        "rewritten to the internal path",
        ("prefix_stripped", "prefix_added"),
        _uri(PATH, paths=(PATH, "/shop/authorized")),
        Message(uri="/shop/authorized"),
    ),
    Mistake("trailing slash added", ("trailing_slash",), _uri(f"{PATH}/")),
    Mistake("trailing slash removed", ("trailing_slash",), _uri(PATH), Message(uri=f"{PATH}/")),
    Mistake("double slash merged", ("double_slash",), _uri(PATH), Message(uri="/alipay//notifyAuthorization")),
    Mistake("double slash made", ("double_slash",), _uri(f"/{PATH}")),
    Mistake(
        "path unescaped", ("percent_encoding",), _uri("/alipay/notify(Auth)"), Message(uri="/alipay/notify%28Auth%29")
    ),
    Mistake(
        "escapes of the path in upper case",
        ("percent_encoding",),
        _uri("/a/notify%2Fb?x=%2A"),
        Message(uri="/a/notify%2fb?x=%2a"),
    ),
    Mistake(
        "query lost",
        ("query_lost",),
        _uri(PATH, registered_url=f"https://merchant.example{PATH}?tenant=7&shop=a"),
        Message(uri=f"{PATH}?tenant=7&shop=a"),
    ),
    Mistake("query added", ("query_added",), _uri(f"{PATH}?trace=1")),
    Mistake("a parameter added", ("query_added",), _uri(f"{PATH}?a=1&trace=1&b=2"), Message(uri=f"{PATH}?a=1&b=2")),
    Mistake("query re-ordered", ("query_reordered",), _uri(f"{PATH}?a=1&b=2&c=3"), Message(uri=f"{PATH}?c=3&a=1&b=2")),
    Mistake(
        "prefix and query lost",
        ("prefix_stripped", "query_lost"),
        _uri(PATH, registered_url=f"https://merchant.example/shop{PATH}?tenant=7"),
        Message(uri=f"/shop{PATH}?tenant=7"),
    ),
    Mistake(
        "the whole URL signed",
        ("whole_url",),
        _uri(PATH, headers={"host": "merchant.example"}),
        Message(uri=f"https://merchant.example{PATH}"),
    ),
    Mistake(
        "another method signed",
        ("other_method",),
        lambda message: replace(message, method="POST"),
        Message(method="PUT"),
    ),
)

STAMP_MISTAKES = (
    Mistake(
        "seconds for milliseconds", ("time_reformatted",), lambda message: replace(message, request_time="1685599933")
    ),
    Mistake(
        "milliseconds for seconds",
        ("time_reformatted",),
        lambda message: replace(message, request_time="1685599933871"),
        Message(request_time="1685599933"),
    ),
    Mistake(
        "milliseconds for ISO 8601",
        ("time_reformatted",),
        lambda message: replace(message, request_time="1685599933000"),
        Message(request_time="2023-06-01T14:12:13+08:00"),
    ),
    Mistake(
        "another zone",
        ("time_reformatted",),
        lambda message: replace(message, request_time="2023-06-01T06:12:13Z"),
        Message(request_time="2023-06-01T14:12:13+0800"),
    ),
    Mistake(
        "response-time signed",
        ("time_reformatted",),
        lambda message: replace(
            message, headers={"response-time": "2023-06-01T14:12:20+08:00"}, request_time=REQUEST_TIME
        ),
        Message(request_time="2023-06-01T14:12:20+08:00"),
    ),
    Mistake(
        "another client id in the header",
        ("other_client_id",),
        lambda message: replace(message, client_id=CLIENT_ID),
        Message(client_id=OTHER_CLIENT_ID),
        signed_by="other client",
    ),
)

BODY_MISTAKES = (
    Mistake("JSON spaced", ("json_rewritten",), _body(_parsed())),
    Mistake("JSON indented by two", ("json_rewritten",), _body(_parsed(indent=2))),
    Mistake("JSON indented by four", ("json_rewritten",), _body(_parsed(indent=4))),
    Mistake("JSON indented by tabs", ("json_rewritten",), _body(_parsed(indent="\t"))),
    Mistake("JSON compacted", ("json_rewritten",), _body(_parsed(separators=(",", ":"))), Message(body=INDENTED_BODY)),
    Mistake("JSON sorted", ("json_rewritten",), _body(_parsed(sort_keys=True, separators=(",", ":")))),
    Mistake("JSON sorted and spaced", ("json_rewritten",), _body(_parsed(sort_keys=True))),
    Mistake("non-ASCII escaped", ("non_ascii_escaped",), _body(lambda _: ESCAPED_BODY)),
    Mistake("non-ASCII unescaped", ("non_ascii_escaped",), _body(lambda _: BODY), Message(body=ESCAPED_BODY)),
    Mistake(
        "escapes in upper case",
        ("non_ascii_escaped",),
        _body(lambda body: body.replace(b"\\ud83d\\ude42", b"\\uD83D\\uDE42")),
        Message(body=json.dumps({"accessToken": "t", "reason": "🙂"}).encode()),
    ),
    Mistake("slashes escaped", ("slash_escaped",), _body(lambda body: body.replace(b"/", b"\\/"))),
    Mistake("slashes unescaped", ("slash_escaped",), _body(lambda _: BODY), Message(body=BODY.replace(b"/", b"\\/"))),
    Mistake("final newline added", ("final_newline",), _body(lambda body: body + b"\n")),
    Mistake("final CRLF added", ("final_newline",), _body(lambda body: body + b"\r\n")),
    Mistake("final newline removed", ("final_newline",), _body(bytes.rstrip), Message(body=BODY + b"\n")),
    Mistake(
        "CRLF for LF", ("line_ends",), _body(lambda body: body.replace(b"\n", b"\r\n")), Message(body=INDENTED_BODY)
    ),
    Mistake(
        "LF for CRLF",
        ("line_ends",),
        _body(lambda body: body.replace(b"\r\n", b"\n")),
        Message(body=INDENTED_BODY.replace(b"\n", b"\r\n")),
    ),
    Mistake("byte order mark added", ("byte_order_mark",), _body(lambda body: b"\xef\xbb\xbf" + body)),
    Mistake(
        "byte order mark removed",
        ("byte_order_mark",),
        _body(lambda body: body[3:]),
        Message(body=b"\xef\xbb\xbf" + BODY),
    ),
    Mistake(
        "GBK written as UTF-8",
        ("charset",),
        _body(lambda _: CHINESE_BODY),
        Message(body=CHINESE_BODY.decode().encode("gbk")),
    ),
    Mistake(
        "UTF-8 written as GBK",
        ("charset",),
        _body(lambda body: body.decode().encode("gbk")),
        Message(body=CHINESE_BODY),
    ),
    Mistake(
        "UTF-8 written as Latin-1",
        ("charset",),
        _body(lambda body: body.decode().encode("latin-1")),
        Message(body=LATIN_BODY),
    ),
    Mistake("UTF-8 taken for Latin-1", ("charset",), _body(lambda body: body.decode("latin-1").encode())),
    Mistake("still base64", ("base64_body",), _body(base64.b64encode)),
    Mistake("still compressed", ("compressed",), _body(lambda body: gzip.compress(body, mtime=0))),
    Mistake("a field added", ("field_added",), _body(_with_field)),
    Mistake("empty body signed", ("empty_body",), _body(lambda _: BODY), Message(body=b"")),
    Mistake("body lost", ("empty_body",), _body(lambda _: b""), content_is_found=False),
)

MISTAKES = (*KEY_MISTAKES, *HEADER_MISTAKES, *PATH_MISTAKES, *STAMP_MISTAKES, *BODY_MISTAKES)

#: What another receiver stumbles over and this one does not: they verify.
HARMLESS = (
    Mistake("genuine", ()),
    Mistake("not escaped", (), _signature(unquote)),
    Mistake("parts in another order", (), _header(lambda header: ", ".join(reversed(header.split(","))))),
    Mistake("algorithm in lower case", (), _header(lambda header: header.replace("RSA256", "rsa256"))),
)
