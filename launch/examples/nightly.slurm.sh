#!/bin/bash
# Every night: crontab line  15 1 * * *  sbatch nightly.slurm.sh /shared/my_shop.yaml
#SBATCH --job-name=equipoise-nightly
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=06:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --output=nightly-%j.log
set -euo pipefail

CONFIG=${1:?"usage: sbatch nightly.slurm.sh CONFIG [DAY]"}
DAY=${2:-$(date --utc --date=yesterday +%F)}

# 0: promoted. 3: model or day refused, what was served stays. 75: stopped before the time limit; it goes on.
code=0
srun equipoise nightly "$CONFIG" --day "$DAY" || code=$?
case $code in
    0) echo "promoted: $DAY" ;;
    3) echo "refused: $DAY; the reasons are in nights/$DAY.json" >&2; exit 3 ;;
    75) scontrol requeue "$SLURM_JOB_ID" ;;
    *) exit "$code" ;;
esac
