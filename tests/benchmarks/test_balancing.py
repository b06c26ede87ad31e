"""The pieces of `benchmarks.balancing` on a tiny model: peers do the same work, and every promised figure is there."""

from functools import partial

import numpy as np
import pytest
import torch

from benchmarks.balancing import TINY, measure
from benchmarks.balancing_agreement import compare
from benchmarks.balancing_solvers import Verdict, problems, random_problem
from benchmarks.balancing_steps import LEVELS, PLAIN, step_figures, summary, variant
from benchmarks.balancing_steps import PEERS as ALL_PEERS
from benchmarks.peers import LIBMTL, TORCHJD, TorchJD, has_libmtl, has_torchjd, libmtl
from benchmarks.workload import (
    Sizes,
    Workload,
    build_balancer,
    build_workload,
    combined_gradient,
    plain,
    random_batch,
    separate_prompts,
)
from equipoise.configs.balancing import BalancingConfig
from tests.forked_job import ForkedPython, forkserver

SIZES = Sizes(2, 3, 9, 4)
PEERS = [
    pytest.param("libmtl", marks=pytest.mark.skipif(not has_libmtl(), reason="LibMTL is not installed")),
    pytest.param("torchjd", marks=pytest.mark.skipif(not has_torchjd(), reason="TorchJD is not installed")),
]


def tiny(objectives: int = 2) -> Workload:
    return build_workload("tiny", objectives, SIZES, device="cpu")


def gradients(workload: Workload, backward, compute_weights=None) -> dict[str, torch.Tensor]:
    """`.grad` of the trunk and of every objective after one backward, and the losses."""
    workload.optimizer.zero_grad()
    losses = workload.losses(compute_weights=compute_weights)
    backward(losses)
    found = {name: combined_gradient(workload.model.own_parameters[name]) for name in workload.names}
    found["losses"] = torch.stack([loss.detach().double() for loss in losses])
    return {"trunk": combined_gradient(workload.shared()), **found}


@pytest.mark.parametrize("peer", PEERS)
def test_peers_get_the_same_losses_and_leave_the_same_gradients(peer):
    """Trunk: the method's, on the exact gradients; towers and heads: the plain ones."""
    workload = tiny()
    balancer = build_balancer(workload, BalancingConfig(method="pcgrad", normalize="none", level="parameters"))
    ours = gradients(workload, plain(workload), balancer.compute_weights)
    theirs = gradients(workload, libmtl(workload, "pcgrad") if peer == "libmtl" else TorchJD(workload, "pcgrad"))
    alone = gradients(workload, plain(workload))
    assert ours.keys() == theirs.keys()
    for name in ours:
        scale = ours[name].abs().max()
        assert scale > 0
        torch.testing.assert_close(theirs[name], ours[name], rtol=0, atol=2e-5 * float(scale))
        if name != "trunk":
            torch.testing.assert_close(alone[name], ours[name], rtol=0, atol=2e-5 * float(scale))


@pytest.mark.parametrize("name", [*PLAIN, *LEVELS, *ALL_PEERS])
def test_every_step_moves_trunk_towers_and_heads(name):
    if not (has_libmtl() if name == "libmtl" else has_torchjd() or not name.startswith("torchjd")):
        pytest.skip("not installed")
    workload = tiny()
    before = [parameter.detach().clone() for parameter in workload.trainable()]
    variant(workload, name)()
    moved = [not torch.equal(a, b) for a, b in zip(before, workload.trainable(), strict=True)]
    assert all(moved) and len(moved) > 20
    assert workload.context.z is None  # nothing of the step is kept


@pytest.mark.parametrize("peer", PEERS)
def test_directions_agree(peer):
    methods = LIBMTL if peer == "libmtl" else TORCHJD
    for method in [name for name in ("mgda", "imtl_g", "dualproj") if name in methods]:
        same = compare("tiny", SIZES, method, 3, peer)
        assert same["cosine"] > 0.999 and same["weights"] < 0.02, (method, same)


def test_agreement_notices_another_direction(monkeypatch):
    pytest.importorskip("torchjd")
    monkeypatch.setitem(TORCHJD, "imtl_g", ("Sum", {}))
    assert compare("tiny", SIZES, "imtl_g", 3, "torchjd")["weights"] > 0.02


def test_separate_prompts_hold_the_same_candidates():
    one = random_batch(SIZES, 300, 0)
    separate = random_batch(separate_prompts(SIZES), 300, 0)
    assert one.click.numel() == separate.click.numel() == 6
    assert one.input_ids.numel() == 2 * (9 + 3 * 4) and separate.input_ids.numel() == 6 * (9 + 4)


def test_problems_are_repeatable_and_as_spread_as_told():
    first, second = list(problems(9)), list(problems(16))
    by_spread = [entry for entry in second if entry[0] == 4][:9]
    for (_, a, gradients_a), (_, b, gradients_b) in zip([e for e in first if e[0] == 4], by_spread, strict=True):
        np.testing.assert_array_equal(gradients_a, gradients_b)
        np.testing.assert_allclose(a.gram, gradients_a @ gradients_a.T, rtol=1e-10, atol=1e-10 * b.norms.max() ** 2)
    assert {len(problem.names) for _, problem, _ in second} == set(range(2, 9))
    assert all((problem.norms == 1).all() for spread, problem, _ in first if spread == 0)


def test_a_verdict_tells_right_from_wrong():
    problem, vectors = random_problem(np.random.default_rng(3), 4, 2)
    harmful = Verdict("mgda", "wrong", lambda problem, _: -np.ones(4))
    harmful.judge(2, problem, vectors)
    broken = Verdict("mgda", "broken", lambda problem, _: np.full(4, np.nan))
    broken.judge(2, problem, vectors)
    assert harmful.conflicts[2] == harmful.clear[2] == harmful.solved == 1 and harmful.residuals[0] > 0.1
    assert broken.failures == 1 and broken.solved == 0 and not any(broken.conflicts.values())


def test_the_summary_is_the_worst_for_us():
    seconds = {
        "plain": [1.0],
        "boundary": [1.0],
        "layers": [1.2],
        "parameters": [2.0],
        "libmtl": [3.0],
        "torchjd": [2.0],
    }
    times = {name: np.array(values) for name, values in seconds.items()}
    slower = {**times, "boundary": np.array([1.1]), "torchjd_one_by_one": np.array([1.65])}
    figures = step_figures(times, "minilm", 4) + step_figures(slower, "llama100m", 4) + step_figures(slower, "x", 8)
    found = {entry["name"]: entry for entry in summary(figures, 4)}
    assert found["overhead_ratio_boundary"]["value"] == pytest.approx(1.1)
    assert found["time_ratio_libmtl"]["value"] == pytest.approx(3.0 / 1.1)
    assert found["time_ratio_torchjd"]["value"] == pytest.approx(1.5)
    assert found["time_ratio_torchjd"]["backbone"] == "llama100m"


@pytest.mark.slow
def test_all_promised_figures_are_there(monkeypatch):
    # Forked, for the sake of their imports; test_slates.py measures a fresh process.
    forkserver()
    monkeypatch.setattr("benchmarks.balancing_memory.subprocess", ForkedPython)
    forked = partial(torch.multiprocessing.start_processes, start_method="forkserver")
    monkeypatch.setattr("benchmarks.balancing_bytes.mp.spawn", forked)
    figures = measure(TINY, ["bytes", "solvers", "agreement", "memory", "steps"])
    values = {entry["name"]: entry["value"] for entry in figures}
    assert len(values) == len(figures)
    promised = {f"overhead_ratio_{level}" for level in ("boundary", "layers", "parameters")}
    promised |= {
        "overhead_ratio_at_once",
        "bytes_per_step",
        "solver_ms_max",
        "conflicts_ours",
        "optimality_residual_max",
    }
    for peer, installed in (("libmtl", has_libmtl()), ("torchjd", has_torchjd())):
        promised |= {f"time_ratio_{peer}", f"memory_ratio_{peer}"} if installed else set()
    promised |= {"conflicts_torchjd", "optimality_residual_torchjd"} if has_torchjd() else set()
    assert promised <= values.keys()
    assert all(values[name] is not None for name in promised)
    assert values["bytes_per_step"] == 8 * (4 * 4 + 4)
    assert values["conflicts_ours"] == 0
    assert values["optimality_residual_max"] <= 1e-8
