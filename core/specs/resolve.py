"""From a request to the fully resolved specification: recipe, overrides, defaults, rules."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from core.catalogue import DatasetInfo, dataset_info
from core.errors import FieldProblem, SpecError
from core.specs.augmentation import AugmentationSpec
from core.specs.dataset import DatasetSpec
from core.specs.defaults import defaults_from
from core.specs.evaluation import PROTOCOLS, EvaluationSpec
from core.specs.init import InitSpec
from core.specs.job import DistillationSpec, JobRequest, ProbeRequest, RetryRequest
from core.specs.legality import check
from core.specs.merge import merge
from core.specs.method import MethodSpec
from core.specs.models import ModelsSpec
from core.specs.network import NetworkSpec
from core.specs.objective import ObjectiveSpec
from core.specs.preprocessing import PreprocessingSpec
from core.specs.recipes import resolved_recipe
from core.specs.run_options import ResourcesSpec
from core.specs.selection import SelectionSpec
from core.specs.synthetic import LabelsSpec, OptimizerSpec, ParameterizationSpec
from core.specs.terms import TermSpecs

S = TypeVar("S", bound=BaseModel)


def resolve(request: JobRequest, info: DatasetInfo | None = None) -> DistillationSpec:
    """Fill in every default and apply every rule.

    Args:
        request: what the client wrote.
        info: what is known of a registered data set; a built-in one is looked up.

    Raises:
        UnknownDatasetError: the data set is not in the catalogue.
        UnknownMethodError: no recipe has the name.
        SpecError: a field is missing, unknown, out of range, or a combination is impossible.
    """
    info = info or dataset_info(request.dataset.name)
    if request.recipe:
        method, evaluation, capped = resolved_recipe(request.recipe, request.scale, info, request.ipc)
        method_tree = merge(_without_other_length(method.model_dump(mode="json"), request.method), request.method)
        base: EvaluationSpec | None = evaluation
    else:
        if not request.method:
            raise SpecError.at("/recipe", "name a recipe, or write the whole composition into method", "missing")
        if request.scale != "paper":
            raise SpecError.at("/scale", "scale caps a recipe; without a recipe it must be 'paper'")
        method_tree, base, capped = request.method, None, ()
    resolved_method = _validate(MethodSpec, method_tree, "/method")
    if base is not None:  # by default, evaluate on what was distilled with
        base = base.model_copy(update={"network": resolved_method.network})
    protocol = _protocol(request.evaluation, info, resolved_method, base)
    protocol_tree = merge(protocol.model_dump(mode="json"), request.evaluation)
    spec = DistillationSpec(
        **{name: getattr(request, name) for name in JobRequest.model_fields if name not in {"method", "evaluation"}},
        defaults_from=defaults_from(request.recipe, info, request.ipc) if request.recipe else "",
        capped=_still_capped(capped, {"method": method_tree, "evaluation": protocol_tree}),
        method=resolved_method,
        evaluation=_validate(EvaluationSpec, protocol_tree, "/evaluation"),
    )
    check(spec, info)
    return spec


def repeat(spec: DistillationSpec, changes: RetryRequest, info: DatasetInfo | None = None) -> DistillationSpec:
    """The specification of a job that repeats another one with changes. An evaluation on the network that was distilled with
    follows it. `info` is as in `resolve`.

    Raises:
        UnknownDatasetError: the catalogue no longer has the data set.
        SpecError: a changed field is unknown or out of range, or a combination is impossible.
    """
    info, before = info or dataset_info(spec.dataset.name), spec.model_dump(mode="json")
    method_tree = merge(_without_other_length(before["method"], changes.method), changes.method)
    method = _validate(MethodSpec, method_tree, "/method")
    follows = spec.evaluation.network == spec.method.network
    evaluation = spec.evaluation.model_copy(update={"network": method.network}) if follows else spec.evaluation
    protocol = _protocol(changes.evaluation, info, method, evaluation)
    protocol_tree = merge(protocol.model_dump(mode="json"), changes.evaluation)
    plain = changes.model_dump(exclude={"method", "evaluation", "resources"}, exclude_none=True)
    repeated = spec.model_copy(update=plain | {
        "method": method, "evaluation": _validate(EvaluationSpec, protocol_tree, "/evaluation"),
        "resources": _validate(ResourcesSpec, merge(before["resources"], changes.resources), "/resources"),
        "capped": _still_capped(spec.capped, {"method": method_tree, "evaluation": protocol_tree}),
    })
    check(repeated, info)
    return repeated


def _without_other_length(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """A request that says how long in iterations replaces a recipe's number of networks, and the other way round."""
    lengths = {"num_iterations", "num_networks"}
    return base | dict.fromkeys(lengths, None) if lengths & override.keys() else base


def _still_capped(notes: tuple[str, ...], trees: dict[str, Any]) -> tuple[str, ...]:
    """Drop the notes of caps that the request's own values replaced."""

    def stands(note: str) -> bool:
        path, _, change = note.partition(": ")
        return str(_at(trees, path.split("."))) == change.rpartition(" -> ")[2]

    return tuple(note for note in notes if stands(note))


def _at(tree: Any, path: list[str]) -> Any:
    """The value at a path through objects and lists, or None."""
    for key in path:
        if isinstance(tree, list):
            tree = tree[int(key)] if key.isdigit() and int(key) < len(tree) else None
        else:
            tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _protocol(
    override: dict[str, Any], info: DatasetInfo, method: MethodSpec, base: EvaluationSpec | None
) -> EvaluationSpec:
    """What an override is merged over: `base`, unless there is none or the override names another protocol."""
    name = override.get("protocol", base.protocol if base else "dm")
    if base is not None and name == base.protocol:
        return base
    if not isinstance(name, str) or name not in PROTOCOLS:
        raise SpecError.at("/evaluation/protocol", f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name](info, method.network)


def _validate(model: type[S], tree: Any, pointer: str) -> S:
    """Validate in strict JSON mode, so that "300" is not 300 and true is not 1."""
    try:
        return TypeAdapter(model).validate_json(json.dumps(tree, allow_nan=False), strict=True)
    except ValidationError as error:
        raise spec_error(error, tree, pointer) from None


def spec_error(error: ValidationError, tree: Any, prefix: str = "") -> SpecError:
    """Translate pydantic's report on `tree` into one `SpecError` with a JSON pointer for each problem."""
    problems = tuple(
        FieldProblem(_pointer(prefix, item["loc"], tree), item["type"], item["msg"])
        for item in error.errors(include_url=False)
    )
    first = problems[0]
    return SpecError(f"{first.pointer or '/'}: {first.message}", problems=problems)


def _pointer(prefix: str, location: tuple[int | str, ...], tree: Any) -> str:
    """RFC 6901 pointer of a pydantic location, without the union tags that pydantic puts between the keys."""
    parts: list[str] = []
    for part in location:
        if isinstance(tree, dict) and part not in tree and tree.get("kind") == part:
            continue
        if part == "[key]" and not (isinstance(tree, dict) and part in tree):
            continue  # pydantic's mark for "the key itself"
        parts.append("/" + str(part).replace("~", "~0").replace("/", "~1"))
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            tree = None
    return prefix + "".join(parts)


SCHEMAS: dict[str, Any] = {
    "job-request": JobRequest, "probe-request": ProbeRequest, "retry-request": RetryRequest, "job": DistillationSpec,
    "method": MethodSpec, "evaluation": EvaluationSpec, "dataset": DatasetSpec, "network": NetworkSpec,
    "objective": ObjectiveSpec, "models": ModelsSpec, "parameterization": ParameterizationSpec, "selection": SelectionSpec,
    "terms": TermSpecs, "labels": LabelsSpec,
    "preprocessing": PreprocessingSpec, "augmentation": AugmentationSpec, "init": InitSpec, "optimizer": OptimizerSpec,
}
"""Everything a client can write, by the name under which the API serves its JSON Schema."""


def json_schema(name: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of one entry of `SCHEMAS`."""
    schema: dict[str, Any] = TypeAdapter(SCHEMAS[name]).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
