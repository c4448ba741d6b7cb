"""Long jobs side by side in threads: JAX releases the interpreter's lock while it computes."""

import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor


def work_through(
    jobs: Sequence[Callable[[], None]],
    workers: int,
    stop: threading.Event,
    look: Callable[[], None],
) -> None:
    """Does the jobs in a pool of ``workers`` threads, and ``look`` in this one ten times a second.

    What a job, ``look`` or Ctrl-C raises sets ``stop``, which jobs under way are to heed. Those not
    begun are left out, and once the others have ended it is raised again.
    """
    with ThreadPoolExecutor(workers, "bilevax") as pool:
        try:  # from the first submission on: a job may be under way before the last is in
            pending = {pool.submit(job) for job in jobs}
            while pending:
                done, pending = concurrent.futures.wait(
                    pending, timeout=0.1, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    future.result()
                look()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
