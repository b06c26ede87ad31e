"""Makes docs/python_api.md from the docstrings of the public names: `python -m tests.packaging.python_api`."""

import inspect
import re
from pathlib import Path
from typing import Any

import equipoise

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python_api.md"
ORDER = ("load_config", "prepare", "train", "evaluate", "front", "export_run", "Recommender", "Objective", "Weighting")
METHODS = {
    "Recommender": ("load", "rank", "score", "rank_frame", "recall", "price", "explain"),
    "Objective": ("loss",),
    "Weighting": ("compute_weights", "after_step", "state", "restore"),
}
HEAD = """# The Python interface

Made from the docstrings of the names that `equipoise` itself offers (`python -m tests.packaging.python_api`). They are
loaded when they are first asked for; everything else (`equipoise.train…`, `equipoise.data…`) may change.

```python
from equipoise import Recommender, evaluate, export_run, front, load_config, prepare, train

config = load_config("my_shop.yaml", ["train.lr=3e-4"])
prepare(config)
train(config)
report = evaluate(config.output, split="test")
front(config.output, where="ndcg>=98%", maximize="exposure_ratio")
export_run(config.output, "exports/my_shop")
ranking = Recommender.load("exports/my_shop").rank({"age": 40}, ["i1", "i2"])
```

What the commands print, these functions log to the logger `equipoise`; `logging.basicConfig(level="INFO")` shows it.
Every mistake that a user can fix raises `UserError` with one sentence. Many processes are started from the command line
(`equipoise launch --accelerate NAME train CONFIG`). [recommender.md](recommender.md) shows `Recommender` at work,
[configuration.md](configuration.md) the settings of a `RunConfig`, [balancing.md](balancing.md) the methods.
"""


def render() -> str:
    """The page."""
    parts = [HEAD]
    for name in ORDER:
        value = getattr(equipoise, name)
        function = type(value).__call__ if inspect.ismodule(value) else value
        title = name if inspect.isclass(value) else name + _signature(function)
        parts.append(f"## {name}\n\n```text\n{title}\n\n{inspect.getdoc(function)}\n```\n")
        for method in METHODS.get(name, ()):
            function = getattr(value, method)
            parts.append(f"### {name}.{method}\n\n```text\n{_signature(function)}\n\n{inspect.getdoc(function)}\n```\n")
    return "\n".join(parts)


def _signature(function: Any) -> str:
    """Names, defaults and types of the arguments, without the packages of the types, one argument a line if long."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    result = inspect.signature(function).return_annotation
    words = [_short(str(parameter)) for parameter in parameters]
    answer = "" if result in (inspect.Signature.empty, None) else f" -> {_short(inspect.formatannotation(result))}"
    line = f"({', '.join(words)}){answer}"
    return line if len(line) < 100 else "(\n    " + ",\n    ".join(words) + f",\n){answer}"


def _short(text: str) -> str:
    return re.sub(r"'([A-Z]\w*)'", r"\1", re.sub(r"\b(?:\w+\.)+(?=[A-Za-z_])", "", text))


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
