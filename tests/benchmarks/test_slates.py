"""The pieces of `benchmarks.slates` on a tiny model: the peers do the same work, every promised figure is there."""

import json
import re
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import slates, slates_agreement, slates_curves, slates_memory
from benchmarks.contender import Contender, exponent, seconds_per_impression
from benchmarks.figures import Timed, take_turns
from benchmarks.peer_prompts import SeparateModels, SeparatePrompts, prompts, stock_model
from benchmarks.peers import has_libmtl
from benchmarks.slates import PARTS, RATIOS, TINY, has_estimate, headline, measure, notes
from benchmarks.slates_agreement import differences, one_by_one
from benchmarks.slates_curves import Ranges
from benchmarks.slates_gpu import EFFICIENT, counted_flops, gpu_figures, peak_flops, way_figures
from benchmarks.slates_ours import WITHOUT, ours, point, training_step
from benchmarks.slates_picture import draw
from benchmarks.slates_steps import step_figures
from benchmarks.workload import Sizes, Way, build_workload, resized, separate_prompts
from equipoise.data.batches import Slate, build_batch
from equipoise.modeling.attention import memory_efficient
from tests.forked_job import ForkedPython

SIZES = Sizes(2, 3, 9, 4)
PROMPTS = separate_prompts(SIZES)


def give(workload, stock) -> int:
    """Put our one objective's adapters and head into the stock model; how many tensors those are."""
    theirs = dict(stock.named_parameters())
    given = 0
    with torch.no_grad():
        for name, parameter in workload.model.named_parameters():
            found = re.search(r"(trunk\.layers|upper)\.(\d+)\.(.*\.lora_[AB])\.", name)
            if found:
                layer = int(found[2]) + (workload.model.backbone.split if found[1] == "upper" else 0)
                theirs[f"base_model.model.model.layers.{layer}.{found[3]}.default.weight"].copy_(parameter)
                given += 1
            elif name.startswith("heads."):
                theirs["base_model.model.score.modules_to_save.default.weight"].copy_(parameter)
                given += 1
    return given


@pytest.mark.parametrize("adapted", [False, True], ids=["zero adapters", "the same adapters"])
def test_the_stock_model_computes_our_function(adapted):
    """With the same adapters and head, packed or not: only the packing is ours."""
    workload = build_workload("tiny", 1, PROMPTS, device="cpu", way=Way(attention="sdpa", scope="all"))
    if not adapted:
        with torch.no_grad():
            for name, parameter in workload.model.named_parameters():
                if ".lora_B." in name:
                    parameter.zero_()
    peer = SeparatePrompts("tiny", PROMPTS)
    assert give(workload, peer.model) == sum(p.requires_grad for p in peer.model.parameters())
    with torch.inference_mode():
        mine = workload.model.score(workload.batch.model_inputs())["o0"]
    theirs = peer.score()
    assert theirs.std() > 0.05
    torch.testing.assert_close(theirs, mine, rtol=0, atol=2e-5)


def test_the_peers_loss_is_the_binary_cross_entropy_of_its_logits():
    model = stock_model("tiny")
    batch = prompts(PROMPTS, 300)
    ids, labels = (torch.stack([entry[key] for entry in batch]) for key in ("input_ids", "labels"))
    out = model(input_ids=ids, labels=labels)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(out.logits, labels)
    torch.testing.assert_close(out.loss, expected)
    assert {float(label) for label in labels} == {0.0, 1.0}


def test_the_peer_trains_all_its_layers_and_times_its_steps_alone():
    peer = SeparatePrompts("tiny", PROMPTS)
    before = {name: p.detach().clone() for name, p in peer.model.named_parameters()}
    start = time.perf_counter()
    first, second = peer.step(), peer.step()
    whole = time.perf_counter() - start
    moved = {name for name, p in peer.model.named_parameters() if not torch.equal(p, before[name])}
    trained = {name for name, p in peer.model.named_parameters() if p.requires_grad}
    assert moved == trained and {re.search(r"layers\.(\d)", name)[1] for name in trained if "lora" in name} == set(
        "0123"
    )
    assert isinstance(first, Timed) and 0 < first + second < whole
    state = peer.trainer.optimizer.state_dict()["state"]
    assert {int(entry["step"]) for entry in state.values()} == {2}  # the optimizer goes on from call to call


@pytest.mark.slow
def test_separate_models_share_nothing():
    peer = SeparateModels("tiny", 3, Sizes(2, 1, 9, 4))
    assert peer.step() == pytest.approx(sum(tune.clock.seconds[0] for tune in peer.tunes))
    places = {p.data_ptr() for tune in peer.tunes for p in tune.model.parameters()}
    assert len(places) == sum(len(list(tune.model.parameters())) for tune in peer.tunes)


def test_a_prompt_holds_one_candidate():
    with pytest.raises(ValueError, match="not 3"):
        prompts(SIZES, 300)


def test_who_times_itself_is_believed_and_time_is_shared_by_impressions():
    functions = {"timed": lambda: Timed(7.0), "plain": lambda: 7.0}
    seconds = take_turns(functions, rounds=2)
    assert seconds["timed"].tolist() == [7.0, 7.0] and (seconds["plain"] < 1).all()
    each = seconds_per_impression({"a": Contender(lambda: Timed(6.0), 3)}, 2)
    assert each["a"].tolist() == [2.0, 2.0]


def test_every_variant_of_ours_takes_a_step():
    contenders = ours("tiny", SIZES, 2)
    assert {f"without_{idea}" for idea in WITHOUT} | {"ours", "ours_one", "with_comparison"} == contenders.keys()
    for name, contender in contenders.items():
        assert contender.impressions == (2 if name == "without_packing" else 6)
        contender.run()


def test_another_batch_on_the_same_model():
    workload = build_workload("tiny", 2, SIZES, device="cpu")
    other = resized(workload, Sizes(1, 2, 5, 3))
    assert other.model is workload.model and other.optimizer is workload.optimizer
    assert other.batch.input_ids.shape == (1, 5 + 2 * 3) and other.labels.shape == (2, 2)
    again = resized(other, SIZES)
    assert torch.equal(again.batch.input_ids, workload.batch.input_ids) and torch.equal(again.labels, workload.labels)


def test_ways_reach_the_model():
    workload = build_workload("tiny", 1, SIZES, device="cpu", way=Way(split=3, dtype="bfloat16"))
    assert workload.model.backbone.split == 3
    assert {p.dtype for p in workload.model.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_the_exponent_of_a_power_law():
    x = [2.0, 5.0, 7.0, 20.0]
    assert exponent(x, [3 * value**1.7 for value in x]) == pytest.approx(1.7)
    assert exponent([1, 2], [4.0, 4.0]) == pytest.approx(0.0)
    noisy = np.array(x) ** 0.5 * np.array([1.1, 1 / 1.1, 1 / 1.1, 1.1])
    assert 0.4 < exponent(x, noisy) < 0.6
    for bad in (([2, 2], [1.0, 2.0]), ([1, 2], [0.0, 1.0])):
        with pytest.raises(ValueError, match="two different x"):
            exponent(*bad)


def test_packed_slates_are_their_candidates_one_by_one():
    (logits, largest), (gradients, steepest) = differences("tiny", SIZES)
    assert largest > 0.1 and steepest > 0.01
    assert logits < 1e-5 and gradients < 1e-5


def test_the_comparison_notices_other_weights(monkeypatch):
    def nearly(source, target):
        with torch.no_grad():
            for parameter in (p for p in target.parameters() if p.requires_grad):
                parameter.add_(0.01)

    monkeypatch.setattr(slates_agreement, "copy_trained", nearly)
    (logits, _), (gradients, _) = differences("tiny", SIZES)
    assert logits > 1e-3 and gradients > 1e-4


def uneven(row: int, prefix: int, lengths: list[int]) -> Slate:
    none = np.zeros(len(lengths), dtype=np.int64)
    candidates = [list(range(100 * k, 100 * k + length)) for k, length in enumerate(lengths, 1)]
    return Slate(row, list(range(5, 5 + prefix)), candidates, none, none, none)


def test_single_candidates_stand_behind_their_own_prefix():
    batch = build_batch([uneven(0, 3, [2, 4]), uneven(1, 5, [1])], 100, 0)
    found = [one.input_ids[0].tolist() for one in one_by_one(batch)]
    assert found == [[5, 6, 7, 100, 101], [5, 6, 7, 200, 201, 202, 203], [5, 6, 7, 8, 9, 100]]


@pytest.mark.parametrize("attention", ["split", "sdpa"])
def test_padding_is_what_linear_layers_compute_beside_tokens(attention, monkeypatch, make_model):
    batches = [build_batch([uneven(0, 3, [2, 4]), uneven(1, 5, [1])], 100, 0), build_batch([uneven(0, 2, [2])], 9, 0)]
    data = SimpleNamespace(slates=SimpleNamespace(manifest=None))
    model = make_model("llama", attention=attention)
    for name, result in {
        "open_data": data, "build_objectives": {}, "train_batches": batches, "find_tokens": None,
        "assemble_model": (model, None),
    }.items():  # fmt: skip
        monkeypatch.setattr(slates_memory, name, lambda *rest, result=result: result)
    rows = {1: 1 - (9 + 6) / 18, 2: 1 - (9 + 6 + 4) / (18 + 4)}
    for count, expected in rows.items():
        found = slates_memory.padding_share(SimpleNamespace(objectives=None), batches=count)
        assert found["rows"] == pytest.approx(expected)
        assert found["linear"] == pytest.approx(expected if attention == "sdpa" else 0.0)


def test_heads_compare_with_a_history_and_learn_it():
    workload = build_workload("tiny", 2, replace(SIZES, history=5), device="cpu")
    learned = {n: p.detach().clone() for n, p in workload.model.named_parameters() if "comparison" in n}
    for _ in range(2):  # its last factor is 0 at the start
        training_step(workload)()
    assert len(learned) >= 4 and workload.batch.compared["history"].shape == (2, 5)
    for name, before in learned.items():
        assert not torch.equal(workload.model.get_parameter(name), before), name


def test_peers_get_no_more_prompts_than_we_have_impressions():
    assert point("tiny", Sizes(2, 3, 9, 4)).prompts == 6
    assert point("minilm", Sizes(1, 20, 256, 16)).prompts == 8
    assert point("minilm_long", Sizes(1, 20, 4000, 16)).prompts == 1


def test_ratios_are_of_times_per_impression_and_the_headline_has_no_backbone():
    at = point("tiny", SIZES)
    counts = {"ours": 6, "ours_one": 6, "with_comparison": 6, "libmtl": 2}
    contenders = {name: Contender(lambda: None, count) for name, count in counts.items()}
    contenders |= {f"without_{idea}": Contender(lambda: None, 6) for idea in WITHOUT}
    seconds = {name: np.array([2.0]) for name in contenders} | {"libmtl": np.array([30.0]), "ours_one": np.array([1.0])}
    seconds["with_comparison"] = np.array([2.5])
    figures = step_figures(at, contenders, seconds)
    values = {entry["name"]: entry["value"] for entry in [*figures, *headline(figures, "tiny")]}
    assert values["time_ratio_libmtl"] == values["time_ratio_libmtl_tiny"] == 15.0
    assert values["four_objectives_over_one"] == 2.0 and values["comparison_over_step"] == 1.25
    assert values["step_ms_libmtl_tiny"] == 60_000 and values["impression_ms_libmtl_tiny"] == 30_000
    assert "time_ratio_separate_prompts" not in values
    assert headline(figures, "other") == []


def test_flops_are_counted_and_cards_known():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert counted_flops(lambda: a @ b) == 2 * 3 * 5 * 7
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12 and peak_flops("NVIDIA A100-SXM4-40GB") == 312e12
    assert peak_flops("NVIDIA L4") == 121e12 and peak_flops("some card") is None


def test_kernels_of_gpus_are_counted_by_the_products_that_they_compute():
    q, k = (torch.empty(3, length, 4, 32, device="meta").transpose(1, 2) for length in (7, 11))
    assert counted_flops(lambda: memory_efficient.attend(q, k, k, 0.3, False, None)) == 2 * 2 * 3 * 4 * 7 * 11 * 32
    backward = EFFICIENT[torch.ops.aten._efficient_attention_backward]
    assert backward((3, 7, 4, 32), (3, 7, 4, 32), (3, 11, 4, 32), (3, 11, 4, 32)) == 5 * 2 * 3 * 4 * 7 * 11 * 32


def test_ways_of_a_step_are_timed_at_every_size():
    found = {entry["name"]: entry["value"] for entry in way_figures("tiny", [Sizes(1, 2, 8, 4), Sizes(2, 2, 8, 4)], 1)}
    assert set(found) == {f"gpu_step_ms_{w}_tiny_S{n}" for w in ("ours", "products", "masked", "one") for n in (1, 2)}
    assert min(found.values()) > 0


@pytest.mark.slow
def test_large_backbones_are_measured_in_half_precision():
    found = {entry["name"]: entry for entry in gpu_figures(point("tiny", SIZES), 1)}
    assert found["time_ratio_separate_prompts_tiny"]["value"] > 0
    assert found["impression_ms_ours_tiny"]["dtype"] == "bfloat16"


def test_curves_are_times_per_slate_whatever_the_peer_got(monkeypatch):
    measured = {"ours": {1: 6.0, 2: 12.0}, "separate_prompts": {1: 6.0, 2: 24.0}}
    monkeypatch.setitem(slates_curves.AXES, "prefix", lambda *rest: measured)
    ranges = Ranges("tiny", Sizes(3, 10, 8, 4), 2, (), (1, 2), (), ())  # 3 slates against 2 prompts
    values = {entry["name"]: entry["value"] for entry in slates_curves.curve_figures("prefix", ranges, 1)}
    assert values["curve_ms_prefix_ours_2"] == pytest.approx(12_000 / 3)
    assert values["curve_ms_prefix_separate_prompts_2"] == pytest.approx(24_000 * 10 / 2)
    assert values["exponent_prefix"] == pytest.approx(1) and values[
        "exponent_prefix_separate_prompts"
    ] == pytest.approx(2)


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(ValueError, match="no curve"):
        draw(tmp_path / "picture.png", [])


def test_the_command_writes_its_record_and_says_what_is_missing(tmp_path, monkeypatch, capsys):
    path = tmp_path / "slates.json"
    monkeypatch.setattr(slates, "QUICK", TINY)
    monkeypatch.setattr(slates, "has_estimate", lambda: False)
    monkeypatch.setattr("sys.argv", ["slates", "--quick", "--parts", "agreement,estimate", "--json", str(path)])
    slates.main()
    record = json.loads(path.read_text())
    assert {"packed_max_abs_diff", "packed_gradient_max_abs_diff"} == {entry["name"] for entry in record["figures"]}
    assert record["settings"]["parts"] == ["agreement", "estimate"] and record["settings"]["quick"]
    assert record["settings"]["notes"] == ["estimate_error: this tree has no benchmarks.estimate"]
    assert record["settings"]["notes"][0] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "says"),
    [(["--parts", "steps,speed"], "'speed' is no part"), (["--parts", "steps", "--picture", "x.png"], "add curves")],
)
def test_the_command_refuses_what_it_cannot_do(wrong, says, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["slates", "--json", "none.json", *wrong])
    with pytest.raises(SystemExit):
        slates.main()
    assert says in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.distributed
def test_all_promised_figures_are_there(tmp_path, monkeypatch):
    # Forked, for the sake of their imports; what the estimate is compared with is measured in a fresh process.
    for module in ("slates_processes", "balancing_memory"):
        monkeypatch.setattr(f"benchmarks.{module}.subprocess", ForkedPython)
    if has_estimate():
        from benchmarks import estimate

        monkeypatch.setattr(estimate, "QUICK", [estimate.Case("tiny", False, 2)])
    figures = measure(TINY, list(PARTS))
    values = {entry["name"]: entry["value"] for entry in figures}
    assert len(values) == len(figures)
    promised = set(RATIOS) | {"scoring_ratio_separate_prompts", "scoring_one_ratio_separate_prompts"}
    promised |= {"memory_ratio_libmtl", "packed_max_abs_diff", "packed_gradient_max_abs_diff"}
    promised |= {f"share_{idea}_tiny" for idea in WITHOUT}
    promised |= {f"step_ms_{name}_tiny" for name in ("ours", "ours_one", "separate_prompts", "separate_models")}
    for axis in ("candidates", "prefix", "objectives", "processes"):
        promised |= {f"exponent_{axis}", f"exponent_{axis}_separate_prompts"}
    if not has_libmtl():
        promised -= {"time_ratio_libmtl", "memory_ratio_libmtl"}
        assert any("LibMTL" in note for note in notes(list(PARTS)))
    promised |= {"estimate_error"} if has_estimate() else set()
    assert promised <= values.keys()
    assert all(values[name] is not None for name in promised)
    assert all(values[name] > 0 for name in promised if "ratio" in name or "ms" in name)
    draw(tmp_path / "picture.png", figures)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
