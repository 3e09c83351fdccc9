"""Shapes that every part of the API shares."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, GetJsonSchemaHandler, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

T = TypeVar("T")
Json = dict[str, Any]


class List(BaseModel, Generic[T]):
    """One page of a list; `after=<last_id>` and `before=<first_id>` lead to its neighbours."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DocumentedAs:
    """Annotation: a plain JSON object in rows and answers, described in the OpenAPI document by a model."""

    def __init__(self, model: Any) -> None:
        """Take a model, or a union of models."""
        self._schema: CoreSchema = TypeAdapter(model).core_schema

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(self._schema)
