"""The forms of ``workload.requests``, checked before any work: `read_settings`.

    {trace: PATH, limit: N, skip: N, format: auto}              a recorded stream
    {dataset: azure-conv-2023, count: N}                        a shipped (or fitted) description of one
    {count: N, prompt_tokens: 512, output_tokens: {name: ...}}  a described one
    {clients: PATH, lengths: PATH, count: N}                    ServeGen's clients, with rates and bursts
    {tenants: {chat: {dataset: ...}, code: {...}}, count: N}    several of these at once, merged by time
the second and third also with `conversations`, `shared_prefix` (`sessions.py`); each with one of
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
from codesign.base.units import Latency
from workloads.requests.arrivals import ARRIVALS, Arrivals, Batch, Poisson
from workloads.requests.datasets.load import check_name
from workloads.requests.fields import Count, Index, Rate
from workloads.requests.lengths import LENGTHS, Fixed, Lengths, Tokens
from workloads.requests.sessions import Sessions, SharedPrefix, read_sessions

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


class DrawnForm(Timing):
    """What every stream that is drawn may have: turns and shared beginnings of prompts."""

    count: Count
    conversations: Any = None
    shared_prefix: SharedPrefix | None = None
    prefilled: bool = False  # prompts are computed elsewhere: their cache is there on admission
    midway: bool = False  # a closed loop met when it has run for long: see `build.midway`
    block_tokens: Count = 512  # as in recorded prefix ids; an engine with smaller blocks shares more

    @model_validator(mode="after")
    def _closed_loop(self) -> DrawnForm:
        if self.midway and (self.concurrency is None or self.conversations or self.shared_prefix):
            raise ValueError("midway is of a closed loop (concurrency) of single requests")
        if self.prefilled and (self.conversations or self.shared_prefix):
            raise ValueError("prefilled is of single requests")
        return self


class DatasetForm(DrawnForm):
    """A stream drawn from a dataset's tables, with its own arrival process unless another is given."""

    dataset: Annotated[str, Field(min_length=1)]


class SyntheticForm(DrawnForm):
    """A stream drawn from described lengths."""

    prompt_tokens: Any
    output_tokens: Any
    correlation: Annotated[float, Field(ge=-1, le=1)] = 0.0


class ClientsForm(Timing):
    """A stream of recorded clients (ServeGen), from `start` of their record on."""

    clients: Annotated[str, Field(min_length=1)]
    lengths: Annotated[str, Field(min_length=1)]
    count: Count
    start: Latency = 0.0
    arrivals: None = None


class TenantsForm(Timing):
    """Several open-loop streams at once; `rate` sets the sum of theirs."""

    tenants: Annotated[dict[str, Any], Field(min_length=1, max_length=10_000)]
    count: Count
    arrivals: None = None


Form = TraceForm | DatasetForm | SyntheticForm | ClientsForm | TenantsForm
_FORMS: dict[str, type[Form]] = {
    "tenants": TenantsForm, "clients": ClientsForm, "trace": TraceForm, "dataset": DatasetForm,
    "prompt_tokens": SyntheticForm,
}  # fmt: skip


@dataclass(frozen=True)
class Tenant:
    """One of several streams: who asks, about what, how."""

    name: str
    domain: str
    settings: RequestSettings


@dataclass(frozen=True)
class RequestSettings:
    """A checked description of a stream: its form, and the components that it names."""

    form: Form
    arrivals: Arrivals | None  # None: the form's own
    prompt: Lengths | None
    output: Lengths | None
    document: Document
    sessions: Sessions | None = None
    tenants: tuple[Tenant, ...] = ()

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
    if isinstance(form, TenantsForm):
        return RequestSettings(form, None, None, None, document, tenants=_tenants(document, form))
    if isinstance(form, DatasetForm):
        check_name(form.dataset, document.where(("dataset",)))
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
    sessions = read_sessions(document, form, _lengths) if isinstance(form, DrawnForm) else None
    return RequestSettings(form, arrivals, prompt, output, document, sessions)


def _tenants(document: Document, form: TenantsForm) -> tuple[Tenant, ...]:
    """Read each tenant's own stream; what only the whole can have is refused."""
    whole, found = _child(document, "tenants"), []
    for name in form.tenants:
        below = _child(whole, name).copy()
        if not isinstance(below.data, dict) or "tenants" in below.data:
            raise whole.error(
                (name,), "is a stream, as {dataset: NAME} or {prompt_tokens: ..., rate: ...}", below.data
            )
        domain = below.data.pop("domain", name)
        if not isinstance(domain, str) or not domain:
            raise below.error(("domain",), "must be a name", domain)
        for key in ("concurrency", "batch", "count"):
            if key in below.data:
                raise below.error((key,), "belongs to the whole, beside tenants, not to one of them")
        if "trace" not in below.data:
            below.data["count"] = form.count
        found.append(Tenant(name, domain, read_settings(below)))
    return tuple(found)


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
    data = document.data.get(key, ...)
    if data is ...:
        raise document.error((key,), "is required and missing")
    if isinstance(data, int) and not isinstance(data, bool):
        return Fixed(validate(Tokens, _child(document, key)))
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
