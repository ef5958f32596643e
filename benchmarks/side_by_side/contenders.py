"""The engines as contenders: each gives the tokens per second of one case, once per call.

An engine with a Python API is a worker that stays, so that rounds can be interleaved without
loading again; llama.cpp is measured by its own tools, one process a sample.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from side_by_side.cases import OURS, Case
from side_by_side.description import Description, Engine, Model
from side_by_side.processes import ANSWER_SECONDS, LlamaServer, MissingError, Worker

WORKERS = Path(__file__).parent / "workers"
ROWS = 64


class Contender(Protocol):
    """facts: what the engine said of itself. group: of its processes, if they stay between turns.
    Asleep at first, and whenever another has its turn.
    """

    name: str
    facts: dict[str, Any]

    @property
    def group(self) -> int | None: ...

    def rate(self, case: Case, seed: str) -> float: ...
    def wake(self) -> None: ...
    def sleep(self) -> None: ...
    def close(self) -> None: ...


class LlamaTools:
    """llama.cpp through llama-bench and llama-batched-bench; nothing stays between samples."""

    def __init__(self, name: str, tools: Path, model: Path, threads: int, env: Mapping[str, str]):
        self.name = name
        self.facts: dict[str, Any] = {}
        self.group: int | None = None
        self._tools, self._model, self._threads, self._env = tools, model, threads, env

    def rate(self, case: Case, seed: str) -> float:
        threads = str(self._threads)
        common = ["-m", str(self._model), "-t", threads, "-ngl", "0"]
        if case.phase == "aggregate":
            tokens = case.batch * (case.prompt + case.output)
            lengths = ["-npp", str(case.prompt), "-ntg", str(case.output), "-npl", str(case.batch)]
            options = [*common, "-tb", threads, "-c", str(tokens + 512), *lengths]
            text = self._output("llama-batched-bench", [*options, "--output-format", "jsonl"])
            return batched_bench_rate(text)
        lengths = {
            "prefill": ["-p", str(case.prompt), "-n", "0"],
            "decode": ["-p", "0", "-n", str(case.output), "-d", str(case.prompt)],
        }[case.phase]
        report = bench_report(
            self._output("llama-bench", [*common, *lengths, "-r", "1", "-o", "json"])
        )
        self.facts = {"version": f"llama.cpp {report['build_commit']}"} | {
            key: report.get(key) for key in ("model_type", "n_ubatch", "flash_attn", "type_k")
        }
        return float(report["samples_ts"][0])

    def _output(self, tool: str, options: list[str]) -> str:
        done = subprocess.run(
            [str(self._tools / tool), *options],
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            env=self._env,
        )
        if done.returncode:
            raise MissingError(f"{tool} ended with {done.returncode}: {done.stderr.strip()[-600:]}")
        return done.stdout

    def wake(self) -> None: ...
    def sleep(self) -> None: ...
    def close(self) -> None: ...


def bench_report(text: str) -> dict[str, Any]:
    """The one test of a `llama-bench -o json` report."""
    reports = json.loads(text)
    assert len(reports) == 1, reports
    report: dict[str, Any] = reports[0]
    return report


def batched_bench_rate(text: str) -> float:
    """Decoded tokens per second of the last line of `llama-batched-bench --output-format jsonl`."""
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if not lines:
        raise MissingError(f"llama-batched-bench gave no figures: {text.strip()[-300:]}")
    return float(json.loads(lines[-1])["speed_tg"])


def open_contender(
    name: str, case: Case, description: Description, context: int, folder: Path
) -> Contender:
    """The contender `engine` or `engine:FORMAT` on the case's model; folder: logs, made formats.

    context: tokens a request may have. Raises MissingError if the description or the disk lacks it.
    """
    engine_name, _, kind = name.partition(":")
    engine = description.engines.get(engine_name)
    if engine is None:
        if engine_name != OURS:
            raise MissingError(f"{name}: the description has no [engines.{engine_name}]")
        engine = Engine()
    model = description.models.get(case.model)
    if model is None:
        raise MissingError(f"{name}: the description has no [models.{case.model}]")
    env = os.environ | dict(engine.env)
    if engine_name == "llamacpp":
        tools = _there(engine.bin, f"{name}: bin of [engines.llamacpp]")
        file = _file(name, kind, case, model, description, folder)
        if case.phase == "offline":
            server = _there(tools / "llama-server", name)
            log = folder / "logs" / f"{case.model}-{name}-server.log".replace(":", "-")
            return LlamaServer(name, server, file, description.threads, context, env, log)
        return LlamaTools(name, tools, file, description.threads, env)
    if engine_name == "openvino" and case.weights != "gguf":
        raise MissingError(f"{name} reads GGUF files only here")
    if engine_name in ("vllm", "transformers"):
        file = _there(model.bf16, f"{name}: bf16 of [models.{case.model}]")
    else:
        file = _file(name, kind, case, model, description, folder)
    default = Path(sys.executable) if engine_name == OURS else None
    python = _there(engine.python or default, f"{name}: python of [engines.{engine_name}]")
    if engine.preload:
        for library in engine.preload:
            _there(Path(library), f"{name}: preload")
        env["LD_PRELOAD"] = ":".join(engine.preload)
    if engine_name == "vllm":
        env = _vllm_environment(description.threads) | env
    options = {
        "model": str(file),
        "threads": description.threads,
        "context": context,
        "rows": ROWS,
    }
    command = [str(python), str(WORKERS / f"run_{engine_name}.py"), json.dumps(options)]
    log = folder / "logs" / f"{case.model}-{case.weights}-{name}.log".replace(":", "-")
    return Worker(name, command, env, log)


def _vllm_environment(threads: int) -> dict[str, str]:
    cores = sorted(os.sched_getaffinity(0))[:threads]
    return {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(str(core) for core in cores),
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _there(path: Path | None, what: str) -> Path:
    if path is None:
        raise MissingError(f"{what} is not given")
    if not path.exists():
        raise MissingError(f"{what} = {path} is not there")
    return path


def _file(
    name: str, kind: str, case: Case, model: Model, description: Description, folder: Path
) -> Path:
    """What the contender reads: the case's weights, or the GGUF in another format, made once."""
    if not kind:
        entry = model.bf16 if case.weights == "bf16" else model.gguf
        return _there(entry, f"{name}: {case.weights} of [models.{case.model}]")
    if kind in model.formats:
        return _there(model.formats[kind], f"{name}: {kind} of [models.{case.model}]")
    source = _there(model.gguf, f"{name}: gguf of [models.{case.model}]")
    target = folder / "formats" / f"{case.model}-{kind}.gguf"
    if not target.exists():
        llama = description.engines.get("llamacpp", Engine())
        tools = _there(llama.bin, f"{name}: bin of [engines.llamacpp], which makes {kind},")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        done = subprocess.run(
            [tools / "llama-quantize", "--allow-requantize", source, partial, kind],
            capture_output=True,
            text=True,
            env=os.environ | dict(llama.env),
        )
        if done.returncode:
            raise MissingError(f"{name}: llama-quantize failed: {done.stderr.strip()[-300:]}")
        partial.replace(target)
    return target
