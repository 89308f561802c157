"""What the doctor finds out about the signature of a request, for people: printed without what must not be seen."""

from collections.abc import Sequence
from typing import Any

import click
from typing_extensions import override

from app.alipay.delivery import Delivery, HttpRequest
from app.alipay.diagnosis import Diagnosis, diagnose, keys_at_hand
from app.alipay.diagnosis.keys import KeyAtHand
from app.alipay.diagnosis.request_lines import split_url
from app.cli.doctor.masking import masked_content
from app.cli.request_file import with_public_path
from app.cli.tables import print_facts
from app.config import Settings
from app.wiring import Service


class RegisteredUrl(click.ParamType[str]):
    """A URL, or a path with its query, as a header could carry it."""

    name = "url"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the bytes of its UTF-8 as characters, as they would stand in a request."""
        url = str(value).strip().encode("utf-8", "surrogateescape").decode("latin-1")
        if split_url(url) == ("", ""):
            self.fail("it must begin with https:// or be a path that begins with /.", param, ctx)
        return url


#: The URL that is registered with Alipay, as an option.
registered_url_option = click.option(
    "--registered-url",
    metavar="URL",
    type=RegisteredUrl(),
    help="The URL that is registered with Alipay: its path and query may be what was signed.",
)


def diagnose_request(service: Service, request: HttpRequest, registered_url: str | None) -> Diagnosis:
    """Diagnose a request as this service verifies it, with the keys that it has now. Raises `KeyringError`."""
    settings = service.settings
    return diagnose(
        with_public_path(request.delivery, settings),
        keys_at_hand(service.keyring),
        headers=request.headers,
        paths=(settings.public_notify_path, settings.notify_path),
        registered_url=registered_url or "",
    )


def print_diagnosis(diagnosis: Diagnosis, request: HttpRequest, service: Service) -> None:
    """Say what is certain, the changes, the remedy, and what was signed beside what is verified."""
    where = _where(request, with_public_path(request.delivery, service.settings), service.settings)
    _print(diagnosis, where, request.delivery, keys_at_hand(service.keyring))


def _where(request: HttpRequest, delivery: Delivery, settings: Settings) -> str | None:
    """Say what else keeps the endpoint from taking the request."""
    if request.method != "POST":
        return f"{request.method} is answered 405: notifications are sent with POST"
    path = request.uri.partition("?")[0]
    if path not in {settings.notify_path, settings.public_notify_path}:
        return f"{path} is answered 404: the endpoint is at {settings.notify_path} (FLASK_NOTIFY_PATH)"
    if delivery.uri != request.uri:
        return f"{request.uri}, verified as {delivery.uri} (FLASK_PUBLIC_NOTIFY_PATH)"
    return None


def _print(diagnosis: Diagnosis, where: str | None, delivery: Delivery, keys: Sequence[KeyAtHand]) -> None:
    click.echo("✓ The signature verifies." if diagnosis.verifies else "✗ The signature does not verify.")
    print_facts(
        {
            "signed by": _signer(diagnosis, keys) if delivery.signature else None,
            "digest": _digest(diagnosis),
            "changes": _changes(diagnosis, is_whole=bool(delivery.client_id and delivery.request_time)),
            "headers": diagnosis.header_problem or None,
            "path": where,
            "do": None if diagnosis.verifies else diagnosis.remedy,
        }
    )
    if diagnosis.verifies:
        return
    click.echo()
    ours, signed = diagnosis.ours, diagnosis.signed
    facts = {"what we verify": f"{len(ours)} bytes: {masked_content(ours, diagnosis.ours_head_bytes)}"}
    if signed == ours:
        # The content is right, and what else is wrong is said above.
        facts = {"what was signed, and is verified": facts["what we verify"]}
    elif signed is not None:
        facts = {
            "what was signed": f"{len(signed)} bytes: {masked_content(signed, diagnosis.signed_head_bytes)}",
            **facts,
            "they differ": f"from byte {_first_difference(signed, ours)} on",
        }
    print_facts(facts)


def _signer(diagnosis: Diagnosis, keys: Sequence[KeyAtHand]) -> str:
    key = diagnosis.key
    if key is None:
        own = sum(each.is_own for each in keys)
        whose = f"{len(keys) - own} of Alipay's" + (f", {own} of the merchant's own" if own else "")
        return f"none of the {len(keys)} keys at hand ({whose})" if len(keys) > 1 else "not the one key at hand"
    whose = "the merchant's own key" if key.is_own else f"Alipay's key, version {key.version},"
    return f"{whose} of client {key.client_id} ({key.fingerprint})"


def _digest(diagnosis: Diagnosis) -> str | None:
    if diagnosis.key is None:
        return None
    return diagnosis.digest or "none that is known: what was signed is no DigestInfo"


def _changes(diagnosis: Diagnosis, *, is_whole: bool) -> str | None:
    """Name the changes, and say whether they are all that it takes.

    Without one of the headers that are signed nothing can be tried.
    """
    if diagnosis.verifies:
        return None
    named = ", ".join(diagnosis.changes)
    if diagnosis.is_explained:
        return f"{named}: with all of it undone, the signature verifies"
    if diagnosis.key is None:
        return named or "none known: this is no signature that can be read"
    if not is_whole:
        return named
    tried = f"{diagnosis.tried} contents were tried, and none is what was signed"
    return f"{named}; {tried}" if named else f"none found: {tried}"


def _first_difference(left: bytes, right: bytes) -> int:
    """Count bytes from 1."""
    pairs = enumerate(zip(left, right, strict=False), start=1)
    return next((at for at, (one, other) in pairs if one != other), min(len(left), len(right)) + 1)
