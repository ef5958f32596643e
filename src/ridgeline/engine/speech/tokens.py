"""The special tokens of a speech model, by their names in its vocabulary.

A transcript begins with `<|startoftranscript|>`, then says its language, the task, and whether
times are left out. Tokens from `first_time` on are times, 0.02 s apart (Radford et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ridgeline.engine.speech.languages import LANGUAGES
from ridgeline.errors import ModelError, RequestError
from ridgeline.model.text.tokenizer import Tokenizer
from ridgeline.model.weights.json_object import read_json_object

SECONDS_PER_TIME = 0.02
TASKS = ("transcribe", "translate")
GENERATION = "generation_config.json"
MAX_SUPPRESSED = 1 << 16
ENGLISH_VOCAB = 51_864


@dataclass(frozen=True, slots=True)
class SpeechTokens:
    """Ids. languages: by code, empty for a model of one language. no_speech: said in place of a
    text where there is none; None if the vocabulary has no such token. suppressed: never come;
    suppressed_first: not as the first of a window.
    """

    start: int
    end: int
    previous: int
    no_times: int
    no_speech: int | None
    tasks: Mapping[str, int]
    languages: Mapping[str, int]
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]

    @property
    def first_time(self) -> int:
        return self.no_times + 1

    def prefix(self, language: str | None, task: str, times: bool) -> tuple[int, ...]:
        """What stands between the start and the text."""
        said: tuple[int, ...] = ()
        if self.languages:
            assert language is not None
            said = (self.languages[language], self.tasks[task])
        return said if times else (*said, self.no_times)

    def language(self, wanted: str) -> str:
        """A code of the model's, given as such or as a name in English. RequestError if none."""
        lower = wanted.lower()
        code = next((code for code, name in LANGUAGES.items() if name == lower), lower)
        if code in self.languages or (not self.languages and code == "en"):
            return code
        known = ", ".join(sorted(self.languages)) or "en"
        raise RequestError(
            "language", f"{wanted[:40]!r} is not known to the model; it has: {known}"
        )


def read_speech_tokens(
    tokenizer: Tokenizer, config: Mapping[str, object], folder: Path
) -> SpeechTokens:
    """From the vocabulary, and the lists that CTranslate2's config.json or Hugging Face's
    generation_config.json has. ModelError names the token that is missing.
    """

    def find(name: str) -> int | None:
        ids = tokenizer.encode(f"<|{name}|>", add_special=False)
        return ids[0] if len(ids) == 1 else None

    def need(name: str) -> int:
        found = find(name)
        if found is None:
            raise ModelError(f"{folder}: the vocabulary has no <|{name}|>: it is no speech model's")
        return found

    vocab = config.get("vocab_size")
    assert isinstance(vocab, int)
    spoken = {code: found for code in LANGUAGES if (found := find(code)) is not None}
    start, end, no_times = (need(x) for x in ("startoftranscript", "endoftext", "notimestamps"))
    # Models of English alone have the tokens, too, and do not take them.
    is_english = vocab == ENGLISH_VOCAB
    generation = folder / GENERATION
    lists = dict(config)
    if generation.is_file():
        lists = {**lists, **read_json_object(generation)}
    special = [
        find(x) for x in ("translate", "transcribe", "startoflm", "startofprev", "nocaptions")
    ]
    default = (start, *(x for x in (*special, find("nospeech")) if x is not None))
    space = tokenizer.encode(" ", add_special=False)
    return SpeechTokens(
        start=start,
        end=end,
        previous=need("startofprev"),
        no_times=no_times,
        no_speech=find("nospeech") if find("nospeech") is not None else find("nocaptions"),
        tasks={} if is_english else {task: need(task) for task in TASKS},
        languages={} if is_english else spoken,
        suppressed=_ids(lists, ("suppress_tokens", "suppress_ids"), default, vocab, folder),
        suppressed_first=_ids(
            lists, ("begin_suppress_tokens", "suppress_ids_begin"), (*space, end), vocab, folder
        ),
    )


def _ids(
    lists: Mapping[str, object],
    names: tuple[str, ...],
    default: tuple[int, ...],
    vocab: int,
    folder: Path,
) -> tuple[int, ...]:
    for name in names:
        found = lists.get(name)
        if found is None:
            continue
        ok = isinstance(found, list) and len(found) <= MAX_SUPPRESSED
        if not ok or not all(type(i) is int and 0 <= i < vocab for i in found):  # type: ignore[attr-defined]
            raise ModelError(f"{folder}: {name}: a list of token ids below {vocab} is needed")
        return tuple(found)  # type: ignore[arg-type]
    return default
