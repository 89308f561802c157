"""`flask calls show`: one call, how it ended or why it is repeated, what is to be done, and every attempt."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app import call_statements, documents
from app.alipay.wallets import meant_wallet
from app.cli import options
from app.cli.calls.explanations import explain, what_to_do
from app.cli.calls.finding import find_call, id_argument
from app.cli.current_service import look_up
from app.cli.tables import moment, plain, print_facts, print_json, print_table
from app.database.clock import database_now
from app.documents import Document
from app.models import Authorization, Call, CallAttempt


@click.command()
@with_appcontext
@id_argument
@options.as_json
def show(call_id: UUID, *, as_json: bool) -> None:
    """Show a call: how it ended or why it is repeated, what is to be done, and every attempt.

    What was sent and what was answered stay sealed.
    """

    def document(session: Session) -> Document:
        call = find_call(session, call_id)
        authorization = session.get_one(Authorization, call.authorization_id)
        explanation = explain(call, now=database_now(session))
        return {
            **documents.call_document(session, call, authorization),
            "explanation": explanation,
            "remedy": what_to_do(call),
        }

    def whole(session: Session) -> tuple[str, Call, Authorization, Sequence[CallAttempt]]:
        call = find_call(session, call_id)
        return (
            explain(call, now=database_now(session)),
            call,
            session.get_one(Authorization, call.authorization_id),
            call_statements.attempts_of(session, call.id),
        )

    if as_json:
        print_json(look_up(document))
        return
    explanation, call, authorization, attempts = look_up(whole)
    click.echo(explanation)
    to_do = what_to_do(call)
    if to_do is not None and to_do not in (call.reason or ""):
        click.echo(to_do)
    click.echo()
    print_facts(_facts(call, authorization))
    click.echo("\nAttempts")
    if not attempts:
        click.echo("none")
        return
    print_table(
        ("#", "AT", "MS", "HTTP", "RESULT", "ANSWER"),
        [
            (each.number, moment(each.started_at), each.milliseconds, each.http_status, _result(each), _answer(each))
            for each in attempts
        ],
        last="ANSWER",
    )


def _facts(call: Call, authorization: Authorization) -> Mapping[str, object]:
    return {
        "id": call.id,
        "kind": call.kind,
        "status": call.status,
        "result code": call.result_code,
        "authState": authorization.auth_state,
        "client": call.client_id,
        "wallet": _wallet(authorization),
        "state now": authorization.state,
        "authorization": authorization.id,
        "asked by": call.cause if call.by is None else f"{call.cause} {call.by}",
        "created": moment(call.created_at),
        "due": call.due_at and moment(call.due_at),
        "deadline": call.deadline_at and moment(call.deadline_at),
        "finished": call.finished_at and moment(call.finished_at),
    }


def _wallet(authorization: Authorization) -> str | None:
    """Write the wallet, and where it may be misspelt, which one was meant."""
    wallet = authorization.customer_belongs_to
    meant = meant_wallet(wallet or "")
    return wallet if meant is None else f"{wallet} (may be misspelt: {meant} is known)"


def _result(attempt: CallAttempt) -> str | None:
    """Write Alipay's resultStatus and code, where there was an answer that can be believed."""
    return " ".join(map(plain, filter(None, (attempt.result_status, attempt.result_code)))) or None


def _answer(attempt: CallAttempt) -> str | None:
    return "its end is not on record" if attempt.milliseconds is None else attempt.error
