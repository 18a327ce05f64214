"""Request streams: who arrives when, with how many tokens in and out.

`Requests` is the one form; `build_requests` makes it from an experiment's ``workload.requests``.
"""

from workloads.requests.build import build_requests
from workloads.requests.settings import RequestSettings, read_settings
from workloads.requests.spec import Requests

__all__ = ["RequestSettings", "Requests", "build_requests", "read_settings"]
