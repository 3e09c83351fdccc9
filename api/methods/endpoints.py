"""`/v1/methods` and `/v1/schemas`: what a job may ask for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.deps import NAME
from api.errors import problems
from api.jobs.schemas import budget_of
from api.methods.schemas import (
    MethodDetail,
    MethodLinks,
    MethodView,
    SchemaLink,
    method_view,
    published_rows,
)
from api.responses import JsonResponse
from api.schemas import Json, List
from core.catalogue import dataset_info
from core.errors import NotFoundError, UnknownDatasetError, UnknownMethodError
from core.specs.dataset import DatasetSpec
from core.specs.job import JobRequest, Scale
from core.specs.recipes import RECIPES, recipe_by_name
from core.specs.resolve import SCHEMAS, json_schema, resolve

router = APIRouter(prefix="/v1", tags=["catalogue"])


@router.get("/methods", response_model=List[MethodView])
async def list_methods() -> Response:
    """Every recipe."""
    data = [method_view(recipe) for recipe in RECIPES.values()]
    return JsonResponse(List[MethodView](data=data, first_id=data[0].name, last_id=data[-1].name, has_more=False))


@router.get("/methods/{name}", response_model=MethodDetail, responses=problems(404, 422))
def get_method(
    name: str,
    dataset: Annotated[str, Query(pattern=NAME, description="Data set to resolve the specification for.")] = "cifar10",
    ipc: Annotated[int, Query(ge=1, le=10_000, description="Images per class to resolve it for.")] = 10,
    scale: Scale = "paper",
) -> Response:
    """One recipe: its resolved specification for a data set and ipc, and its published accuracies."""
    try:
        recipe = recipe_by_name(name)
    except UnknownMethodError as error:
        raise NotFoundError(error.message) from None
    try:
        info = dataset_info(dataset)
    except UnknownDatasetError as error:
        raise UnknownDatasetError(error.message) from None
    spec = resolve(JobRequest(dataset=DatasetSpec(name=info.name), ipc=ipc, recipe=recipe.name, scale=scale))
    detail = MethodDetail(
        **method_view(recipe).model_dump(), spec=spec, budget=budget_of(spec, info), published=published_rows(recipe.name)
    )
    return JsonResponse(detail)


@router.get("/schemas", response_model=List[SchemaLink])
async def list_schemas() -> Response:
    """Names of everything a client can write."""
    data = [SchemaLink(name=name, links=MethodLinks(self=f"/v1/schemas/{name}")) for name in SCHEMAS]
    return JsonResponse(List[SchemaLink](data=data, first_id=data[0].name, last_id=data[-1].name, has_more=False))


@router.get("/schemas/{name}", response_model=Json, responses=problems(404))
def get_schema(name: str) -> Response:
    """JSON Schema (2020-12) of one part of a specification, with defaults, bounds and descriptions."""
    if name not in SCHEMAS:
        raise NotFoundError(f"unknown schema; known: {', '.join(SCHEMAS)}")
    return JsonResponse(json_schema(name))
