"""What the benchmarks' figures say, as a picture for each claim."""

from matplotlib import figure

PANELS = {
    "alone": "the optimizer alone",
    "chain": "after clip_by_global_norm\nand weight decay",
    "scaled": "after projection_l2_ball\nand weight decay",
}
OURS, THEIRS, PALE = "C0", "0.45", "0.85"


def steps(results):
    """Returns the time of a step beside the peers'."""
    canvas = figure.Figure(figsize=(8.4, 4), layout="constrained")
    canvas.suptitle(
        "A step of 68 million parameters in 52 leaves on 2 CPU cores\n"
        "(pale: without the environment that keeps freed memory)",
        fontsize=11,
    )
    panels = canvas.subplots(1, 3, sharex=True)
    for axes, (group, title) in zip(panels, PANELS.items(), strict=True):
        plain, kept = _bars(results, group)
        names = sorted(kept, key=kept.get, reverse=True)
        axes.barh(names, [plain[name] for name in names], color=PALE)
        bars = axes.barh(
            names,
            [kept[name] for name in names],
            color=[OURS if "ftml" in name else THEIRS for name in names],
            height=0.5,
        )
        axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=9)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("ms")
        _plain(axes)
    return canvas


def _bars(results, group):
    """Returns ms by step in both environments, without what is far off."""
    return [
        {
            "PyTorch, fused" if "torch" in name else name: 1e3 * seconds
            for name, seconds in by.items()
            if not name.startswith(("mxnet", "copy"))
        }
        for by in results[group].values()
    ]


def growth(results):
    """Returns how the time of a step grows with the parameters."""
    canvas = figure.Figure(figsize=(6, 3.6), layout="constrained")
    axes = canvas.subplots()
    sizes = results["growth"]["sizes"]
    for name, color in (("adam", THEIRS), ("ftml", OURS)):
        seconds = results["growth"]["seconds"][name]
        axes.loglog(
            sizes, [1e3 * x for x in seconds], "o-", color=color, label=name
        )
    axes.set(
        title="How a step grows",
        xlabel="parameters in one leaf",
        ylabel="ms a step",
    )
    axes.legend(frameon=False)
    _plain(axes)
    return canvas


def proxes(results):
    """Returns the time of a step with a prox, and how it grows."""
    canvas = figure.Figure(figsize=(9.5, 4.6), layout="constrained")
    left, right = canvas.subplots(1, 2)
    part = "rows of (4096, 1024)"
    steps = results[part]["steps"]
    names = sorted(
        steps, key=lambda name: steps[name]["ftml"]["seconds"], reverse=True
    )
    for who, color, offset in (("adam", THEIRS, -0.2), ("ftml", OURS, 0.2)):
        left.barh(
            [i + offset for i, name in enumerate(names) if who in steps[name]],
            [
                1e3 * steps[name][who]["seconds"]
                for name in names
                if who in steps[name]
            ],
            0.4,
            color=color,
            label={"adam": "Adam, then Euclidean", "ftml": "FTML, prox"}[who],
        )
    left.set_yticks(range(len(names)), names)
    left.set(title=f"a step, {part}", xlabel="ms", xscale="log")
    left.legend(frameon=False, loc="upper right")
    lengths = results["growth"]["lengths"]
    by_name = results["growth"]["seconds"]
    for index, (name, by_length) in enumerate(by_name.items()):
        for who, style in (("ftml", "o-"), ("adam", "o:")):
            right.loglog(
                lengths,
                [1e3 * seconds[who] for seconds in by_length],
                style,
                color=f"C{index}",
                label=name if who == "ftml" else None,
            )
    right.set(
        title="4 M numbers in slices of one length\n(dotted: Adam)",
        xlabel="length of the slices",
        ylabel="ms a step",
    )
    right.legend(frameon=False)
    for axes in (left, right):
        _plain(axes)
    return canvas


def _plain(axes):
    axes.spines[["top", "right"]].set_visible(False)
