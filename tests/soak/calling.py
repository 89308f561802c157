"""Users and a merchant whose calls the service makes itself; the gateway's ledger is held against the database."""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from app import calls, consistency, tokens
from app.alipay.keyring import Keyring, load_private_key
from app.database import DatabaseUnavailableError
from app.models import AccessToken, Authorization, Call, FeedEvent, OutboxEvent
from app.secret import Secret
from app.simulator.gateway.faults import KINDS, Fault
from app.simulator.gateway.gateway import GatewayOptions, NothingToDecideError, PretendGateway
from app.simulator.gateway.keys import client_keys
from app.simulator.gateway.ledger import Token, TokenEnd
from app.simulator.keys import MERCHANT_KEY_NAME, SIMULATOR_KEY_NAME
from app.vault import Vault
from app.wiring import Service
from tests.soak.patience import run_patiently
from tests.soak.senders import Merchant

#: The client that has a gateway; the other one makes its calls itself.
CALLING_CLIENT_ID = "SANDBOX_5Y000000000CALLS"
WALLET = "GCASH"

#: Of each call so many suffer each fault; of those that take ten seconds, fewer.
_SHARE = 0.02
_SHARE_OF_SLOW = 0.004
_SLOW = {"silent", "silent-done", "slow", "endless", "drip"}
#: A slow answer comes in time, a late notification while others are still under way.
_FAULT_SECONDS = {"slow": 6.0, "notify-after": 1.0}
#: Alipay's day passes in some five seconds.
_SPEED = 20_000
_NOTIFIED_SECONDS = 5

#: What the user and the merchant do with an authorization, and how often.
_DECLINES, _AGREES_AGAIN, _REPORTS_CODE, _IS_REFRESHED, _CANCELS, _REVOKES = 0.05, 0.15, 0.4, 0.5, 0.25, 0.45
#: Nobody waits longer for a token, or for an answer.
_SECONDS_MAX = 30
_SETTLING_SECONDS_MAX = 180
#: A code may be told lost later than within its minute by as much as the service was down.
_DOWN_SECONDS_MAX = 90

_BAD = {"failed", "undetermined"}
#: What the service may say to a request that comes at the wrong moment.
_UNDERSTOOD = {200, 201, 202, 404, 409, 422, 504}


@dataclass
class Calling:
    """A gateway that the service calls, and those who use what comes of it."""

    gateway: PretendGateway
    #: Where the service is to be notified.
    notify_url: str
    service: Service
    #: The authStates that were consulted since the last audit.
    auth_states: list[str] = field(default_factory=list)
    _overlaps: int = 0

    def go_wrong(self, chance: random.Random) -> None:
        """Let every kind of fault happen by chance."""
        self.gateway.faults.add(
            Fault(
                name,
                share=_SHARE_OF_SLOW if name in _SLOW else _SHARE,
                seconds=_FAULT_SECONDS.get(name, 3.0),
            )
            for name in chance.sample(list(KINDS), len(KINDS))
        )

    # --- one life ---

    def live(self, merchant: Merchant, chance: random.Random, auth_state: str) -> None:
        """Consult, let the user decide, and use what the service makes of it."""
        self.auth_states.append(auth_state)
        authorization_id = self._consult(merchant, auth_state)
        if authorization_id is None:
            return
        try:
            self._decide(merchant, chance, auth_state, authorization_id)
        except NothingToDecideError:
            return
        if self._wait_for_token(merchant, authorization_id):
            self._use(merchant, chance, auth_state, authorization_id)

    def _consult(self, merchant: Merchant, auth_state: str) -> str | None:
        """Consult until there is a page, or Alipay refuses."""
        body = {
            "clientId": CALLING_CLIENT_ID,
            "authState": auth_state,
            "customerBelongsTo": WALLET,
            "authRedirectUrl": "https://shop.example/back",
            "scopes": ["AGREEMENT_PAY"],
            "authNotifyUrl": self.notify_url,
        }
        deadline = time.monotonic() + 2 * _SECONDS_MAX
        while time.monotonic() < deadline:
            status, document = self._ask(merchant, "POST", "/v1/consults", json=body)
            if status in {HTTPStatus.OK, HTTPStatus.CREATED}:
                return str(document["id"])
            if status == HTTPStatus.UNPROCESSABLE_ENTITY:
                return None
        return None

    def _decide(self, merchant: Merchant, chance: random.Random, auth_state: str, authorization_id: str) -> None:
        if chance.random() < _DECLINES:
            self.gateway.decline(CALLING_CLIENT_ID, auth_state)
            return
        for _ in range(1 + (chance.random() < _AGREES_AGAIN)):
            url = self.gateway.agree(CALLING_CLIENT_ID, auth_state)
            if chance.random() < _REPORTS_CODE:
                code = url.partition("authCode=")[2].partition("&")[0]
                path = f"/v1/authorizations/{authorization_id}/authcode"
                self._ask(merchant, "POST", path, json={"authCode": code})
            time.sleep(chance.uniform(0, 0.3))

    def _wait_for_token(self, merchant: Merchant, authorization_id: str) -> bool:
        deadline = time.monotonic() + _SECONDS_MAX
        while time.monotonic() < deadline:
            _, document = self._ask(merchant, "GET", f"/v1/authorizations/{authorization_id}")
            if document.get("state") == "token_active":
                return True
            call = document.get("call") or {}
            if document.get("state") == "canceled" or (call.get("kind") == "exchange" and call["status"] in _BAD):
                return False
            time.sleep(0.2)
        return False

    def _use(self, merchant: Merchant, chance: random.Random, auth_state: str, authorization_id: str) -> None:
        path = f"/v1/authorizations/{authorization_id}"
        if chance.random() < _IS_REFRESHED:
            if chance.random() < 1 / 2:
                self._ask(merchant, "POST", f"{path}/refresh", json={})
            else:
                # The database may be away, as ever.
                with suppress(DatabaseUnavailableError):
                    self.service.database.run(partial(_make_due, authorization_id=UUID(authorization_id)))
                time.sleep(chance.uniform(0, 2))
        if chance.random() < _CANCELS:
            self.gateway.cancel(CALLING_CLIENT_ID, auth_state, silently=chance.random() < 1 / 4)
        if chance.random() < _REVOKES:
            self._ask(merchant, "POST", f"{path}/revoke", json={})

    @staticmethod
    def _ask(merchant: Merchant, method: str, path: str, **said: Any) -> tuple[int | None, dict[str, Any]]:  # noqa: ANN401 -- those of urllib3
        status, document = merchant.ask(method, path, **said)
        if status is not None and status not in _UNDERSTOOD:
            merchant.ledger.complain(f"{method} {path} was answered {status} {document.get('code')}")
        return status, document

    # --- the audit ---

    def settle(self) -> list[str]:
        """Let everything go right, and wait until every call has ended and Alipay has nothing more to say."""
        self.gateway.faults.clear()
        deadline = time.monotonic() + _SETTLING_SECONDS_MAX
        notified, quiet_since = -1, time.monotonic()
        while True:
            left = self._left()
            now = time.monotonic()
            count = len(self.gateway.ledger.notifications())
            if left or count != notified:
                notified, quiet_since = count, now
            elif now - quiet_since > _NOTIFIED_SECONDS:
                return []
            if now > deadline:
                return [f"{left} calls have not ended after {_SETTLING_SECONDS_MAX} seconds"]
            time.sleep(0.3)

    def _left(self) -> int:
        """Count the calls that have not ended, or say one where the database cannot say."""
        try:
            return self.service.database.run(_left)
        except DatabaseUnavailableError:
            return 1

    def audit(self) -> tuple[list[str], list[str], Counter[str]]:
        """Name every token that is lost, and everything that is wrong, and count what there was."""
        ledger, auth_states = self.gateway.ledger, set(self.auth_states)
        self.auth_states.clear()
        given = [each for each in ledger.tokens() if each.auth_state in auth_states]
        record = run_patiently(self.service, partial(_read, auth_states=auth_states))
        vault = self.service.vault
        lost = list(_lost(vault, given, record))
        wrong = [
            f"{each.auth_state}: {each.what}"
            for each in run_patiently(self.service, partial(_inconsistent, vault=vault, auth_states=auth_states))
        ]
        wrong += _wrong_ends(vault, given, record, now=datetime.now(UTC))
        wrong += _wrong_calls(record)
        overlaps = ledger.overlapping_calls()
        for before, after in overlaps[self._overlaps :]:
            wrong.append(
                f"{before.operation} {before.number} and {after.number} about one thing were in flight at once"
            )
        self._overlaps = len(overlaps)
        counts = {"calling lives": len(auth_states), "calls": len(record.calls), "tokens given": len(given)}
        counts["late codes"] = sum(_lateness(each) > timedelta(seconds=2) for each in record.calls)
        counts["attempts at calls"] = sum(each.attempts for each in record.calls)
        return lost, wrong, Counter(counts)


@dataclass(frozen=True)
class _Record:
    """What the database has of some authorizations whose calls the service makes."""

    authorizations: dict[str, Authorization]
    calls: Sequence[Call]
    #: By blind index, and the current one of each authorization.
    tokens: dict[bytes, AccessToken]
    current: dict[UUID, AccessToken]
    #: The types of the events that tell of each call.
    told: dict[UUID, list[str]]


def _read(session: Session, *, auth_states: set[str]) -> _Record:
    mine = select(Authorization.id).where(
        Authorization.client_id == CALLING_CLIENT_ID, Authorization.auth_state.in_(auth_states)
    )
    rows = session.scalars(select(Authorization).where(Authorization.id.in_(mine))).all()
    known = session.scalars(select(AccessToken).where(AccessToken.authorization_id.in_(mine))).all()
    told: dict[UUID, list[str]] = defaultdict(list)
    for model in (FeedEvent, OutboxEvent):
        events = select(model.call_id, model.type).where(model.authorization_id.in_(mine), model.call_id.is_not(None))
        for call_id, kind in session.execute(events):
            if call_id is not None:
                told[call_id].append(kind)
    return _Record(
        {each.auth_state: each for each in rows},
        session.scalars(select(Call).where(Call.authorization_id.in_(mine)).order_by(Call.id)).all(),
        {each.token_index: each for each in known},
        {each.authorization_id: each for each in known if each.superseded_at is None},
        told,
    )


def _lost(vault: Vault, given: Sequence[Token], record: _Record) -> Iterator[str]:
    """Name the tokens that Alipay gave and answered with, and of which nothing is said."""
    by_subject = {each.subject_index: each for each in record.calls if each.subject_index is not None}
    for token in given:
        index = tokens.index(vault, CALLING_CLIENT_ID, Secret(token.access_token))
        revoke = by_subject.get(calls.subject_index(vault, CALLING_CLIENT_ID, Secret(token.access_token)))
        if not token.is_answered or index in record.tokens or revoke is not None:
            continue
        call = by_subject.get(calls.subject_index(vault, CALLING_CLIENT_ID, Secret(token.given_for)))
        says_why = call is not None and (
            call.status in {"undetermined", "unneeded"} or call.sealed_answer is not None or bool(call.reason)
        )
        # Refused says that there is no token.
        if call is None or not says_why or (call.status == "failed" and call.sealed_answer is None):
            shown = "no call" if call is None else f"a call that is {call.status} ({call.reason})"
            yield f"a token of {token.auth_state} that {token.operation} was answered with is not on record: {shown}"


def _inconsistent(session: Session, *, vault: Vault, auth_states: set[str]) -> list[consistency.Inconsistency]:
    mine = select(Authorization).where(
        Authorization.client_id == CALLING_CLIENT_ID, Authorization.auth_state.in_(auth_states)
    )
    return consistency.verify(session, vault, session.scalars(mine).all())


def _wrong_ends(vault: Vault, given: Sequence[Token], record: _Record, *, now: datetime) -> Iterator[str]:
    by_index = {tokens.index(vault, CALLING_CLIENT_ID, Secret(each.access_token)): each for each in given}
    given_up = {each.subject_index for each in record.calls if each.kind == "revoke" and each.status in _BAD}
    for each in record.authorizations.values():
        row = record.current.get(each.id)
        token = None if row is None else by_index.get(row.token_index)
        if token is None:
            continue
        if each.state == "token_active" and token.end is TokenEnd.REVOKED:
            yield f"{each.auth_state} is active, and its token is revoked"
        subject = calls.subject_index(vault, CALLING_CLIENT_ID, Secret(token.access_token))
        if each.state == "canceled" and token.is_alive(now) and subject not in given_up:
            yield f"{each.auth_state} is canceled, and its token is alive"


def _wrong_calls(record: _Record) -> Iterator[str]:
    for call in record.calls:
        is_told = call.status in _BAD and call.kind != "consult" and call.reason != calls.ANOTHER_CODE
        told = record.told.get(call.id, [])
        # An exchange that was told lost in its minute may still have been answered.
        if call.status in _BAD and told != [f"authorization.{call.kind}_failed"] * is_told:
            yield f"{call.kind} {call.id} is {call.status}, and told of by {told}"
        if len(told) > 1:
            yield f"{call.kind} {call.id} is told of by {told}"
        if _lateness(call) > timedelta(seconds=_DOWN_SECONDS_MAX):
            yield f"exchange {call.id} ended {_lateness(call)} after its deadline"


def _lateness(call: Call) -> timedelta:
    """Say by how much later than within its minute a code was exchanged or told lost."""
    if call.kind != "exchange" or call.finished_at is None or call.deadline_at is None:
        return timedelta(0)
    return call.finished_at - call.deadline_at


def _left(session: Session) -> int:
    """Count the calls that have not ended. What is to be repeated is so now: nobody waits for an hour."""
    now = datetime.now(UTC)
    session.execute(
        update(Call)
        .where(Call.status == "due", Call.due_at > now)
        .values(due_at=now)
        .execution_options(synchronize_session=False)
    )
    return session.scalars(
        select(func.count()).select_from(Call).where(or_(Call.status == "due", Call.is_in_flight))
    ).one()


def _make_due(session: Session, *, authorization_id: UUID) -> None:
    """Let the day come on which a token is to be refreshed."""
    session.execute(
        update(AccessToken)
        .where(AccessToken.authorization_id == authorization_id, AccessToken.superseded_at.is_(None))
        .values(refresh_due_at=datetime.now(UTC))
    )


def add_calling_client(keyring_path: Path) -> PretendGateway:
    """Begin a pretend gateway, and add a client to a keyring whose calls go there."""
    text = keyring_path.read_text()
    head, _, key = text.partition(".alipay_public_keys]")
    assert head
    client = f'[clients.{CALLING_CLIENT_ID}]\nmerchant_private_key = "file:{MERCHANT_KEY_NAME}"\n'
    public_keys = f"[clients.{CALLING_CLIENT_ID}.alipay_public_keys]{key}\n"
    keyring_path.chmod(0o600)
    keyring_path.write_text(f"{text}\n{client}{public_keys}")
    alipay_key = load_private_key(keyring_path.with_name(SIMULATOR_KEY_NAME).read_bytes())
    options = GatewayOptions(speed=_SPEED, token_created=False)
    gateway = PretendGateway(client_keys(Keyring.load(keyring_path), alipay_key), notify=None, options=options)
    keyring_path.write_text(f'{text}\n{client}gateway = "{gateway.url}"\n{public_keys}')
    return gateway
