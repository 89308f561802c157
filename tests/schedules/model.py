"""Say what the service must do, in a page: no database, no locks, no secrets, and not a line of the service's own code.

Written from the design alone: the lifecycle, the questions and their order, resuming.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

#: A step of a schedule, or the notification in it: its type, what it names, and its result's status unless that is S.
Words = tuple[str, ...]
#: How an entry ended, and why.
Ending = tuple[str, str | None]

STATES = ["consulted", "authcode_issued", "token_active", "canceled"]
#: Where each event leads, by flow and by the state that it is legal in.
MOVES = {
    "auto_debit": {
        "authcode_created": {"consulted": "authcode_issued", "authcode_issued": "authcode_issued"},
        "token_created": {"authcode_issued": "token_active"},
        "token_refreshed": {"token_active": "token_active"},
        "token_canceled": {"token_active": "canceled"},
    },
    "direct": {
        "token_created": {"consulted": "token_active"},
        "token_refreshed": {"token_active": "token_active"},
        "token_canceled": {"token_active": "canceled"},
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
    #: Whether a consult named the flow; else it is the client's default.
    flow_was_said: bool = True
    state: str = "consulted"
    #: The code that is given out: of all that came while there was no token, the one that came last.
    code: str | None = None
    code_came: int = 0
    #: The other codes that are known.
    other_codes: list[str] = field(default_factory=list)
    #: All it ever had: the last is the current one, the others are superseded.
    tokens: list[str] = field(default_factory=list)
    moves: list[tuple[str, str | None, str]] = field(default_factory=lambda: [("consult", None, "consulted")])


@dataclass
class Entry:
    #: When it came first.
    came: int
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
        #: The flow of a consult that does not name one.
        self.default_flow = "auto_debit"
        #: Grows from step to step.
        self.time = 0

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
            flow = "broken" if (name,) in self.broken else known.flow
            said = "said" if known.flow_was_said else "unsaid"
            codes = f"{known.code}{' after another' if known.other_codes else ''}"
            yield f"{name} is {known.state}, of user {known.user_ref}, with {codes}, by {flow} ({said})"
            for sequence, (event, before, after) in enumerate(known.moves, start=1):
                yield f"{name} move {sequence}: {event}, {before} to {after}"
            for token in sorted(known.tokens):
                yield f"{name} token {token}: {'current' if token == known.tokens[-1] else 'superseded'}"
        for notification, entry in self.inbox.items():
            outcome, reason = entry.ending
            yield f"{' '.join(notification)}: {outcome}, {reason}, delivered {entry.deliveries} times"

    def _perform(self, step: Words) -> str:  # noqa: PLR0911 -- there are as many kinds of steps
        match step:
            case "consult", auth_state, flow, user_ref:
                return self._consult(auth_state, None if flow == "unsaid" else flow, user_ref)
            case "default", flow:
                self.default_flow = flow
                return "done"
            case ("piece",):
                return "done"
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

    def _consult(self, auth_state: str, flow: str | None, user_ref: str) -> str:
        if auth_state not in self.authorizations:
            known = Authorization(auth_state, flow or self.default_flow, user_ref, flow_was_said=flow is not None)
            self.authorizations[auth_state] = known
            self._resume_parked(known)
            return "recorded"
        known = self.authorizations[auth_state]
        is_broken = (known.name,) in self.broken
        # A broken one has no flow that can be read, so every flow is another.
        is_another = flow is not None and (is_broken or flow != known.flow)
        can_be_corrected = known.state == "consulted" and not known.flow_was_said
        if known.state == "canceled" or user_ref != known.user_ref or (is_another and not can_be_corrected):
            raise RefusedError
        known.flow_was_said = known.flow_was_said or flow is not None
        if flow is None or not is_another:
            return "known"
        if is_broken:
            raise BrokenError
        self._correct_flow(known, flow)
        return "recorded"

    def _correct_flow(self, known: Authorization, flow: str) -> None:
        """Give it the other flow, and let what was illegal in the one it never had wait again."""
        known.flow = flow
        known.moves.append(("consult", known.state, known.state))
        for notification, entry in self.inbox.items():
            if entry.ending == ("rejected", "illegal_transition") and self._about(notification) is known:
                entry.ending = "parked", "early"
        self._resume_parked(known)

    def _report(self, authorization: Authorization, report: Words) -> str:
        """Record a report, which may say something known, something new, or a code that is known with a new token."""
        before = len(authorization.moves), list(authorization.other_codes)
        match report:
            case "authcode", _, code:
                self._report_code(authorization, code)
            case "token", _, token, *codes:
                for code in codes:
                    self._learn_code_of_token(authorization, code)
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
        if (len(authorization.moves), authorization.other_codes) == before:
            return "known"
        self._resume_parked(authorization)
        return "recorded"

    def _report_code(self, authorization: Authorization, code: str) -> None:
        if code not in [authorization.code, *authorization.other_codes]:
            self._advance(authorization, "authcode_created", code=code)

    def _learn_code_of_token(self, authorization: Authorization, code: str) -> None:
        """Learn the code of a granted token, which is no reason to refuse the token: its step may be over, or none."""
        if code in [authorization.code, *authorization.other_codes]:
            return
        if self._ask(authorization, "authcode_created")[0] == "applied":
            self._advance(authorization, "authcode_created", code=code)
        elif authorization.code is not None:
            authorization.other_codes.append(code)

    # --- Alipay, and the operator ---

    def _deliver(self, notification: Words) -> str:
        if notification not in self.inbox:
            self.inbox[notification] = Entry(self.time)
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
        """Record how a notification ends, resume what that allows, and say whether it moved anything."""
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
                self._advance(authorization, "authcode_created", code=code, came=entry.came)
            case "TOKEN_CREATED", _, token:
                self._advance(authorization, "token_created", token=token)
            case _:
                self._advance(authorization, "token_canceled")
        self._resume_parked(authorization)
        return True

    def _resume_parked(self, authorization: Authorization) -> None:
        """Process the first parked notification that can be decided; a move starts over with the rest."""
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
                if value in ([known.code, *known.other_codes] if is_code else known.tokens):
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
        if event not in moves or max(map(STATES.index, moves[event])) < STATES.index(authorization.state):
            return "rejected", "illegal_transition"
        if authorization.state not in moves[event]:
            return "parked", "early"
        if new_token is not None and any(new_token in each.tokens for each in self.authorizations.values()):
            return "rejected", "contradiction"
        return "applied", None

    def _advance(
        self,
        authorization: Authorization,
        event: str,
        *,
        code: str | None = None,
        came: int | None = None,
        token: str | None = None,
    ) -> None:
        if self._ask(authorization, event, token)[0] != "applied":
            raise RefusedError
        if code is not None:
            self._take_code(authorization, code, self.time if came is None else came)
        if token is not None:
            authorization.tokens.append(token)
        before, authorization.state = authorization.state, MOVES[authorization.flow][event][authorization.state]
        authorization.moves.append((event, before, authorization.state))

    def _take_code(self, authorization: Authorization, code: str, came: int) -> None:
        """Give out the code that came last, in whatever order they are processed."""
        if authorization.code is None or came >= authorization.code_came:
            code, authorization.code, authorization.code_came = authorization.code or "", code, came
        if code:
            authorization.other_codes.append(code)
