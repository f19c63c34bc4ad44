"""Connection to a Ray cluster, for extractions and ablations. Ray is an optional extra."""

from __future__ import annotations

import logging
import os
from typing import Any

from .errors import UsageError
from .wording import install


def connect() -> Any:
    """The module ray, connected to the cluster of RAY_ADDRESS or to a new local one. Raises UsageError without Ray."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else it copies the working folder to every worker
    try:
        import ray
    except ImportError:
        raise UsageError("--launcher ray needs Ray", hint=install("ray")) from None
    # A local cluster listens on the loopback interface only.
    alone: dict[str, Any] = (
        {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    )
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level=logging.WARNING, **alone)
    return ray
