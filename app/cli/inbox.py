"""See the notifications that were kept, and why each ended as it did: `flask inbox`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import BinaryIO

import click
from sqlalchemy.orm import Session

from app import authorizations as found, documents, inbox as kept, tokens
from app.alipay.acknowledgement import is_acknowledgement
from app.alipay.delivery import BODY_BYTES_MAX, Delivery, MalformedRequestError, parse_request
from app.alipay.notification import Notification, NotificationType
from app.cli import options
from app.cli.errors import REFUSED, Refusal
from app.cli.explanations import explain
from app.cli.groups import Commands, known_clients, look_up, the_service
from app.cli.options import NotOnRecordError, WholeNumber
from app.cli.records import Question, ask
from app.cli.tables import MASK, ending, moment, plain, print_facts, print_json, print_table
from app.database.contents import distinct_values, has_value
from app.inbox import Outcome, Reason
from app.inbox.upkeep import Filter, listing, of_tokens
from app.models import Authorization, InboxEntry
from app.secret import Secret
from app.vault import VaultError

#: What a column of ids holds on every database.
_ID_MAX = 2**63 - 1

#: The door lets no more headers in than this, nor a larger body.
_HEAD_BYTES_MAX = 64 * 1024
_REQUEST_BYTES_MAX = _HEAD_BYTES_MAX + BODY_BYTES_MAX
_TOO_LARGE = f"the body of a notification has at most {BODY_BYTES_MAX} bytes."

entry_id_type = WholeNumber("the ID of an entry, a number such as 17", 1, _ID_MAX)

_TOKEN = Question("accessToken", "Access token")

inbox = Commands("inbox", help="See the notifications that were kept, deliver, process, dismiss and purge them.")


class NoEntryError(Refusal):
    """There is no inbox entry with this id."""

    def __init__(self, entry_id: int) -> None:
        super().__init__(f"There is no entry {entry_id} in the inbox; it may have been purged.")


class NoTokenError(Refusal):
    """Nothing on record names a token. Never quotes it."""

    def __init__(self, client_id: str | None) -> None:
        whose = "" if client_id is None else f" of client {plain(client_id)}"
        super().__init__(f"Nothing on record{whose} names this access token.")


def find_entry(session: Session, entry_id: int) -> InboxEntry:
    """Find an entry.

    Raises `NoEntryError`.
    """
    entry = kept.find(session.connection(), entry_id)
    if entry is None:
        raise NoEntryError(entry_id)
    return entry


@inbox.command("list")
@click.option("--outcome", type=click.Choice([each.value for each in Outcome]), help="Only those that ended so.")
@click.option("--type", "notification_type", metavar="TYPE", help="Only those of this type, known or not.")
@click.option("--reason", metavar="TEXT", help="Only those that ended so for this reason.")
@click.option("--auth-state", metavar="TEXT", help="Only those that name this authState: no cancellation does.")
@click.option("--oldest-first", is_flag=True, help="Begin with the oldest, not with the newest.")
@click.option("--cursor", metavar="ID", type=entry_id_type, help="Go on after the entry with this ID.")
@options.as_json
@options.limit
def list_entries(
    outcome: str | None,
    notification_type: str | None,
    reason: str | None,
    auth_state: str | None,
    cursor: int | None,
    limit: int,
    *,
    oldest_first: bool,
    as_json: bool,
) -> None:
    """List notifications, newest first."""
    wanted = Filter(outcome=outcome, type=notification_type, reason=reason, auth_state=auth_state)

    def page(session: Session) -> Sequence[InboxEntry]:
        rows = listing(session, wanted, limit=limit + 1, oldest_first=oldest_first, after=cursor)
        if not rows:
            _require_on_record(session, wanted)
        return rows

    rows = look_up(page)
    shown = rows[:limit]
    if as_json:
        print_json([documents.entry_summary(row) for row in shown])
    else:
        _print_listing(shown)
    if len(rows) > limit:
        options.tell_of_more(limit, shown[-1].id)


def _require_on_record(session: Session, wanted: Filter) -> None:
    """Tell a filter that nothing can match from one that just nothing matches.

    Raises `NotOnRecordError`.
    """
    for option, value, column, known in (
        ("--type", wanted.type, InboxEntry.type, frozenset(NotificationType)),
        ("--reason", wanted.reason, InboxEntry.reason, frozenset(Reason)),
    ):
        if value is None or value in known or has_value(session, column, value):
            continue
        raise NotOnRecordError(option, value, known.union(distinct_values(session, column)))


def _print_listing(entries: Sequence[InboxEntry]) -> None:
    print_table(
        ("ID", "RECEIVED", "TYPE", "OUTCOME", "AUTH STATE"),
        [
            (entry.id, moment(entry.received_at), entry.type, ending(entry.outcome, entry.reason), entry.auth_state)
            for entry in entries
        ],
        last="AUTH STATE",
    )


@inbox.command("find-token")
@click.option("--client", "client_id", metavar="ID", help="Only for this client.")
@options.as_json
@options.limit
def find_token(client_id: str | None, limit: int, *, as_json: bool) -> None:
    """Find the notifications and the authorization that name an access token, which is read from stdin.

    It is looked up by its blind index, and neither shown nor kept.
    """
    token = Secret(ask((_TOKEN,))["accessToken"])

    def find(session: Session) -> tuple[Sequence[Authorization], Sequence[InboxEntry]]:
        client_ids = known_clients(session) if client_id is None else [client_id]
        keys = [(each, tokens.index(the_service().vault, each, token)) for each in client_ids]
        return found.of_tokens(session, keys), of_tokens(session, keys, limit=limit + 1)

    authorizations, entries = look_up(find)
    if not authorizations and not entries:
        raise NoTokenError(client_id)
    shown = entries[:limit]
    if as_json:
        print_json(
            {
                "authorizations": [documents.authorization_summary(each) for each in authorizations],
                "notifications": [documents.entry_summary(each) for each in shown],
            }
        )
    else:
        for each in authorizations:
            print_facts({**_linked(each), "client": each.client_id})
            click.echo()
        if not authorizations:
            click.echo("No authorization has had this token.\n")
        _print_listing(shown)
    if len(entries) > limit:
        click.echo(f"Only the newest {limit} are shown: there are more, see --limit.", err=True)


@inbox.command()
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
    if as_json:
        document = documents.entry_summary(entry) | {**_said_in_json(entry, body, authorization)}
        document |= {"foundState": entry.found_state, "explanation": explanation}
        document |= {"uri": entry.uri, "requestTime": entry.request_time, "keyVersion": _key_version(entry)}
        print_json(document | {"bodyBytes": None if body is None else len(body)})
        return
    click.echo(f"{explanation}\n")
    print_facts(
        {
            "id": entry.id,
            "type": entry.type,
            "client": entry.client_id,
            **_said(entry, body),
            "state found": entry.found_state,
            **_linked(authorization),
            "deliveries": entry.deliveries,
            "received": moment(entry.received_at),
            "last received": moment(entry.last_received_at),
            "request-time": entry.request_time,
            "uri": entry.uri,
            "key version": "the newest" if (version := _key_version(entry)) is None else version,
            "body": "does not open under the vault keys" if body is None else f"{len(body)} bytes, sealed",
        }
    )


def _body(entry: InboxEntry) -> bytes | None:
    """Open the body; `None` where it does not open, which may be just what is to be explained."""
    try:
        return kept.open_body(the_service().vault, entry)
    except VaultError:
        return None


def _said(entry: InboxEntry, body: bytes | None) -> Mapping[str, object]:
    """Say what the notification names; of secrets, that they are there."""
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


def _said_in_json(entry: InboxEntry, body: bytes | None, authorization: Authorization | None) -> Mapping[str, object]:
    """Say for programs what people are told of a notification: a cancellation has the authState of what it canceled."""
    notification = _notification(body)
    named = entry.auth_state if authorization is None else authorization.auth_state
    return {
        "authState": named,
        "userId": notification and notification.user_id,
        "resultStatus": notification and notification.result_status,
        "stateNow": authorization and authorization.state,
    }


def _notification(body: bytes | None) -> Notification | None:
    return None if body is None else kept.read(body).notification


def _linked(authorization: Authorization | None) -> Mapping[str, object]:
    if authorization is None:
        return {}
    return {
        "authState": authorization.auth_state,
        "state now": authorization.state,
        "authorization": authorization.id,
    }


def _key_version(entry: InboxEntry) -> int | None:
    """Read which key signed it, from a header that was verified; `None` where it names none, which means the newest."""
    named = re.search(r"keyVersion=([0-9]+)", entry.signature)
    return None if named is None else int(named[1])


# --- delivering ------------------------------------------------------------------------------------------------------


@inbox.command()
@click.argument("file", type=click.File("rb"))
def deliver(file: BinaryIO) -> None:
    """Deliver the HTTP request in FILE, head and body; - is stdin.

    It is verified like any other, as a request to the path that Alipay signs, FLASK_PUBLIC_NOTIFY_PATH. Ends with 0 if
    it was acknowledged.
    """
    delivery = _request(file)
    receipt = the_service().receiver.receive(delivery)
    answer = receipt.answer
    print_facts(
        {
            "status": f"{answer.status} {HTTPStatus(answer.status).phrase}",
            "result": f"{answer.result_status} {answer.result_code}",
            "entry": receipt.entry_id,
            "outcome": receipt.outcome,
            "reason": receipt.reason,
        }
    )
    if not is_acknowledgement(answer.status, answer.body):
        raise click.exceptions.Exit(REFUSED)


class NotDeliveredError(Refusal):
    """The door would not have let the request in."""

    def __init__(self, status: HTTPStatus, problem: str) -> None:
        super().__init__(f"{status.value} {status.phrase}: {problem}")


def _request(file: BinaryIO) -> Delivery:
    """Read a request as the door does.

    Raises `NotDeliveredError` and `Refusal`.
    """
    raw = file.read(_REQUEST_BYTES_MAX + 1)
    if len(raw) > _REQUEST_BYTES_MAX:
        raise NotDeliveredError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)
    try:
        delivery = parse_request(raw)
    except MalformedRequestError as error:
        raise NotDeliveredError(HTTPStatus.BAD_REQUEST, str(error)) from None
    settings = the_service().settings
    path, mark, query = delivery.uri.partition("?")
    if path not in {settings.notify_path, settings.public_notify_path}:
        problem = f"notifications go to {settings.public_notify_path}, not to {plain(path)}."
        raise NotDeliveredError(HTTPStatus.NOT_FOUND, problem)
    if delivery.method != "POST":
        raise NotDeliveredError(HTTPStatus.METHOD_NOT_ALLOWED, "notifications are sent with POST.")
    if len(delivery.body) > BODY_BYTES_MAX:
        raise NotDeliveredError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)
    return replace(delivery, uri=settings.public_notify_path + mark + query)
