"""TorchJD's weightings by name: the library's own answers, state by objective, and what a user is told."""

import builtins
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchjd.aggregation as library

from equipoise.common.errors import UserError
from equipoise.train.balancing.gradient_stats import GradientStats
from equipoise.train.balancing.torchjd_method import TorchJD

Make = Callable[..., GradientStats]

STATELESS: dict[str, dict[str, Any]] = {
    "AlignedMTL": {"scale_mode": "rmse"},
    "CAGrad": {"c": 0.4},
    "DualProj": {},
    "FairGrad": {"alpha": 2.0},
    "IMTLG": {},
    "Krum": {"n_byzantine": 1, "n_selected": 2},
    "Mean": {},
    "MGDA": {"max_iters": 50},
    "PCGrad": {},
    "Random": {},
    "Sum": {},
    "UPGrad": {},
}
STATEFUL: dict[str, dict[str, Any]] = {"GradVac": {"beta": 0.3}, "PCD": {"tau": 0.2, "beta": 0.9}}
PREFERENCE = np.array([1.0, 2.0, 0.5, 1.5])


def theirs(weighting: Any, vectors: np.ndarray, step: int) -> np.ndarray:
    """The library's answer on these vectors, the randomness being that of the step."""
    torch.manual_seed(step)
    return weighting(torch.from_numpy(vectors @ vectors.T)).numpy()


@pytest.mark.parametrize("name", STATELESS | STATEFUL)
def test_it_is_the_librarys_answer_on_weighted_gradients(make_problem: Make, name: str) -> None:
    options = (STATELESS | STATEFUL)[name]
    rng = np.random.default_rng(0)
    method, weighting = TorchJD(name, options), getattr(library, f"{name}Weighting")(**options)
    for step in range(5):
        vectors = rng.standard_normal((4, 6)) + 0.5
        alpha = method.compute_weights(make_problem(vectors, PREFERENCE, step=step))
        if "pref_vector" in dir(weighting):
            weighting.pref_vector = torch.from_numpy(PREFERENCE / 5)
            expected = theirs(weighting, vectors, step)
        else:
            expected = theirs(weighting, vectors * PREFERENCE[:, None], step) * PREFERENCE
        assert alpha.dtype == np.float64
        # SLSQP-like solvers feel the last bits of the matrix, the others do not.
        np.testing.assert_allclose(alpha, expected, rtol=1e-4 if name in ("CAGrad", "FairGrad") else 1e-9)


def test_a_number_per_objective_goes_by_name(make_problem: Make) -> None:
    method = TorchJD("Constant", {"weights": {"b": 2, "a": 1, "c": 4}})
    assert method.compute_weights(make_problem(np.eye(3), [1, 1, 3])).tolist() == [1.0, 2.0, 12.0]
    assert method.compute_weights(make_problem(np.eye(2), names=["c", "b"])).tolist() == [4.0, 2.0]
    with pytest.raises(np.linalg.LinAlgError, match="'z'"):
        method.compute_weights(make_problem(np.eye(2), names=["a", "z"]))


@pytest.mark.parametrize("name", STATEFUL)
def test_each_set_of_objectives_has_its_own_state(make_problem: Make, name: str) -> None:
    rng = np.random.default_rng(1)
    method = TorchJD(name, STATEFUL[name])
    kind = getattr(library, f"{name}Weighting")
    whole, pair = kind(**STATEFUL[name]), kind(**STATEFUL[name])
    for step in range(9):
        vectors = rng.standard_normal((4, 6)) + 0.5
        rows = [3, 1] if step in (2, 3, 6) else [0, 1, 2, 3]
        names = np.array(["a", "b", "c", "d"])[rows]
        alpha = method.compute_weights(make_problem(vectors[rows], names=names, step=step))
        expected = theirs(pair if len(rows) == 2 else whole, vectors[rows], step)
        np.testing.assert_allclose(alpha, expected, rtol=1e-9)
        if step in (1, 6):  # an interruption
            kept = json.dumps(method.state())
            method = TorchJD(name, STATEFUL[name])
            method.restore(json.loads(kept))
    assert [names for names, _ in method.state()["copies"]] == [["a", "b", "c", "d"], ["d", "b"]]


def test_options_are_those_of_the_resumed_run(make_problem: Make) -> None:
    first = TorchJD("GradVac", {"beta": 0.3})
    first.compute_weights(make_problem(np.eye(2)))
    kept = first.state()["copies"][0][1]
    assert "_phi_t" in kept
    assert not any("beta" in key for key in kept)


def test_the_global_generator_is_left_alone(make_problem: Make) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    method = TorchJD("Random", {})
    one = method.compute_weights(make_problem(np.eye(3), step=4)).tolist()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert method.compute_weights(make_problem(np.eye(3), step=4)).tolist() == one
    assert method.compute_weights(make_problem(np.eye(3), step=5)).tolist() != one


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("upgrad", {}, "no weighting 'upgrad'.*torchjd:UPGrad"),
        ("Foo", {}, "no weighting 'Foo'.*torchjd:AlignedMTL or"),
        ("CAGrad", {}, "refused by torchjd:CAGrad.*'c'.*its options are c, norm_eps"),
        ("CAGrad", {"c": -1.0}, "refused by torchjd:CAGrad.*non-negative"),
        ("UPGrad", {"radius": 1}, "refused by torchjd:UPGrad.*radius"),
        ("Constant", {"weights": [1, 2]}, r"\{objective: number\}"),
        ("UPGrad", {"pref_vector": [1, 2]}, "objectives.NAME.weight"),
        ("NashMTL", {"n_tasks": 2}, "balancing.method=nash"),
        ("GradDrop", {}, "the gradients themselves"),
        ("SDMGrad", {}, "two independent batches"),
        ("CRMOGM", {}, "gram_ema"),
    ],
)
def test_what_cannot_be_is_one_sentence(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        TorchJD(name, options)
    assert "\n" not in str(caught.value)


def test_every_weighting_of_the_library_is_run_or_named(make_problem: Make) -> None:
    kinds = [name.removesuffix("Weighting") for name in library.__all__ if name.endswith("Weighting")]
    known = STATELESS | STATEFUL | {"Constant": {"weights": {"a": 1, "b": 1, "c": 1, "d": 1}}}
    for name in filter(None, kinds):
        if name in known:
            assert TorchJD(name, known[name]).compute_weights(make_problem(np.eye(4))).shape == (4,)
        else:
            with pytest.raises(UserError, match="cannot be used"):
                TorchJD(name, {})


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchjd"]:
        monkeypatch.delitem(sys.modules, name)
    genuine = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "torchjd":
            raise ModuleNotFoundError("No module named 'torchjd'")
        return genuine(name, *args, **kwargs)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(UserError, match=r"pip install equipoise\[torchjd\]"):
        TorchJD("UPGrad", {})


def test_a_missing_solver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.CAGradWeighting, "_REQUIRED_DEPS", ["no_such_solver"])
    with pytest.raises(UserError, match=r"pip install equipoise\[torchjd\]"):
        TorchJD("CAGrad", {"c": 0.4})


@pytest.mark.parametrize(
    "answer", [torch.tensor([1.0, torch.nan]), torch.ones(3), torch.ones(2, 1), RuntimeError("solver gave up")]
)
def test_a_bad_answer_is_no_weights(make_problem: Make, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    method = TorchJD("Sum", {})

    def forward(self: Any, matrix: torch.Tensor) -> torch.Tensor:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(library.SumWeighting, "forward", forward)
    with pytest.raises(np.linalg.LinAlgError, match="torchjd:Sum"):
        method.compute_weights(make_problem(np.eye(2)))
