"""The forms of ``workload.requests``, checked before any work: `read_settings`.

    {trace: PATH, limit: N, skip: N, format: auto}              a recorded stream
    {dataset: azure-conv-2023, count: N}                        a shipped (or fitted) description of one
    {count: N, prompt_tokens: 512, output_tokens: {name: ...}}  a described one
with, for any of them, one of
    rate: 6 /s and arrivals: poisson     open loop       concurrency: 64     closed loop
    batch: true                          all at time 0   speedup, time_scale (a recorded stream's own times)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from codesign.base.document import Document, Strict, validate
from codesign.base.errors import nearest
from workloads.requests.arrivals import ARRIVALS, Arrivals, Batch, Poisson
from workloads.requests.fields import Count, Index, Rate
from workloads.requests.lengths import LENGTHS, Fixed, Lengths

Factor = Annotated[float, Field(gt=0, le=1e9)]


class Timing(Strict):
    """When requests arrive; what every form shares."""

    rate: Rate | None = None
    arrivals: Any = None
    concurrency: Count | None = None
    batch: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> Timing:
        ways = {
            "concurrency": self.concurrency is not None,
            "batch": self.batch,
            "rate or arrivals": self.rate is not None or self.arrivals is not None,
        }
        given = [name for name, used in ways.items() if used]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: keep one")
        return self


class TraceForm(Timing):
    """A recorded stream."""

    trace: Annotated[str, Field(min_length=1)]
    format: Literal["auto", "azure", "mooncake", "burstgpt", "sharegpt", "csv"] = "auto"
    limit: Count | None = None
    skip: Index = 0
    time_scale: Factor | None = None
    speedup: Factor | None = None

    @model_validator(mode="after")
    def _one_scale(self) -> TraceForm:
        scales = [name for name in ("time_scale", "speedup") if getattr(self, name) is not None]
        others = [name for name in ("rate", "arrivals", "concurrency") if getattr(self, name) is not None]
        others += ["batch"] if self.batch else []
        if len(scales) > 1 or (scales and others):
            raise ValueError(f"{' and '.join(scales + others)} exclude each other: keep one")
        return self


class DatasetForm(Timing):
    """A stream drawn from a dataset's tables, with its own arrival process unless another is given."""

    dataset: Annotated[str, Field(min_length=1)]
    count: Count


class SyntheticForm(Timing):
    """A stream drawn from described lengths."""

    count: Count
    prompt_tokens: Any
    output_tokens: Any
    correlation: Annotated[float, Field(ge=-1, le=1)] = 0.0


Form = TraceForm | DatasetForm | SyntheticForm
_FORMS: dict[str, type[Form]] = {
    "trace": TraceForm, "dataset": DatasetForm, "prompt_tokens": SyntheticForm,
}  # fmt: skip


@dataclass(frozen=True)
class RequestSettings:
    """A checked description of a stream: its form, and the components that it names."""

    form: Form
    arrivals: Arrivals | None  # None: the form's own
    prompt: Lengths | None
    output: Lengths | None
    document: Document

    @property
    def rate_per_s(self) -> float | None:
        """The rate that was asked for, if one was."""
        return self.form.rate


def read_settings(requests: Document | Mapping[str, Any]) -> RequestSettings:
    """Check ``workload.requests`` without reading a trace or drawing a request.

    Parameters
    ----------
    requests : Document or mapping   a Document keeps file and line for errors

    Raises
    ------
    ConfigError   unknown form, key, component; a value out of range; ways that exclude each other
    """
    document = requests if isinstance(requests, Document) else Document(requests, "workload.requests")
    kind = _form_of(document)
    refuse_unknown_keys(document, list(kind.model_fields))
    form = validate(kind, document)
    arrivals = _arrivals(document, form)
    prompt = output = None
    if isinstance(form, SyntheticForm):
        prompt, output = _lengths(document, "prompt_tokens"), _lengths(document, "output_tokens")
        if arrivals is not None and arrivals.needs_rate and form.rate is None:
            raise document.error(
                ("rate",), "is required and missing, as 6 /s (or concurrency, or batch: true)"
            )
    if arrivals is not None and not arrivals.needs_rate and form.rate is not None:
        raise document.error(("rate",), "has no meaning with these arrivals: leave it out")
    return RequestSettings(form, arrivals, prompt, output, document)


def refuse_unknown_keys(document: Document, known: list[str]) -> None:
    """Refuse a misspelt key before the required key that it leaves missing is missed."""
    for key in document.data:
        if key not in known:
            near = nearest(key, known)
            hint = f" (did you mean {near!r}?)" if near else ""
            raise document.error((key,), f"unknown key; known here: {', '.join(known)}{hint}")


def _form_of(document: Document) -> type[Form]:
    if not isinstance(document.data, dict):
        rule = "is written as {trace: PATH}, {dataset: NAME, count: N} or {count, prompt_tokens, ...}"
        raise document.error((), rule, document.data)
    for key, form in _FORMS.items():
        if key in document.data:
            return form
    for key in map(str, document.data):
        near = nearest(key, list(_FORMS))
        if near and key not in SyntheticForm.model_fields:
            return _FORMS[near]
    return SyntheticForm


def _arrivals(document: Document, form: Form) -> Arrivals | None:
    if form.arrivals is not None:
        return ARRIVALS.build(_child(document, "arrivals"))
    if form.batch or form.concurrency is not None:
        return Batch()
    if isinstance(form, SyntheticForm):
        return Poisson()
    return None


def _lengths(document: Document, key: str) -> Lengths:
    data = document.data[key]
    if isinstance(data, int) and not isinstance(data, bool):
        return validate(Fixed, Document({"value": data}, document.where((key,))))
    if not isinstance(data, str | dict):
        rule = "is a number of tokens or {name: DISTRIBUTION, ...}; choose from " + ", ".join(LENGTHS.names())
        raise document.error((key,), rule, data)
    return LENGTHS.build(_child(document, key))


def _child(document: Document, key: str) -> Document:
    """Return the document below a key; where there are no lines, its origin names the key."""
    child = document.child(key)
    if not child.lines:
        child.origin = f"{document.origin}: {key}"
    return child
