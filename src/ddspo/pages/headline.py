"""The result of a run in a few lines, for a terminal."""

from ddspo.errors import shortened
from ddspo.pages.words import change, decimals, figure, relative
from ddspo.rows import Row


def headline(result: Row) -> list[str]:
    """A line for each metric, the first of them preceded by what it is without guidance; nothing if not evaluated."""
    lines = [_metric(result, name) for name in result["metrics"]]
    lines[:0] = _without_guidance(result)
    return lines + [_set(result, name) for name in result["sets"]]


def _without_guidance(result: Row) -> list[str]:
    """One line, if it was measured."""
    metric = result["metrics"].get(result["choose"])
    if not metric or "1" not in metric["curve"].get(result["models"][0], {}):
        return []
    rows = {
        model: {"score": curve["1"]} | metric["by_scale"].get(model, {}).get("1", {})
        for model, curve in metric["curve"].items()
        if "1" in curve
    }
    return [f"{result['choose']} without guidance, validation prompts: {_arrow(rows, decimals(metric))}"]


def _metric(result: Row, name: str) -> str:
    metric = result["metrics"][name]
    lower = "" if metric["higher_is_better"] else " (less is better)"
    scales = ", each at its best guidance scale" if name == result["choose"] else ""
    return f"{name}{lower}: {_arrow(metric['models'], decimals(metric))}{scales}"


def _set(result: Row, name: str) -> str:
    measured = result["sets"][name]
    values = {model: row["value"] for model, row in measured["models"].items()}
    first = next(iter(values.values()))
    lower = "" if measured["higher_is_better"] else " (less is better)"
    parts = [f"{shortened(model, 40)} {figure(value)}" for model, value in values.items()]
    changes = [""] + [f" ({relative(value, first)})" if first else "" for value in list(values.values())[1:]]
    return f"{name}{lower}: {_joined([part + more for part, more in zip(parts, changes, strict=True)])}"


def _arrow(rows: Row, digits: int) -> str:
    """Scores of the models, each difference with its interval."""
    parts = []
    for model, row in rows.items():
        more = f" ({change(row, digits)})" if "interval" in row else ""
        parts.append(f"{shortened(model, 40)} {row['score']:.{digits}f}{more}")
    return _joined(parts)


def _joined(parts: list[str]) -> str:
    """From the first to the others."""
    return " -> ".join([parts[0], ", ".join(parts[1:])]) if parts[1:] else parts[0]
