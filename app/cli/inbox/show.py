"""`flask inbox show`: one notification, and why it ended as it did. Its secrets stay sealed."""

import re
from collections.abc import Mapping

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app import documents, inbox
from app.alipay.notification import Notification
from app.alipay.signature import read_request_time
from app.cli import options
from app.cli.current_service import look_up, the_service
from app.cli.explanations import explain
from app.cli.inbox.entries import authorization_facts, entry_id_type, find_entry
from app.cli.tables import MASK, moment, print_facts, print_json
from app.documents import timestamp
from app.models import Authorization, InboxEntry
from app.vault import VaultError


@click.command()
@with_appcontext
@click.argument("entry_id", metavar="ID", type=entry_id_type)
@options.as_json
def show(entry_id: int, *, as_json: bool) -> None:
    """Show a notification, and say why it ended as it did. Its secrets stay sealed."""

    def look(session: Session) -> tuple[InboxEntry, Authorization | None]:
        entry = find_entry(session, entry_id)
        linked = entry.authorization_id
        return entry, None if linked is None else session.get_one(Authorization, linked)

    entry, authorization = look_up(look)
    body = _body(entry)
    explanation = explain(entry, authorization)
    sent_at = read_request_time(entry.request_time)
    if as_json:
        document = documents.entry_summary(entry) | {**_fields_in_json(entry, body, authorization)}
        document |= {"foundState": entry.found_state, "explanation": explanation}
        document |= {"uri": entry.uri, "requestTime": entry.request_time, "keyVersion": _key_version(entry)}
        document |= {"requestedAt": timestamp(sent_at)}
        print_json(document | {"bodyBytes": None if body is None else len(body)})
        return
    click.echo(f"{explanation}\n")
    print_facts(
        {
            "id": entry.id,
            "type": entry.type or _named_type(body),
            "client": entry.client_id,
            **_fields(entry, body),
            "state found": entry.found_state,
            **authorization_facts(authorization),
            "deliveries": entry.deliveries,
            "received": moment(entry.received_at),
            "last received": moment(entry.last_received_at),
            "request-time": entry.request_time if sent_at is None else f"{entry.request_time}, {moment(sent_at)}",
            "uri": entry.uri,
            "key version": "the newest" if (version := _key_version(entry)) is None else version,
            "body": "does not open under the vault keys" if body is None else f"{len(body)} bytes, sealed",
        }
    )


def _body(entry: InboxEntry) -> bytes | None:
    """Open the body; `None` where it does not open: the rest is shown all the same."""
    try:
        return inbox.open_body(the_service().vault, entry)
    except VaultError:
        return None


def _fields(entry: InboxEntry, body: bytes | None) -> Mapping[str, object]:
    """List the fields of the notification, with secrets masked."""
    notification = _notification(body)
    if notification is None:
        return {"authState": entry.auth_state, "accessToken": entry.token_index and MASK}
    return {
        "authState": notification.auth_state,
        "authCode": notification.auth_code and MASK,
        "accessToken": notification.access_token and MASK,
        "userId": notification.user_id,
        "userLoginId": notification.user_login_id and MASK,
        "resultStatus": notification.result_status,
    }


def _fields_in_json(entry: InboxEntry, body: bytes | None, authorization: Authorization | None) -> Mapping[str, object]:
    """List the fields of the notification for programs. A cancellation has the authState of its authorization."""
    notification = _notification(body)
    named = entry.auth_state if authorization is None else authorization.auth_state
    return {
        "authState": named,
        "userId": notification and notification.user_id,
        "resultStatus": notification and notification.result_status,
        "stateNow": authorization and authorization.state,
    }


def _notification(body: bytes | None) -> Notification | None:
    return None if body is None else inbox.read(body).notification


def _named_type(body: bytes | None) -> str | None:
    """Read the type that a malformed body names. The entry has none: that tells it from one that was understood."""
    return None if body is None else inbox.read(body).named.type


def _key_version(entry: InboxEntry) -> int | None:
    """Read which key signed it, from a header that was verified; `None` where it names none, which means the newest."""
    named = re.search(r"keyVersion=([0-9]+)", entry.signature)
    return None if named is None else int(named[1])
