"""A user's script in types alone: `make check` reads it, so that the public names keep theirs. It is never run."""
# mypy: disallow-untyped-calls, disallow-any-unimported, warn-return-any, no-implicit-reexport

from pathlib import Path

from equipoise import (
    Objective,
    Recommender,
    RunConfig,
    UserError,
    Weighting,
    __version__,
    evaluate,
    export_run,
    front,
    load_config,
    prepare,
    train,
)


def whole_run(path: str) -> str:
    """From a config file to the best item of a shopper."""
    config: RunConfig = load_config(path, ["train.lr=1e-3"])
    try:
        rows: int = prepare(config).splits["train"].impressions
        summary = train(config, overwrite=True)
    except UserError as error:
        raise SystemExit(str(error)) from error
    assert summary is not None, f"{rows} impressions, {__version__}"
    report = evaluate(config.output, split="test")
    assert report is not None
    measured = front(config.output, knee=True)
    assert measured is not None and measured["chosen"] == "knee"
    export_run(config.output, Path("exports"))
    best = Recommender.load("exports").rank({"age": "30"}, ["i1", "i2"]).candidates[0]
    return str(best.item_id)


def wrong_use(objective: Objective, weighting: Weighting) -> None:
    """Each line has one mistake: where it is not seen, its comment is reported as of no use."""
    from equipoise import nonsense  # type: ignore[attr-defined]  # noqa: F401

    train("demo.yaml")  # type: ignore[arg-type]
    load_config(3)  # type: ignore[arg-type]
    evaluate("runs/demo", splt="test")  # type: ignore[call-arg]
    objective.losses()  # type: ignore[attr-defined]
    weighting.weigh()  # type: ignore[attr-defined]
