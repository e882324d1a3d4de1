"""Configuration files: one frozen pydantic model per package, YAML, `key=value` overrides, and errors in one line."""

import difflib
import inspect
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

import pydantic
import yaml

from cg_data.atomic import atomic_file
from cg_data.errors import UserError


class Configuration(pydantic.BaseModel):
    """Base of every configuration: nothing unknown is accepted, nothing is changed after loading."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def load(cls, path: Path | str | None = None, overrides: Sequence[str] = ()) -> Self:
        """Read a YAML file (or start from defaults) and apply `a.b=value` overrides.

        Raises `UserError`, one line, for an unreadable file, an unknown key (with the nearest known one) or a bad value.
        """
        values: Any = {}
        if path is not None:
            values = read_yaml(path)
            if not isinstance(values, dict):
                raise UserError(f"{path}: expected a mapping of options, received {type(values).__name__}")
        for override in overrides:
            _apply_override(values, override)
        return cls.parse(values, str(path) if path is not None else "configuration", overrides)

    @classmethod
    def parse(cls, values: Any, where: str, overrides: Sequence[str] = ()) -> Self:
        """Validate plain values; raise a one-line `UserError` otherwise, naming `where`, or the override that gave what is wrong."""
        if not isinstance(values, dict):
            raise UserError(f"{where}: expected a mapping of options, received {type(values).__name__}")
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            problem = _first_problem(error)
            raise UserError(f"{_source(problem['loc'], overrides) or where}: {_explain(cls, problem)}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that `parse` reads back."""
        return self.model_dump(mode="json")

    def save(self, path: Path | str) -> None:
        """Write the resolved configuration as YAML, atomically."""
        with atomic_file(path) as aside:
            aside.write_text(self.to_yaml())

    def to_yaml(self) -> str:
        """Return the resolved configuration as YAML."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def template(self) -> str:
        """Return YAML that `load` reads back: every option below what it is for and what it may be, as its class says."""
        return "\n".join(_explained(self, self.to_dict())) + "\n"


def read_yaml(path: Path | str) -> Any:
    """Return the plain values of a YAML file; `{}` for an empty one; `UserError` where it cannot be read."""
    try:
        values = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error.__class__.__name__}): give the path of a YAML file") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    return {} if values is None else values


def _apply_override(values: Any, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override {override!r}: expected key=value, for example temperature_kelvin=320")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"override {override!r}: {parent!r} holds a value, not a group of options")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"override {override!r}: the value is not valid YAML") from None


def _first_problem(error: pydantic.ValidationError) -> Any:
    problems = error.errors(include_url=False)
    # A misspelled key may be why another one is missing.
    return next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])


def _source(location: Sequence[int | str], overrides: Sequence[str]) -> str | None:
    """Return which override gave the value at a location, None where none did."""
    for override in reversed(overrides):
        path = override.partition("=")[0].split(".")
        if location and (_in_order(path, location) or _in_order(location, path)):
            return f"override {override!r}"
    return None


def _in_order(some: Sequence[int | str], others: Sequence[int | str]) -> bool:
    """Return whether all of some names occur among others in their order; locations also hold the names of variants."""
    rest = iter(others)
    return all(name in rest for name in some)


def _explain(model: type[pydantic.BaseModel], problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        *path, last = problem["loc"]
        models, groups = _follow(model, path)
        known = sorted({name for m in models for name in m.model_fields})
        close = difflib.get_close_matches(str(last), known, n=1)
        # What another variant of the same group knows is of no use here.
        elsewhere = {name: full for name, full in _nested_keys(model).items() if full.split(".")[:-1] != groups}
        close = close or [elsewhere[name] for name in difflib.get_close_matches(str(last), elsewhere, n=1)]
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return f"unknown key {'.'.join([*groups, str(last)])!r}; {hint}"
    key = ".".join(_follow(model, problem["loc"])[1])
    received = "" if problem["type"] == "missing" else f", received {problem['input']!r}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message}{received}" if key else f"{message}"


def _follow(model: type[pydantic.BaseModel], location: Sequence[int | str]) -> tuple[list[type[pydantic.BaseModel]], list[str]]:
    """Return the models that may stand at a location, and its names as a file has them: without those of variants."""
    models, names = [model], []
    for part in location:
        inner = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        variants = [m for m in models if any(part in get_args(field.annotation) for field in m.model_fields.values())]
        if inner:
            models = [found for annotation in inner for found in _models_in(annotation)]
        elif variants:
            models = variants
            continue
        names.append(str(part))
    return models, names


def _nested_keys(model: type[pydantic.BaseModel], group: str = "") -> dict[str, str]:
    """Return every option's own name with its full one, `group.name`; the outermost where a name occurs more than once."""
    found = {name: group + name for name in model.model_fields}
    for name, field in model.model_fields.items():
        for inner in _models_in(field.annotation):
            found = _nested_keys(inner, f"{group}{name}.") | found
    return found


def _models_in(annotation: Any) -> list[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]


def _explained(config: Configuration, values: dict[str, Any], indent: str = "") -> list[str]:
    """Return the lines of options, plain values as `to_dict` gives them, each below its comment."""
    lines = []
    for name, value in values.items():
        group = getattr(config, name)
        is_group = isinstance(group, Configuration)
        about = _description(type(config), name) or (type(group).__doc__ if is_group else None) or ""
        choices = [str(choice) for choice in _choices(type(config).model_fields[name].annotation)]
        # What the comment names already, and a choice of one, need no list.
        if len(choices) > 1 and not all(choice in about for choice in choices):
            about = f"{about} One of {', '.join(choices)}.".strip()
        for paragraph in inspect.cleandoc(about).split("\n\n"):
            lines += textwrap.wrap(paragraph, 120, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        if is_group:
            lines += [f"{indent}{name}:", *_explained(group, value, f"{indent}  ")]
        else:
            inside = yaml.safe_dump([value], sort_keys=False, default_flow_style=True, width=float("inf")).strip()
            lines.append(f"{indent}{name}: {inside[1:-1]}")
    return lines


def _description(model: type[pydantic.BaseModel], name: str) -> str | None:
    """Return what a class says of an option, or the nearest of its parents, where it only changes the default."""
    parents = [parent for parent in model.__mro__ if issubclass(parent, pydantic.BaseModel) and name in parent.model_fields]
    return next((text for parent in parents if (text := parent.model_fields[name].description)), None)


def _choices(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [found for argument in get_args(annotation) for found in _choices(argument)]
