#!/bin/bash
# What one NVIDIA card gives, in at most eight minutes: numerics first, then speed. Figures lie in ${OUT:-.}/gpu_*.json.
#   bash benchmarks/gpu_check.sh        from the root of a checkout whose environment is active
set -u
out=${OUT:-.}; export HF_HUB_OFFLINE=1 PYTHONPATH=${PYTHONPATH:-$PWD}
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader
timeout 120 python -m pytest -q tests/gpu tests/modeling/test_fused.py -m "not slow" 2>&1 | tail -15
timeout 150 python -m benchmarks.launches_gpu --json "$out/gpu_fused.json"
timeout 200 python -m benchmarks.slates --parts gpu --json "$out/gpu_slates.json"
