"""See authorizations, and report what the merchant learned itself: `flask authorizations`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import click
from sqlalchemy.orm import Session

from app import authorizations as found, documents, tokens
from app.alipay.notification import AUTH_STATE_CHARACTERS_MAX
from app.authorizations import Filter
from app.cli import options
from app.cli.errors import Refusal
from app.cli.groups import Commands, known_clients, look_up, operating_user, the_service
from app.cli.options import NotOnRecordError, Words
from app.cli.tables import MASK, ending, moment, plain, print_facts, print_json, print_table
from app.inbox.upkeep import of_authorization
from app.models import AccessToken, Authorization, InboxEntry, Transition
from app.reports import USER_REF_CHARACTERS_MAX, WALLET_CHARACTERS_MAX, Consult, Recorded
from app.state_machine import AuthorizationState, Flow

#: Which authorization a command is about: whoever has its id from a listing may give that instead.
which = click.argument("name", metavar="AUTH_STATE", type=Words(AUTH_STATE_CHARACTERS_MAX))

authorizations = Commands("authorizations", help="See authorizations, and report what the merchant learned itself.")


class NoAuthorizationError(Refusal):
    """There is no authorization of this name."""

    def __init__(self, name: str, client_id: str | None) -> None:
        whose = "" if client_id is None else f" of client {plain(client_id)}"
        super().__init__(f"There is no authorization{whose} with authState or id {plain(name)}.")


class AmbiguousAuthStateError(Refusal):
    """Several clients have an authorization with this authState."""

    def __init__(self, name: str, client_ids: list[str]) -> None:
        clients = ", ".join(plain(client_id) for client_id in sorted(client_ids))
        super().__init__(f"{plain(name)} is an authState of several clients ({clients}): name one with --client.")


def find_one(session: Session, name: str, client_id: str | None) -> Authorization:
    """Find the authorization that a person means, by its authState or else by its id.

    Raises `NoAuthorizationError` and `AmbiguousAuthStateError`.
    """
    candidates = [each for each in found.find_all(session, name) if client_id in {None, each.client_id}]
    if not candidates:
        candidates = [each for each in _by_id(session, name) if client_id in {None, each.client_id}]
    if not candidates:
        raise NoAuthorizationError(name, client_id)
    if len(candidates) > 1:
        raise AmbiguousAuthStateError(name, [each.client_id for each in candidates])
    return candidates[0]


def _by_id(session: Session, name: str) -> list[Authorization]:
    try:
        authorization = session.get(Authorization, UUID(name))
    except ValueError:
        return []
    return [] if authorization is None else [authorization]


def tell_recorded(recorded: Recorded, auth_state: str) -> None:
    """Say what a report led to."""

    def state(session: Session) -> str:
        return session.get_one(Authorization, recorded.authorization_id).state

    news = "Recorded" if recorded.changed else "Nothing new"
    click.echo(f"{news}: {plain(auth_state)} is {look_up(state)}.")
    if recorded.has_other_codes:
        click.echo("There was another auth code too: the user agreed more than once.")
    for done in recorded.resumed:
        click.echo(f"Notification {done.entry_id} waited for this, and was {done.outcome}.")


@authorizations.command()
@click.argument("auth_state", metavar="AUTH_STATE", type=Words(AUTH_STATE_CHARACTERS_MAX))
@click.option("--client", "client_id", metavar="ID", help="For whom, if the keyring has several clients.")
@click.option(
    "--flow", type=click.Choice([each.value for each in Flow]), help="How the token comes. [default: the client's]"
)
@click.option("--user-ref", metavar="TEXT", type=Words(USER_REF_CHARACTERS_MAX), help="Your own name for the user.")
@click.option("--wallet", metavar="TEXT", type=Words(WALLET_CHARACTERS_MAX), help="customerBelongsTo, such as GCASH.")
def consult(auth_state: str, client_id: str | None, flow: str | None, user_ref: str | None, wallet: str | None) -> None:
    """Register a consult: the authState that notifications will name.

    The same again changes nothing; what was left unsaid before is added, and a contradiction is refused.
    A flow that was left unsaid can be corrected until a code or a token has come.
    """
    said = Consult(
        auth_state=auth_state,
        client_id=client_id,
        flow=None if flow is None else Flow(flow),
        user_ref=user_ref,
        customer_belongs_to=wallet,
    )
    tell_recorded(the_service().receiver.record(said, cause="shell", by=operating_user()), auth_state)


@authorizations.command("list")
@click.option(
    "--state", type=click.Choice([each.value for each in AuthorizationState]), help="Only those in this state."
)
@click.option("--user-ref", metavar="TEXT", help="Only those of this user of yours.")
@click.option("--client", "client_id", metavar="ID", help="Only those of this client.")
@click.option("--cursor", metavar="ID", type=click.UUID, help="Go on after the authorization with this id.")
@options.as_json
@options.limit
def list_authorizations(
    state: str | None, user_ref: str | None, client_id: str | None, cursor: UUID | None, limit: int, *, as_json: bool
) -> None:
    """List authorizations, newest first."""
    wanted = Filter(user_ref=user_ref, state=state, client_id=client_id)

    def page(session: Session) -> Sequence[Authorization]:
        rows = found.listing(session, wanted, limit=limit + 1, before=cursor)
        if not rows and client_id is not None and client_id not in (known := known_clients(session)):
            raise NotOnRecordError("--client", client_id, known)
        return rows

    rows = look_up(page)
    shown = rows[:limit]
    if as_json:
        print_json([documents.authorization_summary(row) for row in shown])
    else:
        _print_listing(shown)
    if len(rows) > limit:
        options.tell_of_more(limit, shown[-1].id)


def _print_listing(rows: Sequence[Authorization]) -> None:
    headers = ["CREATED", "STATE", "USER", "AUTH STATE"]
    lines = [[moment(row.created_at), row.state, row.user_ref, row.auth_state] for row in rows]
    if len({row.client_id for row in rows}) > 1:
        headers.append("CLIENT")
        for line, row in zip(lines, rows, strict=True):
            line.append(row.client_id)
    print_table(headers, lines, free=("USER", "CLIENT"), last="AUTH STATE")


@authorizations.command()
@which
@options.client
@options.as_json
def show(name: str, client_id: str | None, *, as_json: bool) -> None:
    """Show an authorization with its history and every notification linked to it.

    AUTH_STATE may also be the authorization's id.
    """
    if as_json:
        print_json(
            look_up(lambda session: documents.authorization_document(session, find_one(session, name, client_id)))
        )
        return

    def whole(session: Session) -> tuple[Mapping[str, object], Sequence[Transition], Sequence[InboxEntry]]:
        authorization = find_one(session, name, client_id)
        facts = _facts(authorization, tokens.current(session, authorization))
        return facts, found.history(session, authorization.id), of_authorization(session, authorization)

    facts, history, notifications = look_up(whole)
    print_facts(facts)
    click.echo("\nHistory")
    headers = ["#", "AT", "EVENT", "LED TO", "CAUSE"]
    lines = [[move.sequence, moment(move.at), move.event, move.to_state, _cause(move)] for move in history]
    if any(move.reason for move in history):
        headers.append("REASON")
        for line, move in zip(lines, history, strict=True):
            line.append(move.reason)
    print_table(headers, lines)
    click.echo("\nNotifications")
    if not notifications:
        click.echo("none")
        return
    print_table(
        ("ID", "RECEIVED", "TYPE", "OUTCOME", "TIMES"),
        [
            (entry.id, moment(entry.received_at), entry.type, ending(entry.outcome, entry.reason), entry.deliveries)
            for entry in notifications
        ],
    )


def _facts(authorization: Authorization, token: AccessToken | None) -> Mapping[str, object]:
    facts = {
        "authState": authorization.auth_state,
        "state": authorization.state,
        "flow": authorization.flow,
        "client": authorization.client_id,
        "user": authorization.user_ref,
        "wallet": authorization.customer_belongs_to,
        "userId": authorization.user_id,
        "userLoginId": authorization.sealed_login_id and MASK,
        "authCode": authorization.sealed_auth_code and f"{MASK} of {moment(authorization.auth_code_received_at)}",
    }
    if token is not None:
        facts |= {
            "accessToken": _expiring(token.access_token_expires_at),
            "refreshToken": token.sealed_refresh_token and _expiring(token.refresh_token_expires_at),
        }
    created, updated = moment(authorization.created_at), moment(authorization.updated_at)
    return facts | {"id": authorization.id, "created": created, "updated": updated}


def _expiring(at: datetime | None) -> str:
    return MASK if at is None else f"{MASK} until {moment(at)}"


def _cause(move: Transition) -> str:
    """Say what moved it: which notification, or whose report."""
    by = move.by if move.notification_id is None else move.notification_id
    return move.cause if by is None else f"{move.cause} {plain(str(by))}"
