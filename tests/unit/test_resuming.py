"""What is asked to be resumed is resumed, whenever it is asked."""

import threading
from uuid import UUID, uuid4

from app.resuming import Resumption

#: A hang ends a test as a failure. Nothing here takes a thousandth of it.
HANG_S = 60


def test_a_rest_that_is_left_while_a_piece_is_under_way_is_resumed_after_it() -> None:
    """The piece may have begun before the transaction that asks for it committed, and not have seen what it left."""
    pieces = threading.Semaphore(0)
    is_asked_again = threading.Event()

    def resume(_: UUID) -> bool:
        pieces.release()
        return not is_asked_again.wait(HANG_S)

    resumption, authorization_id = Resumption(resume), uuid4()
    resumption.resume_later([authorization_id])
    assert pieces.acquire(timeout=HANG_S)
    resumption.resume_later([authorization_id])
    is_asked_again.set()
    assert pieces.acquire(timeout=HANG_S)


def test_a_piece_that_is_requested_several_times_before_it_begins_runs_once() -> None:
    done: list[UUID] = []
    is_occupied, may_end, is_last = threading.Event(), threading.Event(), threading.Event()
    occupying, asked, last = uuid4(), uuid4(), uuid4()

    def resume(authorization_id: UUID) -> bool:
        done.append(authorization_id)
        if authorization_id == occupying:
            is_occupied.set()
            may_end.wait(HANG_S)
        if authorization_id == last:
            is_last.set()
        return False

    resumption = Resumption(resume)
    resumption.resume_later([occupying])
    assert is_occupied.wait(HANG_S)
    resumption.resume_later([asked, asked, asked])
    resumption.resume_later([last])
    may_end.set()
    assert is_last.wait(HANG_S)
    assert done == [occupying, asked, last]
