#!/bin/bash
# What one NVIDIA card gives, in at most eight minutes: numerics first, then speed. Figures lie in ${OUT:-.}/gpu_*.json.
#   bash benchmarks/gpu_check.sh          from the root of a checkout whose environment is active
#   bash benchmarks/gpu_check.sh --dry    each command once on a CPU, with a tiny model: does the script still run?
#   SLOW=3: three times the time for each command
# 1. numerics: kernels against float64, a step against that of the CPU, fused against stock layers
# 2. 1B and 8B, one and four objectives, 2,304 to 16,128 tokens: fused, stock, separate prompts with PEFT (and with Liger
#    and flash-attention 2 where they are installed), share of the peak, kernels by the profiler
# 3. a run under DeepSpeed ZeRO-2 on the one card, by the command that users type
set -u
out=${OUT:-.}; export HF_HUB_OFFLINE=1 PYTHONPATH=${PYTHONPATH:-$PWD}
dry=(); engine=configs/accelerate/zero2.yaml; failed=0
if [ "${1:-}" = --dry ]; then dry=(--dry); engine=configs/accelerate/cpu_zero2.yaml; fi
step() { local limit=$1; shift; echo "== $*"; timeout $((limit * ${SLOW:-1})) "$@" || { echo "FAILED ($?): $*"; failed=1; }; }

[ ${#dry[@]} = 1 ] || nvidia-smi --query-gpu=name,memory.total --format=csv,noheader
tests=(tests/gpu); [ ${#dry[@]} = 1 ] || tests+=(tests/modeling/test_fused.py)
step 100 python -m pytest -q -p no:cacheprovider -m "not slow" "${tests[@]}"
step 240 python -m benchmarks.launches_gpu "${dry[@]}" --json "$out/gpu_fused.json"

work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
tables=(); for name in impressions items users events; do tables+=("data.tables.$name=$work/shop/$name.parquet"); done
run=(configs/simulator.yaml "data.folder=$work/prepared" "${tables[@]}" train.max_steps=8 train.eval_every=null
     train.save_every=null train.log_every=4)
step 30 equipoise simulate "$work/shop" --requests 300
step 60 equipoise prepare "${run[@]}"
step 90 equipoise train "${run[@]}" "output=$work/alone"
step 90 accelerate launch --config_file "$engine" --num_processes 1 -m equipoise.launch.train "${run[@]}" "output=$work/zero2"
python - "$work" "$out" <<'END'
import json, sys
from pathlib import Path
work, out = map(Path, sys.argv[1:])
lines = {k: json.loads((work / k / "metrics.jsonl").read_text().splitlines()[-1]) for k in ("alone", "zero2")}
losses = {k: {n: v for n, v in line.items() if n.startswith("train/loss")} for k, line in lines.items()}
gap = max(abs(v - losses["zero2"][n]) for n, v in losses["alone"].items())
(out / "gpu_zero2.json").write_text(json.dumps({"losses": losses, "largest_difference": gap}, indent=1))
print(f"ZeRO-2 on one card against one plain process after 8 steps: losses differ by at most {gap:.2e}")
END
[ $? = 0 ] || failed=1
exit $failed
