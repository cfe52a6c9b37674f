"""The results of benchmarks/run.py as Markdown."""

import math
import statistics

from parts import trees

GROUPS = {
    "alone": "alone",
    "chain": "after clip_by_global_norm and add_decayed_weights",
    "scaled": "the same, clipped by projection_l2_ball",
}
# Numbers of 4 bytes per parameter that a step can't do without: gradients and
# parameters in, parameters out, state in and out.
LEAST = {"ftml": 5, "ftml, box": 7, "adam": 7, "adamw": 7, "rmsprop": 5}
LEAST |= {"ftml, decoupled": 5, "sgd": 3, "copy": 2}


def steps(results):
    """Returns all tables."""
    lines = [
        f"{results['machine']}. Medians of 9 to 15 rounds.",
        "",
        f"*Memory kept*: with `{list(results['allocators']['chain'])[1]}` in "
        "the environment. *Of copy*: the time in which a copy would move the "
        "bytes that the step can't do without, in the environment as it is.",
    ]
    for group, title in GROUPS.items():
        lines += ["", f"### 68 M in 52 leaves, {title}", ""]
        lines += _steps(results, group)
    lines += ["", "### The environment of the chain", "", *_allocators(results)]
    lines += ["", "### Trace and compile", "", *_compile(results["compile"])]
    lines += ["", "### Growth", "", *_growth(**results["growth"])]
    return "\n".join(lines) + "\n"


def _steps(results, group):
    copy = results["alone"][""]["copy"] / LEAST["copy"]
    plain, kept = results[group].values()
    yield "| step | ms | to adam | of copy | ms, memory kept | to adam |"
    yield "|---|--:|--:|--:|--:|--:|"
    for name, seconds in sorted(plain.items(), key=lambda x: x[1]):
        least = LEAST.get(name, 0)
        least += (group != "alone") * (least > 0)
        share = f"{least * copy / seconds:.0%}" if least else ""
        cells = [name, *_to_adam(plain, name), share, *_to_adam(kept, name)]
        yield f"| {' | '.join(cells)} |"
    if group == "alone":
        size = sum(math.prod(shape) for shape in trees.transformer())
        yield ""
        yield " ".join(
            f"Copy {words}: {8 * size / seconds['copy'] / 1e9:.1f} GB/s."
            for words, seconds in (("as it is", plain), ("memory kept", kept))
        )


def _to_adam(seconds, name):
    if name not in seconds:
        return "", ""
    return (
        f"{1e3 * seconds[name]:.3g}",
        f"{seconds[name] / seconds['adam']:.2f}",
    )


def _allocators(results):
    yield (
        "`ftml` on 68 M in 52 leaves, clipped by clip_by_global_norm and by "
        "projection_l2_ball; page faults a step."
    )
    yield ""
    yield "| environment | clip, ms | faults | projection, ms | faults |"
    yield "|---|--:|--:|--:|--:|"
    chain, scaled = results["allocators"].values()
    for setting in chain:
        cells = [f"`{setting}`" if setting else "as it is"]
        for seconds, faults in (chain[setting], scaled[setting]):
            cells += [f"{1e3 * seconds:.3g}", f"{faults:,.0f}"]
        yield f"| {' | '.join(cells)} |"


def _compile(results):
    counts = list(results["adam"])
    yield f"| seconds for leaves: | {' | '.join(counts)} | to adam |"
    yield "|---|" + "--:|" * (len(counts) + 1)
    totals = {
        name: [statistics.median(map(sum, by[count])) for count in counts]
        for name, by in results.items()
    }
    for name, values in totals.items():
        base = totals["adam, chain" if name.endswith("chain") else "adam"]
        cells = " | ".join(f"{value:.3g}" for value in values)
        yield f"| {name} | {cells} | {values[-1] / base[-1]:.2f} |"


def _growth(sizes, seconds):
    yield f"| ms | {' | '.join(f'{s:.0e}' for s in sizes)} |"
    yield "|---|" + "--:|" * len(sizes)
    for name, medians in seconds.items():
        cells = " | ".join(f"{1e3 * x:.3g}" for x in medians)
        yield f"| {name} | {cells} |"


def proxes(results):
    """Returns the tables of benchmarks/prox.py."""
    lines = [
        f"{results['machine']}. Medians of {results['rounds']} steps of each, "
        "in turns. *Adam*: followed by Optax's Euclidean projection or, for a "
        "penalty, Euclidean shrinkage. *B*: bytes moved a number, by XLA's own "
        "estimate, which counts a loop once. *MB*: temporaries.",
    ]
    for part, measured in results.items():
        if part in ("machine", "rounds", "growth", "adaprox"):
            continue
        lines += ["", f"### {part[0].upper()}{part[1:]}", ""]
        lines += _proxes(measured, results["adaprox"], part.startswith("rows"))
    lines += ["", "### Growth: 4 M numbers in slices of one length", ""]
    lengths = results["growth"]["lengths"]
    lines.append(f"| ms | {' | '.join(f'{n:,}' for n in lengths)} |")
    lines.append("|---|" + "--:|" * len(lengths))
    for name, by_length in results["growth"]["seconds"].items():
        for who in ("ftml", "adam"):
            cells = [f"{1e3 * seconds[who]:.3g}" for seconds in by_length]
            lines.append(f"| {who}, {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _proxes(measured, adaprox, with_adaprox):
    yield "| prox | ms | B | MB | Adam, ms | B | MB | ms to Adam | to adaprox |"
    yield "|---|" + "--:|" * 8
    numbers = measured["size"]
    for name, by in measured["steps"].items():
        cells = [name]
        for who in ("ftml", "adam"):
            cells += _cells(numbers, **by[who]) if who in by else [""] * 3
        ours = by["ftml"]["seconds"]
        cells.append(
            f"{ours / by['adam']['seconds']:.2f}" if "adam" in by else ""
        )
        theirs = adaprox[name]["seconds"] if name in adaprox else 0
        cells.append(
            f"1/{theirs / ours:.0f}" if theirs and with_adaprox else ""
        )
        yield f"| {' | '.join(cells)} |"


def _cells(numbers, seconds, moved_bytes, temporary_bytes):
    yield f"{1e3 * seconds:.3g}"
    yield f"{moved_bytes / numbers:.0f}"
    yield f"{temporary_bytes / 1e6:.3g}"
