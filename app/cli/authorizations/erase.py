"""`flask authorizations erase`: forget a user, and keep what proves how the authorizations moved."""

from collections.abc import Sequence
from datetime import UTC, datetime

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app import authorization_search
from app.alipay.notification import AUTH_STATE_CHARACTERS_MAX
from app.authorization_search import Filter
from app.cli import options
from app.cli.authorizations.finding import find_one
from app.cli.current_service import look_up, operating_user, the_service
from app.cli.errors import REFUSED, Refusal
from app.cli.options import Words
from app.cli.tables import plain
from app.erasure import ERASURE_REASON_CHARACTERS_MAX, Erasure, ErasureRefusedError, why_not
from app.models import Authorization

#: Read at once, so that all are looked at before any is changed. No user has more.
_AUTHORIZATIONS_MAX = 1000


class NobodyFoundError(Refusal):
    """No authorization names this user. What was asked for is not repeated: it is to be forgotten."""

    def __init__(self) -> None:
        super().__init__("No authorization names this user: it was erased, or is known by another name.")


class TooManyError(Refusal):
    """One name stands for more authorizations than a user has."""

    def __init__(self) -> None:
        super().__init__(f"More than {_AUTHORIZATIONS_MAX} authorizations have this name: it is not one user's.")


@click.command()
@with_appcontext
@click.option("--user-ref", metavar="TEXT", help="The user, by your own name.")
@click.option("--user-id", metavar="TEXT", help="The user, by the wallet's id.")
@click.option(
    "--auth-state",
    metavar="TEXT",
    type=Words(AUTH_STATE_CHARACTERS_MAX),
    help="Of one authorization alone, by its authState or its id.",
)
@click.option("--client", "client_id", metavar="ID", help="Only at this client.")
@click.option("--force", is_flag=True, help="Also while a token is active, or may still come.")
@click.option(
    "--reason",
    metavar="TEXT",
    type=Words(ERASURE_REASON_CHARACTERS_MAX),
    help="Why, in your words. It is stored in the clear: name nobody.",
)
@options.yes
def erase(
    user_ref: str | None,
    user_id: str | None,
    auth_state: str | None,
    client_id: str | None,
    reason: str | None,
    *,
    force: bool,
    yes: bool,
) -> None:
    """Forget one user: names and ids, codes, tokens, bodies, reasons, and what was asked of Alipay.

    The history stays, and that it was you who did it. Refused while a token is active: revoke it first. It asks first;
    without a terminal it does nothing without --yes.
    """
    if sum(each is not None for each in (user_ref, user_id, auth_state)) != 1:
        message = "Name the user by one of --user-ref, --user-id and --auth-state."
        raise click.UsageError(message)

    def find(session: Session) -> Sequence[Authorization]:
        if auth_state is not None:
            return [find_one(session, auth_state, client_id)]
        options.require_known_client(session, client_id)
        wanted = Filter(user_ref=user_ref, user_id=user_id, client_id=client_id)
        page = authorization_search.listing(session, wanted, limit=_AUTHORIZATIONS_MAX, now=datetime.now(UTC))
        if page.next is not None:
            raise TooManyError
        return page.rows

    found = look_up(find)
    if not found:
        raise NobodyFoundError
    _require_erasable(found, is_forced=force)
    count = "1 authorization" if len(found) == 1 else f"{len(found)} authorizations"
    options.confirm(f"This forgets for good who gave {count}, with every token and notification of it.", yes=yes)
    _erase_all(found, reason, is_forced=force)
    click.echo(f"Erased the user of {count}. The history stays; so do logs and backups, until they are deleted.")


def _require_erasable(found: Sequence[Authorization], *, is_forced: bool) -> None:
    """See that none is refused before any is changed."""
    now = datetime.now(UTC)
    refused = [(each, why) for each in found if (why := why_not(each, now=now, is_forced=is_forced)) is not None]
    for each, why in refused:
        click.echo(f"Error: {plain(each.auth_state)} is not erased: {why}.", err=True)
    if refused:
        click.echo("Nothing was done. With --force it is done all the same.", err=True)
        raise click.exceptions.Exit(REFUSED)


def _erase_all(found: Sequence[Authorization], reason: str | None, *, is_forced: bool) -> None:
    """Erase each in transactions of its own, and tell which could not be."""
    receiver, is_any_refused = the_service().receiver, False
    for each in found:
        try:
            receiver.erase(Erasure(each.id, by=operating_user(), reason=reason, is_forced=is_forced))
        except ErasureRefusedError as error:
            click.echo(f"Error: {error}", err=True)
            is_any_refused = True
    if is_any_refused:
        raise click.exceptions.Exit(REFUSED)
