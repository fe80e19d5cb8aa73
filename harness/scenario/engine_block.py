"""One engine block of a scenario's `space`: an engine, its environment, and the axes with the values to try."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, create_model, field_validator, model_validator

from engines.presets import PRESETS, presets_of
from engines.registry import REMOVED, engine_names
from engines.setting import AXES, Axis, Setting
from harness.scenario.fields import (
    OptionValues,
    Strict,
    Whole,
    Word,
    did_you_mean,
    expected,
    known_or_own,
    one_of,
    one_or_more,
)


def _one_engine(name: Any) -> Any:
    """Refuses the lists that blocks.py leaves here: empty ones, and those that name an engine twice."""
    if isinstance(name, list):
        if not name:
            raise expected("at least one engine", name)
        one_or_more(name)
        raise expected("the name of an engine", name)
    return name


class _Engine(Strict):
    engine: Annotated[str, BeforeValidator(one_of("an engine", engine_names(), REMOVED)), BeforeValidator(_one_engine)]
    python: Annotated[
        Word | None,
        Field(description="environment it runs in: a venv folder or interpreter, relative to the scenario, or auto"),
    ] = None
    preset: Annotated[
        Word | None,
        Field(
            exclude=True, description="a search space of this engine, see `dyno engine presets`; what stands here wins"
        ),
    ] = None

    @field_validator("preset", mode="before")
    @classmethod
    def _is_known(cls, preset: Any, info: ValidationInfo) -> Any:
        """One that is known was written out by blocks.py, so that none is left."""
        engine = info.data.get("engine")
        if preset is None or engine is None:
            return None
        known = presets_of(engine)
        if not known:
            raise expected(f"no preset beside engine {engine}", preset, f"these have some: {', '.join(PRESETS)}")
        raise expected(f"a preset of {engine}: one of {', '.join(known)}", preset, did_you_mean(preset, known))


def _values_of(axis: Axis) -> Any:
    """The type of an axis in a scenario: one value or a list of them."""
    value: Any = Annotated[Whole, Field(ge=axis.low)]
    if axis.is_open:
        value = Annotated[Word, BeforeValidator(known_or_own(f"a {axis.title}", axis.words))]
    elif axis.is_word:
        value = Annotated[str, BeforeValidator(one_of(f"a {axis.title}", axis.words))]
    elif axis.default is None:
        value = value | None
    values: Any = Annotated[tuple[value, ...], BeforeValidator(one_or_more)]
    return Annotated[values, Field(description=axis.help)] if axis.help else values


def _flat(options: Any) -> Any:
    """`ready: {path: ..., status: ...}` is a way to write ready_path and ready_status."""
    ready = options.get("ready") if isinstance(options, dict) else None
    if not isinstance(ready, dict):
        return options
    rest = {name: value for name, value in options.items() if name != "ready"}
    return {**rest, **{f"ready_{name}": value for name, value in ready.items()}}


_ROWS = {axis.name: axis for axis in AXES}
_WithAxes: Any = create_model(
    "_WithAxes",
    __base__=_Engine,
    **{name: (_values_of(_ROWS[name]), (default,)) for name, default in Setting().axes().items()},  # type: ignore[call-overload]
)


class EngineBlock(_WithAxes):  # type: ignore[misc]  # its base is made from AXES, so that an axis is stated once
    """One engine with its own axes; each axis is one value or a list. In a file, a block may name several engines."""

    options: Annotated[
        dict[Word, OptionValues],
        BeforeValidator(_flat),
        Field(description="engine options, each one value or a list"),
    ] = Field(default_factory=dict)
    incumbent: Annotated[
        bool, Field(description="what is in production today: measured first, and the answer states the gain over it")
    ] = False

    def axes(self) -> dict[str, tuple[Any, ...]]:
        """The values of every axis of the block, engine options as `options.NAME`."""
        return {name: tuple(getattr(self, name)) for name in Setting().axes()} | {
            f"options.{name}": tuple(values) for name, values in self.options.items()
        }

    @model_validator(mode="after")
    def _incumbent_is_one(self) -> EngineBlock:
        """What is in production is one configuration."""
        if self.incumbent and (several := [name for name, values in self.axes().items() if len(values) > 1]):
            raise expected(
                "one value per axis beside incumbent: true", ", ".join(several), "try others in another block"
            )
        return self

    @model_validator(mode="after")
    def _batching_is_one_kind(self) -> EngineBlock:
        """DJL refuses a rolling batch together with batch_size > 1."""
        rolling = [kind for kind in self.rolling_batch if kind != "disable"]
        if rolling and max(self.batch_size) > 1:
            raise expected(
                "batch_size 1 beside a rolling batch",
                max(self.batch_size),
                "put rolling batching in a separate block",
            )
        return self
