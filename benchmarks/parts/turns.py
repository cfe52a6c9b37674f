"""Libraries in processes of their own that take turns, a step each a round."""

import contextlib
import os
import pathlib
import random
import statistics
import subprocess

PARTS = pathlib.Path(__file__).parent


class Worker:
    """A library in its process, which starts when it is entered."""

    def __init__(self, setting, python, library, group, *names):
        self.setting = setting
        self.command = [
            *(python, str(PARTS / "worker.py"), library, group, *names)
        ]

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(self.setting),
        )
        names = self.process.stdout.readline()
        if not names:
            raise RuntimeError(f"Can't run {' '.join(self.command)}.")
        self.names = names.strip().split(";")
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def step(self, name):
        """Returns the seconds and the page faults of a step."""
        print(name, file=self.process.stdin, flush=True)
        seconds, faults = self.process.stdout.readline().split()
        return float(seconds), int(faults)


def environment(setting=""):
    """Returns the environment with settings, NAME=VALUE each, added to it."""
    paths = [str(PARTS.parents[1]), str(PARTS.parent)]
    variables = {**os.environ, "JAX_PLATFORMS": "cpu"}
    variables["PYTHONPATH"] = os.pathsep.join(
        [*paths, os.environ.get("PYTHONPATH", "")]
    )
    settings = (each.partition("=") for each in setting.split())
    return variables | {name: value for name, _, value in settings}


def measure(workers, rounds, warmup):
    """Returns the median seconds and page faults by setting and step."""
    with contextlib.ExitStack() as stack:
        for worker in workers:
            stack.enter_context(worker)
        turns = [(worker, name) for worker in workers for name in worker.names]
        measured = {(worker.setting, name): [] for worker, name in turns}
        for round_ in range(-warmup, rounds):
            random.Random(round_).shuffle(turns)
            for worker, name in turns:
                step = worker.step(name)
                if round_ >= 0:
                    measured[worker.setting, name].append(step)
    return {
        key: [statistics.median(values) for values in zip(*steps, strict=True)]
        for key, steps in measured.items()
    }
