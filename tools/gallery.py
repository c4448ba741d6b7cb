"""Makes the pictures of docs/gallery.md: each by one command of bilevax, shown on the page.

    python tools/gallery.py [--only NAME] [--networks FOLDER]

FOLDER holds the Sioux Falls files of the public collection of road networks (TNTP format); without
it that picture is left as it is.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"

COMMANDS = {
    "four-rooms": "solve four-rooms --starts 2",
    "frozen-lake": "solve reward-design --env FrozenLake-v1 --avoid 4,8 --budget 1 --starts 4",
    "sentinel-intruder": "solve sentinel-intruder --size 5 --starts 2",
    "stackelberg": "solve stackelberg --states 12 --starts 4",
    "sioux-falls": (
        "solve tolls --network {networks}/SiouxFalls_net.tntp --trips "
        "{networks}/SiouxFalls_trips.tntp --nodes {networks}/SiouxFalls_node.tntp --starts 2"
    ),
    "tax": "solve tax --starts 4",
    "moving-dot": "rlhf moving-dot --seeds 1",
}
"""Picture: the command that makes it. A clip (rlhf) is a GIF, the others are ``picture.svg``."""


def make(name: str, command: str) -> Path:
    """Runs the command in a temporary folder and keeps its picture; returns where."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        bilevax(*command.split(), "--out", str(out), "--quiet")
        if not command.startswith("rlhf"):
            return Path(shutil.copy(out / "picture.svg", IMAGES / f"{name}.svg"))
        clip = IMAGES / f"{name}.gif"
        clip.unlink(missing_ok=True)
        bilevax("watch", str(out), "--out", str(clip))
        return clip


def bilevax(*arguments: str) -> None:
    """Runs the command; 1 only says that a gap is above its tolerance."""
    done = subprocess.run([sys.executable, "-m", "bilevax", *arguments], stdout=subprocess.DEVNULL)
    if done.returncode not in (0, 1):
        sys.exit(f"bilevax {' '.join(arguments)} ended with {done.returncode}.")


def main() -> None:
    """Makes all pictures, or one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=COMMANDS)
    parser.add_argument("--networks", default=os.environ.get("BILEVAX_ROAD_NETWORKS"))
    options = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    for name, command in COMMANDS.items():
        if options.only not in (None, name):
            continue
        if "{networks}" in command:
            if options.networks is None:
                print(f"{name}: left as it is (give --networks FOLDER)")
                continue
            command = command.format(networks=options.networks)
        print(make(name, command).relative_to(ROOT), flush=True)


if __name__ == "__main__":
    main()
