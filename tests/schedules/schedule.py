"""Write schedules so that a person can read them, play them on the service and the model, and compare the two.

A schedule is a text of one step a line; what follows a `#` is a remark. The merchant, Alipay and the operator speak:

    consult s-1 auto_debit u-1          the merchant consults, for this user
    consult s-1 unsaid u-1              … without naming the flow, or again
    default direct                      the operator makes this the flow of consults that name none
    authcode s-1 code-1                 … reports the code of the redirect
    token s-1 token-1 code-1            … reports the token of applyToken, here with its code
    refresh s-1 token-1 → token-2       … reports a refresh
    revoke s-1                          … reports a revoke that succeeded
    AUTHCODE_CREATED s-1 code-1         Alipay notifies, for the first time or again
    TOKEN_CREATED s-1 token-1 F         … of something unsuccessful
    TOKEN_CANCELED token-1
    TOKEN_REVIVED s-1                   … of a type that nobody knows
    MALFORMED s-1                       … without a field it needs
    break s-1                           from here on, processing that asks the machine about s-1 fails
    break TOKEN_CANCELED token-1        … or that reads this stored notification
    mend s-1
    replay TOKEN_CANCELED token-1       the operator has a stored notification processed again
    piece                               some more of what is parked is resumed, where that goes in pieces
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.integration.stage import Stage
from tests.schedules.live import Live
from tests.schedules.model import Model, Words
from tests.schedules.pieces import LiveInPieces

#: Between two steps of the model: more than there are notifications that come together.
TICK = 100


class DisagreementError(AssertionError):
    """The service does not do what the model says it must."""

    def __init__(self, played: Sequence[Words], what: str) -> None:
        self.played = tuple(played)
        super().__init__(f"{what}\n\nThe schedule:\n\n{text_of(played)}")


class Play:
    """One schedule, played on a model and on the service at the same time, and compared as it goes."""

    def __init__(self, live: Live) -> None:
        self.model = Model()
        self.live = live
        self.played: list[Words] = []
        #: What came of each step.
        self.said: list[str] = []

    def step(self, *step: str) -> str:
        """Play one more step, compare what came of it, and return that.

        Raises `DisagreementError`.
        """
        self.played.append(step)
        self.live.tick()
        self.model.time += TICK
        if step[0] == "batch":
            return self._batch(step[1:])
        expected = self.model.perform(step)
        try:
            actual = self.live.perform(step)
        except Exception as error:
            raise DisagreementError(
                self.played, f"The last step must end {expected!r}, but broke: {error!r}"
            ) from error
        if not self.live.agrees(actual, expected):
            raise DisagreementError(self.played, f"The last step must end {expected!r}, not {actual!r}.")
        self.said.append(actual)
        return actual

    def _batch(self, words: Words) -> str:
        """Deliver a batch. It must end as if its notifications had come one after another, in inbox order."""
        notifications = [tuple(part.split()) for part in " ".join(words).split(" & ")]
        try:
            order = self.live.deliver_batch(notifications)
        except Exception as error:
            raise DisagreementError(self.played, f"The last step broke: {error!r}") from error
        start = self.model.time
        for index in order:
            self.model.time = start + index
            self.model.perform(notifications[index])
        self.model.time = start + len(notifications)
        self.compare()
        return "delivered"

    def compare(self) -> None:
        """Compare all that is on record.

        Raises `DisagreementError`.
        """
        expected, actual = list(self.model.record()), self.live.record()
        if expected != actual:
            lines = difflib.unified_diff(expected, actual, "what must be on record", "what is", lineterm="")
            raise DisagreementError(self.played, "\n".join(lines))


def written(step: Words) -> str:
    """Write one step as a line."""
    match step:
        case "refresh", auth_state, old, new:
            return f"refresh {auth_state} {old} → {new}"
        case _:
            return " ".join(step)


def read(text: str) -> list[Words]:
    """Read a schedule."""
    lines = (line.partition("#")[0].split() for line in text.splitlines())
    return [tuple(word for word in words if word != "→") for words in lines if words]


def text_of(schedule: Iterable[Words]) -> str:
    """Write a schedule, as `read` reads it."""
    return "".join(f"{written(step)}\n" for step in schedule)


def play(stage: Stage, schedule: Iterable[Words], live: type[Live] = Live) -> Play:
    """Play a whole schedule.

    Raises `DisagreementError`.
    """
    whole = Play(live(stage))
    for step in schedule:
        whole.step(*step)
    whole.compare()
    return whole


def shortened(stage: Stage, disagreement: DisagreementError, live: type[Live] = Live) -> DisagreementError:
    """Leave out of a schedule what the disagreement does not need, one step after another, until all is needed."""
    number = len(disagreement.played)
    while number > 0:
        number -= 1
        try:
            play(stage, disagreement.played[:number] + disagreement.played[number + 1 :], live)
        except DisagreementError as shorter:
            disagreement = shorter
            # What was needed before may not be any more.
            number = len(disagreement.played)
    return disagreement


@contextmanager
def replayable(stage: Stage, folder: Path, *, piece: int | None = None) -> Iterator[None]:
    """Shorten the schedule of a disagreement, keep it in a file of the folder, and say how to play it again.

    Where parked entries are resumed in pieces within, `piece` says of which size.
    """
    try:
        yield
    except DisagreementError as disagreement:
        shortest = shortened(stage, disagreement, Live if piece is None else LiveInPieces)
        file = folder / "schedule.txt"
        file.write_text(text_of(shortest.played))
        option = "" if piece is None else f"--piece {piece} "
        shortest.add_note(f"Play it again, step by step: .venv/bin/python -m tests.schedules replay {option}{file}")
        raise shortest from shortest.__cause__
