"""A process that runs jobs: a line of JSON in, a line of JSON out, until its input ends.

python -m bilevax.bench.worker
"""

import json
import os
import queue
import signal
import sys
import threading

from ..io.files import to_json


def main() -> None:
    """Serves the process that started this one, and ends with it."""
    # A user's print must not stand between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when work ends
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    from .job import run_calibration, run_job

    functions = {one.__name__: one for one in (run_job, run_calibration)}
    print(to_json({"ready": True}), file=answers)
    while True:
        request = json.loads(lines.get())
        print(to_json(functions[request["function"]](request["job"])), file=answers)


def _read(lines: "queue.Queue[str]") -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)  # the parent has gone, or wants no more: amid a job too


if __name__ == "__main__":
    main()
