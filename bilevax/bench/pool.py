"""Jobs spread over workers: those that share a compilation stay together, dead workers go."""

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from .job import empty_row
from .plan import Job
from .workers import AbstractWorker, WorkerDied

_ATTEMPTS = 2
_WORTH_SPLITTING = 4
"""Fewer jobs than this are left to the worker that has compiled their program."""


def run_jobs(
    jobs: Sequence[Job],
    function: Callable[[dict[str, Any]], dict[str, Any]],
    make_worker: Callable[[], AbstractWorker],
    workers: int,
) -> Iterator[dict[str, Any]]:
    """A function of ``job.py`` of all jobs, in the order in which the answers come.

    Each worker takes a whole group of jobs; one that finds no group left takes half of the longest.
    A worker that dies is replaced and its job tried once more; if that fails too, the job's answer
    is a failure. Ending the iteration ends the workers.
    """
    pool = _Pool(jobs, function, make_worker)
    threads = [
        threading.Thread(target=pool.work, name=f"bilevax-bench-{i}", daemon=True)
        for i in range(min(workers, len(jobs)))
    ]
    try:
        for thread in threads:
            thread.start()
        left = len(threads)
        while left:
            try:
                answer = pool.answers.get(timeout=0.5)  # a wait that Ctrl-C can end
            except queue.Empty:
                continue
            if answer is None:
                left -= 1
            elif isinstance(answer, BaseException):
                raise answer
            else:
                yield answer
    finally:
        pool.stop()
        for thread in threads:
            thread.join(timeout=10)


class _Pool:
    def __init__(self, jobs: Sequence[Job], function, make_worker):
        self.function, self.make_worker = function, make_worker
        groups: dict[str, deque[Job]] = {}
        for job in jobs:
            groups.setdefault(job.group, deque()).append(job)
        self.waiting = deque(sorted(groups.values(), key=len, reverse=True))
        self.taken: list[deque[Job]] = []
        self.answers: queue.Queue[Any] = queue.Queue()
        self.lock, self.stopped = threading.Lock(), threading.Event()
        self.workers: set[AbstractWorker] = set()

    def work(self) -> None:
        worker, own = None, deque()
        try:
            while (job := self._next(own)) is not None:
                answer, worker = self._answer(job, worker)
                if self.stopped.is_set():
                    return
                self.answers.put(answer)
            self.answers.put(None)
        except BaseException as error:
            if not self.stopped.is_set():
                self.answers.put(error)
        finally:
            self._end(worker)

    def stop(self) -> None:
        self.stopped.set()
        with self.lock:
            workers = list(self.workers)
        for worker in workers:
            worker.close()

    # ``deque``, not ``deque[Job]``: the tests check types as they run, and would walk through it
    # while other threads take jobs from it.
    def _next(self, own: deque) -> Job | None:
        with self.lock:
            if self.stopped.is_set():
                return None
            if not own:
                self._refill(own)
            return own.popleft() if own else None

    def _refill(self, own: deque) -> None:
        if not any(own is one for one in self.taken):
            self.taken.append(own)
        if self.waiting:
            own.extend(self.waiting.popleft())
            return
        longest = max(self.taken, key=len)
        if len(longest) >= _WORTH_SPLITTING:
            half = [longest.pop() for _ in range(len(longest) // 2)]
            own.extend(reversed(half))

    def _answer(self, job: Job, worker):
        ending = ""
        for _ in range(_ATTEMPTS):
            try:
                if worker is None:
                    worker = self.make_worker()
                    with self.lock:
                        self.workers.add(worker)
                if self.stopped.is_set():
                    break
                return worker.run(self.function, asdict(job)), worker
            except WorkerDied as death:
                ending = str(death)
                self._end(worker)
                worker = None
        error = f"its process died {_ATTEMPTS} times, the last time {ending}."
        return empty_row(asdict(job), error), worker

    def _end(self, worker: AbstractWorker | None) -> None:
        if worker is not None:
            with contextlib.suppress(OSError):
                worker.close()
            with self.lock:
                self.workers.discard(worker)
