"""Who answers, and when: queries are submitted, and answers collected once they are there.

``ScriptedLabeller`` answers at once. ``FolderLabeller`` puts clips into a folder for a person, or
another program, to answer at leisure; a run goes on in the meantime, or waits.
"""

import abc
import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._types import Key
from ..io.files import replacing, write_text
from .segments import Segments
from .teacher import AbstractTeacher, Answers

Answered = tuple[Segments, Segments, Answers]

_BEING_WRITTEN = 10.0
"""Seconds for which a file that is no JSON is taken to be one that someone is writing."""
_CHOICES = {"first": (0.0, 1.0), "second": (1.0, 1.0), "equal": (0.5, 1.0), "skip": (0.5, 0.0)}


class AbstractLabeller(abc.ABC):
    """Takes queries and gives back answered ones, now or later, in any order."""

    @abc.abstractmethod
    def submit(self, first: Segments, second: Segments) -> None:
        """Asks which of ``first[q]`` and ``second[q]`` is better, for every q."""

    @abc.abstractmethod
    def collect(self) -> list[Answered]:
        """What was answered since the last call; each query is given back once."""

    def begin(self) -> None:  # noqa: B027
        """Told when a run begins: ``collect`` is to give again what was never acknowledged."""

    def unanswered(self) -> int:
        """How many questions have no answer yet that ``collect`` could give, for a run that waits.

        It looks for answers, since ``collect`` is not called meanwhile, and does not block.
        """
        return 0

    def acknowledge(self) -> None:  # noqa: B027 (most have nothing to note)
        """Told once what was collected is saved: a later run need not be given it again."""


class ScriptedLabeller(AbstractLabeller):
    """Answers every query at once, by a scripted teacher."""

    def __init__(self, teacher: AbstractTeacher, key: Key):
        self._teacher, self._key = teacher, key
        self._answered: list[Answered] = []

    def submit(self, first: Segments, second: Segments) -> None:
        """Answers these queries from the true rewards."""
        self._key, key = jax.random.split(self._key)
        answers = self._teacher(key, first.reward, second.reward)
        self._answered.append((first, second, answers))

    def unanswered(self) -> int:
        """None: all are answered at once."""
        return 0

    def collect(self) -> list[Answered]:
        """All that was submitted since the last call."""
        answered, self._answered = self._answered, []
        return answered


class FolderLabeller(AbstractLabeller):
    """Asks through a folder: two clips and a line of JSON per query, one file per answer.

    ::

        queries.jsonl       {"query": "000000", "pair": ..., "first": "000000-first.gif", ...}
        000000-first.gif    the two clips to look at
        000000-second.gif
        000000.npz          the segments themselves, without their true reward
        answers/000000.json {"answer": "first"}: or "second", "equal", "skip"

    Answers may come in any order and at any time, from several people and after a restart: a
    labeller opened on the same folder goes on where the last one stopped. An answered query is
    given back once, and noted in ``collected.txt`` by ``acknowledge``, so that a run which is
    killed before it has saved what it collected finds it again (and one that is killed while it
    saves may, too). A pair that is asked about again meanwhile is not put into the folder twice.
    The true reward is unknown and comes as NaN.
    Only observations are shown, so score, lives and the end of an episode stay hidden unless the
    observation shows them.

    Args:
        directory: the folder, made if it is not there.
        to_rgb: one observation -> an image, uint8 ``[height, width, 3]``.
        enlarge: how many pixels of the clip an image's pixel becomes.
        frame_time: of the clips, in seconds.
    """

    def __init__(
        self,
        directory: Path | str,
        to_rgb: Callable[[np.ndarray], np.ndarray],
        *,
        enlarge: int = 16,
        frame_time: float = 0.1,
    ):
        self._directory, self._to_rgb = Path(directory), to_rgb
        self._enlarge, self._frame_time = enlarge, frame_time
        self._given: list[str] = []
        self._answers.mkdir(parents=True, exist_ok=True)

    @property
    def waiting(self) -> list[str]:
        """The queries whose answers have not been collected, oldest first."""
        done = {*self._lines("collected.txt"), *self._given}
        return [query for query in self._queries() if query not in done]

    def submit(self, first: Segments, second: Segments) -> None:
        """Writes the clips and the query of each pair; a line in ``queries.jsonl`` comes last.

        A pair that waits for its answer already, of a run that was stopped say, is left out.
        """
        entries = self._entries()
        open_queries = set(self.waiting)
        asked = Counter(e.get("pair") for e in entries if e["query"] in open_queries)
        count = len(entries)
        for pair in range(first.count):
            arrays = {
                f"{name}_{part}": np.asarray(getattr(segments, part)[pair])
                for name, segments in (("first", first), ("second", second))
                for part in ("observation", "action", "log_prob")
            }
            digest = _digest(arrays)
            if asked[digest]:
                asked[digest] -= 1
                continue
            query, count = f"{count:06d}", count + 1
            entry: dict[str, Any] = {"query": query, "pair": digest}
            for name in ("first", "second"):
                entry[name] = f"{query}-{name}.gif"
                self._write_clip(self._directory / entry[name], arrays[f"{name}_observation"])
            with replacing(self._directory / f"{query}.npz") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
            lines = [*self._lines("queries.jsonl"), json.dumps(entry)]
            write_text(self._directory / "queries.jsonl", "\n".join(lines) + "\n")

    def begin(self) -> None:
        """Forgets what was collected and never noted: it is in the folder still."""
        self._given = []

    def unanswered(self) -> int:
        """The queries without an answer; ``ValueError`` as from ``collect``."""
        return len(self.waiting) - len(self._answered())

    def collect(self) -> list[Answered]:
        """The queries answered since the last call; ``ValueError`` names a malformed answer.

        A file that is no JSON is still being written, and left for the next call.
        """
        answered = self._answered()
        if not answered:
            return []
        first, second = zip(*(self._read_pair(query) for query, _ in answered), strict=True)
        numbers = jnp.asarray([numbers for _, numbers in answered])
        joined = lambda parts: jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
        self._given += [query for query, _ in answered]
        return [(joined(first), joined(second), Answers(numbers[:, 0], numbers[:, 1]))]

    def acknowledge(self) -> None:
        """Notes in ``collected.txt`` what has been collected."""
        if self._given:
            done = [*self._lines("collected.txt"), *self._given]
            write_text(self._directory / "collected.txt", "\n".join(done) + "\n")
            self._given = []

    @property
    def _answers(self):
        return self._directory / "answers"

    def _answered(self):
        """The queries whose answers are there and not yet collected, and these in numbers."""
        return [
            (query, numbers)
            for query in self.waiting
            if (path := self._answers / f"{query}.json").exists()
            and (numbers := _read_answer(path)) is not None
        ]

    def _queries(self):
        return [entry["query"] for entry in self._entries()]

    def _entries(self):
        path = self._directory / "queries.jsonl"
        entries = []
        for line in self._lines(path.name):
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if not isinstance(entry, dict) or "query" not in entry:
                raise ValueError(f"{path} holds a line that is no query.")
            entries.append(entry)
        return entries

    def _lines(self, name):
        path = self._directory / name
        return path.read_text().splitlines() if path.exists() else []

    def _write_clip(self, path, frames):
        from PIL import Image  # only people need clips

        size = np.ones((self._enlarge, self._enlarge, 1), np.uint8)
        images = [Image.fromarray(np.kron(self._to_rgb(frame), size)) for frame in frames]
        clip = io.BytesIO()
        time = round(1000 * self._frame_time)
        images[0].save(clip, "GIF", save_all=True, append_images=images[1:], duration=time, loop=0)
        with replacing(path) as file:
            file.write(clip.getvalue())

    def _read_pair(self, query):
        path = self._directory / f"{query}.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: jnp.asarray(file[name]) for name in file.files}
            return [_unrewarded(arrays, name) for name in ("first", "second")]
        except Exception as error:
            raise ValueError(f"{path} is damaged: the segments of the query are lost.") from error


def _digest(arrays):
    """What tells one pair of segments from another."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()[:16]


def _unrewarded(arrays, name):
    """One segment. People answer from what they see: its reward is unknown, NaN."""
    observation, action, log_prob = (
        arrays[f"{name}_{part}"][None] for part in ("observation", "action", "log_prob")
    )
    return Segments(observation, action, log_prob, jnp.full_like(log_prob, jnp.nan))


def _read_answer(path):
    """The answer in numbers; ``None`` where the file may not be written out yet."""
    written = path.read_bytes()
    if not written.strip():
        return None
    try:
        content = json.loads(written)
    except ValueError:
        if time.time() - path.stat().st_mtime < _BEING_WRITTEN:
            return None
        content = None
    choice = content.get("answer") if isinstance(content, dict) else None
    if not isinstance(choice, str) or choice not in _CHOICES:
        raise ValueError(
            f'{path} holds no answer: write {{"answer": "first"}}, or "second", "equal" or "skip".'
        )
    return _CHOICES[choice]
