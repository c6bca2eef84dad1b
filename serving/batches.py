"""Work on what many clients ask at the same time, in batches in one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from starlette.exceptions import HTTPException

MAX_WAITING = 512  # questions; more are refused at once rather than late

Question, Answer = TypeVar("Question"), TypeVar("Answer")


class Batches(Generic[Question, Answer]):
    """Awaited with a question, gives its answer.

    What is asked while a batch is worked on is the next batch, so that nobody waits for a batch to fill, and the more
    is asked, the larger and the cheaper the batches are.
    """

    def __init__(self, work: Callable[[Sequence[Question]], Sequence[Answer]], key: Callable[[Question], Hashable],
                 size: int):
        """Let ``work`` answer up to ``size`` questions at once, which have the same ``key``; it may raise."""
        self.work, self.key, self.size = work, key, size
        self.waiting: dict[asyncio.Future, Question] = {}
        self.thread = ThreadPoolExecutor(1)
        self.task: asyncio.Task | None = None

    async def __call__(self, question: Question) -> Answer:
        """The answer. Raises what ``work`` raises of this question, and HTTPException 503 if too many wait."""
        if len(self.waiting) >= MAX_WAITING:
            raise HTTPException(503, "too many requests are waiting; try again", {"Retry-After": "1"})
        future = asyncio.get_running_loop().create_future()
        self.waiting[future] = question
        if self.task is None:
            self.task = asyncio.create_task(self._work_on_all())
        try:
            return await future
        finally:
            self.waiting.pop(future, None)  # where whoever asked has gone before a batch took it

    async def _work_on_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self.waiting:
            batch = {future: self.waiting.pop(future) for future in list(self.waiting)[:self.size]}
            answers = await loop.run_in_executor(self.thread, self._answers, list(batch.values()))
            for future, answer in zip(batch, answers):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
        self.task = None

    def _answers(self, questions: Sequence[Question]) -> list[Answer | Exception]:
        groups: dict[Hashable, list[int]] = {}
        for place, question in enumerate(questions):
            groups.setdefault(self.key(question), []).append(place)
        answers: list = [None] * len(questions)
        for places in groups.values():
            for place, answer in zip(places, self._answers_of_group([questions[place] for place in places])):
                answers[place] = answer
        return answers

    def _answers_of_group(self, questions: Sequence[Question]) -> Sequence[Answer | Exception]:
        try:
            return self.work(questions)
        except Exception as error:
            if len(questions) == 1:
                return [error]
            return [answer for question in questions for answer in self._answers_of_group([question])]
