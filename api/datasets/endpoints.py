"""`/v1/datasets`: what can be distilled."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.datasets.schemas import DatasetView, dataset_view
from api.errors import problems
from api.responses import JsonResponse
from api.schemas import List
from core.catalogue import CATALOGUE, dataset_info
from core.errors import UnknownDatasetError

router = APIRouter(prefix="/v1/datasets", tags=["catalogue"])


@router.get("", response_model=List[DatasetView])
async def list_datasets() -> Response:
    """Every built-in data set."""
    data = [dataset_view(info) for info in CATALOGUE.values()]
    return JsonResponse(List[DatasetView](data=data, first_id=data[0].name, last_id=data[-1].name, has_more=False))


@router.get("/{name}", response_model=DatasetView, responses=problems(404))
async def get_dataset(name: str) -> Response:
    """One data set: shape, classes, counts, split rule, normalisation, digest."""
    try:
        return JsonResponse(dataset_view(dataset_info(name)))
    except UnknownDatasetError as error:
        raise UnknownDatasetError(error.message) from None  # without the pointer into a body that does not exist
