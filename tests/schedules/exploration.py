"""Let Hypothesis make up schedules step by step, and shrink one that the service and the model disagree about."""

from typing import ClassVar, TypeVar

from hypothesis import HealthCheck, Verbosity, seed as seeded, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from typing_extensions import override

from tests.integration.stage import Stage
from tests.schedules.live import Live
from tests.schedules.schedule import Play

T = TypeVar("T")

#: Few enough names that most steps have to do with each other, and now and then contradict each other.
AUTH_STATES = st.sampled_from(["s-1", "s-2", "s-3"])
USERS = st.sampled_from(["u-1", "u-1", "u-2"])
FLOWS = st.sampled_from(["auto_debit", "auto_debit", "direct"])
CODES = st.sampled_from(["code-1", "code-1", "code-2"])
TOKENS = st.sampled_from(["token-1", "token-2", "token-3", "token-4"])
#: Alipay sends successful results only; the others must not matter.
STATUSES = st.sampled_from([(), (), (), (), (), ("F",), ("U",)])
#: Which of what is there, counted round and round.
PICKS = st.integers(min_value=0, max_value=20)

#: Long enough for two or three lives with their duplicates, refreshes and failures.
STEPS_MAX = 40


class Exploration(RuleBasedStateMachine):
    """Makes up one schedule and plays it as it goes. Every step is possible at any time, wise or not."""

    stage: ClassVar[Stage]
    #: Whether everything on record is compared after every step, and not only at the end.
    thorough: ClassVar[bool] = False
    #: How many steps were played, in all schedules together.
    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.play = Play(Live(self.stage))
        self.is_over = False

    def step(self, *step: str) -> None:
        # After a disagreement nothing that follows means anything.
        self.is_over = True
        self.play.step(*step)
        if self.thorough:
            self.play.compare()
        self.is_over = False

    # --- the merchant ---

    @rule(auth_state=AUTH_STATES, flow=FLOWS, user_ref=USERS)
    def consult(self, auth_state: str, flow: str, user_ref: str) -> None:
        self.step("consult", auth_state, flow, user_ref)

    @rule(auth_state=AUTH_STATES, code=CODES)
    def report_authcode(self, auth_state: str, code: str) -> None:
        self.step("authcode", auth_state, code)

    @rule(auth_state=AUTH_STATES, token=TOKENS, code=st.none() | CODES)
    def report_token(self, auth_state: str, token: str, code: str | None) -> None:
        self.step("token", auth_state, token, *([] if code is None else [code]))

    @rule(auth_state=AUTH_STATES, old=TOKENS, new=TOKENS)
    def report_any_refresh(self, auth_state: str, old: str, new: str) -> None:
        self.step("refresh", auth_state, old, new)

    @precondition(lambda self: self.with_tokens())
    @rule(pick=PICKS, new=TOKENS)
    def report_refresh(self, pick: int, new: str) -> None:
        auth_state = picked(self.with_tokens(), pick)
        self.step("refresh", auth_state, self.play.model.authorizations[auth_state].tokens[-1], new)

    @rule(auth_state=AUTH_STATES)
    def report_canceled(self, auth_state: str) -> None:
        self.step("revoke", auth_state)

    def with_tokens(self) -> list[str]:
        return [name for name, known in self.play.model.authorizations.items() if known.tokens]

    # --- Alipay ---

    @rule(auth_state=AUTH_STATES, code=CODES, status=STATUSES)
    def authcode_created(self, auth_state: str, code: str, status: tuple[str, ...]) -> None:
        self.step("AUTHCODE_CREATED", auth_state, code, *status)

    @rule(auth_state=AUTH_STATES, token=TOKENS, status=STATUSES)
    def token_created(self, auth_state: str, token: str, status: tuple[str, ...]) -> None:
        self.step("TOKEN_CREATED", auth_state, token, *status)

    @rule(token=TOKENS, status=STATUSES)
    def token_canceled(self, token: str, status: tuple[str, ...]) -> None:
        self.step("TOKEN_CANCELED", token, *status)

    @rule(kind=st.sampled_from(["MALFORMED", "TOKEN_REVIVED"]), auth_state=AUTH_STATES)
    def something_else(self, kind: str, auth_state: str) -> None:
        self.step(kind, auth_state)

    @precondition(lambda self: self.play.model.inbox)
    @rule(pick=PICKS)
    def the_same_again(self, pick: int) -> None:
        self.step(*picked(list(self.play.model.inbox), pick))

    # --- the operator, and what goes wrong ---

    @precondition(lambda self: self.play.model.inbox)
    @rule(pick=PICKS)
    def replay(self, pick: int) -> None:
        self.step("replay", *picked(list(self.play.model.inbox), pick))

    @precondition(lambda self: self.play.model.inbox)
    @rule(pick=PICKS)
    def break_notification(self, pick: int) -> None:
        self.step("break", *picked(list(self.play.model.inbox), pick))

    @precondition(lambda self: self.play.model.authorizations)
    @rule(pick=PICKS)
    def break_authorization(self, pick: int) -> None:
        self.step("break", picked(list(self.play.model.authorizations), pick))

    @precondition(lambda self: self.play.model.broken)
    @rule(pick=PICKS)
    def mend(self, pick: int) -> None:
        self.step("mend", *picked(sorted(self.play.model.broken), pick))

    @override
    def teardown(self) -> None:
        """Mend and replay all that failed, which must leave nothing failed, and compare all that is on record."""
        if self.is_over:
            return
        self.play.compare()
        for thing in sorted(self.play.model.broken):
            self.play.step("mend", *thing)
        for notification, entry in list(self.play.model.inbox.items()):
            if entry.ending[0] == "failed":
                self.play.step("replay", *notification)
        self.play.compare()
        assert all(entry.ending[0] != "failed" for entry in self.play.model.inbox.values())
        type(self).steps += len(self.play.played)


def picked(things: list[T], pick: int) -> T:
    return things[pick % len(things)]


def explore(stage: Stage, *, schedules: int, thorough: bool = False, seed: int | None = None) -> int:
    """Try that many schedules, some of them more than once, and return how many steps they had.

    Raises `DisagreementError` with the shortest schedule that Hypothesis could find.
    """

    class Here(Exploration):
        pass

    Here.stage, Here.thorough = stage, thorough
    here = Here if seed is None else seeded(seed)(Here)
    run_state_machine_as_test(
        here,
        settings=settings(
            max_examples=schedules,
            stateful_step_count=STEPS_MAX,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow],
            # The schedule says it better than the rules that made it up.
            verbosity=Verbosity.quiet,
        ),
    )
    return Here.steps
