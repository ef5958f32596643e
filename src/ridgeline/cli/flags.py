"""What each option, argument and environment setting does: one table, for `ridgeline explain flag`.

Each row says what it does in a sentence, and the formula by which it acts; what it does on this
machine is said by the functions of `flag_pages`, by the name in `here`. A test holds the table to
the commands, `Options` and `Settings`: a setting without a row does not pass.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flag:
    """here: a function of `flag_pages`; "" where a setting has no effect on time or memory."""

    does: str
    formula: str
    here: str = ""


_SAMPLE = "argmax of logits / T + Gumbel noise, which follows from the seed and the position"

FLAGS: dict[str, Flag] = {
    # ---- model and machine
    "model": Flag("Which model: a path, a catalogue name, pypi:package or hf:owner/name.", ""),
    "context-length": Flag(
        "Room for a prompt and its answer, in tokens.",
        "KV bytes of a row = ceil(tokens / 16) x block bytes; time follows what a row has",
        "kv",
    ),
    "memory": Flag(
        "Bytes of the KV cache.",
        "blocks = memory / block bytes; not given: half of what is free beside weights, values "
        "and 1 GB in reserve",
        "memory",
    ),
    "kv-format": Flag(
        "How keys and values are kept: bf16, f16 or int8.",
        "bytes of a head of d channels: 2 d (bf16, f16), d + 4 (int8); decode reads all of a row's",
        "kv",
    ),
    "max-rows": Flag(
        "Requests that run at once.",
        "a step of B rows reads the weights once: seconds a token falls as 1 / B until arithmetic "
        "binds; scratch and logits grow with it",
        "batch",
    ),
    "max-tokens-per-step": Flag(
        "New tokens that a step computes at most; longer prompts are cut.",
        "steps of a prompt = ceil(tokens / limit); answers wait one step at a time; values take "
        "limit x width x 4 bytes",
        "chunk",
    ),
    "forced-spans": Flag(
        "Whether tokens to which a grammar leaves no other come without a step for each.",
        "steps of an answer = its tokens - those that are forced behind another of the same answer",
    ),
    "policy": Flag(
        "Who goes first: fcfs, priority or fair.",
        "order of the queue; no step becomes faster",
    ),
    "max-waiting": Flag(
        "Requests that may wait; one more is refused with the time when to come back.",
        "Retry-After = work ahead / predicted speed",
    ),
    "itl-target": Flag(
        "Seconds between tokens of answers that prompts must leave.",
        "prompt tokens of a step = most n with predicted seconds(step) <= target",
        "chunk",
    ),
    "itl-steps": Flag(
        "The same in steps: prompts leave answers a token in so many steps of all rows.",
        "itl target = itl_steps * predicted seconds(a step that writes in every row), at least "
        "that step and 64 tokens of prompts",
        "chunk",
    ),
    "rate-share": Flag(
        "No more requests run at once than write this part of max-rows' tokens a second.",
        "rows at once = least B with B / predicted seconds(step of B) >= share * max-rows / "
        "seconds(step of max-rows), 32 at least",
        "batch",
    ),
    "wave-seconds": Flag(
        "Prompts that come together are read before any of their answers begins, if it takes no "
        "longer.",
        "a wave: 8 prompts or more, 8 for each answer that is being written, predicted "
        "seconds(all of them) <= limit; first tokens come together, gaps have no prompts in them",
        "chunk",
    ),
    "expert-counts": Flag("Outputs say how often each expert was chosen.", "counted per token"),
    "experts": Flag("A heat map of the experts that tokens went to.", "counted per token"),
    "threads": Flag(
        "CPU threads that compute.",
        "work / threads + barriers; memory-bound steps stop gaining at the read roof",
        "threads",
    ),
    "isa": Flag(
        "CPU kernels: amx, avx512, avx2 or portable.",
        "operations an instruction: AMX 8 x VNNI (int8); formats with a scale for each 32 weights "
        "use half at most",
        "isa",
    ),
    "backend": Flag(
        "Who computes: cpu, reference (NumPy, the definition) or null.",
        "reference is hundreds of times slower",
    ),
    "record": Flag(
        "A file of all that the engine is told and does, for `ridgeline replay`.",
        "a line a step; token ids, no text",
    ),
    "task": Flag(
        "What the model is for: generate, embed, classify or transcribe.",
        "chooses the graph's tail",
    ),
    "pooling": Flag("An encoder's pooling: mean or cls.", "one row for each text"),
    "positions": Flag("`dropped` leaves rotations out (DroPE).", "q, k unrotated"),
    "settings": Flag("LLM(settings=...): what the environment would say.", "see RIDGELINE_*"),
    # ---- the server
    "host": Flag("serve: the address to listen on.", "beyond loopback only with keys"),
    "port": Flag("serve: the port; 0: any that is free.", ""),
    "api-key": Flag("serve: a key that callers must show.", "compared in constant time"),
    "api-keys": Flag("serve: a file of keys, tenants and limits.", "share = weight / weights"),
    "insecure": Flag("serve: listens beyond this machine without keys.", ""),
    "allowed-host": Flag("serve: a name by which it may be called on loopback.", "Host header"),
    "name": Flag("serve: what clients call the model.", ""),
    "lenient": Flag("serve: lists unknown fields, where they would be refused.", ""),
    "max-ttft": Flag(
        "serve: refuses whom it would keep waiting longer for the first token.",
        "predicted: work that waits / what all rows do a second + own prompt; 429 says when",
    ),
    "max-queue": Flag("serve: requests that may wait.", "one more: 429 with Retry-After"),
    "max-answers": Flag("serve: answers to one request.", "n, best_of, times prompts"),
    "max-body-bytes": Flag("serve: bytes of a request.", "more: 413, unread"),
    "metrics-key": Flag("serve: a key that may read metrics, and nothing else.", ""),
    "access-log": Flag("serve: a line of JSON for each HTTP request.", ""),
    "drain-seconds": Flag("serve: for what runs to end after SIGTERM.", "then it is cut off"),
    "step-seconds": Flag("serve: a longer step is called stuck.", "/readyz: 503"),
    "progress": Flag("LLM(progress=...): told of a download.", ""),
    # ---- prompt
    "prompt": Flag(
        "run: the prompt. bench: prompt lengths to compute.",
        "a prompt of n tokens: 2 n x parameters operations and n^2 / 2 pairs a head and layer",
        "prefill",
    ),
    "system": Flag("The system message.", "its tokens come before every turn, cached"),
    "image": Flag(
        "A picture before the prompt, of a model that sees; may be given often.",
        "as many tokens as the model's tower makes of a picture, all in one step",
    ),
    "raw": Flag("Continues the text as it is, without a chat template.", ""),
    # ---- sampling
    "max-tokens": Flag("Longest answer, in tokens.", "time = TTFT + (tokens - 1) x ITL", "decode"),
    "min-tokens": Flag("Shortest answer: nothing ends it before.", "ending tokens get -inf until"),
    "temperature": Flag("0: the likeliest token. Higher: more varied.", _SAMPLE, "sampling"),
    "dynatemp-range": Flag(
        "The temperature goes up and down with the entropy.",
        "T +- range x entropy / max",
        "sampling",
    ),
    "top-p": Flag("The likeliest tokens up to this probability.", "sum p >= top-p", "sampling"),
    "top-k": Flag("This many likeliest tokens.", "rank <= k", "sampling"),
    "min-p": Flag("Tokens at least this share as likely.", "p >= min-p x max p", "sampling"),
    "typical-p": Flag("Tokens nearest the entropy.", "|-log p - H| smallest, up to p", "sampling"),
    "top-n-sigma": Flag(
        "Tokens within n deviations of the likeliest.", "logit >= max - n x std", "sampling"
    ),
    "xtc-probability": Flag(
        "How often top choices but the last go.", "with probability", "sampling"
    ),
    "xtc-threshold": Flag("What makes a top choice.", "p >= threshold", "sampling"),
    "mirostat": Flag(
        "2: holds the surprise at tau.", "-log2 p <= mu; mu -= eta x error", "sampling"
    ),
    "mirostat-tau": Flag("The surprise aimed at, in bits.", "mu starts at 2 tau", "sampling"),
    "mirostat-eta": Flag("How fast mirostat corrects itself.", "mu -= eta x error", "sampling"),
    "repetition-penalty": Flag(
        "Above 1: avoids tokens seen before.", "logit / p, or x p below 0", "sampling"
    ),
    "frequency-penalty": Flag(
        "Avoids a token the more, the more often it came.", "logit - f x count", "sampling"
    ),
    "presence-penalty": Flag("Avoids tokens that came.", "logit - f", "sampling"),
    "dry-multiplier": Flag(
        "Avoids what would go on with a repetition.",
        "logit - m x base^(length - allowed)",
        "sampling",
    ),
    "no-repeat-ngram-size": Flag("No n tokens in a row come twice.", "logit = -inf", "sampling"),
    "bad-words": Flag("Text that does not come.", "logit = -inf at its last token", "sampling"),
    "seed": Flag("Same seed, same answer.", "Philox(seed, position): no state, no time"),
    "stop": Flag("Ends before this text.", "looked for in text, as it comes"),
    "stop-regex": Flag("Ends before what this pattern matches.", "looked for in text, as it comes"),
    "ignore-eos": Flag("Goes on beyond the model's own end.", "ending tokens are ordinary ones"),
    # ---- the form of an answer
    "json-schema": Flag(
        "run: the answer is an instance of this JSON schema.",
        "logit = -inf for what it does not allow; the mask is made beside the forward pass",
    ),
    "regex": Flag("run: the whole answer matches this.", "as json-schema"),
    "choice": Flag("run: the answer is one of these texts.", "as json-schema"),
    "grammar": Flag("run: the answer is of this Lark grammar.", "as json-schema"),
    # ---- bench, explain, measure
    "context": Flag(
        "bench: contexts to decode at.",
        "a decode step reads every cached token of a row in every layer (up to a window)",
        "decode",
    ),
    "batch": Flag(
        "Rows that decode at once (of bench; max-rows says how many may).",
        "weights are read once for all",
        "batch",
    ),
    "output": Flag("bench: tokens of each row that a sample times.", ""),
    "repeat": Flag("bench: samples of each figure; medians are told.", ""),
    "profile": Flag("bench: operators by time, with their roofs.", "the engine's own timers"),
    "plot": Flag("bench: a roofline with the operators on it.", "operations a byte, against both"),
    "json": Flag("Records instead of tables.", ""),
    # ---- speech
    "files": Flag("transcribe: WAV files, read side by side.", "a row each"),
    "language": Flag(
        "transcribe: what is spoken; else it is heard.", "the likeliest language token, one window"
    ),
    "translate": Flag("transcribe: into English.", "another token after the language's"),
    "condition-on-previous-text": Flag(
        "transcribe: each window is told the text so far.", "up to half the context of prompt"
    ),
    "srt": Flag("transcribe: SubRip subtitles.", ""),
    "vtt": Flag("transcribe: WebVTT subtitles.", ""),
    # ---- the environment
    "RIDGELINE_CACHE": Flag(
        "Where models, roofs, profiles and packed weights lie (--cache-dir).", "", "cache"
    ),
    "RIDGELINE_OFFLINE": Flag("1: never opens a connection (--offline).", ""),
    "RIDGELINE_ISA": Flag(
        "CPU kernels: amx, avx512, avx2 or portable.",
        "operations an instruction; see isa",
        "isa",
    ),
    "RIDGELINE_KEEP_PACKED": Flag(
        "0: packed weights, and what a screen learned, are not kept on disk.",
        "seconds to load: packing again; a screen learns in the first 48 steps again",
        "packed",
    ),
    "RIDGELINE_THREADS": Flag(
        "Threads of the CPU backend.",
        "work / threads + barriers; see threads",
        "threads",
    ),
}
