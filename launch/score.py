"""`accelerate launch --config_file NAME.yaml -m equipoise.launch.score …`: `equipoise score` in many processes."""

import sys

from equipoise.launch.cli import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])
