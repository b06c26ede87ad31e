"""`accelerate launch --config_file NAME.yaml -m equipoise.launch.evaluate …`: `equipoise evaluate`, many processes."""

import sys

from equipoise.launch.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
