"""One HTTP attempt of Alipay's exactly as it arrived: these bytes and no others were signed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

#: A notification is well under 2 KiB with every field at its maximum; the rest is room for fields to come. A larger
#: body is no notification, and reading it would let any sender fill our memory.
BODY_BYTES_MAX = 64 * 1024

_REQUEST_LINE = re.compile(r"(?P<method>[!#$%&'*+.^_`|~0-9A-Za-z-]+) (?P<target>[!-~\x80-\xff]+) HTTP/1\.[01]")
_HEADER_LINE = re.compile(r"(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+):(?P<value>.*)")
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_FOLD = re.compile(r"\r?\n[ \t]+")
_ABSOLUTE_FORM = re.compile(r"https?://[^/?#]+(?=[/?])", re.IGNORECASE)
_CONTENT_LENGTH = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an HTTP request came from, as a log names it. Nothing is decided by it."""

    request_id: str = ""
    #: The address that opened the connection: a proxy's, if there is one.
    address: str = ""
    #: X-Forwarded-For: the addresses that proxies name, and any text that the sender put there.
    forwarded_for: str = ""

    def fields(self) -> dict[str, str]:
        """Say it as the fields of a log line."""
        return {"address": self.address, "forwarded_for": self.forwarded_for, "request_id": self.request_id}


_UNKNOWN_ORIGIN = Origin()


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to deliver a notification: what its signature is made over, and the signature.

    The texts hold the bytes of the wire as Latin-1 characters, one for one, as WSGI hands them over (PEP 3333), and a
    header that was not sent is empty. `uri` is the public path that Alipay called, with the raw query after a `?` only
    if there is one.
    """

    method: str
    uri: str
    client_id: str
    request_time: str
    signature: str = field(repr=False)
    body: bytes = field(repr=False)
    origin: Origin = field(default=_UNKNOWN_ORIGIN, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A whole HTTP request as it arrived, with every header, by its name in lower case."""

    method: str
    uri: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def delivery(self) -> Delivery:
        """What of it is signed, and the signature."""
        return Delivery(
            method=self.method,
            uri=self.uri,
            client_id=self.headers.get("client-id", ""),
            request_time=self.headers.get("request-time", ""),
            signature=self.headers.get("signature", ""),
            body=self.body,
        )


class MalformedRequestError(ValueError):
    """The bytes are not one whole HTTP/1.x request that could be read as a delivery."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"This is not a raw HTTP request: {problem}.")
        self.problem = problem


def parse_request(raw: bytes) -> Delivery:
    """Read a raw HTTP/1.x request as a delivery. Raises `MalformedRequestError`."""
    return parse_http_request(raw).delivery


def parse_http_request(raw: bytes) -> HttpRequest:
    """Read a raw HTTP/1.x request, head and body, as a web server would (RFC 9112), and as strictly.

    The head may end its lines with CRLF or LF, since people save requests with editors; the body is taken as it stands,
    up to Content-Length where one is given. Raises `MalformedRequestError`.
    """
    end_of_head = _END_OF_HEAD.search(raw)
    if end_of_head is None:
        problem = "no empty line ends its head"
        raise MalformedRequestError(problem)
    head = _FOLD.sub(" ", raw[: end_of_head.start()].decode("latin-1"))
    request_line, *header_lines = head.replace("\r\n", "\n").split("\n")
    method, uri = _method_and_uri(request_line)
    headers = _headers(header_lines)
    return HttpRequest(method, uri, headers, _body(raw[end_of_head.end() :], headers))


def _method_and_uri(request_line: str) -> tuple[str, str]:
    match = _REQUEST_LINE.fullmatch(request_line)
    if match is None:
        problem = "its first line is not of the form 'POST /path HTTP/1.1'"
        raise MalformedRequestError(problem)
    # A proxy's client names the whole URL; what Alipay signs starts at the path.
    uri = _ABSOLUTE_FORM.sub("", match["target"])
    if not uri.startswith("/"):
        problem = "it asks for no path"
        raise MalformedRequestError(problem)
    return match["method"], uri


def _headers(lines: list[str]) -> dict[str, str]:
    """Collect headers by lower-case name; a repeated one is joined with a comma, as servers do (RFC 9110, 5.3)."""
    headers: dict[str, str] = {}
    for number, line in enumerate(lines, start=2):
        match = _HEADER_LINE.fullmatch(line)
        if match is None or _has_control_character(match["value"]):
            problem = f"line {number} of its head is not a header"
            raise MalformedRequestError(problem)
        name, value = match["name"].lower(), match["value"].strip(" \t")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def _has_control_character(value: str) -> bool:
    return any((character < " " and character != "\t") or character == "\x7f" for character in value)


def _body(rest: bytes, headers: dict[str, str]) -> bytes:
    if "transfer-encoding" in headers:
        problem = "its body is in transfer coding; save the decoded body with a Content-Length"
        raise MalformedRequestError(problem)
    if "content-length" not in headers:
        return rest
    if _CONTENT_LENGTH.fullmatch(headers["content-length"]) is None:
        problem = "its Content-Length is not a number of bytes"
        raise MalformedRequestError(problem)
    length = int(headers["content-length"])
    if length > len(rest):
        problem = f"its body has {len(rest)} bytes where Content-Length promises {length}"
        raise MalformedRequestError(problem)
    return rest[:length]
