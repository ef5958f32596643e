"""Greedy answers to twenty prompts, Ridgeline's beside llama.cpp's, on the same token ids.

    answers.py MODEL.gguf [MODEL.gguf ...] --llama-python PYTHON [--tokens 48] [--threads 2]
               [--out answers.md]

PYTHON has llama-cpp-python. Prompts go through the model's chat template, or are continued as they
are where it has none; llama.cpp gets the ids that Ridgeline made of them. Temperature 0, no
penalty. Where the answers part, the table says by how much (nats) each engine prefers its own token
to the other's after the same prefix, and which of the two Ridgeline's float32 reference prefers, by
how much: two engines that quantize activations differently part at near-ties, and a gap that is not
small is a fault of one of them. It does not know which answer is the better one: read them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROMPTS = (
    "What is the capital of France?",
    "Why is the sky blue? Answer in two sentences.",
    "Who wrote Romeo and Juliet?",
    "What is 17 + 25?",
    "A train travels 60 km in 40 minutes. What is its speed in km/h?",
    "List three primary colors.",
    "List the planets of the solar system in order from the sun.",
    "Translate to French: The cat sleeps on the chair.",
    "Translate to Spanish: I would like a cup of coffee, please.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Write a SQL query that counts the rows of the table users.",
    "Explain what a hash table is to a beginner.",
    "Write a haiku about autumn.",
    'Is this review positive or negative? "The food was cold and the waiter was rude."',
    "Complete the sentence: Once upon a time, there was a small",
    "Correct the grammar: She don't likes apples.",
    "¿Cuál es la capital de España?",
    "Quelle est la couleur du ciel ?",
    "Wie heißt die Hauptstadt von Deutschland?",
    "日本の首都はどこですか?",
)
NUM_LOGPROBS = 256
NEAR_TIE = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """Token ids of a greedy answer, its text, and per token the likeliest tokens' log-odds."""

    token_ids: tuple[int, ...]
    text: str
    likeliest: tuple[dict[int, float], ...]

    def gap(self, place: int, mine: int, other: int) -> float | None:
        """How much likelier `mine` was than `other`, in nats; None: other was not in sight."""
        top = self.likeliest[place]
        return top[mine] - top[other] if mine in top and other in top else None


def common_prefix(ours: Sequence[int], theirs: Sequence[int]) -> int:
    same = 0
    for one, other in zip(ours, theirs, strict=False):
        if one != other:
            break
        same += 1
    return same


def ridgeline_answers(llm: Any, tokens: int) -> tuple[list[list[int]], list[Answer]]:
    """Prompt ids and answers."""
    from ridgeline import ModelError, SamplingParams

    params = SamplingParams(temperature=0, max_tokens=tokens, logprobs=NUM_LOGPROBS)
    try:
        outputs = llm.chat([[{"role": "user", "content": p}] for p in PROMPTS], params)
    except ModelError:  # no chat template
        outputs = llm.generate(PROMPTS, params)
    answers = [
        Answer(
            completion.token_ids,
            completion.text,
            tuple({i: _value(p) for i, p in step.items()} for step in completion.logprobs),
        )
        for output in outputs
        for completion in output.outputs
    ]
    return [list(output.prompt_token_ids) for output in outputs], answers


def _value(logprob: Any) -> float:
    return float(getattr(logprob, "logprob", logprob))


def reference_gap(llm: Any, prefix: list[int], mine: int, other: int) -> float | None:
    """How much likelier `mine` is than `other` after `prefix`, by the float32 reference."""
    from ridgeline import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=1, logprobs=NUM_LOGPROBS)
    (output,) = llm.generate({"prompt_token_ids": prefix}, params)
    step = {i: _value(p) for i, p in output.outputs[0].logprobs[0].items()}
    return step[mine] - step[other] if mine in step and other in step else None


def llamacpp_answers(
    python: str, model: Path, prompts: list[list[int]], tokens: int, threads: int
) -> list[Answer]:
    """The same by llama.cpp, in a process of the Python that has it."""
    order = {"model": str(model), "prompts": prompts, "tokens": tokens, "threads": threads}
    done = subprocess.run(
        [python, __file__, "--answer-as-llamacpp"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=True,
    )
    return [
        Answer(
            tuple(a["token_ids"]),
            a["text"],
            tuple({int(i): v for i, v in step.items()} for step in a["likeliest"]),
        )
        for a in json.loads(done.stdout)
    ]


def answer_as_llamacpp() -> None:
    """The other process: an order on stdin, answers on stdout."""
    import llama_cpp
    import numpy as np

    order = json.load(sys.stdin)
    engine = llama_cpp.Llama(
        order["model"],
        n_ctx=max(map(len, order["prompts"])) + order["tokens"] + 1,
        n_threads=order["threads"],
        n_threads_batch=order["threads"],
        verbose=False,
    )
    vocabulary = llama_cpp.llama_model_get_vocab(engine.model)
    answers = []
    for prompt in order["prompts"]:
        engine.reset()
        engine.eval(prompt)
        ids: list[int] = []
        likeliest: list[dict[int, float]] = []
        while len(ids) < order["tokens"]:
            pointer = llama_cpp.llama_get_logits_ith(engine.ctx, -1)
            logits = np.ctypeslib.as_array(pointer, shape=(engine.n_vocab(),)).copy()
            top = np.argsort(-logits, kind="stable")[:NUM_LOGPROBS]
            likeliest.append({int(i): float(logits[i]) for i in top})
            ids.append(int(top[0]))
            if llama_cpp.llama_vocab_is_eog(vocabulary, ids[-1]):
                break
            engine.eval(ids[-1:])
        ends = bool(ids) and llama_cpp.llama_vocab_is_eog(vocabulary, ids[-1])
        text = engine.detokenize(ids[:-1] if ends else ids, prev_tokens=prompt)
        answers.append(
            {
                "token_ids": ids,
                "text": text.decode("utf-8", errors="replace"),
                "likeliest": likeliest,
            }
        )
    json.dump(answers, sys.stdout)


def compare(model: Path, arguments: argparse.Namespace) -> str:
    """A Markdown section for one model."""
    from ridgeline import LLM

    llm = LLM(str(model), threads=arguments.threads, context_length=512)
    prompts, ours = ridgeline_answers(llm, arguments.tokens)
    theirs = llamacpp_answers(
        arguments.llama_python, model, prompts, arguments.tokens, arguments.threads
    )
    reference = None
    rows, far, agree, parted, identical = [], 0, 0, 0, 0
    for question, prompt, our, their in zip(PROMPTS, prompts, ours, theirs, strict=True):
        same = common_prefix(our.token_ids, their.token_ids)
        longest = max(len(our.token_ids), len(their.token_ids))
        if same == longest:
            identical += 1
            gaps = ["", "", ""]
        else:
            parted += 1
            mine, other = our.token_ids[same], their.token_ids[same]
            if reference is None:
                reference = LLM(str(model), backend="reference", context_length=512, max_rows=1)
            prefix = [*prompt, *our.token_ids[:same]]
            verdict = reference_gap(reference, prefix, mine, other)
            own = our.gap(same, mine, other)
            agree += verdict is not None and verdict >= 0
            far += verdict is None or abs(verdict) > NEAR_TIE
            gaps = [_number(own), _number(their.gap(same, other, mine)), _number(verdict)]
        rows.append(
            f"| {_cell(question)} | {same}/{longest} | {' | '.join(gaps)} | {_cell(our.text)} | "
            f"{_cell(their.text)} |"
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return "\n".join(
        [
            f"## {model.name}",
            "",
            f"{identical} of {len(PROMPTS)} answers are token for token the same; of {parted} that "
            f"part, the float32 reference prefers Ridgeline's token in {agree}; {far} part where "
            f"the reference is not near a tie (over {NEAR_TIE} nats).",
            "",
            "| prompt | same tokens | our gap | llama.cpp's gap | reference: ours - theirs | "
            "Ridgeline | llama.cpp |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
        ]
    )


def _number(value: float | None) -> str:
    return "far" if value is None else f"{value:.3f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "↵")


def main() -> None:
    if "--answer-as-llamacpp" in sys.argv:
        answer_as_llamacpp()
        return
    parser = argparse.ArgumentParser(description="Greedy answers, side by side with llama.cpp.")
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--llama-python", required=True)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("answers.md"))
    arguments = parser.parse_args()
    sections = [compare(model, arguments) for model in arguments.models]
    arguments.out.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
