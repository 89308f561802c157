"""What a user decides: agree, decline, or take back what was given; and the notification that comes of it."""

from app.simulator.gateway.alipay import Consent, Notice, PretendAlipay, code_notice, end_notice, return_url
from app.simulator.gateway.faults import Faults, Phase
from app.simulator.gateway.notifier import Notifier
from app.simulator.gateway.requests import Operation
from app.simulator.gateway.wallets import User


class Decisions:
    """Carries out what users decide."""

    def __init__(self, alipay: PretendAlipay, faults: Faults, notifier: Notifier) -> None:
        self._alipay = alipay
        self._faults = faults
        self._notifier = notifier

    def agree(self, consent: Consent, user: User) -> str | None:
        """Agree, and return where the browser is sent; `None` if the consent is over."""
        code = self._alipay.agree(consent, user)
        if code is None:
            return None
        self._notify(Operation.CONSENT, consent, code_notice(consent, code))
        return return_url(consent, code)

    def decline(self, consent: Consent, user: User) -> str | None:
        """Decline, and return where the browser is sent; `None` if the user has decided before."""
        return return_url(consent, None) if self._alipay.decline(consent, user) else None

    def take_back(self, consent: Consent, reason: str | None, *, silently: bool) -> bool:
        """Cancel, and say whether a token was alive; `silently` is without a notification, as some wallets do."""
        token = self._alipay.cancel(consent, reason)
        if token is not None and not silently:
            self._notify(Operation.CANCEL, consent, end_notice(consent, token, reason))
        return token is not None

    def _notify(self, operation: Operation, consent: Consent, notice: Notice) -> None:
        """Notify the service, unless a fault has it otherwise."""
        faults = self._faults.take(operation, consent.request.auth_state)
        fault = next((each for each in faults if each.phase is Phase.NOTIFICATION), None)
        match fault and fault.fault:
            case "lost-notification":
                self._notifier.lose(notice)
            case "notify-before":
                self._notifier.send_now(notice)
            case "notify-after" if fault is not None:
                self._notifier.send(notice, after_seconds=fault.seconds)
            case _:
                self._notifier.send(notice)
