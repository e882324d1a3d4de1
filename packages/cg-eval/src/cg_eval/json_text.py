"""Results as JSON that every reader takes."""

import json
import math
from typing import Any


def to_json(values: Any) -> str:
    """Return plain values as JSON text; numbers that are not finite, which JSON has no word for, become null."""
    return json.dumps(_finite(values), indent=1, allow_nan=False) + "\n"


def _finite(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
