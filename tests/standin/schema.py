"""A valid, deterministic instance of a JSON Schema: what a model under a grammar would write."""

from __future__ import annotations

import hashlib
import math
from typing import Any

Schema = dict[str, Any]
_WORDS = (
    "clear sound and well argued though one step lacks a source while the example holds up under a second "
    "look and the limits are named"
).split()
_FORMATS = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "email": "a@example.org",
    "uri": "https://example.org/",
    "uuid": "6f1c1c52-2a0e-4c6c-9f1f-0d6d0a1b2c3d",
    "ipv4": "192.0.2.1",
}


def instance_of(schema: Schema, seed: str) -> Any:
    """An instance of `schema`. The same schema and seed give the same instance; other seeds vary it.

    Honoured: type, properties, required, enum, const, $ref into $defs or definitions, anyOf, oneOf, allOf,
    minimum, maximum, exclusive bounds, multipleOf, minLength, maxLength, minItems, maxItems, items,
    prefixItems and the common formats. `pattern` is not. Every property is filled, required or not. In a list
    of objects one of whose properties is an enum, each enum value comes once if the length allows it.
    """
    return _Maker(schema).make(schema, seed, 0)


class _Maker:
    def __init__(self, root: Schema) -> None:
        self._root = root

    def make(self, schema: Any, seed: str, depth: int) -> Any:
        schema = self._resolve(schema, seed)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][_hash(seed) % len(schema["enum"])]
        match self._type(schema):
            case "object":
                return self._object(schema, seed, depth, {})
            case "array":
                return self._array(schema, seed, depth)
            case "string":
                return _string(schema, seed)
            case "integer":
                return _number(schema, seed, whole=True)
            case "number":
                return _number(schema, seed, whole=False)
            case "boolean":
                return _hash(seed) % 2 == 0
            case _:
                return None

    def _resolve(self, given: Any, seed: str) -> Schema:
        schema: Schema = given if isinstance(given, dict) else {"type": "string"}
        while True:
            if "$ref" in schema:
                target: Any = self._root
                for part in str(schema["$ref"]).removeprefix("#").strip("/").split("/"):
                    target = target[part] if part else target
                schema = {**target, **{k: v for k, v in schema.items() if k != "$ref"}}
            elif schema.get("allOf"):
                merged: Schema = {k: v for k, v in schema.items() if k != "allOf"}
                for part in schema["allOf"]:
                    merged = _merge(merged, self._resolve(part, seed))
                schema = merged
            elif branches := schema.get("anyOf") or schema.get("oneOf"):
                rest = {k: v for k, v in schema.items() if k not in ("anyOf", "oneOf")}
                concrete = [b for b in branches if b.get("type") != "null"] or branches
                schema = {**rest, **concrete[_hash(f"{seed}?") % len(concrete)]}
            else:
                return schema

    def _type(self, schema: Schema) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((k for k in kind if k != "null"), "null")
        if kind:
            return str(kind)
        if "properties" in schema:
            return "object"
        if "items" in schema or "prefixItems" in schema:
            return "array"
        return "integer" if "minimum" in schema or "maximum" in schema else "string"

    def _object(self, schema: Schema, seed: str, depth: int, fixed: dict[str, Any]) -> dict[str, Any]:
        properties: Schema = schema.get("properties", {})
        required = schema.get("required", [])
        for part in properties.values():
            if isinstance(part, dict) and "const" in part:
                seed = f"{seed}|{part['const']}"
        made = {}
        for name, part in properties.items():
            if name in fixed:
                made[name] = fixed[name]
            elif name in required or depth < 4:
                made[name] = self.make(part, f"{seed}|{name}", depth + 1)
        for name in required:
            if name not in made:
                made[name] = _string({}, f"{seed}|{name}")
        return made

    def _array(self, schema: Schema, seed: str, depth: int) -> list[Any]:
        made = [
            self.make(part, f"{seed}|{index}", depth + 1)
            for index, part in enumerate(schema.get("prefixItems", []))
        ]
        low = int(schema.get("minItems", 0))
        high = int(schema.get("maxItems", max(low, 8)))
        items = schema.get("items", {"type": "string"} if not made else False)
        if items is False:
            return made[: max(high, low)]
        item = self._resolve(items, seed)
        labels = _labels(self, item, seed)
        if labels is not None and not made and low <= len(labels[1]) <= high:
            name, values = labels
            return [self._object(item, f"{seed}|{value}", depth + 1, {name: value}) for value in values]
        wanted = min(high, max(low, len(made), 0 if depth > 4 else 2 if low == 0 and not made else low))
        if schema.get("uniqueItems") and item.get("enum"):
            return [*made, *item["enum"][: max(0, wanted - len(made))]]
        while len(made) < wanted:
            made.append(self.make(item, f"{seed}|{len(made)}", depth + 1))
        return made


def _labels(maker: _Maker, item: Schema, seed: str) -> tuple[str, list[Any]] | None:
    for name, part in item.get("properties", {}).items():
        values = maker._resolve(part, seed).get("enum")
        if values:
            return name, values
    return None


def _merge(left: Schema, right: Schema) -> Schema:
    merged = {**left, **right}
    if "properties" in left and "properties" in right:
        merged["properties"] = {**left["properties"], **right["properties"]}
    if "required" in left and "required" in right:
        merged["required"] = [*left["required"], *(r for r in right["required"] if r not in left["required"])]
    return merged


def _string(schema: Schema, seed: str) -> str:
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    low = int(schema.get("minLength", 0))
    high = int(schema.get("maxLength", max(low, 60)))
    start = _hash(seed)
    text = " ".join(_WORDS[(start + i) % len(_WORDS)] for i in range(4 + start % 5))
    while len(text) < low:
        text += " " + _WORDS[(start + len(text)) % len(_WORDS)]
    text = text[:high].rstrip()
    return text + "." * max(0, low - len(text))


def _number(schema: Schema, seed: str, *, whole: bool) -> int | float:
    low, high = schema.get("minimum"), schema.get("maximum")
    step = schema.get("multipleOf") or (1 if whole else 0.01)
    if schema.get("exclusiveMinimum") is not None:
        low = schema["exclusiveMinimum"] + step
    if schema.get("exclusiveMaximum") is not None:
        high = schema["exclusiveMaximum"] - step
    if low is None:
        low = 0 if high is None else high - 10
    if high is None:
        high = low + 10
    first, last = math.ceil(low / step), math.floor(high / step)
    if last < first:
        return int(low) if whole else float(low)
    value = (first + _hash(seed) % (last - first + 1)) * step
    return int(value) if whole else min(float(high), max(float(low), round(value, 9)))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
