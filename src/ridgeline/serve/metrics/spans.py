"""Requests as OpenTelemetry spans, sent where OTEL_EXPORTER_OTLP_ENDPOINT says, once they end.

A span for the request, and one below it for each of queue, prefill and decode, and for each time
that it was preempted, whose moments are the ledger's. A client's `traceparent` (W3C Trace Context)
is gone on with. The SDK is an extra: it is asked for only where an endpoint is set.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

from ridgeline import __version__
from ridgeline.engine.ledger import Ledger
from ridgeline.errors import RidgelineError
from ridgeline.serve.core.ask import Ask
from ridgeline.serve.core.events import Done

NANO = 1e9


class Spans:
    """endpoint: the collector's base address; traces go to /v1/traces below it. Raises
    RidgelineError if the SDK is not installed.
    """

    def __init__(self, endpoint: str, model: str) -> None:
        if find_spec("opentelemetry.sdk") is None:
            raise RidgelineError(
                "OTEL_EXPORTER_OTLP_ENDPOINT is set, and OpenTelemetry is not installed: "
                "pip install 'ridgeline[otel]', or unset it"
            )
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({"service.name": "ridgeline", "service.version": __version__})
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("ridgeline")
        self._model = model

    def add(self, ask: Ask, done: Done) -> None:
        """A hook of `Core.done_hooks`."""
        from opentelemetry import trace

        output = done.output
        if not output.ledgers:
            return
        ledger = max(output.ledgers, key=lambda one: one.total_seconds)
        epoch = time.time() - time.monotonic()  # of the ledger's clock
        sampling = ask.sampling
        reasons = [answer.finish_reason or "" for answer in output.outputs]
        attributes: dict[str, Any] = {
            "gen_ai.request.model": self._model,
            "gen_ai.request.id": output.request_id,
            "gen_ai.request.n": sampling.num_sequences,
            "gen_ai.request.temperature": float(sampling.temperature),
            "gen_ai.request.top_p": float(sampling.top_p),
            "gen_ai.usage.input_tokens": done.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": done.usage.completion_tokens,
            "gen_ai.usage.cached_tokens": done.usage.cached_tokens,
            "gen_ai.response.finish_reasons": reasons,
        }
        if sampling.max_tokens is not None:
            attributes["gen_ai.request.max_tokens"] = sampling.max_tokens
        for name, seconds in ledger.seconds.items():
            attributes[f"ridgeline.seconds.{name}"] = seconds
        whole = self._tracer.start_span(
            "llm_request",
            context=_parent(ask.traceparent),
            start_time=_nanoseconds(epoch + ledger.arrival),
            attributes=attributes,
        )
        within = trace.set_span_in_context(whole)
        for name, began, ended in phases(ledger):
            start = _nanoseconds(epoch + began)
            part = self._tracer.start_span(name, context=within, start_time=start)
            part.end(_nanoseconds(epoch + ended))
        whole.end(_nanoseconds(epoch + ledger.end))

    def close(self) -> None:
        """Sends what has not been sent."""
        self._provider.shutdown()


def _parent(traceparent: str | None) -> Any:
    """The context that a client's header names; None, a trace of its own, if it names none."""
    if traceparent is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def phases(ledger: Ledger) -> list[tuple[str, float, float]]:
    """By name, from when to when: one after the other, without a gap; preemptions lie in them."""
    first_step = ledger.end if ledger.first_step is None else ledger.first_step
    first_token = ledger.end if ledger.first_token is None else ledger.first_token
    found = [("queue", ledger.arrival, first_step)]
    if ledger.first_step is not None:
        found.append(("prefill", first_step, first_token))
    if ledger.first_token is not None:
        found.append(("decode", first_token, ledger.end))
    return found + [("preempted", began, ended) for began, ended in ledger.gaps]


def _nanoseconds(seconds: float) -> int:
    return int(seconds * NANO)
