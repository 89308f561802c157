"""Which method, path and query may have been signed, where another request line arrived."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, permutations, product
from urllib.parse import quote, unquote

from app.alipay.diagnosis.changes import Alternative, Change, distinct, in_order

#: A registered URL is far shorter. What is longer is not taken apart, only what is at hand is tried in its place.
_CHARACTERS_MAX = 2048
#: Of a longer one, no slash or parameter further back is tried.
_SLASHES_MAX = 12
_PARAMETERS_MAX = 12
#: All orders of so many parameters are tried; of more, those that frameworks make.
_PERMUTED_MAX = 4
_STRIPPED_SEGMENTS_MAX = 3
#: As many as there are for an ordinary path with some parameters, of which none has so many characters.
_URIS_MAX = 2000
_URIS_CHARACTERS_MAX = 512 * 1024

#: Where proxies say what the path was before they changed it.
_ORIGINAL_URI_HEADERS = (
    "x-original-uri",
    "x-original-url",
    "x-forwarded-uri",
    "x-rewrite-url",
    "x-envoy-original-path",
    "x-replaced-path",
    "x-forwarded-path",
)
_PREFIX_HEADERS = ("x-forwarded-prefix", "x-script-name", "x-envoy-original-prefix")

#: What proxies commonly route by, and take away.
_COMMON_PREFIXES = (
    *("/api", "/alipay", "/antom", "/pay", "/payment", "/payments", "/webhook", "/webhooks", "/notify", "/callback"),
    *("/v1", "/v2", "/gateway", "/service", "/services", "/app", "/public", "/open", "/prod", "/test", "/sandbox"),
    *("/notifyauth", "/notification", "/notifications", "/hooks", "/rest", "/external"),
)
_OTHER_METHODS = ("GET", "PUT", "post", "Post", "PATCH", "DELETE")
_URL = re.compile(r"(?P<origin>https?://[^/?#]+)?(?P<uri>/[^#]*)?", re.IGNORECASE)
_SLASHES = re.compile(r"/{2,}")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_RESERVED = "/:@!$&'()*+,;=~?%"


@dataclass(frozen=True, slots=True)
class KnownPaths:
    """What is known of the paths beside the request itself: settings, a registered URL, and headers of proxies."""

    #: Those of the settings.
    paths: tuple[str, ...] = ()
    registered_url: str = ""
    headers: Mapping[str, str] | None = None

    def origins(self) -> Iterator[str]:
        """Name the servers that the sender may have called: `https://merchant.example`."""
        origin, _ = split_url(self.registered_url)
        if origin:
            yield origin
        headers = self.headers or {}
        hosts = dict.fromkeys(headers[name] for name in ("x-forwarded-host", "host") if headers.get(name))
        yield from (f"{scheme}://{host}" for host in hosts for scheme in ("https", "http"))

    def uris(self) -> Iterator[str]:
        """Name paths, with their queries, that the sender may have called."""
        _, registered = split_url(self.registered_url)
        headers = self.headers or {}
        originals = (split_url(headers.get(name, "")[:_CHARACTERS_MAX])[1] for name in _ORIGINAL_URI_HEADERS)
        yield from filter(None, (registered, *originals, *self.paths))

    def prefixes(self) -> Iterator[str]:
        """Name what a proxy says that it took away."""
        headers = self.headers or {}
        for name in _PREFIX_HEADERS:
            if prefix := headers.get(name, "").partition(",")[0].strip().strip("/"):
                yield f"/{prefix}"


def split_url(url: str) -> tuple[str, str]:
    """Split a URL, or a path, into its server and its path with the query; empty what it does not have."""
    match = _URL.fullmatch(url.partition("#")[0])
    if match is None or not (match["origin"] or match["uri"]):
        return "", ""
    return match["origin"] or "", match["uri"] or "/"


def request_lines(method: str, uri: str, known: KnownPaths) -> Iterator[Alternative[tuple[str, str]]]:
    """Give every other method and path that may have been signed, the likeliest and smallest changes first."""
    for each in distinct(uri, (Alternative(each, uri_changes(each, uri)) for each in _bounded(_uris(uri, known)))):
        yield Alternative((method, each.value), each.changes)
    for other in _OTHER_METHODS:
        if other != method:
            yield Alternative((other, uri), (Change.OTHER_METHOD,))


def _bounded(uris: Iterator[str]) -> Iterator[str]:
    """Give as many as can be compared in time: that takes longer the longer they are."""
    left = _URIS_CHARACTERS_MAX
    for each in islice(uris, _URIS_MAX):
        left -= len(each)
        if left < 0:
            return
        yield each


def _uris(uri: str, known: KnownPaths) -> Iterator[str]:
    path, mark, query = uri.partition("?")
    named = [each.partition("?") for each in known.uris()]
    yield from known.uris()
    yield from (each_path + mark + query for each_path, _, _ in named)
    yield from (prefix + uri for prefix in known.prefixes())
    if query:
        yield path
    yield _with_slash_toggled(path) + mark + query
    if len(uri) <= _CHARACTERS_MAX:
        yield from (each + mark + query for each in _without_leading_segments(path))
    yield from (f"{path}?{each_query}" for _, _, each_query in named if each_query)
    yield from (_with_slash_toggled(each_path) + mark + query for each_path, _, _ in named)
    yield from (each_path for each_path, _, _ in named)
    yield from (origin + each for origin in known.origins() for each in dict.fromkeys((uri, *known.uris())))
    if len(uri) <= _CHARACTERS_MAX:
        yield from _rarer_uris(uri)


def _rarer_uris(uri: str) -> Iterator[str]:
    path, mark, query = uri.partition("?")
    yield from (each + mark + query for each in _with_other_slashes(path))
    yield from (path + (each and f"?{each}") for each in _other_queries(query))
    yield from _other_escapes(path, mark + query)
    if not mark:
        yield f"{path}?"
    yield from (prefix + uri for prefix in _COMMON_PREFIXES)
    yield from (first + second + uri for first, second in permutations(_COMMON_PREFIXES, 2))


def _with_slash_toggled(path: str) -> str:
    return path[:-1] if len(path) > 1 and path.endswith("/") else f"{path}/"


def _without_leading_segments(path: str) -> Iterator[str]:
    for _ in range(_STRIPPED_SEGMENTS_MAX):
        rest = path[1:].partition("/")[2]
        if not rest:
            return
        path = f"/{rest}"
        yield path


def _with_other_slashes(path: str) -> Iterator[str]:
    merged = _SLASHES.sub("/", path)
    if merged != path:
        yield merged
    for slash in islice(re.finditer("/", path), _SLASHES_MAX):
        yield f"{path[: slash.start()]}/{path[slash.start() :]}"
    yield path.replace("/", "//")


def _other_escapes(path: str, query: str) -> Iterator[str]:
    rewritings: tuple[Callable[[str], str], ...] = (
        lambda text: _ESCAPE.sub(lambda escape: escape[0].upper(), text),
        lambda text: _ESCAPE.sub(lambda escape: escape[0].lower(), text),
        lambda text: unquote(text, "latin-1"),
        lambda text: quote(unquote(text, "latin-1"), safe="/?&=", encoding="latin-1"),
        lambda text: quote(unquote(text, "latin-1"), safe=_RESERVED, encoding="latin-1"),
        lambda text: quote(text, safe=_RESERVED, encoding="latin-1"),
        lambda text: quote(text, safe="/?&=", encoding="latin-1"),
        lambda text: text.replace("~", "%7E"),
        lambda text: text.replace("%20", "+"),
        lambda text: text.replace("+", "%20"),
        lambda text: text.replace("+", "%2B"),
        # Decoded as UTF-8, and written so by a server that takes paths for Latin-1, or the other way round.
        lambda text: quote(text.encode("latin-1").decode("utf-8", "replace"), safe=_RESERVED, encoding="latin-1"),
    )
    for rewrite in rewritings:
        for each in (rewrite(path) + query, path + rewrite(query), rewrite(path) + rewrite(query)):
            if not _cannot_be_signed(each):
                yield each


def _cannot_be_signed(uri: str) -> bool:
    return any(character < " " or character > "\xff" for character in uri)


def _other_queries(query: str) -> Iterator[str]:
    if not query:
        return
    yield ""
    parameters = query.split("&")
    if len(parameters) > _PARAMETERS_MAX:
        yield "&".join(sorted(parameters))
        yield "&".join(reversed(parameters))
        return
    for index in range(len(parameters)):
        yield "&".join(parameters[:index] + parameters[index + 1 :])
    for count in range(1, len(parameters)):
        yield "&".join(parameters[:count])
        yield "&".join(parameters[count:])
    yield from map("&".join, _other_orders(parameters))


def _other_orders(parameters: Sequence[str]) -> Iterable[Sequence[str]]:
    if len(parameters) <= _PERMUTED_MAX:
        return permutations(parameters)
    indices = range(len(parameters))
    swapped = (
        [parameters[right if each == left else left if each == right else each] for each in indices]
        for left, right in product(indices, indices)
        if left < right
    )
    rotated = ([*parameters[start:], *parameters[:start]] for start in indices)
    return chain([sorted(parameters), sorted(parameters, reverse=True), parameters[::-1]], rotated, swapped)


def uri_changes(signed: str, arrived: str) -> tuple[Change, ...]:
    """Say how one path and query became another."""
    changes: list[Change] = []
    origin, uri = split_url(signed)
    if origin:
        changes.append(Change.WHOLE_URL)
        signed = uri
    signed_path, signed_mark, signed_query = signed.partition("?")
    path, mark, query = arrived.partition("?")
    changes += _path_changes(signed_path, path)
    changes += _query_changes(signed_mark + signed_query, mark + query)
    return in_order(changes)


def _path_changes(signed: str, arrived: str) -> list[Change]:
    if signed == arrived:
        return []
    for alike, change in (
        (lambda path: path.rstrip("/"), Change.TRAILING_SLASH),
        (lambda path: _SLASHES.sub("/", path), Change.DOUBLE_SLASH),
        (_unescaped, Change.PERCENT_ENCODING),
    ):
        if alike(signed) == alike(arrived):
            return [change]
    bare_signed, bare_arrived = signed.rstrip("/"), arrived.rstrip("/")
    # Where a proxy maps a path to the root, the slash that is left is no trailing one.
    slash = [Change.TRAILING_SLASH] if signed.endswith("/") is not arrived.endswith("/") and bare_arrived else []
    if bare_signed.endswith(bare_arrived):
        return [Change.PREFIX_STRIPPED, *slash]
    if bare_arrived.endswith(bare_signed):
        return [Change.PREFIX_ADDED, *slash]
    # What was called and what arrived have only their end in common, if anything: one prefix took another's place.
    return [Change.PREFIX_STRIPPED, Change.PREFIX_ADDED, *slash]


def _query_changes(signed: str, arrived: str) -> list[Change]:
    if signed == arrived:
        return []
    if not arrived:
        return [Change.QUERY_LOST]
    if not signed:
        return [Change.QUERY_ADDED]
    left, right = signed[1:].split("&"), arrived[1:].split("&")
    if sorted(left) == sorted(right):
        return [Change.QUERY_REORDERED]
    if _unescaped(signed) == _unescaped(arrived):
        return [Change.PERCENT_ENCODING]
    kept = set(left) & set(right)
    lost, added = set(left) - kept, set(right) - kept
    changes = ([Change.QUERY_LOST] if lost or not added else []) + ([Change.QUERY_ADDED] if added else [])
    if not (lost and added) and [each for each in left if each in kept] != [each for each in right if each in kept]:
        changes.append(Change.QUERY_REORDERED)
    return changes


def _unescaped(text: str) -> str:
    return unquote(text.replace("+", " "), "latin-1")
