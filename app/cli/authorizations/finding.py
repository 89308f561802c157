"""Find the authorization that a command is about, by its authState or its id."""

from uuid import UUID

import click
from sqlalchemy.orm import Session

from app import authorizations
from app.alipay.notification import AUTH_STATE_CHARACTERS_MAX
from app.cli.errors import Refusal
from app.cli.options import Words, require_known_client
from app.cli.tables import plain
from app.models import Authorization

#: A listing shows the id too, so that is taken as well.
name_argument = click.argument("name", metavar="AUTH_STATE", type=Words(AUTH_STATE_CHARACTERS_MAX))


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

    Raises `NoAuthorizationError`, `NotOnRecordError` and `AmbiguousAuthStateError`.
    """
    candidates = [each for each in authorizations.find_all(session, name) if client_id in {None, each.client_id}]
    if not candidates:
        candidates = [each for each in _by_id(session, name) if client_id in {None, each.client_id}]
    if not candidates:
        require_known_client(session, client_id)
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
