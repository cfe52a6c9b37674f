"""Prints the oldest versions that pyproject.toml allows, as pip takes them."""

import pathlib
import tomllib

project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
for requirement in project["dependencies"]:
    pin = requirement.replace(">=", "==")
    print(pin)
    if pin.startswith("jax="):
        print(pin.replace("jax", "jaxlib"))
