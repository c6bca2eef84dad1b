"""The service as an OpenAPI document, made from the types of its messages."""

from __future__ import annotations

import msgspec

from serving.messages import Error, Item, ItemsRequest, ItemsResponse, SearchRequest, SearchResponse


def _document() -> dict:
    kinds = SearchRequest, SearchResponse, ItemsRequest, ItemsResponse, Item, Error
    _, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    schemas = _without_null(schemas)
    settings = _parameters(schemas["SearchRequest"])
    found = {"200": _answer("a part of the ranking", "SearchResponse"),
             "4XX": _answer("the request can't be answered", "Error"),
             "5XX": _answer("the service can't answer now", "Error")}
    item = [{"name": "item", "in": "path", "required": True, "schema": {"type": "integer"}}]
    ways = {"text": {"text": "smiling cat", "topk": 5}, "item": {"item": 7, "topk": 100, "offset": 10, "limit": 10},
            "features": {"features": {"text": [0.1, 0.2]}}}
    return {
        "openapi": "3.0.3", "info": {"title": "Search with hash codes", "version": "1"},
        "paths": {
            "/search": {
                "get": {"summary": "Find the items nearest to words, an item or features", "parameters": settings,
                        "responses": found},
                "post": {"summary": "Find the items nearest to words, an item, features or a picture",
                         "description": "With a picture as the body the settings are in the URL.",
                         "parameters": [each for each in settings if each["name"] not in ways],
                         "requestBody": {"required": True, "content": {
                             "application/json": {"schema": _reference("SearchRequest"), "examples": {
                                 name: {"value": value} for name, value in ways.items()}},
                             "image/*": {"schema": {"type": "string", "format": "binary"}}}},
                         "responses": found}},
            "/items": {"get": {"summary": "List items in the order of their ids", "responses": {
                "200": _answer("a part of the items", "ItemsResponse")},
                "parameters": _parameters(schemas["ItemsRequest"])}},
            "/items/{item}": {"get": {"summary": "What the index knows of an item", "parameters": item,
                                      "responses": {
                "200": _answer("its id and its columns", "Item"), "404": _answer("no such item", "Error")}}},
            "/items/{item}/image": {"get": {"summary": "The picture of an item", "parameters": item, "responses": {
                "200": {"description": "the file"}, "404": _answer("no such item or picture", "Error")}}},
            "/values": {"get": {"summary": "The values of columns with few different ones, for a filter",
                                "responses": {"200": {"description": "a list for each column"}}}},
            "/health": {"get": {"summary": "What is served, and whether all is well", "responses": {
                "200": {"description": "the index, and which queries can be encoded"},
                "503": {"description": "the index has been removed"}}}}},
        "components": {"schemas": schemas}}


def _parameters(schema: dict) -> list[dict]:
    """The fields of a request as parameters of a URL."""
    return [{"name": name, "in": "query", "description": field.get("description", ""), **(
        {"content": {"application/json": {"schema": field}}} if name in ("filter", "features") else {"schema": field})}
        for name, field in schema["properties"].items()]


def _reference(name: str) -> dict:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(description: str, name: str) -> dict:
    return {"description": description, "content": {"application/json": {"schema": _reference(name)}}}


def _without_null(schema):
    """The schema in the words of OpenAPI 3.0, which has no type null: what may be null is what may be left out."""
    if isinstance(schema, list):
        return [_without_null(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _without_null(value) for key, value in schema.items() if value is not None}
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) == 1:
        return {**{key: value for key, value in schema.items() if key != "anyOf"}, **kinds[0]}
    return {**schema, "anyOf": kinds} if kinds else schema


DOCUMENT = _document()
