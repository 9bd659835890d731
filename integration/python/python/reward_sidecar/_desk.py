"""Scoring in an event loop: futures in front of a native desk, which has a thread of its own.

Invariant: the loop watches the desk exactly while somebody waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from . import _native, _tokenizer
from ._errors import ConnectionFailed, DeadlineExceeded

if TYPE_CHECKING:
    from ._native import Batch, Result
    from ._types import HasVocabulary, Request, Rollout

# Between two looks whether the server that was launched still runs.
_LOOK_S = 0.1
# What holds token ids.
_ID_FIELDS = frozenset({"input_ids", "prompt_ids", "completion_ids"})

T = TypeVar("T")


class Desk:
    """One client in one event loop, on whose thread everything here happens."""

    def __init__(
        self, client: _native.Client, ended: Callable[[], str | None] | None, tokenizer: HasVocabulary | str | None
    ) -> None:
        self._native = _native.Desk(client)
        self._ended = ended
        self._tokenizer = tokenizer
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    async def score(self, request: Request) -> Batch:
        """As `Client.score`."""
        if not request.keys().isdisjoint(_ID_FIELDS):
            await self._check(request.get("tokenizer"), request.get("timeout"))
        batch: Batch = await self._future(self._native.score(**request), request.get("timeout"))
        return batch

    async def card(self, timeout: float | None) -> dict[str, Any]:
        """What the server serves, field by field."""
        card = self._native.card()
        if isinstance(card, int):
            fields: dict[str, Any] = await self._future(card, timeout)
            return fields
        return card

    async def stream(
        self,
        rollouts: Iterable[Rollout] | AsyncIterable[Rollout],
        defaults: _native.Defaults,
        window: int,
        timeout: float | None,
        tokenizer: HasVocabulary | str | None,
    ) -> AsyncGenerator[Result, None]:
        """As `Client.stream`, with at most `window` rollouts in flight."""
        source = _each(rollouts).__aiter__()
        # What happens next: a rollout has come, or a result.
        events: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()
        results: set[asyncio.Future[Result]] = set()
        pulling: asyncio.Future[Rollout] | None = None
        exhausted, taken, checked = False, 0, False
        try:
            while True:
                if pulling is None and not exhausted and len(results) < window:
                    pulling = asyncio.ensure_future(_next(source))
                    pulling.add_done_callback(events.put_nowait)
                if pulling is None and not results:
                    return
                event = await _in_time(events.get(), timeout)
                if event is not pulling:
                    results.discard(event)
                    yield event.result()
                    continue
                pulling = None
                try:
                    rollout = event.result()
                except StopAsyncIteration:
                    exhausted = True
                    continue
                if not checked and _has_ids(rollout):
                    await self._check(tokenizer, timeout)
                    checked = True
                scored = self._native.score_one(rollout, taken, defaults)
                taken += 1
                if isinstance(scored, int):
                    future = self._future(scored, None)
                    results.add(future)
                    future.add_done_callback(events.put_nowait)
                else:
                    yield scored
        finally:
            if pulling is not None:
                pulling.cancel()
            for result in results:
                result.cancel()

    async def _check(self, own: HasVocabulary | str | None, timeout: float | None) -> None:
        """Refuses token ids of another tokenizer than the model's."""
        tokenizer = self._tokenizer if own is None else own
        if tokenizer is not None:
            card = await self.card(timeout)
            _tokenizer.check(tokenizer, card["tokenizer"], card["name"])

    def close(self) -> None:
        """Fails whatever waits."""
        self._native.close()

    def _future(self, number: int, timeout: float | None) -> asyncio.Future[Any]:
        """What `number` comes to; after `timeout` seconds, what there is of it by then."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if not self._waiting:
            loop.add_reader(self._native.fileno(), self._finish)
            if self._ended is not None:
                loop.call_later(_LOOK_S, self._look)
        self._waiting[number] = future
        future.add_done_callback(partial(self._leave, number))
        if timeout is not None:
            timer = loop.call_later(timeout, self._native.expire, number, timeout)
            future.add_done_callback(lambda _: timer.cancel())
        return future

    def _leave(self, number: int, future: asyncio.Future[Any]) -> None:
        if future.cancelled() or isinstance(future.exception(), ConnectionFailed):
            # Of what was told already there is nothing to forget.
            self._native.forget(number)
        del self._waiting[number]
        if not self._waiting:
            future.get_loop().remove_reader(self._native.fileno())

    def _look(self) -> None:
        """Fails what waits, once the server that would answer has ended."""
        if not self._waiting or self._ended is None:
            return
        why = self._ended()
        for future in list(self._waiting.values()) if why is not None else ():
            if not future.done():
                future.set_exception(ConnectionFailed("SERVER_EXITED", str(why)))
        if why is None:
            asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _finish(self) -> None:
        for number, outcome, failed in self._native.finished():
            future = self._waiting.get(number)
            if future is None or future.done():
                # Nobody wants it any more.
                continue
            if failed:
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


async def _each(rollouts: Iterable[Rollout] | AsyncIterable[Rollout]) -> AsyncIterator[Rollout]:
    if isinstance(rollouts, AsyncIterable):
        async for rollout in rollouts:
            yield rollout
    else:
        for rollout in rollouts:
            yield rollout


async def _in_time(event: Awaitable[T], timeout: float | None) -> T:
    if timeout is None:
        return await event
    try:
        return await asyncio.wait_for(event, timeout)
    except asyncio.TimeoutError:
        raise DeadlineExceeded("DEADLINE_EXCEEDED", f"timeout: no result came for {timeout} s") from None


def _has_ids(rollout: object) -> bool:
    """Whether a rollout of a stream brings token ids; what is no rollout does not."""
    return isinstance(rollout, Mapping) and not rollout.keys().isdisjoint(_ID_FIELDS)


async def _next(source: AsyncIterator[Rollout]) -> Rollout:
    """A coroutine, whatever kind of awaitable the source gives."""
    return await source.__anext__()
