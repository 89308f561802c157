"""`flask inbox find-token`: the notifications and the authorization that name an access token."""

from collections.abc import Sequence

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app import authorizations, documents, tokens
from app.cli import options
from app.cli.current_service import known_clients, look_up, the_service
from app.cli.errors import Refusal
from app.cli.inbox.entries import authorization_facts, print_entries
from app.cli.stdin import Question, ask
from app.cli.tables import plain, print_facts, print_json
from app.documents import Document
from app.inbox_admin import of_tokens
from app.models import Authorization, InboxEntry
from app.secret import Secret

_TOKEN = Question("accessToken", "Access token")


class NoTokenError(Refusal):
    """Nothing on record names a token. Never quotes it."""

    def __init__(self, client_id: str | None) -> None:
        whose = "" if client_id is None else f" of client {plain(client_id)}"
        super().__init__(f"Nothing on record{whose} names this access token.")


@click.command("find-token")
@with_appcontext
@click.option("--client", "client_id", metavar="ID", help="Only for this client.")
@options.as_json
@options.limit
def find_token(client_id: str | None, limit: int, *, as_json: bool) -> None:
    """Find the notifications and the authorization that name an access token, which is read from stdin.

    It is looked up by its blind index, and neither shown nor stored.
    """
    token = Secret(ask((_TOKEN,))["accessToken"])

    def find(session: Session) -> tuple[Sequence[Authorization], Sequence[InboxEntry], list[Document]]:
        options.require_known_client(session, client_id)
        client_ids = known_clients(session) if client_id is None else [client_id]
        keys = [(each, tokens.index(the_service().vault, each, token)) for each in client_ids]
        having_it = authorizations.of_tokens(session, keys)
        entries = of_tokens(session, keys, limit=limit + 1)
        return having_it, entries, documents.authorization_summaries(session, having_it)

    having_it, entries, summaries = look_up(find)
    if not having_it and not entries:
        raise NoTokenError(client_id)
    shown = entries[:limit]
    if as_json:
        print_json(
            {
                "authorizations": summaries,
                "notifications": [documents.entry_summary(each) for each in shown],
            }
        )
    else:
        for each in having_it:
            print_facts({**authorization_facts(each), "client": each.client_id})
            click.echo()
        if not having_it:
            click.echo("No authorization has had this token.\n")
        print_entries(shown)
    if len(entries) > limit:
        click.echo(f"Only the newest {limit} are shown: there are more, see --limit.", err=True)
