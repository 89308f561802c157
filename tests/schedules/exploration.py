"""Let Hypothesis make up schedules step by step, and compare the service with the model after each."""

import random
from typing import ClassVar, TypeVar

from hypothesis import HealthCheck, Phase, Verbosity, seed as seeded, settings, strategies as st
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from typing_extensions import override

from tests.integration.stage import Stage
from tests.schedules.live import Live
from tests.schedules.lives import Act, arranged, lives
from tests.schedules.model import Words
from tests.schedules.schedule import DisagreementError, Play

T = TypeVar("T")

#: Few enough authorizations that most steps have to do with each other.
AUTH_STATES = st.sampled_from(["s-0", "s-1", "s-2"])
USERS = st.sampled_from(["u-1", "u-1", "u-2"])
FLOWS = st.sampled_from(["auto_debit", "direct", "unsaid", "unsaid"])
CODES = st.sampled_from(["code-0", "code-1", "code-2"])
TOKENS = st.sampled_from(["token-0.0", "token-0.1", "token-0.2", "token-1.0", "token-1.1", "token-2.0"])
#: What moves nothing, whatever it names.
NEVER_MEANT = st.sampled_from(
    [
        ("MALFORMED", "s-?"),
        ("TOKEN_REVIVED", "s-?"),
        ("AUTHCODE_CREATED", "s-?", "code-0", "F"),
        ("TOKEN_CREATED", "s-?", "token-0.0", "U"),
        ("TOKEN_CANCELED", "token-0.0", "F"),
    ]
)
#: Which of what is there, counted round and round.
PICKS = st.integers(min_value=0, max_value=20)

#: Enough for two or three lives: with every rule something else happens, too.
RULES_MAX = 25


class Exploration(RuleBasedStateMachine):
    """Makes up one schedule and plays it as it goes. Every step is possible at any time, wise or not."""

    stage: ClassVar[Stage]
    live: ClassVar[type[Live]] = Live
    #: How many steps were played, in all schedules together.
    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.play = Play(self.live(self.stage))
        self.is_over = False
        self.due: list[Words] = []

    def step(self, *step: str) -> None:
        """Do the next thing that is due, then this, so that something goes on whatever else happens."""
        for each in [*self.due[:1], step]:
            # After a disagreement nothing that follows means anything.
            self.is_over = True
            self.play.step(*each)
            self.is_over = False
        self.due = self.due[1:]

    # --- what should happen ---

    @initialize(acts=lives(), default=st.sampled_from(["auto_debit", "direct"]), dice=st.randoms(use_true_random=False))
    def plan(self, acts: list[Act], default: str, dice: random.Random) -> None:
        """Begin with whole lives, in any order, so that there is something to disturb."""
        self.due = [("default", default)]
        for step in arranged(dice.sample(acts, len(acts))):
            self.due += disturbed(step, dice)

    @rule(number=st.integers(2, 8))
    def deliver_batch(self, number: int) -> None:
        """Deliver several of the next notifications in one batch, whatever else is due between them."""
        chosen = [index for index, step in enumerate(self.due) if step[0].isupper()][:number]
        if len(chosen) > 1:
            words = " & ".join(" ".join(self.due[index]) for index in chosen).split()
            self.due = [step for index, step in enumerate(self.due) if index not in chosen]
            self.step("batch", *words)

    # --- what else may happen ---

    @rule(auth_state=AUTH_STATES, flow=FLOWS, user_ref=USERS)
    def consult(self, auth_state: str, flow: str, user_ref: str) -> None:
        self.step("consult", auth_state, flow, user_ref)

    @rule(flow=st.sampled_from(["auto_debit", "direct"]))
    def set_the_default_flow(self, flow: str) -> None:
        self.step("default", flow)

    @rule(verb=st.sampled_from(["authcode", "AUTHCODE_CREATED"]), auth_state=AUTH_STATES, code=CODES)
    def say_any_code(self, verb: str, auth_state: str, code: str) -> None:
        self.step(verb, auth_state, code)

    @rule(verb=st.sampled_from(["token", "TOKEN_CREATED"]), auth_state=AUTH_STATES, token=TOKENS)
    def say_any_token(self, verb: str, auth_state: str, token: str) -> None:
        self.step(verb, auth_state, token)

    @rule(auth_state=AUTH_STATES, token=TOKENS, code=CODES)
    def report_any_token_with_a_code(self, auth_state: str, token: str, code: str) -> None:
        self.step("token", auth_state, token, code)

    @rule(auth_state=AUTH_STATES, old=TOKENS, new=TOKENS)
    def refresh_any_token(self, auth_state: str, old: str, new: str) -> None:
        self.step("refresh", auth_state, old, new)

    @rule(token=TOKENS)
    def cancel_any_token(self, token: str) -> None:
        self.step("TOKEN_CANCELED", token)

    @rule(auth_state=AUTH_STATES)
    def revoke(self, auth_state: str) -> None:
        self.step("revoke", auth_state)

    @rule(notification=NEVER_MEANT, auth_state=AUTH_STATES)
    def notify_of_what_moves_nothing(self, notification: Words, auth_state: str) -> None:
        self.step(*(word.replace("s-?", auth_state) for word in notification))

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
    def break_or_mend(self, pick: int) -> None:
        """Break something, or mend what is broken: never much at once, or nothing else would happen."""
        if self.play.model.broken:
            self.step("mend", *picked(sorted(self.play.model.broken), pick))
        else:
            things = [*self.play.model.inbox, *((name,) for name in self.play.model.authorizations)]
            self.step("break", *picked(things, pick))

    @override
    def teardown(self) -> None:
        """Mend all, and process what failed again, which must leave nothing failed; compare all that is on record."""
        if self.is_over:
            return
        self.play.compare()
        for thing in sorted(self.play.model.broken):
            self.play.step("mend", *thing)
        for notification, entry in list(self.play.model.inbox.items()):
            if entry.ending[0] == "failed":
                # A redelivery does what the operator can do.
                self.play.step(*(["replay"] if entry.deliveries > 1 else []), *notification)
        self.play.compare()
        assert all(entry.ending[0] != "failed" for entry in self.play.model.inbox.values())
        type(self).steps += len(self.play.played)


def disturbed(step: Words, dice: random.Random) -> list[Words]:
    """Let some users agree again, and some merchants leave the flow unsaid, and say it once something has come."""
    match step:
        case (("authcode" | "AUTHCODE_CREATED"), auth_state, code) if dice.random() < 1 / 4:
            again = dice.choice(["authcode", "AUTHCODE_CREATED"]), auth_state, f"{code}-again"
            return dice.sample([step, again], 2)
        case "consult", auth_state, flow, user_ref if dice.random() < 1 / 2:
            kind, value = ("AUTHCODE_CREATED", "code-9") if flow == "auto_debit" else ("TOKEN_CREATED", "token-9")
            return [("consult", auth_state, "unsaid", user_ref), (kind, auth_state, f"{value}-{auth_state}"), step]
        case _:
            return [step]


def picked(things: list[T], pick: int) -> T:
    return things[pick % len(things)]


def explore(stage: Stage, *, schedules: int, seed: int | None = None, live: type[Live] = Live) -> int:
    """Try that many schedules, some of them more than once, and return how many steps they had.

    Raises `DisagreementError`.
    """

    class Here(Exploration):
        pass

    Here.stage = stage
    Here.live = live
    here = Here if seed is None else seeded(seed)(Here)
    try:
        run_state_machine_as_test(
            here,
            settings=settings(
                max_examples=schedules,
                stateful_step_count=RULES_MAX,
                database=None,
                report_multiple_bugs=False,
                # Steps are shortened better than the rules that made them up.
                phases=[Phase.generate],
                suppress_health_check=[HealthCheck.too_slow],
                # The schedule says it better than the rules that made it up.
                verbosity=Verbosity.quiet,
            ),
        )
    except FlakyFailure as flaky:
        # A batch is stored in an order that another run of the same schedule need not have.
        for each in flaky.exceptions:
            if isinstance(each, DisagreementError):
                raise each from flaky
        raise
    return Here.steps
