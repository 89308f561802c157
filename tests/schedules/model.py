"""Say what the service must do, in a page: no database, no locks, no secrets, and not a line of the service's own code.

Written from the design alone: the lifecycle, the questions and their order, settling.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

#: A step of a schedule, or the notification in it: its type, what it names, and its result's status unless that is S.
Words = tuple[str, ...]
#: How an entry ended, and why.
Ending = tuple[str, str | None]

STATES = ["consulted", "authcode_issued", "token_active", "canceled"]
#: Where each event leads from and to, by flow.
MOVES = {
    "auto_debit": {
        "authcode_created": ("consulted", "authcode_issued"),
        "token_created": ("authcode_issued", "token_active"),
        "token_refreshed": ("token_active", "token_active"),
        "token_canceled": ("token_active", "canceled"),
    },
    "direct": {
        "token_created": ("consulted", "token_active"),
        "token_refreshed": ("token_active", "token_active"),
        "token_canceled": ("token_active", "canceled"),
    },
}


class RefusedError(Exception):
    """A report is not legal or contradicts what is on record."""


class BrokenError(Exception):
    """Something had to be read that a schedule has broken."""


@dataclass
class Authorization:
    name: str
    flow: str
    user_ref: str
    state: str = "consulted"
    code: str | None = None
    #: All it ever had: the last is the current one, the others are superseded.
    tokens: list[str] = field(default_factory=list)
    moves: list[tuple[str, str | None, str]] = field(default_factory=lambda: [("consult", None, "consulted")])


@dataclass
class Entry:
    ending: Ending = ("new", None)
    deliveries: int = 1


class Model:
    """What is on record, and what may be done to it."""

    def __init__(self) -> None:
        self.authorizations: dict[str, Authorization] = {}
        #: In inbox sequence.
        self.inbox: dict[Words, Entry] = {}
        #: Authorizations and stored notifications that processing cannot read.
        self.broken: set[Words] = set()

    def perform(self, step: Words) -> str:
        """Do one step, wholly or not at all, and say what came of it."""
        before = copy.deepcopy(vars(self))
        try:
            return self._perform(step)
        except (RefusedError, BrokenError) as error:
            vars(self).update(before)
            return "refused" if isinstance(error, RefusedError) else "broken"

    def record(self) -> Iterator[str]:
        """List what must be on record."""
        for name, known in sorted(self.authorizations.items()):
            yield f"{name} is {known.state}, of user {known.user_ref}, with {known.code}"
            for sequence, (event, before, after) in enumerate(known.moves, start=1):
                yield f"{name} move {sequence}: {event}, {before} to {after}"
            for token in sorted(known.tokens):
                yield f"{name} token {token}: {'current' if token == known.tokens[-1] else 'superseded'}"
        for notification, entry in self.inbox.items():
            outcome, reason = entry.ending
            yield f"{' '.join(notification)}: {outcome}, {reason}, delivered {entry.deliveries} times"

    def _perform(self, step: Words) -> str:
        match step:
            case "consult", auth_state, flow, user_ref:
                return self._consult(Authorization(auth_state, flow, user_ref))
            case (("authcode" | "token" | "refresh" | "revoke"), auth_state, *_):
                if auth_state not in self.authorizations:
                    raise RefusedError
                return self._report(self.authorizations[auth_state], step)
            case "replay", *notification:
                return self._replay(tuple(notification))
            case "break", *thing:
                return self._break(tuple(thing))
            case "mend", *thing:
                self.broken.discard(tuple(thing))
                return "done"
            case _:
                return self._deliver(step)

    # --- the merchant ---

    def _consult(self, said: Authorization) -> str:
        known = self.authorizations.setdefault(said.name, said)
        if known is said:
            self._settle(known)
            return "recorded"
        # A broken one has no flow that can be read, so every flow contradicts it.
        if (known.name,) in self.broken or (known.flow, known.user_ref) != (said.flow, said.user_ref):
            raise RefusedError
        return "known"

    def _report(self, authorization: Authorization, report: Words) -> str:
        """Record a report, which may say something known, something new, or a code that is known with a new token."""
        moves = len(authorization.moves)
        match report:
            case "authcode", _, code:
                self._report_code(authorization, code)
            case "token", _, token, *codes:
                for code in codes:
                    self._report_code(authorization, code)
                if token not in authorization.tokens:
                    self._advance(authorization, "token_created", token=token)
            case "refresh", _, old, new:
                is_known = new in authorization.tokens
                is_current = authorization.tokens[-1:] == [old]
                # What replaced an old token once may be said again; else it is the current one that is replaced.
                if old not in authorization.tokens or (is_known == is_current and old != new):
                    raise RefusedError
                if not is_known:
                    self._advance(authorization, "token_refreshed", token=new)
            case "revoke", _ if authorization.state != "canceled":
                self._advance(authorization, "token_canceled")
        if len(authorization.moves) == moves:
            return "known"
        self._settle(authorization)
        return "recorded"

    def _report_code(self, authorization: Authorization, code: str) -> None:
        if authorization.code != code:
            self._advance(authorization, "authcode_created", code=code)

    # --- Alipay, and the operator ---

    def _deliver(self, notification: Words) -> str:
        if notification not in self.inbox:
            self.inbox[notification] = Entry()
            self._process(notification)
        else:
            self.inbox[notification].deliveries += 1
            if self.inbox[notification].ending[0] == "failed":
                self._replay(notification)
        return self.inbox[notification].ending[0]

    def _replay(self, notification: Words) -> str:
        entry = self.inbox.get(notification)
        if entry is None or entry.ending[0] not in {"parked", "failed", "malformed"}:
            return "nothing"
        # What is malformed to this release is so again, also where its body does not open.
        if entry.ending[0] != "malformed":
            self._process_stored(notification)
        return entry.ending[0]

    def _break(self, thing: Words) -> str:
        if thing not in self.inbox and thing[0] not in self.authorizations:
            return "nothing"
        self.broken.add(thing)
        return "done"

    def _process_stored(self, notification: Words) -> bool:
        if notification in self.broken:
            self.inbox[notification].ending = "failed", None
            return False
        return self._process(notification)

    def _process(self, notification: Words) -> bool:
        """Write down how a notification ends, settle what that lets move, and say whether it moved anything."""
        entry = self.inbox[notification]
        try:
            entry.ending = self._judge(notification)
        except BrokenError:
            entry.ending = "failed", None
        if entry.ending[0] != "applied":
            return False
        authorization = self._about(notification)
        assert authorization is not None
        match notification:
            case "AUTHCODE_CREATED", _, code:
                self._advance(authorization, "authcode_created", code=code)
            case "TOKEN_CREATED", _, token:
                self._advance(authorization, "token_created", token=token)
            case _:
                self._advance(authorization, "token_canceled")
        self._settle(authorization)
        return True

    def _settle(self, authorization: Authorization) -> None:
        """Process the first that can be decided of those that wait for it; a move settles the rest, from the start."""
        for notification, entry in self.inbox.items():
            is_waiting = entry.ending[0] == "parked" and self._about(notification) is authorization
            if is_waiting and self._process_stored(notification):
                return

    def _about(self, notification: Words) -> Authorization | None:
        match notification:
            case (("AUTHCODE_CREATED" | "TOKEN_CREATED"), auth_state, *_):
                return self.authorizations.get(auth_state)
            case "TOKEN_CANCELED", token, *_:
                return next((each for each in self.authorizations.values() if token in each.tokens), None)
            case _:
                return None

    def _judge(self, notification: Words) -> Ending:  # noqa: PLR0911 -- the design has as many answers
        """Ask the questions of the design in its order."""
        match notification:
            case "MALFORMED", *_:
                return "malformed", None
            case (("AUTHCODE_CREATED" | "TOKEN_CREATED" | "TOKEN_CANCELED"), *_, ("F" | "U")):
                return "rejected", "unsuccessful_result"
            case (("AUTHCODE_CREATED" | "TOKEN_CREATED" as event), _, value):
                known = self._about(notification)
                if known is None:
                    return "parked", "unknown_auth_state"
                is_code = event == "AUTHCODE_CREATED"
                if value in ([known.code] if is_code else known.tokens):
                    return "redundant", "already_known"
                return self._ask(known, event.lower(), None if is_code else value)
            case "TOKEN_CANCELED", token:
                known = self._about(notification)
                if known is None:
                    return "parked", "unknown_token"
                if token != known.tokens[-1]:
                    return "redundant", "superseded_token"
                if known.state == "canceled":
                    return "redundant", "already_known"
                return self._ask(known, "token_canceled")
            case _:
                return "parked", "unknown_type"

    # --- the machine ---

    def _ask(self, authorization: Authorization, event: str, new_token: str | None = None) -> Ending:
        """Say what an event would be, which has nothing wrong with it but perhaps its time and its token."""
        if (authorization.name,) in self.broken:
            raise BrokenError
        moves = MOVES[authorization.flow]
        if event not in moves or STATES.index(moves[event][0]) < STATES.index(authorization.state):
            return "rejected", "illegal_transition"
        if moves[event][0] != authorization.state:
            return "parked", "early"
        if new_token is not None and any(new_token in each.tokens for each in self.authorizations.values()):
            return "rejected", "contradiction"
        return "applied", None

    def _advance(
        self, authorization: Authorization, event: str, *, code: str | None = None, token: str | None = None
    ) -> None:
        if self._ask(authorization, event, token)[0] != "applied":
            raise RefusedError
        if code is not None:
            authorization.code = code
        if token is not None:
            authorization.tokens.append(token)
        before, authorization.state = MOVES[authorization.flow][event]
        authorization.moves.append((event, before, authorization.state))
