"""A model and its backward pass in one session of the runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from qcompress.errors import ModelError
from qcompress.gradient.differentiate import differentiate, why_not
from qcompress.gradient.facts import FLOATS, observe_facts
from qcompress.gradient.tape import PREFIX, Tape, Tensor
from qcompress.graph import Model, Value, extend, message
from qcompress.graph.edit import constant_array, node_graphs
from qcompress.graph.opset import raise_opset
from qcompress.graph.ports import add_input, feed_initializer, replace_outputs
from qcompress.runtime import Optimization, Session, SessionSettings, open_session
from qcompress.types import Array, Feed

OLDEST = 13
"""The first operator set in which ReduceSum, Squeeze and Unsqueeze take their axes as inputs."""

ADDING = 16
"""The first operator set in which Scatter operators add up what falls on the same place."""

SCATTERED = frozenset({"Gather", "GatherElements", "GatherND", "MaxPool"})
"""Operators whose rules need that."""

LONG_GRAPH = 15_000
"""Nodes above which the runtime takes the graph as it is: optimizing it takes more than linear time."""

NOTHING: Mapping[str, Array] = {}


@dataclass(frozen=True, slots=True)
class BackwardSettings:
    """How to build and run a backward pass.

    ``shapes``: tensor -> its shape in one feed, used for ranks that the file does not say. ``fed``: initializers that become
    inputs of the session, so that callers can change their values between runs.
    """

    threads: int = 0
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fed: Sequence[str] = ()


class Backward:
    """Gradients of a loss of a model's outputs with respect to initializers and tensors of the model.

    The loss J itself is the caller's: it is known by dJ/dy, the seeds, of every output y that it depends on.
    """

    def __init__(
        self, model: Model, wanted: Sequence[str], seeded: Sequence[str], settings: BackwardSettings | None = None
    ) -> None:
        """Write the backward pass; the runtime loads it with the first run.

        Args:
            model: prepared; it is not changed.
            wanted: names of float initializers and of tensors of the main graph.
            seeded: names of float outputs of the model.
            settings: threads, known shapes, fed initializers.

        Raises:
            ModelError: the model has no tensor of a name.
        """
        self._settings = settings or BackwardSettings()
        self._source = model
        self._seeded = tuple(seeded)
        self._model, refusal = _copy(model)
        self._defaults = {name: _array(self._model, name) for name in self._settings.fed}
        for name in self._settings.fed:
            feed_initializer(self._model.graph, name)
        self._tape = Tape(self._model, observe_facts(self._model, self._settings.shapes))
        self._seeds: dict[str, str] = {}
        self._gradients: dict[str, str] = {}
        self.unreached: Mapping[str, str] = dict.fromkeys(wanted, refusal) if refusal else self._build(wanted)
        """Wanted name -> why no (complete) gradient gets there."""

    @property
    def reached(self) -> tuple[str, ...]:
        """The wanted names whose gradients ``run`` returns, in the order they were asked for."""
        return tuple(self._gradients)

    def forward(self, feed: Feed, fed: Mapping[str, Array] = NOTHING) -> dict[str, Array]:
        """The seeded outputs.

        Args:
            feed: the model's inputs.
            fed: initializer -> other values than those of the model, for names among ``settings.fed``.

        Raises:
            ModelError: the model does not run on the feed.
        """
        return self._forward.run({**feed, **self._defaults, **fed}, self._seeded)

    def run(self, feed: Feed, seeds: Mapping[str, Array], fed: Mapping[str, Array] = NOTHING) -> dict[str, Array]:
        """The gradients, each of the shape and element type of what it belongs to.

        Args:
            feed: the model's inputs.
            seeds: seeded output -> dJ/dy, of the shape of the output.
            fed: initializer -> other values than those of the model, for names among ``settings.fed``.

        Raises:
            ModelError: a seed is missing, the model does not run on the feed, or the runtime lacks a kernel of the backward
                pass.
        """
        if not self._gradients:
            return {}
        missing = sorted(set(self._seeds) - set(seeds))
        if missing:
            raise ModelError(f"there is no seed for output {missing[0]!r}", "give one for every seeded output")
        given = {self._seeds[name]: seed for name, seed in seeds.items() if name in self._seeds}
        found = self._backward.run({**feed, **self._defaults, **fed, **given}, list(self._gradients.values()))
        return {name: found[output] for name, output in self._gradients.items()}

    def _build(self, wanted: Sequence[str]) -> dict[str, str]:
        """Write the backward pass; returns wanted name -> why there is no gradient."""
        tape, values = self._tape, _values(self._model)
        outputs = {value.name: value for value in self._model.graph.outputs}
        missing = [name for name in self._seeded if name not in outputs]
        if missing:
            raise ModelError(f"the model has no output {missing[0]!r}", f"it has {', '.join(map(str, outputs))}")
        unreached = _unsuitable(self._model, tape, values, wanted)
        asked = {name: values[name] for name in wanted if name not in unreached}
        seeds = {outputs[name]: self._seed(outputs[name]) for name in self._seeded}
        walk = differentiate(tape, list(asked.values()), seeds)
        found: list[Value] = []
        for name, value in asked.items():
            gradient = walk.gradient(value)
            if gradient is None:
                unreached[name] = walk.stops.get(value) or why_not(tape, value, list(seeds))
                continue
            result = tape.node("Identity", (gradient,)).value
            self._gradients[name] = result.name or ""
            found.append(result)
        replace_outputs(self._model.graph, found)
        unread = [value for value in self._model.graph.inputs if value.name in self._seeds.values() and not value.uses()]
        for value in unread:
            self._model.graph.inputs.remove(value)
        names = {value.name for value in unread}
        self._seeds = {name: seed for name, seed in self._seeds.items() if seed not in names}
        return unreached

    def _seed(self, output: Value) -> Tensor:
        name = output.name or ""
        dtype, dims = self._tape.facts.dtype(name), self._tape.facts.dims(name)
        if dtype not in FLOATS:
            raise ModelError(f"output {name!r} is {dtype}", "only float outputs can be seeded")
        value = add_input(self._model.graph, self._tape.editor.name(f"{PREFIX}seed/{name}"), dtype)
        self._seeds[name] = value.name or ""
        return Tensor(self._tape, value, dtype, dims)

    @cached_property
    def _backward(self) -> Session:
        settings = SessionSettings(self._settings.threads, early_release=True)
        if len(self._model.graph) > LONG_GRAPH:
            settings = SessionSettings(self._settings.threads, Optimization.DISABLED)
        return open_session(message(self._model), settings)

    @cached_property
    def _forward(self) -> Session:
        model = self._source.clone()
        for name in self._settings.fed:
            feed_initializer(model.graph, name)
        return open_session(extend(model, [], {}, self._seeded), SessionSettings(self._settings.threads))


def _copy(model: Model) -> tuple[Model, str]:
    """A copy in an operator set that the rules can be written in, and "" or why there is none."""
    copy = model.clone()
    scattered = any(node.op_type in SCATTERED for node in copy.graph)
    reason = raise_opset(copy, OLDEST)
    if not reason and scattered:
        raise_opset(copy, ADDING)  # if it cannot be raised, the rules that need it say so
    return copy, reason


def _array(model: Model, name: str) -> Array:
    array = constant_array(model.graph.initializers.get(name))
    if array is None:
        raise ModelError(f"the model has no initializer {name!r}", "only initializers can be fed")
    return np.asarray(array)


def _values(model: Model) -> dict[str, Value]:
    """The tensors of the main graph by name."""
    found = {value.name or "": value for value in model.graph.inputs}
    found.update(model.graph.initializers)
    found.update({value.name or "": value for node in model.graph for value in node.outputs})
    return found


def _unsuitable(model: Model, tape: Tape, values: Mapping[str, Value], wanted: Sequence[str]) -> dict[str, str]:
    """Wanted name -> why it can have no gradient at all.

    Raises:
        ModelError: the model has no tensor of a name.
    """
    bodies = {name for node in model.graph for body in node_graphs(node) for name in body.initializers}
    found = {}
    for name in wanted:
        if name in values:
            dtype = tape.facts.dtype(name)
            if dtype not in FLOATS:
                found[name] = f"it is {dtype}"
        elif name in bodies:
            found[name] = "it lies in the body of another node"
        else:
            raise ModelError(f"the model has no tensor {name!r}", "names are those of the prepared model")
    return found
