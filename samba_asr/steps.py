"""Steps of the model and the search: `advance` runs one for any number of sessions.

    sessions = [recognizer.session(rate=16000, latency_ms=640) for _ in range(3)]
    sessions[0].feed(samples)                  # float32 (s,), any length
    advance(recognizer, sessions)              # one step for all that are due
    for event in sessions[0].events(): ...     # each once

A step takes queued audio (`Session.take`), encodes it, searches its frames, drains the frames before a cut, and concludes: it
finishes segments and queues events.  `pipelined` encodes the next audio of a file while the last is searched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from samba_asr.decoding.segment_state import SegmentState
from samba_asr.runtime.base import MAX_STEP, Frames
from samba_asr.session import Event, Parts, Session, SessionWork

AHEAD = 2
"""Steps that `pipelined` encodes ahead of the search.  A whole block is due with every second step of 10 s."""


class Encoded(NamedTuple):
    """Work whose samples went through the model, and their frames, which the search has not seen; None if it has no samples."""

    work: Sequence[SessionWork]
    frames: Frames | None


def advance(
    recognizer: Parts,
    sessions: Iterable[Session],
    *,
    most: float = MAX_STEP,
    ready: Callable[[Session], None] = lambda session: None,
) -> None:
    """Run one step of the model for all sessions that are due, at most `most` seconds of each.

    ready: called with each session as soon as its events are known.  Finishing a segment takes time, session by session.
    """
    for group in by_block(session.take(most) for session in sessions if session.due(most)):
        step(recognizer, group)
        drain(recognizer, group)
        for work in group:
            _conclude(recognizer, work)
            ready(work.session)


def by_block(work: Iterable[SessionWork]) -> list[list[SessionWork]]:
    """Group work by block size: one group can share a step."""
    groups: dict[int, list[SessionWork]] = {}
    for one in work:
        groups.setdefault(one.session.latency.block, []).append(one)
    return list(groups.values())


def events(recognizer: Parts, session: Session) -> Iterator[Event]:
    """Advance one session as long as it is due, and yield its events as they come."""
    while session.due() and not session.over:
        advance(recognizer, [session])
        yield from session.events()


def step(recognizer: Parts, work: Sequence[SessionWork]) -> None:
    """Process the samples of all sessions in one step of model and search."""
    search(recognizer, encode(recognizer, work))


def encode(recognizer: Parts, work: Sequence[SessionWork]) -> Encoded:
    """Run the model on the samples of all sessions.

    It changes nothing but the states of the runtime, so the search of earlier frames may run at the same time.
    """
    work = [one for one in work if len(one.samples)]
    if not work:
        return Encoded([], None)
    runtime, gaps = recognizer.runtime, [one.entry.gap for one in work]
    states = [runtime.start(one.session.latency) if one.entry.fresh else one.session.state for one in work]
    samples = [one.samples for one in work]
    frames, states = runtime.step(samples, states, gaps) if any(gaps) else runtime.step(samples, states)
    for one, state in zip(work, states, strict=True):
        one.session.state = state
    return Encoded(work, frames)


def search(recognizer: Parts, encoded: Encoded) -> None:
    """Search the frames of a step."""
    for one in encoded.work:
        one.session.arrive(one.entry, one.samples)
    _search(recognizer, [one.session for one in encoded.work], encoded.frames)


def drain(recognizer: Parts, work: Sequence[SessionWork]) -> None:
    """Search the last frames of the sessions that are cut."""
    runtime = recognizer.runtime
    cut = [one for one in work if one.cut is not None and one.session.state is not None]
    pausing = [one.session for one in cut if one.cut and one.cut.event is None and runtime.takes_gaps]
    ending = [one.session for one in cut if one.session not in pausing]
    if pausing:
        frames, states = runtime.pause([session.state for session in pausing])
        _search(recognizer, pausing, frames)
        for session, state in zip(pausing, states, strict=True):
            session.state = state
    if ending:
        _search(recognizer, ending, runtime.finish([session.state for session in ending]))


def _search(recognizer: Parts, sessions: Sequence[Session], frames: Frames | None) -> None:
    if frames is not None and frames.log_probs.shape[1]:
        recognizer.segmenter.step([session.search for session in sessions], frames)


def ends_segment(work: SessionWork) -> bool:
    """Return whether a segment ends with a step, so that concluding it takes longer than the step."""
    return work.cut is not None or any(isinstance(one, SegmentState) for one in work.session.search.found)


def conclude(recognizer: Parts, work: SessionWork) -> Callable[[], None] | None:
    """Apply the cut, if there is one, and queue the session's new events.

    Return work to do before a segment of the session ends, if there is any (`Segmenter.job`); another thread may do it.
    """
    work.session.conclude(recognizer.segmenter, work.cut)
    return recognizer.segmenter.job(work.session.search)


def _conclude(recognizer: Parts, work: SessionWork) -> None:
    """Conclude a step, and do the work after it."""
    if job := conclude(recognizer, work):
        job()


def advanced(recognizer: Parts, fed: Iterable[Session]) -> Iterator[Event]:
    """Yield the events of one session, given after each chunk that it received and after its end, as soon as they are known."""
    for session in fed:
        yield from events(recognizer, session)


def pipelined(recognizer: Parts, fed: Iterable[Session]) -> Iterator[Event]:
    """Yield the events of `advanced` faster, and later: a thread encodes up to `AHEAD` steps while this one searches."""
    with ThreadPoolExecutor(1, thread_name_prefix="samba_asr-encoder") as encoder:
        coming: deque[tuple[SessionWork, Future[Encoded]]] = deque()
        for session in fed:
            while session.due() and not session.over:
                work = session.take()
                coming.append((work, encoder.submit(encode, recognizer, [work])))
                # A cut starts the encoder again, so nothing is taken beyond it before it is done.
                while coming and (len(coming) > AHEAD or work.cut):
                    earlier, encoded = coming.popleft()
                    search(recognizer, encoded.result())
                    drain(recognizer, [earlier])
                    _conclude(recognizer, earlier)
                    yield from session.events()
