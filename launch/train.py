"""`accelerate launch --config_file configs/accelerate/NAME.yaml -m launch.train CONFIG [KEY=VALUE …]`."""

import sys

from launch.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
