"""How the latest calls to Alipay ended, by client: a gateway that takes connections may still refuse every call."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import select
from sqlalchemy.engine import Row
from sqlalchemy.orm import Session

from app.alipay.keyring import Client, KeyringError, fingerprint
from app.gateway.endings import remedy
from app.installation.findings import Finding, failed, ok, warning
from app.models import Call
from app.vocabulary import CallStatus
from app.wiring import Service

#: Of each client. They are found by an index, however many calls there are.
_LOOKED_AT = 20
#: What is older says little of how it is now.
_AGE_MAX = timedelta(days=1)
#: What Alipay answers to every call of a client whose key, id or contract is not as it should be.
_OF_THE_INSTALLATION = {"INVALID_SIGNATURE", "KEY_NOT_FOUND", "CLIENT_INVALID", "INVALID_CLIENT", "ACCESS_DENIED"}
_OF_THE_KEY = {"INVALID_SIGNATURE", "KEY_NOT_FOUND"}

_OUTCOMES = {CallStatus.DONE, CallStatus.FAILED, CallStatus.UNDETERMINED}

CallRow = Row[str, str, str | None, str | None, datetime, int]


def examine_calls(service: Service, *, now: datetime) -> Iterator[Finding]:
    """Look how the latest calls of each client ended. Raises `DatabaseUnavailableError`."""
    try:
        clients = [each for each in service.keyring.clients.values() if each.gateway is not None]
    except KeyringError:
        return
    for client in clients:
        rows = service.database.run(partial(_latest, client_id=client.client_id, now=now), read_only=True)
        tried = [row for row in rows if row.status in _OUTCOMES or row.reason]
        if tried:
            yield _finding(client, tried)


def _latest(session: Session, client_id: str, now: datetime) -> list[CallRow]:
    columns = (Call.kind, Call.status, Call.result_code, Call.reason, Call.created_at, Call.attempts)
    newest = select(*columns).where(Call.client_id == client_id).order_by(Call.id.desc()).limit(_LOOKED_AT)
    return [row for row in session.execute(newest).all() if row.created_at > now - _AGE_MAX and row.attempts]


def _finding(client: Client, rows: list[CallRow]) -> Finding:
    """Judge by the newest one, and say of how many since the last success it is true."""
    newest = rows[0]
    if newest.status == CallStatus.DONE:
        return ok("calls", f"client {client.client_id}: the last one, at {_at(newest.created_at)}, was answered")
    since = next((at for at, row in enumerate(rows) if row.status == CallStatus.DONE), len(rows))
    alike = [row for row in rows[:since] if row.result_code == newest.result_code]
    of_how_many = f"{len(alike)} of the last {len(rows)} calls"
    last = f"the last of them at {_at(newest.created_at)}"
    if newest.result_code is None:
        said = f"client {client.client_id}: {of_how_many} have no answer that is believed, {last}: {newest.reason}"
        return warning("calls", said, "flask calls list, then flask calls show ID: the error of each attempt")
    said = f"client {client.client_id}: {of_how_many} were answered {newest.result_code}, {last}"
    what_to_do = _remedy(client, newest)
    if newest.result_code in _OF_THE_INSTALLATION:
        return failed("calls", said, what_to_do)
    return warning("calls", said, what_to_do)


def _remedy(client: Client, call: CallRow) -> str:
    key = client.merchant_private_key
    if call.result_code in _OF_THE_KEY and key is not None:
        own = fingerprint(key.public_key())
        return (
            f"most likely merchant_private_key of the keyring, whose public half is {own}, is not the one that is "
            "registered with Alipay: register that public half in Antom Dashboard, or put the registered key into the "
            "keyring, and kill -HUP; flask keys show names the fingerprints"
        )
    return remedy(call.kind, call.result_code)


def _at(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
