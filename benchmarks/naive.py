"""What one would write in an afternoon: Flask, SQLAlchemy's ORM and Alipay's own SDK, in one file.

It is meant to be good: one transaction, row locks, duplicates by a unique key, what comes too early is kept and looked
at again. It leaves out what takes longer than an afternoon: secrets are not sealed, two processes that learn of
one token at the same instant may miss each other, and a bug in the processing loses the notification until it is sent
again.
"""

import hashlib
import json
import os
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rsa
from com.alipay.ams.api.tools import signature_tool
from flask import Flask, Response, jsonify, request
from sqlalchemy import create_engine, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from app.models import AccessToken, Authorization, InboxEntry, Transition

NOTIFY_PATH = "/alipay/notifyAuthorization"

#: The state that a notification leads to, by the flow, the state before, and what it says.
NEXT_STATE = {
    ("auto_debit", "consulted", "AUTHCODE_CREATED"): "authcode_issued",
    ("auto_debit", "authcode_issued", "TOKEN_CREATED"): "token_active",
    ("auto_debit", "token_active", "TOKEN_CANCELED"): "canceled",
    ("direct", "consulted", "TOKEN_CREATED"): "token_active",
    ("direct", "token_active", "TOKEN_CANCELED"): "canceled",
}

_clients = tomllib.loads(Path(os.environ["FLASK_KEYRING"]).read_text())["clients"]
PUBLIC_KEYS = {client_id: client["alipay_public_keys"]["1"] for client_id, client in _clients.items()}

#: It has no annotations.
SDK: Any = signature_tool

app = Flask(__name__)
engine = create_engine(os.environ["FLASK_DATABASE_URL"], pool_size=16)
new_session = sessionmaker(engine)


@app.post(NOTIFY_PATH)
def notify() -> tuple[Response, int]:
    """Take a notification."""
    body = request.get_data(as_text=True)
    if not is_authentic(body):
        return result("F", "INVALID_SIGNATURE"), 401
    try:
        with new_session.begin() as session:
            keep(session, body)
    except IntegrityError:
        # Another process is just storing the same notification.
        with new_session.begin() as session:
            keep(session, body)
    return result("S", "SUCCESS"), 200


def result(status: str, code: str) -> Response:
    """Write an answer as Alipay wants it."""
    return jsonify(result={"resultCode": code, "resultStatus": status, "resultMessage": code.lower()})


def is_authentic(body: str) -> bool:
    """Ask the SDK."""
    parts = dict(part.split("=", 1) for part in request.headers["signature"].split(","))
    client_id = request.headers["client-id"]
    if client_id not in PUBLIC_KEYS:
        return False
    try:
        return bool(
            SDK.verify(
                request.method,
                NOTIFY_PATH,
                client_id,
                request.headers["request-time"],
                body,
                parts["signature"],
                PUBLIC_KEYS[client_id],
            )
        )
    except rsa.VerificationError:
        return False


def keep(session: Session, body: str) -> None:
    """Store a notification once, and let it do what it says."""
    notification = json.loads(body)
    now = datetime.now(UTC)
    fingerprint = digest(
        notification["authorizationNotifyType"],
        notification.get("authState"),
        notification.get("authCode"),
        notification.get("accessToken"),
    )
    entry = session.scalar(select(InboxEntry).where(InboxEntry.fingerprint == fingerprint).with_for_update())
    if entry is not None:
        entry.deliveries += 1
        entry.last_received_at = now
        return
    token = notification.get("accessToken")
    entry = InboxEntry(
        fingerprint=fingerprint,
        client_id=request.headers["client-id"],
        type=notification["authorizationNotifyType"],
        auth_state=notification.get("authState"),
        token_index=digest(token) if token else None,
        sealed_body=body.encode(),
        uri=NOTIFY_PATH,
        request_time=request.headers["request-time"],
        signature=request.headers["signature"],
        deliveries=1,
        received_at=now,
        last_received_at=now,
        outcome="parked",
    )
    session.add(entry)
    session.flush()
    authorization = find_authorization(session, entry)
    if authorization is not None and apply(session, authorization, entry, notification):
        apply_parked(session, authorization)


def find_authorization(session: Session, entry: InboxEntry) -> Authorization | None:
    """Find and lock what a notification is about."""
    query = select(Authorization).where(Authorization.client_id == entry.client_id).with_for_update(of=Authorization)
    if entry.type == "TOKEN_CANCELED":
        query = query.join(AccessToken, AccessToken.authorization_id == Authorization.id)
        query = query.where(AccessToken.client_id == entry.client_id, AccessToken.token_index == entry.token_index)
    else:
        query = query.where(Authorization.auth_state == entry.auth_state)
    return session.scalar(query)


def apply(session: Session, authorization: Authorization, entry: InboxEntry, notification: dict[str, Any]) -> bool:
    """Move the authorization if that is legal now, and say whether it was."""
    next_state = NEXT_STATE.get((authorization.flow, authorization.state, notification["authorizationNotifyType"]))
    if next_state is None:
        return False
    now = datetime.now(UTC)
    if "authCode" in notification:
        authorization.sealed_auth_code = notification["authCode"].encode()
        authorization.auth_code_received_at = now
    if next_state == "token_active" and entry.token_index is not None:
        token = AccessToken(
            client_id=entry.client_id,
            token_index=entry.token_index,
            authorization_id=authorization.id,
            sealed_access_token=notification["accessToken"].encode(),
            created_at=now,
        )
        session.add(token)
    transition = Transition(
        authorization_id=authorization.id,
        sequence=authorization.version + 1,
        event=notification["authorizationNotifyType"].lower(),
        from_state=authorization.state,
        to_state=next_state,
        cause="notification",
        notification_id=entry.id,
        at=now,
    )
    session.add(transition)
    entry.outcome = "applied"
    entry.found_state = authorization.state
    entry.authorization_id = authorization.id
    authorization.state = next_state
    authorization.version += 1
    authorization.updated_at = now
    return True


def apply_parked(session: Session, authorization: Authorization) -> None:
    """Apply what came too early, for as long as something does."""
    own_tokens = select(AccessToken.token_index).where(AccessToken.authorization_id == authorization.id)
    query = (
        select(InboxEntry)
        .where(InboxEntry.client_id == authorization.client_id, InboxEntry.outcome == "parked")
        .where(or_(InboxEntry.auth_state == authorization.auth_state, InboxEntry.token_index.in_(own_tokens)))
        .order_by(InboxEntry.id)
    )
    while any(
        apply(session, authorization, entry, json.loads(entry.sealed_body)) for entry in session.scalars(query).all()
    ):
        pass


def digest(*parts: str | None) -> bytes:
    """Make a key of what is too long, or too secret, to be one."""
    return hashlib.sha256(json.dumps(parts).encode()).digest()
