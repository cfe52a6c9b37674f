"""The shapes of the benchmarks' parameters; imports nothing."""


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
