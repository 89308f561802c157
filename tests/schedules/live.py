"""Do to the service what a schedule does to the model: the real receiver on a real database."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import authorizations, tokens
from app.alipay.keyring import Client, Keyring
from app.models import AccessToken, Authorization, InboxEntry, KeyLock
from app.report_errors import ReportRefusedError
from app.reports import Consult
from app.simulator.draft import Draft
from app.state_machine import Flow
from app.vocabulary import CauseKind, NewerReleaseError
from tests.integration.stage import Stage
from tests.schedules.model import Words

#: The time between two deliveries of a batch. Less than a tick, so that all of them come before the next step.
APART = timedelta(milliseconds=10)

#: A flow that no machine has, and a body that opens under no key: processing cannot read either.
BROKEN_FLOW = "broken"
BROKEN_SEAL = b"this opens under no key"


@dataclass
class Live:
    """The service as one of many clients sees it, so that each schedule has its own names in a database of many."""

    stage: Stage
    client_id: str = field(default_factory=lambda: f"client-{uuid4().hex}")
    #: What the schedule calls an authorization or an entry, and how the service does.
    authorization_ids: dict[str, UUID] = field(default_factory=dict)
    entry_ids: dict[Words, int] = field(default_factory=dict)
    #: What was broken, as it was before.
    whole: dict[Words, str | bytes] = field(default_factory=dict)
    _request_times: Iterator[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        # A clock of its own: one that ticks with its steps.
        self.stage = replace(self.stage, clock=replace(self.stage.clock))
        self._default_flow("auto_debit")

    def _default_flow(self, flow: str) -> None:
        client = Client(self.client_id, flow, {1: (self.stage.alipay_key.public_key(),)})
        self.stage = replace(self.stage, keyring=Keyring({self.client_id: client}))

    def tick(self) -> None:
        self.stage.clock.forward(seconds=1)

    def perform(self, step: Words) -> str:
        """Do one step and say what came of it."""
        try:
            return self._perform(step)
        except ReportRefusedError:
            return "refused"
        except NewerReleaseError as error:
            if error.word != BROKEN_FLOW:
                raise
            return "broken"

    def agrees(self, actual: str, expected: str) -> bool:
        """Say whether what came of the last step is what must."""
        return actual == expected

    def _perform(self, step: Words) -> str:  # noqa: PLR0911 -- there are as many kinds of steps
        match step:
            case "consult", auth_state, flow, user_ref:
                said = None if flow == "unsaid" else Flow(flow)
                consult = Consult(auth_state, client_id=self.client_id, flow=said, user_ref=user_ref)
                recorded = self.stage.receiver.record(consult, cause=CauseKind.API)
                self.authorization_ids[auth_state] = recorded.authorization_id
                return "recorded" if recorded.changed else "known"
            case "default", flow:
                self._default_flow(flow)
                return "done"
            case ("piece",):
                return "done"
            case (("authcode" | "token" | "refresh" | "revoke"), auth_state, *_):
                return self._report(self.authorization_ids.get(auth_state, uuid4()), step)
            case "replay", *notification:
                entry_id = self.entry_ids.get(tuple(notification), 0)
                done = self.stage.process(entry_id)
                return done[0].outcome if done else "nothing"
            case "break", *thing:
                return self._break(tuple(thing))
            case "mend", *thing:
                return self._mend(tuple(thing))
            case _:
                return self._deliver(step)

    def _report(self, authorization_id: UUID, report: Words) -> str:
        match report:
            case "authcode", _, code:
                recorded = self.stage.report_authcode(authorization_id, code)
            case "token", _, token, *codes:
                recorded = self.stage.report_token(authorization_id, token, auth_code=next(iter(codes), None))
            case "refresh", _, old, new:
                recorded = self.stage.report_token(authorization_id, new, replaces=old)
            case _:
                recorded = self.stage.report_canceled(authorization_id)
        return "recorded" if recorded.changed else "known"

    def _deliver(self, notification: Words) -> str:
        request_time = next(self._request_times)
        receipt = self.stage.notify(
            body_of(notification, padding=request_time), client_id=self.client_id, request_time=str(request_time)
        )
        assert receipt.entry_id is not None, f"not stored, answered {receipt.answer.status}"
        assert receipt.outcome is not None
        assert receipt.answer.status == (400 if receipt.outcome == "malformed" else 200)
        assert self.entry_ids.setdefault(notification, receipt.entry_id) == receipt.entry_id
        return receipt.outcome

    def deliver_batch(self, notifications: Sequence[Words]) -> list[int]:
        """Deliver notifications as one batch, and return their indexes in the order in which they were processed."""
        bodies = [body_of(each, padding=next(self._request_times)) for each in notifications]
        receipts = self.stage.notify_batch(
            bodies, client_id=self.client_id, apart=APART, singles=None if self.may_break() else 0
        )
        for notification, receipt in zip(notifications, receipts, strict=True):
            assert receipt.entry_id is not None, f"not stored, answered {receipt.answer.status}"
            assert receipt.answer.status == (400 if receipt.outcome == "malformed" else 200)
            assert self.entry_ids.setdefault(notification, receipt.entry_id) == receipt.entry_id
        new = [index for index, receipt in enumerate(receipts) if receipt.is_new]
        # Repetitions only count, or try again what failed, in the order in which they came.
        repeated = [index for index, receipt in enumerate(receipts) if not receipt.is_new]
        return sorted(new, key=lambda index: receipts[index].entry_id or 0) + repeated

    def may_break(self) -> bool:
        """Whether a batch may break, which runs one by one then."""
        return bool(self.whole)

    # --- what a schedule breaks ---

    def _break(self, thing: Words) -> str:
        if thing in self.whole:
            return "done"
        if thing not in self.entry_ids and thing[0] not in self.authorization_ids:
            return "nothing"
        self.whole[thing] = self._swap(thing, BROKEN_SEAL if thing in self.entry_ids else BROKEN_FLOW)
        return "done"

    def _mend(self, thing: Words) -> str:
        if thing in self.whole:
            self._swap(thing, self.whole.pop(thing))
        return "done"

    def _swap(self, thing: Words, value: str | bytes) -> str | bytes:
        def swap(session: Session) -> str | bytes:
            if isinstance(value, bytes):
                entry = session.get_one(InboxEntry, self.entry_ids[thing])
                before, entry.sealed_body = entry.sealed_body, value
                return before
            authorization = session.get_one(Authorization, self.authorization_ids[thing[0]])
            flow, authorization.flow = authorization.flow, value
            return flow

        return self.stage.database.run(swap)

    # --- what is on record ---

    def record(self) -> list[str]:
        """List what is on record, in the words of the model, and whatever should not be there."""
        return self.stage.database.run(lambda session: list(self._record(session)), read_only=True)

    def _record(self, session: Session) -> Iterator[str]:
        for _, authorization_id in sorted(self.authorization_ids.items()):
            yield from self._authorization(session, session.get_one(Authorization, authorization_id))
        names = {entry_id: notification for notification, entry_id in self.entry_ids.items()}
        for entry in session.scalars(
            select(InboxEntry).where(InboxEntry.client_id == self.client_id).order_by(InboxEntry.id)
        ):
            # Why something failed is a class of ours, why it is malformed a rule of the wire: not the model's business.
            reason = None if entry.outcome in {"failed", "malformed"} else entry.reason
            yield f"{' '.join(names[entry.id])}: {entry.outcome}, {reason}, delivered {entry.deliveries} times"
        yield from self._needless_key_locks(session)

    def _authorization(self, session: Session, known: Authorization) -> Iterator[str]:
        vault = self.stage.vault
        code = authorizations.auth_code(vault, known)
        said_code = None if code is None else code.reveal()
        codes = f"{said_code}{' after another' if authorizations.has_other_codes(known) else ''}"
        said = "said" if known.flow_was_said else "unsaid"
        yield f"{known.auth_state} is {known.state}, of user {known.user_ref}, with {codes}, by {known.flow} ({said})"
        for move in authorizations.history(session, known.id):
            yield f"{known.auth_state} move {move.sequence}: {move.event}, {move.from_state} to {move.to_state}"
        rows = session.scalars(select(AccessToken).where(AccessToken.authorization_id == known.id)).all()
        for token, row in sorted((tokens.reveal(vault, row).reveal(), row) for row in rows):
            yield f"{known.auth_state} token {token}: {'superseded' if row.superseded_at else 'current'}"

    def _needless_key_locks(self, session: Session) -> Iterator[str]:
        """Check that no key lock is left for what is known."""
        for row in session.scalars(select(KeyLock).where(KeyLock.client_id == self.client_id)):
            is_known = (
                authorizations.find(session, self.client_id, row.key.decode()) is not None
                if row.kind == "authState"
                else session.get(AccessToken, (self.client_id, row.key)) is not None
            )
            if is_known:
                yield f"a key lock is left for a known {row.kind}"


def body_of(notification: Words, *, padding: int) -> bytes:
    """Write a notification out; the same one again in other bytes, where those do not make it another."""
    match notification:
        case "MALFORMED", mark:
            return Draft("AUTHCODE_CREATED", auth_state=mark).body()
        case "AUTHCODE_CREATED", auth_state, code, *status:
            draft = Draft("AUTHCODE_CREATED", auth_state=auth_state, auth_code=code)
        case "TOKEN_CREATED", auth_state, token, *status:
            draft = Draft("TOKEN_CREATED", auth_state=auth_state, access_token=token)
        case "TOKEN_CANCELED", token, *status:
            draft = Draft("TOKEN_CANCELED", access_token=token)
        case unknown_type, auth_state:
            return Draft(unknown_type, auth_state=auth_state).body()
        case _:
            raise AssertionError(notification)
    return replace(draft, result_status="".join(status) or "S").body() + b" " * padding
