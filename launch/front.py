"""`accelerate launch --config_file NAME.yaml -m equipoise.launch.front …`: `equipoise front` in many processes."""

import sys

from equipoise.launch.cli import main

if __name__ == "__main__":
    main(["front", *sys.argv[1:]])
