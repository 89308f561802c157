"""Evidence: what proves the moves of an authorization to somebody who does not trust this service.

Of a notification that is its exact bytes, the headers, the signature, the key, and the string that was signed. A purge
deletes all of these; the history says still when it was learned, when it was recorded, and by whom. Tokens are in the
bodies, and the reasons are the words of a person: only a token key reads this, or a shell that asks for it.
"""

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from cryptography.hazmat.primitives import serialization
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import authorizations, inbox
from app.alipay.delivery import Delivery
from app.alipay.keyring import Keyring, fingerprint
from app.alipay.notification import cancel_reason
from app.alipay.signature import Proof, prove, read_request_time
from app.documents import Document, move_document, timestamp
from app.models import AuditLine, Authorization, InboxEntry, Transition
from app.state_machine import AuthorizationState
from app.vault import Vault

#: How somebody else verifies a signature, beside the three files.
VERIFY_COMMAND = "openssl dgst -sha256 -verify key.pem -signature sig.bin signed.txt"


@dataclass(frozen=True, slots=True)
class ProvenMove:
    """One move of a history, and what proves it."""

    move: Transition
    #: The notification that caused it; `None` for a report, and for one that was purged.
    entry: InboxEntry | None = None
    #: `None` where there is no entry, or its user was erased.
    body: bytes | None = None
    proof: Proof | None = None

    @property
    def is_purged(self) -> bool:
        """Whether a notification caused it that is stored no longer."""
        return self.move.notification_id is not None and self.entry is None

    @property
    def pem(self) -> bytes | None:
        """The key that verifies it, if the keyring still has it."""
        if self.proof is None or self.proof.public_key is None:
            return None
        return self.proof.public_key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def head(self) -> str:
        """The request line and the headers that were signed, or carry the signature."""
        if self.entry is None:
            return ""
        lines = (f"{name}: {value}" for name, value in _headers(self.entry).items())
        return "\n".join([f"POST {self.entry.uri} HTTP/1.1", *lines, ""])


@dataclass(frozen=True, slots=True)
class Evidence:
    """An authorization, with what proves each of its moves."""

    authorization: Authorization
    moves: Sequence[ProvenMove]
    cancellation: Document | None
    erasures: Sequence[AuditLine]

    def document(self, *, is_revealed: bool = True) -> Document:
        """Show it; without `is_revealed` what holds a secret or a person's words is left empty."""
        cancellation = self.cancellation
        if cancellation is not None and not is_revealed:
            cancellation = {**cancellation, "walletReason": None, "merchantReason": None}
        return {
            "id": str(self.authorization.id),
            "clientId": self.authorization.client_id,
            "authState": self.authorization.auth_state,
            "state": self.authorization.state,
            "verify": VERIFY_COMMAND,
            "cancellation": cancellation,
            "erasures": [{"at": timestamp(each.at), "by": each.who, "reason": each.reason} for each in self.erasures],
            "moves": [_proven_move(each, is_revealed=is_revealed) for each in self.moves],
        }


def collect(session: Session, vault: Vault, keyring: Keyring, authorization: Authorization) -> Evidence:
    """Collect the evidence of an authorization. Raises `VaultError` where a body does not open."""
    history = authorizations.history(session, authorization.id)
    entries = _entries(session, history)
    lines = select(AuditLine).where(AuditLine.subject == str(authorization.id)).order_by(AuditLine.id)
    cancellation = _cancellations(vault, {authorization.id: authorization}, history, entries).get(authorization.id)
    moves = [_prove(vault, keyring, move, entries.get(move.notification_id or 0)) for move in history]
    return Evidence(authorization, moves, cancellation, session.scalars(lines).all())


def cancellations(session: Session, vault: Vault, listed: Collection[Authorization]) -> dict[UUID, Document]:
    """Say of each of these authorizations that is canceled when, by whom, and why, as the wallet or the merchant said.

    Raises `VaultError` where a body or a reason does not open.
    """
    canceled = {each.id: each for each in listed if authorizations.is_canceled(each)}
    moves = session.scalars(
        select(Transition).where(
            Transition.authorization_id.in_(canceled), Transition.to_state == AuthorizationState.CANCELED
        )
    ).all()
    return _cancellations(vault, canceled, moves, _entries(session, moves))


def _entries(session: Session, moves: Sequence[Transition]) -> dict[int, InboxEntry]:
    ids = [each.notification_id for each in moves if each.notification_id is not None]
    return {each.id: each for each in session.scalars(select(InboxEntry).where(InboxEntry.id.in_(ids)))}


def _cancellations(
    vault: Vault,
    canceled: dict[UUID, Authorization],
    moves: Sequence[Transition],
    entries: dict[int, InboxEntry],
) -> dict[UUID, Document]:
    told = {}
    for move in moves:
        if move.to_state != AuthorizationState.CANCELED:
            continue
        entry = entries.get(move.notification_id or 0)
        of_wallet = None if entry is None else cancel_reason(inbox.open_body(vault, entry))
        of_merchant = authorizations.cancel_reason(vault, canceled[move.authorization_id])
        told[move.authorization_id] = {
            **{name: said for name, said in move_document(move).items() if name in _OF_CANCELLATION},
            "isPurged": move.notification_id is not None and entry is None,
            "walletReason": None if of_wallet is None else of_wallet.reveal(),
            "merchantReason": None if of_merchant is None else of_merchant.reveal(),
        }
    return told


#: `reason` is what the history says of its own accord.
_OF_CANCELLATION = frozenset({"at", "learnedAt", "cause", "by", "reason", "notificationId"})


def _prove(vault: Vault, keyring: Keyring, move: Transition, entry: InboxEntry | None) -> ProvenMove:
    if entry is None:
        return ProvenMove(move)
    body = inbox.open_body(vault, entry)
    if inbox.is_erased(body):
        return ProvenMove(move, entry)
    delivery = Delivery("POST", entry.uri, entry.client_id, entry.request_time, entry.signature, body)
    return ProvenMove(move, entry, body, prove(delivery, keyring))


def _proven_move(proven: ProvenMove, *, is_revealed: bool) -> Document:
    return {**move_document(proven.move), "notification": _notification(proven, is_revealed=is_revealed)}


def _notification(proven: ProvenMove, *, is_revealed: bool) -> Document | None:
    if proven.move.notification_id is None:
        return None
    kept: Document = {
        "id": str(proven.move.notification_id),
        "isPurged": proven.is_purged,
        "isErased": proven.entry is not None and proven.body is None,
    }
    entry, proof, pem = proven.entry, proven.proof, proven.pem
    if entry is None:
        return kept
    kept |= {
        "type": entry.type,
        "outcome": entry.outcome,
        "deliveries": entry.deliveries,
        "receivedAt": timestamp(entry.received_at),
        "lastReceivedAt": timestamp(entry.last_received_at),
        "method": "POST",
        "uri": entry.uri,
        "headers": _headers(entry),
        "requestedAt": timestamp(read_request_time(entry.request_time)),
    }
    if proof is None or proven.body is None:
        return kept
    body, signed = (proven.body, proof.signed) if is_revealed else (None, None)
    return kept | {
        "keyVersion": proof.key_version,
        "keyFingerprint": None if proof.public_key is None else fingerprint(proof.public_key),
        "keyPem": None if pem is None else pem.decode(),
        "signatureBase64": _base64(proof.signature),
        "body": _text(body),
        "bodyBase64": _base64(body),
        "signed": _text(signed),
        "signedBase64": _base64(signed),
    }


def _headers(entry: InboxEntry) -> dict[str, str]:
    return {"client-id": entry.client_id, "request-time": entry.request_time, "signature": entry.signature}


def _base64(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode()


def _text(raw: bytes | None) -> str | None:
    """Show bytes as text; `None` where they are no UTF-8, and only the base64 says them."""
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return None
