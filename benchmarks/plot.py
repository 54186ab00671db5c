"""Plots the results: the contenders of each scenario as bars, relative to the first one."""

from pathlib import Path

from benchmarks.scenarios import Result, spread


def draw(results: list[Result], path: Path) -> None:
    """Draw all scenarios that have more than one contender."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.scenario, []).append(result)
    groups = {name: group for name, group in groups.items() if len(group) > 1}
    figure, axes = plt.subplots(
        len(groups), 1, figsize=(8, sum(0.35 * len(group) + 0.8 for group in groups.values())), squeeze=False
    )
    for axis, (name, group) in zip(axes[:, 0], groups.items(), strict=True):
        colours = ["tab:blue" if "aluma" in result.contender else "tab:grey" for result in group]
        bars = axis.barh([result.contender for result in group], [result.ratio for result in group], color=colours)
        axis.bar_label(bars, [f"{result.ratio:.2f} ({spread(result.ratios)})" for result in group], padding=4)
        axis.set_title(f"{name} ({group[0].unit}, ratio to {group[0].contender})", loc="left", fontsize=10)
        axis.invert_yaxis()
        axis.margins(x=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
