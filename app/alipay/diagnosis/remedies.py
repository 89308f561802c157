"""What to do about each change, in a sentence that names the setting, the proxy or the file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from app.alipay.diagnosis.changes import Change
from app.alipay.diagnosis.keys import KeyAtHand
from app.alipay.diagnosis.request_lines import split_url

_DASHBOARD = "the Antom public key that Antom Dashboard shows under Developer > Key configuration"
_BODY_UNTOUCHED = "Let every proxy, gateway and middleware pass on the bytes of the body as they come"
_DIGEST = "Alipay signs with SHA-256 (RSA256) only, so this is no notification of Alipay's: correct the sender"

_NGINX = "nginx: proxy_pass without a path behind the name"

_NOTHING_TO_DO = "Nothing: the signature verifies."
_NOTHING_FITS = (
    "No change that is known here explains the content: give --registered-url, since the path or a query may be "
    "another than what arrived, and capture the request in front of every proxy."
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the sentences speak of."""

    client_id: str
    signer: KeyAtHand | None
    #: Path and query as we verified them, and as they were signed, if that was found.
    uri: str
    signed_uri: str | None
    signed_client_id: str | None
    signed_time: str | None
    key_version: int | None
    #: What is wrong with the headers, in words.
    header_problem: str
    knows_client: bool
    #: Another client that has the same key of Alipay's in the keyring; may be empty.
    same_key_as: str
    #: Whether both headers that are signed arrived.
    is_whole: bool


def remedy_of(verifies: bool, is_explained: bool, changes: tuple[Change, ...], facts: Facts) -> str:  # noqa: FBT001 -- two facts
    """Say what to do, one sentence for each change."""
    if verifies:
        return _NOTHING_TO_DO
    named = set(changes)
    if {Change.PREFIX_STRIPPED, Change.PREFIX_ADDED} <= named:
        # One path took the place of another: the first of the two says what to do.
        named -= {Change.PREFIX_ADDED, Change.TRAILING_SLASH}
    sentences = [f"{sentence}." for change in changes if change in named and (sentence := _remedy(change, facts))]
    if not is_explained and not facts.is_whole:
        sentences.append("Whether anything else was changed cannot be told until it arrives.")
    elif not is_explained:
        sentences.append(_NOTHING_FITS)
    return " ".join(dict.fromkeys(sentences))


def _remedy(change: Change, facts: Facts) -> str:
    if change in _FIXED:
        return _FIXED[change]
    return next(iter(_with_facts(change, facts)), "")


def _with_facts(change: Change, facts: Facts) -> Iterator[str]:
    signer = facts.signer
    match change:
        case Change.UNKNOWN_KEY:
            yield _unknown_key(facts)
        case Change.OWN_KEY if signer:
            yield (
                f"The merchant's own private key of client {signer.client_id} signed this, and only Alipay's is "
                "believed: sign tests with flask simulator sign, and see that alipay_public_keys in keyring.toml holds "
                f"{_DASHBOARD}"
            )
        case Change.OTHER_CLIENT_KEY | Change.SANDBOX_AND_PRODUCTION_SWAPPED if (
            signer and facts.client_id and not facts.knows_client
        ):
            yield (
                f"The key that signed stands under {signer.client_id}, and {facts.client_id} is not in the keyring: if "
                f"the dashboard shows {facts.client_id} with this key, write that client id in keyring.toml, as it was "
                "sent; or register the URL for the right client"
            )
        case Change.OTHER_CLIENT_KEY if signer:
            yield (
                f"Alipay's key of client {signer.client_id}, version {signer.version}, signed for client "
                f"{facts.client_id or '(none)'}: in keyring.toml put that key under [clients.{facts.client_id}]"
                ".alipay_public_keys if the dashboard shows it there, or register the URL for the right client"
            )
        case Change.SANDBOX_AND_PRODUCTION_SWAPPED if signer:
            yield (
                f"The key of client {signer.client_id} signed for client {facts.client_id}: sandbox and production are "
                "swapped. Compare flask keys show with the dashboard of each, and put each key under its own client in "
                "keyring.toml"
            )
        case Change.OTHER_VERSION if signer:
            named = "no keyVersion" if facts.key_version is None else f"keyVersion={facts.key_version}"
            yield (
                f"The header has {named}, but the key of version {signer.version} signed: number the keys of client "
                f"{signer.client_id} in keyring.toml as the dashboard does"
            )
        case Change.MISSING_HEADER:
            yield (
                f"{facts.header_problem[:1].upper()}{facts.header_problem[1:]}: let every proxy pass on client-id, "
                "request-time and signature once and unchanged (nginx: see proxy_set_header; a gateway or a firewall "
                "may have a list of headers)"
            )
        case Change.OTHER_CLIENT_ID:
            yield (
                f"The sender signed for client {facts.signed_client_id}, and the client-id header says "
                f"{facts.client_id}: let the proxy pass that header on unchanged, and drop client_id with an underscore"
            )
        case Change.TIME_REFORMATTED:
            yield (
                f"The sender signed the request-time as {facts.signed_time}: let the proxy pass that header on as the "
                "text that it is"
            )
        case _:
            yield from _of_the_path(change, facts)


def _unknown_key(facts: Facts) -> str:
    client = facts.client_id or "(none)"
    said = f"No key at hand made this signature: put {_DASHBOARD} of client {client} into keyring.toml"
    if not facts.knows_client:
        return f"{said}, which does not name that client yet"
    if facts.same_key_as:
        return (
            f"{said}: the key that is there is that of client {facts.same_key_as}, too, most likely by a copied block"
        )
    return (
        f"{said}, compare its fingerprint with flask keys show, and see that it is neither the merchant's own public "
        "key nor that of the other of sandbox and production"
    )


def _of_the_path(change: Change, facts: Facts) -> Iterator[str]:
    """Say what to do about a path or query; they are named as they were signed."""
    if facts.signed_uri is None:
        return
    _, signed = split_url(facts.signed_uri)
    path = signed.partition("?")[0]
    setting = f"Set FLASK_PUBLIC_NOTIFY_PATH={path}, which is what was signed"
    match change:
        case Change.PREFIX_STRIPPED:
            yield f"{setting}, or let the proxy pass the whole path on ({_NGINX})"
        case Change.PREFIX_ADDED:
            yield (
                f"{setting}, or unset it if {path} is where the service listens (FLASK_NOTIFY_PATH), and let no proxy "
                "add a prefix"
            )
        case Change.TRAILING_SLASH:
            yield f"{setting}, or let the proxy neither add nor remove the slash at the end, or register {facts.uri}"
        case Change.DOUBLE_SLASH:
            yield "Register the URL with single slashes, or turn off their merging in the proxy (nginx: merge_slashes)"
        case Change.PERCENT_ENCODING:
            yield (
                f"Let the proxy pass the path and the query on as they are escaped ({_NGINX}), or register a URL "
                "without escapes"
            )
        case _:
            return


_QUERY = f"Let the proxy pass the query on unchanged ({_NGINX}, or $is_args$args)"
_ENCODED = "Let the sender, or the proxy that changed it, write the signature as base64, percent-encoded once"

_FIXED: Mapping[Change, str] = {
    Change.DIGEST_SHA1: _DIGEST,
    Change.DIGEST_MD5: _DIGEST,
    Change.DIGEST_SHA512: _DIGEST,
    Change.PSS: (
        "Alipay pads with PKCS #1 v1.5, not with PSS, so this is no notification of Alipay's: correct the sender"
    ),
    Change.PLUS_BECAME_BLANK: (
        "A form decoder made blanks of the plus signs: let no proxy or firewall decode the signature header"
    ),
    Change.ESCAPED_TWICE: f"The signature is escaped twice: {_ENCODED[0].lower()}{_ENCODED[1:]}",
    Change.BASE64URL: f"The signature is base64url, hex or base64 in lines: {_ENCODED[0].lower()}{_ENCODED[1:]}",
    Change.TRUNCATED: (
        "The end of the signature is cut off: raise the limit for headers in the proxy "
        "(nginx: large_client_header_buffers), or copy it whole"
    ),
    Change.QUERY_LOST: f"The query that was signed did not arrive. {_QUERY}, or register the URL without one",
    Change.QUERY_ADDED: f"Something on the way added to the query. {_QUERY}",
    Change.QUERY_REORDERED: f"The parameters of the query changed places. {_QUERY}",
    Change.WHOLE_URL: "The sender signed the whole URL: it has to sign the path with the query only",
    Change.OTHER_METHOD: "The sender signed another method: it has to sign POST, and no proxy may change the method",
    Change.JSON_REWRITTEN: (
        f"Something parsed the JSON and wrote it again. {_BODY_UNTOUCHED}, those first that read JSON"
    ),
    Change.NON_ASCII_ESCAPED: f"Characters of the body were escaped, or escapes undone. {_BODY_UNTOUCHED}",
    Change.SLASH_ESCAPED: f"The slashes of the body were escaped, or escapes undone. {_BODY_UNTOUCHED}",
    Change.FINAL_NEWLINE: (
        f"The end of the body gained or lost a line end or a blank. {_BODY_UNTOUCHED}; with curl use --data-binary"
    ),
    Change.LINE_ENDS: f"The line ends of the body were changed. {_BODY_UNTOUCHED}; with curl use --data-binary",
    Change.BYTE_ORDER_MARK: f"A byte order mark was added to the body, or removed. {_BODY_UNTOUCHED}",
    Change.CHARSET: f"The body was written in another charset. {_BODY_UNTOUCHED}, without decoding them",
    Change.BASE64_BODY: (
        "The body is in base64, or was when it was signed: decode it in the gateway (AWS API Gateway and Lambda: "
        "isBase64Encoded) before it is passed on"
    ),
    Change.COMPRESSED: "The body is still compressed: let the proxy pass it on as it came, or unpack it there",
    Change.FIELD_ADDED: f"Something on the way added a field to the JSON. {_BODY_UNTOUCHED}",
    Change.EMPTY_BODY: (
        "The body is empty here, or was when it was signed: look for a proxy, a redirect or a middleware that reads "
        "the body and does not pass it on"
    ),
}
