"""`accelerate launch --config_file configs/accelerate/NAME.yaml -m equipoise.launch.train CONFIG [KEY=VALUE …]`."""

import sys

from equipoise.launch.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
