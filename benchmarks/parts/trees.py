"""The shapes of the benchmarks' parameters; imports nothing."""


def one_leaf():
    return [(4096, 4096)]


def transformer():
    width = 768
    layer = [
        *[(width,)] * 4,
        *[(width, 3 * width), (3 * width,), (width, width), (width,)],
        *[(width, 4 * width), (4 * width,), (4 * width, width), (width,)],
    ]
    return [(50257, width), (1024, width), *layer * 4, (width,), (width,)]


def many_leaves(count=1000):
    return [(96 + index % 9,) for index in range(count)]


TREES = {
    "64 MB in one leaf": one_leaf,
    "68 M in 52 leaves": transformer,
    "1,000 small leaves": many_leaves,
}
