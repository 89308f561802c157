"""What goes wrong on request with a call: it is not done at all, or the answer to it is spoiled."""

from dataclasses import replace
from functools import cached_property
from http import HTTPStatus

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.alipay.delivery import Delivery
from app.simulator.gateway.answers import Answer, Done, Sending, Signing, refused, undecided, unsigned
from app.simulator.gateway.faults import Fault
from app.simulator.gateway.ledger import ReceivedCall

_HUGE_BYTES = 1024 * 1024
_HTML = b"<!doctype html><title>Bad gateway</title><h1>502 Bad gateway</h1>"
_HTML_HEADERS = {"Content-Type": "text/html; charset=UTF-8"}
_KEY_BITS = 2048
_PUBLIC_EXPONENT = 65537

#: Faults that only change how the answer is written.
_SENDINGS = {
    "silent-done": Sending.SILENT,
    "cut-after": Sending.CUT,
    "endless": Sending.ENDLESS,
    "drip": Sending.DRIP,
}
#: Faults that only leave headers out.
_MISSING_HEADERS = {"unsigned": ("signature", "response-time"), "half-signed": ("signature",)}


class Spoiling:
    """Lets go wrong what was asked for."""

    def __init__(self, signing: Signing) -> None:
        self._signing = signing

    def fail(self, delivery: Delivery, call: ReceivedCall, fault: Fault) -> Answer:
        """Answer without having done anything."""
        match fault.fault:
            case "silent" | "cut-before":
                sending = Sending.SILENT if fault.fault == "silent" else Sending.CUT
                return Answer(HTTPStatus.OK, {}, b"", sending, call=call, is_believable=False)
            case "error-500":
                status = HTTPStatus.INTERNAL_SERVER_ERROR
                return Answer(status, dict(_HTML_HEADERS), _HTML, call=call, is_believable=False)
            case "unknown":
                done = undecided(fault.code)
            case "in-process":
                done = undecided("AUTH_IN_PROCESS")
            case _:
                done = refused(fault.code or "PROCESS_FAIL", "refused on request")
        call.result_status, call.result_code = done.status, done.code
        if fault.fault == "refused-unsigned":
            return unsigned(delivery.client_id, done, call)
        return self._signing.answer(delivery, done, call)

    def spoil(self, answer: Answer, delivery: Delivery, done: Done, fault: Fault) -> None:
        """Spoil the answer to a call that was done."""
        if fault.fault == "slow":
            answer.delay_seconds = fault.seconds
            return
        answer.is_believable = False
        answer.sending = _SENDINGS.get(fault.fault, Sending.WHOLE)
        for name in _MISSING_HEADERS.get(fault.fault, ()):
            del answer.headers[name]
        match fault.fault:
            case "html":
                answer.headers, answer.body = dict(_HTML_HEADERS), _HTML
            case "redirect":
                answer.status, answer.headers["Location"] = HTTPStatus.FOUND, delivery.uri
            case _:
                self._sign_otherwise(answer, delivery, done, fault)

    def _sign_otherwise(self, answer: Answer, delivery: Delivery, done: Done, fault: Fault) -> None:
        """Sign something else, or wrongly, where that is what was asked for."""
        match fault.fault:
            case "unknown-done":
                self._signing.sign(answer, delivery, undecided(fault.code).body())
            case "bad-signature":
                self._signing.sign(answer, delivery, answer.body, key=self._strangers_key)
            case "replayed-signature":
                body = answer.body
                self._signing.sign(answer, delivery, refused("PROCESS_FAIL", "the answer to another call").body())
                answer.body = body
            case "other-client":
                self._signing.sign(answer, delivery, answer.body, client_id=f"{delivery.client_id}_OTHER")
            case "huge":
                filled = replace(done, fields={**done.fields, "filler": "x" * _HUGE_BYTES})
                self._signing.sign(answer, delivery, filled.body())
            case "not-json":
                self._signing.sign(answer, delivery, answer.body[: len(answer.body) // 2])
            case _:
                pass

    @cached_property
    def _strangers_key(self) -> RSAPrivateKey:
        return rsa.generate_private_key(_PUBLIC_EXPONENT, _KEY_BITS)
