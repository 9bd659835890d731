"""The picture that the training examples write: reward, attributes and length over the steps.

Invariant: it shows what was logged, unsmoothed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(path: Path, title: str, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """One panel for each of `curves`, one line for each of its names."""
    figure, panels = plt.subplots(1, len(curves), figsize=(4.2 * len(curves), 3.2), constrained_layout=True)
    figure.suptitle(title)
    for panel, (label, lines) in zip(panels, curves.items()):
        for name, values in lines.items():
            panel.plot(range(1, len(values) + 1), values, label=name, linewidth=1.2)
        panel.set_xlabel("step")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
        if len(lines) > 1:
            panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=100)
    plt.close(figure)
    print(f"wrote {path}")


def rise(values: Sequence[float]) -> float:
    """By how much the mean of the last quarter is above that of the first."""
    quarter = max(1, len(values) // 4)
    return sum(values[-quarter:]) / quarter - sum(values[:quarter]) / quarter
