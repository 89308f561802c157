"""Calls to Alipay, played step by step: workers that die and stall, answers that are lost, notifications in any order.

The real runner, leases, unit of work and caller on a real database, while network, threads and time are in the
schedule's hands. Alipay is the simulator's, in memory. A step is a few words:

    turn a                              a worker does what its loops do in one round: lease, recording, looking
    renew a, record a, look a           … or one of them alone
    serve 0 well                        a request on the wire, of whichever worker, reaches Alipay and is answered
    reach 0 well                        … only reaches it (well, or with a fault of the simulator's)
    answer 0                            its answer arrives
    cut 0, refuse 0                     its connection is cut; there was none
    kill a                              a worker dies with all that it has not recorded, and another takes its place
    strike a                            … once Alipay has all that it sent, and none of the answers
    stop a                              it stops in order: it records, and gives back its lease
    slow a 9                            its next look takes so many seconds, in which the other one has its turns
    lie a twice, lie a raise            its next commit is carried out, and the answer to it lost
    away a                              the database is away when it next begins a transaction
    break a                             its next recording meets a fault of ours
    code s-1, cancel s-1                the user agrees (again), or cancels in the wallet
    notify 0, again 0, lose 0           Alipay notifies, does so once more, or never will
    redirect s-1                        the merchant reports the code that the browser came back with
    own s-1, renewal s-1                the merchant exchanges, or refreshes, itself
    report s-1                          … and reports what that brought
    consult s-3                         the merchant asks for a consult
    refresh s-1, revoke s-1, retry s-1  … for a refresh, for a revoke, for the last call that failed
    payment s-1                         a payment was refused for its token, if that is dead
    keyring exchange off                the keyring changes, and all begin anew with it
    pass 3                              seconds go by (a worker that has no turn meanwhile is stalled)
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar, cast
from unittest.mock import patch
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import select
from sqlalchemy.orm import Session
from typing_extensions import override

from app import authorizations, reports, tokens
from app.alipay.call import SECONDS_MAX, Caller, Unknown
from app.alipay.keyring import Client, Gateway, Keyring
from app.authorizations import Cause
from app.database import Database, DatabaseUnavailableError
from app.gateway import requests
from app.gateway.attempts import Answer, BegunAttempt, EndedAttempt
from app.gateway.runner import _OPERATIONS, CallRunner
from app.leases import Leases
from app.logs import FieldFormatter
from app.models import Authorization, Base, Call
from app.receiver import Receiver
from app.report_errors import ReportRefusedError
from app.reports import AuthcodeReport, Consult, PaymentResult, Report, TokenReport
from app.secret import Secret
from app.simulator.gateway.ledger import Token
from app.tokens import Grant
from app.unit_of_work import UnitOfWork
from app.vault import Vault
from app.vocabulary import CauseKind
from tests.builders import CLIENT_ID
from tests.integration.calling import WALLET
from tests.integration.stage import NOON, Stage
from tests.schedules.calls_gateway import InMemoryGateway, a_consult
from tests.schedules.calls_promises import BrokenPromiseError, CallPromises

Words = tuple[str, ...]
T = TypeVar("T")

WORKERS = ("a", "b")
#: The merchant consulted for these itself; for `s-3` it asks the service to.
CONSULTED = ("s-1", "s-2")
NAMES = (*CONSULTED, "s-3")

_LEASE = "calls"
#: How long a round of a loop takes.
_TURN_SECONDS = 0.06
#: Steps after which the database is as it was.
_LEAVE_THE_DATABASE = {
    *("pass", "reach", "answer", "serve", "cut", "refuse"),
    *("kill", "strike", "slow", "lie", "away", "break"),
    *("code", "cancel", "lose"),
}
#: Refused is never what is done: Alipay says of such a code or token that it knows it no more.
_REFUSALS = ("refused", "refused-unsigned")


class WorkersDatabase:
    """The database as one worker sees it: it may be away, lie about a commit, or take its time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.is_circuit_open = database.is_circuit_open
        self.is_away = False
        #: How the next commit lies, if it does.
        self.lie: str | None = None
        #: What happens while the next look is being committed.
        self.during_look: Callable[[], None] | None = None

    def run(self, work: Callable[[Session], T], *, read_only: bool = False, **said: Any) -> T:  # noqa: ANN401 -- those of `Database.run`
        """Do what `Database.run` does."""
        if read_only:
            return self._database.run(work, read_only=True, **said)
        if self.is_away:
            self.is_away = False
            raise DatabaseUnavailableError("TestError")
        done = self._database.run(work, **said)
        lie, self.lie = self.lie, None
        if lie == "twice":
            # The connection was lost in the commit: the database layer tries the same again.
            done = self._database.run(work, **said)
        if lie == "raise":
            raise DatabaseUnavailableError("TestError")
        if self.during_look is not None and isinstance(work, partial) and work.func.__name__ == "begin":
            during, self.during_look = self.during_look, None
            during()
        return done

    def run_unless_held(self, work: Callable[[Session], T], **said: Any) -> T:  # noqa: ANN401 -- those of `Database.run`
        """Do what `Database.run_unless_held` does: nobody holds a row here."""
        return self.run(work, **said)


@dataclass
class Parts:
    """What a runner takes of the service."""

    database: Database
    keyring: Keyring
    vault: Vault
    receiver: Receiver


@dataclass
class Worker:
    """One background worker: its lease, and its runner, whose requests wait for the schedule."""

    leases: Leases
    database: WorkersDatabase
    runner: CallRunner
    #: What it was answered, or will be told of, and has not recorded.
    read: list[EndedAttempt] = field(default_factory=list)
    is_broken: bool = False


@dataclass
class Request:
    """A request on the wire. It is so for ten seconds at most, also of a worker that has died."""

    worker: Worker
    attempt: BegunAttempt
    sent_at: float
    #: What Alipay has answered.
    answer: Answer | None = None
    has_reached: bool = False


class _Lines(logging.Handler):
    """Keeps what is logged, as it is written."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(FieldFormatter())
        self.lines: list[str] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@dataclass
class Calls:
    """All of it, on a database that is empty when it begins."""

    stage: Stage
    merchant_key: RSAPrivateKey
    monotonic: float = 1000.0
    played: list[Words] = field(default_factory=list)
    workers: dict[str, Worker] = field(default_factory=dict)
    wire: list[Request] = field(default_factory=list)
    #: What the merchant got from Alipay itself, by authState, and what it got it for.
    own: dict[str, tuple[Token, Report]] = field(default_factory=dict)
    _receiver: Receiver = field(init=False)
    _names: "count[int]" = field(default_factory=lambda: count(1))
    _lines: _Lines = field(default_factory=_Lines)
    _open: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.stage.clock.now = NOON
        self.stage.database.run(_forget_all)
        (client,) = self.stage.keyring.clients.values()
        self._client = replace(
            client,
            merchant_private_key=self.merchant_key,
            gateway=Gateway("http://127.0.0.1:1", exchange=True, refresh=True),
        )
        self.gateway = InMemoryGateway(self.stage, self._client)
        self.promises = CallPromises(self.stage.database, self.stage.vault, self.gateway.ledger, self.stage.clock)
        self._use(self._client)
        for name in CONSULTED:
            self.stage.consult(name, customer_belongs_to=WALLET)
            self.gateway.consult(name)
        for name in WORKERS:
            self._begin(name)

    def __enter__(self) -> Self:
        logger = logging.getLogger("app")
        logger.addHandler(self._lines)
        self._open.callback(logger.removeHandler, self._lines)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        for worker in self.workers.values():
            worker.runner._service.receiver.close()  # noqa: SLF001 -- its parts are ours
        self._receiver.close()

    # --- steps ---

    def step(self, *step: str) -> None:
        """Do one step, and see that every promise still holds.

        Raises `BrokenPromiseError`.
        """
        self.played.append(step)
        self._play(*step)

    def _play(self, *step: str) -> None:
        if not (self._play_worker(step) or self._play_wire(step) or self._play_world(step)):
            raise ValueError(step)
        if step[0] not in _LEAVE_THE_DATABASE:
            self._look()

    def calm(self) -> None:
        """End it well: Alipay answers, tells of everything that is not lost, and one worker has all the time it needs.

        Raises `BrokenPromiseError`.
        """
        self.played.append(("and then all is well",))
        self._play("kill", "b")
        for worker in self.workers.values():
            worker.is_broken = worker.database.is_away = False
            worker.database.lie = worker.database.during_look = None
        for _ in range(60):
            self._play("turn", "a")
            while self.wire:
                self._play(
                    *(("answer", "0") if all(each.has_reached for each in self.wire) else ("serve", "0", "well"))
                )
            if not self._is_all_done():
                self._pass(self._seconds_until_due())
            elif self.gateway.pending:
                self._play("notify", "0")
            elif (kept := self.promises.kept_answer()) is not None:
                self._retry(kept)
            else:
                break
        else:
            self._broken("a call does not end")
        self._look()
        self._keep(self.promises.require_right_end)
        self._keep(partial(self.promises.require_no_secrets, self._lines.lines))

    def _play_worker(self, step: Words) -> bool:
        """Let a worker do something, or end; say whether the step is one of those."""
        match step:
            case "turn", name:
                self._turn(self.workers[name])
            case "renew", name:
                self._renew(self.workers[name])
            case "record", name:
                self._record(self.workers[name])
            case "look", name:
                self._look_what_is_due(self.workers[name])
            case "kill", name:
                self._kill(name)
            case "strike", name:
                for request in [each for each in self.wire if each.worker is self.workers[name]]:
                    if not request.has_reached:
                        self._reach(request, "well")
                self._kill(name)
            case "stop", name:
                self._stop(name)
            case _:
                return self._play_trouble(step)
        return True

    def _play_trouble(self, step: Words) -> bool:
        """Prepare trouble for a worker; say whether the step is one of those."""
        match step:
            case "slow", name, seconds:
                self.workers[name].database.during_look = partial(self._stall, name, float(seconds))
            case "lie", name, how:
                self.workers[name].database.lie = how
            case "away", name:
                self.workers[name].database.is_away = True
            case "break", name:
                self.workers[name].is_broken = True
            case _:
                return False
        return True

    def _play_wire(self, step: Words) -> bool:
        """Let something happen to a request that is on its way; say whether the step is one of those."""
        match step:
            case ("reach" | "serve") as what, pick, manner:
                request = self._picked([each for each in self.wire if not each.has_reached], pick)
                if request is not None:
                    self._reach(request, manner)
                    if what == "serve":
                        self._answer(request)
            case "answer", pick:
                request = self._picked([each for each in self.wire if each.has_reached], pick)
                if request is not None:
                    self._answer(request)
            case ("cut" | "refuse") as what, pick:
                waiting = [each for each in self.wire if what == "cut" or not each.has_reached]
                request = self._picked(waiting, pick)
                if request is not None:
                    self._end(request, Unknown("It was cut.", None, None, 1, is_sent=what == "cut"))
            case _:
                return False
        return True

    def _play_world(self, step: Words) -> bool:
        """Let something happen around the workers; say whether the step is one of those."""
        match step:
            case "code", name:
                self.gateway.agree(name)
            case "cancel", name:
                self.gateway.cancel(name)
            case ("notify" | "again" | "lose") as what, pick:
                self._notify(what, pick)
            case ("redirect" | "report" | "own" | "renewal" | "payment") as what, name:
                self._play_merchant(what, name)
            case ("consult" | "refresh" | "revoke" | "retry") as what, name:
                self._ask(what, name)
            case "keyring", setting, value:
                gateway: Any = self._client.gateway
                self._receiver.close()
                self._use(replace(self._client, gateway=replace(gateway, **{setting: value == "on"})))
                for each in WORKERS:
                    self._stop(each)
            case "pass", seconds:
                self._pass(float(seconds))
            case _:
                return False
        return True

    @staticmethod
    def _picked(waiting: Sequence[Request], pick: str) -> Request | None:
        return waiting[int(pick) % len(waiting)] if waiting else None

    # --- workers ---

    def _use(self, client: Client) -> None:
        self._client = client
        self.stage.keyring = Keyring({CLIENT_ID: client})
        self._receiver = self.stage.receiver

    def _begin(self, name: str) -> None:
        database = WorkersDatabase(self.stage.database)
        as_database = cast("Database", database)
        leases = Leases(f"{name}-{next(self._names)}", monotonic=self._now)
        receiver = Receiver(as_database, self.stage.keyring, self.stage.vault, clock=self.stage.clock)
        runner = CallRunner(
            Parts(as_database, self.stage.keyring, self.stage.vault, receiver),
            may_call=partial(leases.holds, _LEASE),
            clock=self.stage.clock,
            monotonic=self._now,
        )
        # As if the threads were there already: the schedule takes what they would take.
        runner._threads = [None] * 64  # type: ignore[list-item] # noqa: SLF001 -- so that no real ones are started
        self.workers[name] = Worker(leases, database, runner)

    def _turn(self, worker: Worker) -> None:
        self._renew(worker)
        self._record(worker)
        self._look_what_is_due(worker)

    def _renew(self, worker: Worker) -> None:
        self._pass(_TURN_SECONDS)
        self.stage.database.run(partial(worker.leases.renew, names={_LEASE}, now=self.stage.clock()))()

    def _record(self, worker: Worker) -> None:
        """Do what a runner does with what has ended."""
        runner = worker.runner
        is_broken, worker.is_broken = worker.is_broken and bool(worker.read), worker.is_broken and not worker.read
        runner._record(0)  # noqa: SLF001 -- one round of its loop
        self._pass(_TURN_SECONDS)
        with patch.object(reports, "apply", side_effect=RuntimeError("our fault")) if is_broken else nullcontext():
            runner._record(0)  # noqa: SLF001 -- one round of its loop
        recorded = [each for each in worker.read if each.attempt.call_id not in runner._in_flight]  # noqa: SLF001 -- what it is making
        worker.read = [each for each in worker.read if each not in recorded]
        for each in recorded:
            self.promises.note_recorded(each.attempt.call_id, each.answer)

    def _look_what_is_due(self, worker: Worker) -> None:
        """Do what a runner does to begin more, and take what its threads would take."""
        runner = worker.runner
        self._pass(_TURN_SECONDS)
        runner._poll()  # noqa: SLF001 -- one round of its loop
        while not runner._to_send.empty():  # noqa: SLF001 -- in place of its threads
            attempt = runner._to_send.get()  # noqa: SLF001 -- as above
            assert attempt is not None
            self._send(worker, attempt)

    def _send(self, worker: Worker, attempt: BegunAttempt) -> None:
        if not worker.leases.holds(_LEASE):
            self._broken(f"a worker without the lease makes the {attempt.kind} call {attempt.call_id}")
        busy = [each.attempt for each in self.wire if each.attempt.auth_state_key == attempt.auth_state_key]
        if busy:
            self._broken(f"{attempt.kind} is sent while {busy[0].kind} of the same authorization is in flight")
        self._keep(partial(self.promises.note_sent, attempt.call_id, attempt.number, json.loads(attempt.body)))
        self.wire.append(Request(worker, attempt, self.monotonic))

    def _kill(self, name: str) -> None:
        self.workers[name].runner._service.receiver.close()  # noqa: SLF001 -- its parts are ours
        self._begin(name)

    def _stop(self, name: str) -> None:
        """Wait for what is in flight, record it, and give back the lease."""
        worker = self.workers[name]
        for request in [each for each in self.wire if each.worker is worker]:
            if not request.has_reached:
                self._reach(request, "well")
            self._answer(request)
        worker.database.is_away = worker.is_broken = False
        worker.database.lie = None
        for _ in range(2):
            self._record(worker)
        self.stage.database.run(worker.leases.release)
        self._kill(name)

    def _stall(self, name: str, seconds: float) -> None:
        """Let the other worker have its turns while this one does not go on."""
        other = self.workers["b" if name == "a" else "a"]
        self._turn(other)
        self._pass(seconds)
        for _ in range(2):
            self._turn(other)

    # --- the wire ---

    def _reach(self, request: Request, manner: str) -> None:
        attempt, operation = request.attempt, _OPERATIONS[request.attempt.kind]
        if manner in _REFUSALS and self.gateway.has_done(operation, attempt.body):
            manner = "well"
        before = len(self.gateway.ledger.tokens())
        with self.gateway.reached_by(manner):
            caller = Caller(self._client)
            request.answer = caller.call(operation, attempt.body, now=self.stage.clock())
            caller.close()
        request.has_reached = True
        for each in self.gateway.ledger.tokens()[before:]:
            self.promises.given.setdefault(attempt.call_id, []).append(each.access_token)

    def _answer(self, request: Request) -> None:
        assert request.answer is not None
        self._end(request, request.answer)

    def _end(self, request: Request, answer: Answer) -> None:
        """Tell a worker how its request ended, unless it is gone."""
        self.wire.remove(request)
        if request.worker in self.workers.values():
            ended = EndedAttempt(request.attempt, answer)
            request.worker.read.append(ended)
            request.worker.runner._ended.put(ended)  # noqa: SLF001 -- in place of its threads

    # --- Alipay and the merchant ---

    def _notify(self, what: str, pick: str) -> None:
        notices = self.gateway.sent if what == "again" else self.gateway.pending
        if not notices:
            return
        notice = notices[int(pick) % len(notices)]
        if what != "again":
            notices.remove(notice)
        if what == "notify":
            self.gateway.sent.append(notice)
        if what != "lose":
            self.stage.notify(notice.draft)

    def _play_merchant(self, what: str, name: str) -> None:
        codes, authorization = self.gateway.codes.get(name, []), self._authorization(name)
        if authorization is None:
            return
        current = self._current_token(authorization)
        match what:
            case "redirect" if codes:
                self._report(AuthcodeReport(authorization.id, Secret(codes[-1])))
            case "own" if codes:
                token = self.gateway.exchange(codes[-1])
                if token is not None:
                    self.own[name] = token, self._grant(authorization, token, auth_code=Secret(codes[-1]))
            case "renewal" if current is not None:
                access_token, refresh_token = current
                token = None if refresh_token is None else self.gateway.refresh(refresh_token)
                if token is not None:
                    self.own[name] = token, self._grant(authorization, token, replaces=Secret(access_token))
            case "report" if name in self.own:
                self._report(self.own[name][1])
            case "payment" if current is not None:
                paid_with = self.gateway.ledger.token(current[0])
                if paid_with is not None and not paid_with.is_alive(self.stage.clock()):
                    secret = Secret(current[0])
                    self._report(PaymentResult(authorization.id, reports.DEAD_TOKEN, access_token=secret))
            case _:
                pass

    @staticmethod
    def _grant(authorization: Authorization, token: Token, **came_with: Secret) -> TokenReport:
        grant = Grant(
            Secret(token.access_token),
            token.expires_at,
            None if token.refresh_token is None else Secret(token.refresh_token),
            token.refresh_expires_at,
        )
        return TokenReport(authorization.id, grant, **came_with)

    def _report(self, report: Report) -> None:
        with suppress(ReportRefusedError):
            self._receiver.record(report, cause=CauseKind.API)

    def _ask(self, what: str, name: str) -> None:
        """Ask the service for a call."""
        cause = Cause(CauseKind.API, at=self.stage.clock(), by="shop")
        authorization = self._authorization(name)
        if what == "consult":
            said = Consult(name, client_id=CLIENT_ID, customer_belongs_to=WALLET)
            self._try(
                partial(
                    requests.ask_consult, keyring=self.stage.keyring, consult=said, request=a_consult(name), cause=cause
                )
            )
        elif authorization is not None and what == "retry":
            failed = self.promises.failed_call(authorization.id)
            if failed is not None:
                self._retry(failed)
        elif authorization is not None:
            ask = requests.ask_refresh if what == "refresh" else requests.ask_revoke
            self._try(partial(ask, authorization_id=authorization.id, cause=cause))

    def _retry(self, call: Call) -> None:
        cause = Cause(CauseKind.API, at=self.stage.clock(), by="shop")
        self._try(partial(requests.retry, call_id=call.id, authorization_id=call.authorization_id, cause=cause))

    def _try(self, ask: Callable[[UnitOfWork], object]) -> None:
        with suppress(ReportRefusedError):
            self._receiver.run_work(ask)

    def _authorization(self, name: str) -> Authorization | None:
        find = partial(authorizations.find, client_id=CLIENT_ID, auth_state=name)
        return self.stage.database.run(find, read_only=True)

    def _current_token(self, authorization: Authorization) -> tuple[str, str | None] | None:
        """The current token, and what refreshes it."""
        token = self.stage.database.run(partial(tokens.current, authorization=authorization), read_only=True)
        if token is None:
            return None
        refresh_token = tokens.reveal_refresh_token(self.stage.vault, token)
        access_token = tokens.reveal(self.stage.vault, token).reveal()
        return access_token, None if refresh_token is None else refresh_token.reveal()

    # --- time ---

    def _now(self) -> float:
        return self.monotonic

    def _pass(self, seconds: float) -> None:
        """Let time go by, in which requests run out of theirs."""
        self.monotonic += seconds
        self.stage.clock.now += timedelta(seconds=seconds)
        for request in [each for each in self.wire if self.monotonic - each.sent_at >= SECONDS_MAX]:
            self._end(request, Unknown("It took too long.", None, None, 1))

    def _seconds_until_due(self) -> float:
        if any(call.is_in_flight for call in self.promises.calls):
            # Somebody who has died began it: another takes over, and waits.
            return 4.0
        now = self.stage.clock()
        waits = [
            (at - now).total_seconds()
            for call in self.promises.calls
            if call.status == "due"
            for at in [call.due_at or call.deadline_at]
            if at is not None
        ]
        # No longer than a holder may go without a turn, unless there is nothing to do before.
        return max(min(waits, default=0.0), 4.0)

    def _is_all_done(self) -> bool:
        calls = self.stage.database.run(lambda session: session.scalars(select(Call)).all(), read_only=True)
        self.promises.calls = calls
        return not any(each.status == "due" or each.is_in_flight for each in calls)

    # --- promises ---

    def _look(self) -> None:
        holders = [name for name, worker in self.workers.items() if worker.leases.holds(_LEASE)]
        if len(holders) > 1:
            self._broken(f"{' and '.join(holders)} both hold the lease")
        self._keep(self.promises.look)

    def _keep(self, look: Callable[[], None]) -> None:
        try:
            look()
        except BrokenPromiseError as broken:
            self._broken(str(broken))

    def _broken(self, what: str) -> NoReturn:
        """Raise `BrokenPromiseError` with all that was played."""
        raise BrokenPromiseError("\n".join([what, "", *(" ".join(step) for step in self.played)]))


def _forget_all(session: Session) -> None:
    kept = {"alembic_version", "index_keys", "feed", "maintenance_runs"}
    for table in reversed(Base.metadata.sorted_tables):
        if table.name not in kept:
            session.execute(table.delete())


@contextmanager
def played(stage: Stage, merchant_key: RSAPrivateKey, steps: Sequence[Words]) -> Iterator[Calls]:
    """Play a schedule, and give what it came to before it ends well. Raises `BrokenPromiseError`."""
    with Calls(stage, merchant_key) as calls:
        for step in steps:
            calls.step(*step)
        yield calls


def play(stage: Stage, merchant_key: RSAPrivateKey, steps: Sequence[Words]) -> Calls:
    """Play a schedule, and let it end well. Raises `BrokenPromiseError`."""
    with played(stage, merchant_key, steps) as calls:
        calls.calm()
    return calls


def of_authorization(calls: Calls, name: str) -> UUID:
    """The id of an authorization."""
    return UUID(calls.stage.document(name)["id"])
