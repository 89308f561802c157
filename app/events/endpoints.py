"""The endpoints: who is told of which events, read once from endpoints.toml.

A mistake must show when the service starts, not when the first event is to be sent.
"""

import base64
import binascii
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from typing_extensions import override
from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from app.events.addresses import is_link_local
from app.events.staging import EventType
from app.events.type_patterns import UnknownTypeError, types_of
from app.secret import Secret
from app.toml_file import TomlFileError, read_toml

#: How long a secret is, decoded (Standard Webhooks 1.0, "Signature scheme").
SECRET_BYTES = range(24, 64 + 1)
_SECRET_PREFIX = "whsec_"  # noqa: S105 -- what all of them begin with
_FILE_PREFIX = "file:"
_SETTINGS = ("url", "secrets", "types", "ca")
#: It is a label of metrics and an argument of commands.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PRINTABLE = re.compile(r"[!-~]+")
#: A longer one may be a secret pasted on the wrong side of the equals sign.
_SHOWN_CHARACTERS_MAX = 64
_PORT_MAX = 65535

_REMEDY = 'make one with: echo "whsec_$(openssl rand -base64 32)"'


class EndpointsError(ValueError):
    """endpoints.toml cannot be used: one sentence with the place, the problem and the remedy, never a secret."""

    def __init__(self, place: str, problem: str, remedy: str) -> None:
        super().__init__(f"{place} {problem}; {remedy}.")
        self.place = place
        self.problem = problem
        self.remedy = remedy


class UnknownEndpointError(KeyError):
    """A name that endpoints.toml does not have."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    @override
    def __str__(self) -> str:
        return f"There is no endpoint {self.name!r} in endpoints.toml."


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where events of some types are sent."""

    name: str
    url: str
    #: Each signs, so that a receiver may know the old one or the new one. At least one.
    secrets: tuple[Secret, ...]
    #: Types, or patterns such as `authorization.*`.
    types: tuple[str, ...]
    #: The certificates, in PEM, of which one has to vouch for the endpoint's; those of the system where it is empty.
    ca: str | None = None

    def takes(self, event_type: str) -> bool:
        """Say whether the endpoint is told of events of a type."""
        return any(fnmatchcase(event_type, pattern) for pattern in self.types)


@dataclass(frozen=True, slots=True)
class Endpoints(Mapping[str, Endpoint]):
    """All endpoints, by name."""

    _by_name: Mapping[str, Endpoint]

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Read endpoints.toml and every file it names, now and never again; without a path there is no endpoint.

        Raises `EndpointsError`.
        """
        if path is None:
            return cls({})
        document = _read_toml(path)
        _refuse_unknown_settings(str(path), document, ("endpoints",))
        tables = document.get("endpoints", {})
        if not isinstance(tables, dict):
            place = f"{path}: endpoints"
            raise EndpointsError(place, "is not a table", "write [endpoints.NAME] for each endpoint")
        return cls({name: _endpoint(path, name, table) for name, table in tables.items()})

    def subscribers(self, event_type: str) -> list[str]:
        """Name the endpoints that are told of events of a type."""
        return [each.name for each in self._by_name.values() if each.takes(event_type)]

    @override
    def __getitem__(self, name: str) -> Endpoint:
        """Return the endpoint of this name. Raises `UnknownEndpointError`."""
        try:
            return self._by_name[name]
        except KeyError:
            raise UnknownEndpointError(name) from None

    @override
    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    @override
    def __len__(self) -> int:
        return len(self._by_name)


def _read_toml(path: Path) -> dict[str, Any]:
    if_missing = "create it, or point FLASK_ENDPOINTS at the one you have"
    if_no_toml = "mend that place; a text stands in quotes"
    try:
        return read_toml(path, if_missing=if_missing, if_no_toml=if_no_toml)
    except TomlFileError as error:
        raise EndpointsError(str(path), error.problem, error.remedy) from None


def _refuse_unknown_settings(place: str, table: Mapping[str, object], known: tuple[str, ...]) -> None:
    for name in table:
        if name not in known:
            problem = f"has an unknown setting {_shown(name)}"
            raise EndpointsError(place, problem, f"correct its name or take it out (known here: {', '.join(known)})")


def _endpoint(path: Path, name: str, table: object) -> Endpoint:
    place = f"{path}: endpoint {_shown(name)}"
    if not _NAME.fullmatch(name):
        remedy = "use up to 64 letters, digits, dots, dashes and underscores"
        raise EndpointsError(place, "has a name that cannot be used", remedy)
    if not isinstance(table, dict):
        raise EndpointsError(place, "is not a table", f"write [endpoints.{name}] and its settings below")
    _refuse_unknown_settings(place, table, _SETTINGS)
    url = _url(table.get("url"), f"{path}: url of endpoint {name}")
    return Endpoint(
        name,
        url,
        _secrets(path, table.get("secrets"), f"{path}: secrets of endpoint {name}"),
        _types(table.get("types", ["*"]), f"{path}: types of endpoint {name}"),
        _ca(path, table["ca"], f"{path}: certificates (ca) of endpoint {name}", url) if "ca" in table else None,
    )


def _url(value: object, place: str) -> str:
    """Check a URL. It is never quoted: it may have a password in it, or a token in its query."""
    if not isinstance(value, str) or not value:
        raise EndpointsError(place, "is missing", 'write url = "https://…"')
    if not _PRINTABLE.fullmatch(value):
        remedy = "write an international host name as xn--…, and all else in % and two digits"
        raise EndpointsError(place, "has a blank, or a character that is not ASCII", remedy)
    try:
        parsed = parse_url(value)
        _require_usable(parsed, place)
    except LocationParseError:
        raise EndpointsError(place, "cannot be read", "write it as https://host:port/path") from None
    return value


def _require_usable(url: Url, place: str) -> None:
    if url.scheme not in {"http", "https"}:
        raise EndpointsError(place, "is neither https:// nor http://", "begin it with one of them")
    if not url.host:
        raise EndpointsError(place, "names no host", "write it as https://host:port/path")
    if url.auth is not None:
        remedy = "take it out: a receiver knows by the signature who calls"
        raise EndpointsError(place, "has a user name or a password before its @", remedy)
    if url.fragment is not None:
        raise EndpointsError(place, "has a # in it, and what follows is never sent", "take that out, or write %23")
    if url.port is not None and not 0 < url.port <= _PORT_MAX:
        raise EndpointsError(place, "has a port that does not exist", "write one from 1 to 65535, or none")
    if is_link_local(url.host.strip("[]")):
        remedy = "name another: there, machines of a cloud give out their credentials"
        raise EndpointsError(place, "is a link-local address", remedy)


def _secrets(path: Path, value: object, place: str) -> tuple[Secret, ...]:
    if not isinstance(value, list) or not value:
        raise EndpointsError(place, "are missing", f'write secrets = ["whsec_…"]; {_REMEDY}')
    secrets = tuple(
        _secret(path, each, place if len(value) == 1 else f"{place} (number {number} of {len(value)})")
        for number, each in enumerate(value, start=1)
    )
    if len({each.reveal() for each in secrets}) < len(secrets):
        raise EndpointsError(place, "name one secret twice", "list each once")
    return secrets


def _secret(path: Path, value: object, place: str) -> Secret:
    if not isinstance(value, str):
        raise EndpointsError(place, "hold something that is not a text", f'write "whsec_…" or "{_FILE_PREFIX}NAME"')
    text = value.strip()
    if text.startswith(_FILE_PREFIX):
        remedy = f"write whsec_… into it; {_REMEDY}"
        text = _file_text(path.parent / text.removeprefix(_FILE_PREFIX), place, remedy=remedy).strip()
    if not text.startswith(_SECRET_PREFIX):
        raise EndpointsError(place, f"hold one that does not begin with {_SECRET_PREFIX}", _REMEDY)
    encoded = text.removeprefix(_SECRET_PREFIX)
    try:
        # Some give it out without the padding.
        length = len(base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True))
    except (binascii.Error, ValueError):
        raise EndpointsError(place, "hold one that is not base64", f"paste it whole, or {_REMEDY}") from None
    if length not in SECRET_BYTES:
        problem = f"hold one of {length} bytes, which is not between {SECRET_BYTES.start} and {SECRET_BYTES.stop - 1}"
        raise EndpointsError(place, problem, _REMEDY)
    return Secret(text)


def _ca(path: Path, value: object, place: str, url: str) -> str:
    remedy = f'write ca = "{_FILE_PREFIX}NAME.pem" for a file of certificates in PEM'
    if not isinstance(value, str) or not value.strip():
        raise EndpointsError(place, "are not a text", remedy)
    if not url.lower().startswith("https:"):
        raise EndpointsError(
            place, "are of no use, since its url is not https://", "call it by https://, or take ca out"
        )
    text = value.strip()
    if text.startswith(_FILE_PREFIX):
        text = _file_text(path.parent / text.removeprefix(_FILE_PREFIX), place, remedy=remedy)
    try:
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError):
        raise EndpointsError(place, "are none, or cannot be read", remedy) from None
    return text


def _file_text(path: Path, place: str, *, remedy: str) -> str:
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        problem, remedy = f"name a file that does not exist, {path}", "put it there, or name the file it is in"
    except UnicodeDecodeError:
        problem = f"name a file that is no text, {path}"
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no file has such a name"
        problem, remedy = f"name {path}, which cannot be read ({reason})", "name a file the service's user may read"
    raise EndpointsError(place, problem, remedy)


def _types(value: object, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise EndpointsError(place, "are no list of texts", 'write types = ["authorization.*"], or leave them out')
    for pattern in value:
        try:
            types_of([pattern])
        except UnknownTypeError:
            problem = f"name {_shown(pattern)}, which no event is of"
            raise EndpointsError(place, problem, f"choose from {', '.join(EventType)}, or authorization.*") from None
    if len(set(value)) < len(value):
        raise EndpointsError(place, "name one type twice", "list each once")
    return tuple(value)


def _shown(name: str) -> str:
    """Return a name fit for a sentence: a secret pasted where a name belongs is not shown."""
    if len(name) > _SHOWN_CHARACTERS_MAX or name.startswith(_SECRET_PREFIX):
        return f"({len(name)} characters)"
    return name if _PRINTABLE.fullmatch(name) else ascii(name)
