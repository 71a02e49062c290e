"""The result of a run in a line or two, for a terminal."""

from typing import Any

from ddspo.run_folder import MODELS


def headline(result: dict[str, Any]) -> list[str]:
    """The result in a line, after one for what it is without guidance, if measured; nothing if not evaluated."""
    if not result["metrics"]:
        return []
    ((name, metric),) = result["metrics"].items()
    lines = []
    if "1" in metric["by_scale"]:
        base, aligned = (metric["curve"][model]["1"] for model in MODELS)
        lines.append(
            f"without guidance, validation prompts: {base:.3f} -> {aligned:.3f} {_change(metric['by_scale']['1'])}"
        )
    scales = "each at its best guidance scale"
    lines.append(f"{name} {metric['base']:.3f} -> {metric['aligned']:.3f} {_change(metric)}, {scales}")
    return lines


def _change(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"({row['difference']:+.3f}, 95 % interval {low:+.3f} to {high:+.3f})"
