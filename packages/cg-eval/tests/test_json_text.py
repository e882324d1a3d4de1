import json

from cg_eval.json_text import to_json


def test_numbers_that_are_not_finite_become_null_at_any_depth():
    text = to_json({"a": [1.5, float("nan"), {"b": (float("inf"), 2)}], "c": "nan"})
    assert json.loads(text, parse_constant=lambda name: f"bare {name}") == {"a": [1.5, None, {"b": [None, 2]}], "c": "nan"}
