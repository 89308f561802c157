"""What a pretend gateway answers with, by path: calls, the pages of users, and the JSON of programs."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from app.alipay.delivery import Delivery
from app.simulator.gateway.alipay import Consent, PretendAlipay
from app.simulator.gateway.answers import Answer, Sending
from app.simulator.gateway.calls import Calls
from app.simulator.gateway.decisions import Decisions
from app.simulator.gateway.faults import BadFaultError, Fault, Faults
from app.simulator.gateway.ledger import Entry, Ledger, Token
from app.simulator.gateway.notifier import Notifier
from app.simulator.gateway.pages import Page, Pages
from app.simulator.gateway.wallets import USERS

#: What a notification can carry.
_REASON_CHARACTERS_MAX = 256


class GatewaySite:
    """Answers everything that a gateway is asked over HTTP."""

    def __init__(
        self,
        alipay: PretendAlipay,
        calls: Calls,
        decisions: Decisions,
        faults: Faults,
        ledger: Ledger,
        notifier: Notifier,
        clock: Callable[[], datetime],
    ) -> None:
        self._alipay = alipay
        self._calls = calls
        self._decisions = decisions
        self._faults = faults
        self._ledger = ledger
        self._notifier = notifier
        self._pages = Pages(clock)

    # --- calls ---

    def call(self, delivery: Delivery, *, content_type: str, base_url: str) -> Answer:
        """Answer a call."""
        return self._calls.answer(delivery, content_type=content_type, base_url=base_url)

    def before_waiting(self, answer: Answer) -> None:
        """Do what comes before an answer, and before the time that it takes."""
        for notice in answer.notify_before:
            self._notifier.send_now(notice)

    def before_writing(self, answer: Answer) -> None:
        """Write down that a call ends with the answer that is written now, or with none."""
        if answer.call is not None and answer.sending in {Sending.WHOLE, Sending.CUT}:
            is_answered = answer.sending is Sending.WHOLE and answer.is_believable
            self._ledger.end(answer.call, answer.access_token, is_answered=is_answered)

    def after_writing(self, answer: Answer, *, whole: bool) -> None:
        """Do what comes after an answer, which may not have been written whole."""
        if answer.call is not None:
            if not whole:
                self._ledger.end(answer.call, answer.access_token, is_answered=False)
            self._ledger.show(answer.call)
        for notice, seconds in answer.notify_after:
            self._notifier.send(notice, after_seconds=seconds)
        for notice in answer.lost:
            self._notifier.lose(notice)

    # --- pages ---

    def show(self, path: str, query: Mapping[str, str], *, base_url: str) -> Page:
        """Answer a browser that looks."""
        match path.strip("/").split("/"):
            case [""]:
                return self._pages.home(self._alipay.consents(), self._ledger, self._faults.left(), base_url=base_url)
            case ["consent", consent_id] if (consent := self._alipay.consent(consent_id)) is not None:
                return self._pages.consent(consent)
            case ["wallet", user] if user in USERS:
                return self._pages.wallet(USERS[user], self._alipay.consents())
            case ["merchant"]:
                return self._pages.merchant(query)
            case _:
                return self._pages.not_found()

    def submit(self, path: str, form: Mapping[str, str]) -> Page:
        """Answer a browser that sends a form."""
        match path.strip("/").split("/"):
            case ["consent", consent_id] if (consent := self._alipay.consent(consent_id)) is not None:
                return self._decide(consent, form)
            case ["wallet", user] if user in USERS:
                return self._take_back(user, form)
            case _:
                return self._pages.not_found()

    def _decide(self, consent: Consent, form: Mapping[str, str]) -> Page:
        user = USERS.get(form.get("user", ""))
        decide = {"agree": self._decisions.agree, "decline": self._decisions.decline}.get(form.get("decision", ""))
        if user is None or decide is None:
            return self._pages.consent(consent, status=HTTPStatus.BAD_REQUEST)
        url = decide(consent, user)
        return self._pages.consent(consent, status=HTTPStatus.CONFLICT) if url is None else _see(url)

    def _take_back(self, user: str, form: Mapping[str, str]) -> Page:
        consent = self._alipay.consent(form.get("consent", ""))
        if consent is None or consent.user is not USERS[user]:
            return self._pages.not_found()
        reason = form.get("reason", "").strip()[:_REASON_CHARACTERS_MAX] or None
        self._decisions.take_back(consent, reason, silently="silently" in form)
        return _see(f"/wallet/{user}")

    # --- programs ---

    def control(self, method: str, path: str, body: bytes) -> tuple[int, Any] | None:
        """Answer a program, with a status and JSON; `None` where the path is none of this kind."""
        match method, path:
            case "GET", "/ledger":
                return HTTPStatus.OK, self._ledger_as_json()
            case "POST", "/faults":
                return self._add_faults(body)
            case "DELETE", "/faults":
                self._faults.clear()
                return HTTPStatus.OK, self._faults_as_json()
            case "GET", "/faults":
                return HTTPStatus.OK, self._faults_as_json()
            case _:
                return None

    def _add_faults(self, body: bytes) -> tuple[int, Any]:
        try:
            document = json.loads(body)
            documents = document if isinstance(document, list) else [document]
            self._faults.add([Fault.read(each) for each in documents])
        except BadFaultError as error:
            return HTTPStatus.BAD_REQUEST, {"problem": str(error)}
        except (ValueError, RecursionError):
            return HTTPStatus.BAD_REQUEST, {"problem": "The body is not JSON."}
        return HTTPStatus.CREATED, self._faults_as_json()

    def _faults_as_json(self) -> dict[str, Any]:
        return {"faults": [each.as_json() for each in self._faults.left()]}

    def _ledger_as_json(self) -> dict[str, Any]:
        """Give everything that was done. Its secrets are pretended."""
        entries: dict[str, Iterable[Entry | Token]] = {
            "calls": self._ledger.calls(),
            "tokens": self._ledger.tokens(),
            "notifications": self._ledger.notifications(),
            "decisions": self._ledger.decisions(),
            "rejections": self._ledger.rejections(),
        }
        return {name: [_as_json(asdict(each)) for each in several] for name, several in entries.items()}


def _as_json(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in entry.items()}


def _see(url: str) -> Page:
    """Send the browser on: to a page of ours, or to the address of the consult itself."""
    is_ours = not urlsplit(url).scheme
    return Page(HTTPStatus.SEE_OTHER, "", {"Location": url, **({} if is_ours else {"Referrer-Policy": "no-referrer"})})
