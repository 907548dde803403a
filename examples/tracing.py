"""OpenTelemetry, in some forty lines: a span for each run, linked to the one that scheduled it, for each call to the store, and each pass.

Run it:      pip install pyncette-core opentelemetry-sdk, and then: python examples/tracing.py
You see:     A line for each span, with its trace. `order` runs each second, with `charge` as a span of its own inside; every third
             order fails. The others schedule `ship`, whose span is in a trace of its own and has a link to that of the order. A claim
             belongs to its tick. With another exporter the spans go to Jaeger, Tempo or whatever you have.
End it:      Ctrl-C.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from datetime import timedelta

from opentelemetry import trace
from opentelemetry.context import Context as TraceContext
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from pyncette import Context, FailureMode, Instrumentation, Pyncette, Task

app = Pyncette()
tracer = trace.get_tracer("pyncette")


# --- the forty lines ------------------------------------------------------------------------------------------------------


class Tracing(Instrumentation):
    def tick(self) -> AbstractContextManager[trace.Span]:
        return tracer.start_as_current_span("tick")

    def call(self, operation: str, size: int) -> AbstractContextManager[trace.Span]:
        return tracer.start_as_current_span(f"store {operation}", kind=trace.SpanKind.CLIENT, attributes={"pyncette.rows": size})

    def lease_lost(self, task: Task) -> None:
        tracer.start_span("lease lost", attributes={"pyncette.task": task.name}).end()


async def traced(context: Context, next: Callable[[], Awaitable[None]]) -> None:
    attributes: dict[str, str | int] = {
        "pyncette.task": context.task.template.name,
        "pyncette.instance": context.name,
        "pyncette.scheduled_at": context.scheduled_at.isoformat(),
        "pyncette.attempt": context.attempt,
    }
    # A trace of its own: it would otherwise belong to the tick that claimed it, and outlive that. Who scheduled it is linked.
    scheduling = trace.get_current_span(extract(context.args.pop("trace", {}))).get_span_context()
    links = [trace.Link(scheduling)] if scheduling.is_valid else []
    with tracer.start_as_current_span(
        f"run {context.task.template.name}", TraceContext(), kind=trace.SpanKind.CONSUMER, attributes=attributes, links=links
    ):
        await next()


def current_trace() -> dict[str, str]:
    """What a run is to be linked to: pass it to ``schedule_task()`` as ``trace=``."""
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier


app.use_instrumentation(Tracing())
app.use_middleware(traced)


# --- something to trace ---------------------------------------------------------------------------------------------------


@app.task(interval=timedelta(seconds=1), failure_mode=FailureMode.COMMIT)
async def order(context: Context) -> None:
    with tracer.start_as_current_span("charge"):
        await asyncio.sleep(0.1)
    if context.scheduled_at.second % 3 == 0:
        raise ValueError("refused")
    number = str(context.scheduled_at.timestamp())
    await context.app_context.schedule_task(ship, number, execute_at=context.scheduled_at, trace=current_trace())


@app.dynamic_task()
async def ship(context: Context) -> None:
    pass


def one_line(span: ReadableSpan) -> str:
    number = span.context.trace_id if span.context else 0
    milliseconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
    status = "failed" if span.status.status_code is trace.StatusCode.ERROR else "ok"
    linked = "".join(f", linked to trace {link.context.trace_id:032x}" for link in span.links)
    return f"span {span.name!r} of trace {number:032x}: {status}, {milliseconds:.1f} ms{linked}\n"


if __name__ == "__main__":
    logging.getLogger("pyncette").setLevel(logging.INFO)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=one_line)))
    trace.set_tracer_provider(provider)
    app.main()
