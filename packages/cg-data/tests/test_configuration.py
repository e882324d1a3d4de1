from typing import Annotated, Literal

import pydantic
import pytest
import yaml

from cg_data.configuration import Configuration
from cg_data.errors import UserError


class Inner(Configuration):
    temperature_kelvin: float = 348.0


class Outer(Configuration):
    seed: int = 0
    inner: Inner = Inner()
    other: Inner | None = None


def test_overrides_reach_nested_options_and_keep_their_types(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("seed: 3\ninner: {temperature_kelvin: 320}\n")
    loaded = Outer.load(path, ["inner.temperature_kelvin=450", "other.temperature_kelvin=1.5"])
    assert loaded == Outer(seed=3, inner=Inner(temperature_kelvin=450), other=Inner(temperature_kelvin=1.5))


def test_a_misspelled_key_is_told_before_the_key_that_is_missing_for_it():
    class Required(Configuration):
        dataset: str

    with pytest.raises(UserError, match=r"unknown key 'datset'; did you mean 'dataset'\?"):
        Required.load(None, ["datset=a"])


def test_an_unknown_key_of_a_variant_is_answered_with_the_keys_of_that_variant():
    class Small(Configuration):
        kind: Literal["small"]
        width: int = 1

    class Large(Configuration):
        kind: Literal["large"]
        width: int = 1
        blocks: int = 1

    class Holder(Configuration):
        network: Annotated[Small | Large, pydantic.Field(discriminator="kind")]

    for key in ("blocks", "zzz"):
        with pytest.raises(UserError, match=rf"unknown key 'network.{key}'; known keys: kind, width$"):
            Holder.load(None, ["network.kind=small", f"network.{key}=3"])
    with pytest.raises(UserError, match=r"network\.blocks: .*integer"):
        Holder.load(None, ["network.kind=large", "network.blocks=many"])
    with pytest.raises(UserError, match=r"unknown key 'network\.block'; did you mean 'blocks'"):
        Holder.load(None, ["network.kind=large", "network.block=3"])


def test_the_resolved_configuration_reads_back_equal(tmp_path):
    written = Outer(seed=7)
    written.save(tmp_path / "resolved.yaml")
    assert Outer.load(tmp_path / "resolved.yaml") == written
    assert yaml.safe_load((tmp_path / "resolved.yaml").read_text())["inner"] == {"temperature_kelvin": 348.0}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sede=1", "unknown key 'sede'; did you mean 'seed'"),
        ("temperatur_kelvin=1", "unknown key 'temperatur_kelvin'; did you mean 'inner.temperature_kelvin'"),
        ("inner.temperature=1", "unknown key 'inner.temperature'; did you mean 'temperature_kelvin'"),
        ("other.temprature_kelvin=1", "did you mean 'temperature_kelvin'"),
        ("zzz=1", "known keys: inner, other, seed"),
        ("seed=many", "seed: .*integer.*received 'many'"),
        ("seed", "expected key=value"),
        ("seed.deep=1", "seed: .*integer"),
        ("=3", "expected key=value"),
        ("seed=[", "not valid YAML"),
    ],
)
def test_a_bad_override_is_one_line_that_says_what_to_do(override, message):
    with pytest.raises(UserError, match=message) as caught:
        Outer.load(None, [override])
    assert str(caught.value).startswith(f"override {override!r}: ")
    assert "\n" not in str(caught.value)


def test_the_file_is_named_for_what_it_says_and_the_override_for_what_it_says(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("inner: {temprature_kelvin: 320}\n")
    with pytest.raises(UserError, match=r"^\S*c\.yaml: unknown key 'inner\.temprature_kelvin'"):
        Outer.load(path, ["seed=1", "inner.temperature_kelvin=300"])
    path.write_text("seed: 3\n")
    with pytest.raises(UserError, match=r"^override 'seed=x': seed: "):
        Outer.load(path, ["inner.temperature_kelvin=300", "seed=2", "seed=x"])


class Oven(Configuration):
    """What bakes.

    A second paragraph.
    """

    kelvin: float = 450.0
    """How hot."""
    fan: Literal["on", "off"] = "on"
    mode: Literal["top", "bottom"] = "top"
    """Heat from the top or the bottom."""
    times: tuple[int, ...] = (3, 4)


class Cool(Oven):
    """What bakes slowly."""

    kelvin: float = 350.0


class Kitchen(Configuration):
    first: Oven = Oven()
    second: Cool = Cool()
    """The other one."""
    third: Oven | None = None


def test_a_template_explains_each_option_and_reads_back_as_the_defaults(tmp_path):
    text = Kitchen().template()
    assert text == (
        "# What bakes.\n# A second paragraph.\n"
        + "first:\n  # How hot.\n  kelvin: 450.0\n  # One of on, off.\n  fan: 'on'\n"
        + "  # Heat from the top or the bottom.\n  mode: top\n  times: [3, 4]\n"
        + "# The other one.\nsecond:\n  # How hot.\n  kelvin: 350.0\n  # One of on, off.\n  fan: 'on'\n"
        + "  # Heat from the top or the bottom.\n  mode: top\n  times: [3, 4]\nthird: null\n"
    )
    (tmp_path / "kitchen.yaml").write_text(text)
    assert Kitchen.load(tmp_path / "kitchen.yaml") == Kitchen()


def test_unreadable_configuration_files_are_named(tmp_path):
    (tmp_path / "list.yaml").write_text("[1, 2]")
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "binary.yaml").write_bytes(b"\x89HDF\xff\xfe")
    for name, message in {
        "none": "no such file",
        "list": "expected a mapping",
        "broken": "not valid YAML",
        "binary": "cannot be read",
    }.items():
        with pytest.raises(UserError, match=rf"{name}\.yaml: .*{message}"):
            Outer.load(tmp_path / f"{name}.yaml")


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Outer().seed = 1


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(UserError, match="finite number"):
        Outer.load(None, [f"inner.temperature_kelvin={value}"])


@pytest.mark.parametrize("text", ["[1, 2]", "text"])
def test_a_file_that_is_no_mapping_is_named_where_there_are_overrides_too(text, tmp_path):
    (tmp_path / "list.yaml").write_text(text)
    for override in ("seed=1", "inner.temperature_kelvin=300"):
        with pytest.raises(UserError, match=r"list\.yaml: expected a mapping"):
            Outer.load(tmp_path / "list.yaml", [override])
