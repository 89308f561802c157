"""Keep the books of the pretend Alipay: what was sent, how often, and what was acknowledged."""

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from app.alipay.notification import Notification
from app.simulator.draft import Draft
from app.simulator.sender import ServiceResponse
from tests.soak.lives import Life

#: What makes two notifications the same: type, authState, code or token.
Said = tuple[str, str | None, str | None]

#: What an attempt may come to while the service or its database is away. All else is the service's fault.
_AWAY = 503


@dataclass
class Sent:
    """One notification: how many attempts were made, and how many of them were acknowledged."""

    attempts: int = 0
    acknowledged: int = 0


@dataclass
class Ledger:
    """Everything that was said in one round, to be held against what is on record. Safe to share between threads."""

    lives: list[Life] = field(default_factory=list)
    sent: dict[Said, Sent] = field(default_factory=dict)
    #: Every answer, in words, and how often it came.
    answers: Counter[str] = field(default_factory=Counter)
    #: What must not happen and did, in sentences.
    wrong: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def live(self, lives: Iterable[Life]) -> None:
        """Note lives that are about to be told of."""
        with self._lock:
            self.lives.extend(lives)

    def attempt(self, draft: Draft) -> None:
        """Note an attempt before it is made: one that is broken off may have arrived."""
        with self._lock:
            self.sent.setdefault(said_by_draft(draft), Sent()).attempts += 1

    def answer(self, draft: Draft, answer: ServiceResponse) -> None:
        """Note what came back."""
        with self._lock:
            self.answers[_words(answer)] += 1
            if answer.acknowledged:
                self.sent[said_by_draft(draft)].acknowledged += 1
            elif answer.status not in {None, _AWAY}:
                self.wrong.append(f"{draft} was answered {answer}")

    def complain(self, what: str) -> None:
        """Note what must not happen."""
        with self._lock:
            self.wrong.append(what)


def said_by_draft(draft: Draft) -> Said:
    return draft.type, draft.auth_state, draft.auth_code or draft.access_token


def said_by_notification(notification: Notification) -> Said:
    """Say what a stored notification says, in the same words."""
    value = notification.auth_code or notification.access_token
    return notification.type, notification.auth_state, None if value is None else value.reveal()


def _words(answer: ServiceResponse) -> str:
    return "no answer" if answer.status is None else str(answer)
