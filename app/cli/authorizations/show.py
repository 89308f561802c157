"""`flask authorizations show`: one authorization with its history and the notifications linked to it."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app import authorizations, call_statements, documents, tokens
from app.alipay.keyring import KeyringError
from app.call_statements import CallFilter
from app.cli import options
from app.cli.authorizations.finding import find_one, name_argument
from app.cli.current_service import look_up, the_service
from app.cli.tables import MASK, ending, minute, moment, plain, print_facts, print_json, print_table
from app.inbox_admin import of_authorization
from app.models import AccessToken, Authorization, Call, InboxEntry, Transition
from app.state_machine import AuthorizationState

#: A token that is refreshed daily has thousands in the course of years.
_CALLS_MAX = 20

Whole = tuple[Mapping[str, object], Sequence[Transition], Sequence[InboxEntry], Sequence[Call]]


@click.command()
@with_appcontext
@name_argument
@options.client
@options.as_json
def show(name: str, client_id: str | None, *, as_json: bool) -> None:
    """Show an authorization with its history, its newest calls, and every notification linked to it.

    AUTH_STATE may also be the authorization's id.
    """
    if as_json:
        print_json(
            look_up(lambda session: documents.authorization_document(session, find_one(session, name, client_id)))
        )
        return

    def whole(session: Session) -> Whole:
        authorization = find_one(session, name, client_id)
        facts = _facts(authorization, tokens.current(session, authorization))
        made = call_statements.listing(session, CallFilter(authorization_ids=[authorization.id]), limit=_CALLS_MAX + 1)
        history = authorizations.history(session, authorization.id)
        return facts, history, of_authorization(session, authorization), made

    facts, history, notifications, made = look_up(whole)
    print_facts(facts)
    click.echo("\nHistory")
    headers = ["#", "AT", "EVENT", "LED TO", "CAUSE"]
    lines = [[move.sequence, moment(move.at), move.event, move.to_state, _cause(move)] for move in history]
    if any(move.reason for move in history):
        headers.append("REASON")
        for line, move in zip(lines, history, strict=True):
            line.append(move.reason)
    print_table(headers, lines)
    if made:
        _print_calls(made)
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


def _print_calls(made: Sequence[Call]) -> None:
    """Print the newest calls, first to last, as history is. A client without a gateway has none."""
    click.echo("\nCalls")
    print_table(
        ("ID", "CREATED", "KIND", "STATUS"),
        [
            (each.id, minute(each.created_at), each.kind, ending(each.status, each.result_code))
            for each in reversed(made[:_CALLS_MAX])
        ],
        free=("STATUS",),
    )
    if len(made) > _CALLS_MAX:
        click.echo(f"Only the newest {_CALLS_MAX} are shown: see flask calls list --auth-state.", err=True)


def _facts(authorization: Authorization, token: AccessToken | None) -> Mapping[str, object]:
    facts: dict[str, object] = {
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
            "refresh due": _refresh_due(authorization, token),
        }
    facts["revoke asked"] = authorization.revoke_asked_at and moment(authorization.revoke_asked_at)
    created, updated = moment(authorization.created_at), moment(authorization.updated_at)
    erased = authorization.erased_at and moment(authorization.erased_at)
    return facts | {"id": authorization.id, "created": created, "updated": updated, "user erased": erased}


def _refresh_due(authorization: Authorization, token: AccessToken) -> str | None:
    """Say when the service refreshes a token of its own accord, if it does."""
    try:
        client = the_service().keyring.clients.get(authorization.client_id)
    except KeyringError:
        return None
    is_refreshed = client is not None and client.gateway is not None and client.gateway.refresh
    is_alive = authorization.state == AuthorizationState.TOKEN_ACTIVE and authorization.revoke_asked_at is None
    if not is_refreshed or not is_alive or token.refresh_due_at is None or token.refresh_asked_at is not None:
        return None
    return moment(token.refresh_due_at)


def _expiring(at: datetime | None) -> str:
    return MASK if at is None else f"{MASK} until {moment(at)}"


def _cause(move: Transition) -> str:
    """Say what moved it: which notification, or whose report."""
    by = move.by if move.notification_id is None else move.notification_id
    return move.cause if by is None else f"{move.cause} {plain(str(by))}"
