"""Relevance as a stated formula of the pointwise objectives: `log(ctr) + 0.5*log(cvr)`, read strictly."""

import ast
import math
from collections.abc import Sequence

from equipoise.configs.objective_spec import nearest_name

BUILT_IN_FACTORS = ("ctr", "cvr")


def default_relevance(names: Sequence[str]) -> str:
    """log(ctr) + log(cvr), as far as the run has them."""
    return " + ".join(f"log({name})" for name in names if name in BUILT_IN_FACTORS)


def parse_relevance(text: str, known: Sequence[str]) -> dict[str, float]:
    """The exponent of each objective that a formula names, in its order.

    Args:
        text: terms `log(NAME)` or `NUMBER*log(NAME)`, joined by + and −.
        known: names of the objectives whose number is above 0.

    Raises:
        ValueError: it cannot be read so, names what is not known, or one objective twice; in words for the user.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(_unread(text, known)) from error
    found: dict[str, float] = {}
    signed: list[tuple[ast.expr, float]] = [(tree, 1.0)]
    while signed:
        node, sign = signed.pop()
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            signed += [(node.right, sign if isinstance(node.op, ast.Add) else -sign), (node.left, sign)]
            continue
        name, exponent = _term(node, text, known)
        if name not in known:
            raise ValueError(
                f"relevance '{text}' names '{name}'{nearest_name(name, list(known))}: name pointwise objectives of "
                f"this run whose number is above 0 ({', '.join(known)})"
            )
        if name in found:
            raise ValueError(f"relevance '{text}' names {name} twice: give it one term")
        found[name] = sign * exponent
    return found


def _term(node: ast.expr, text: str, known: Sequence[str]) -> tuple[str, float]:
    """Name and exponent of `log(NAME)`, `NUMBER*log(NAME)`, `log(NAME)*NUMBER`, or their negative."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        name, exponent = _term(node.operand, text, known)
        return name, -exponent
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        numbers = [side for side in (node.left, node.right) if _number(side) is not None]
        others = [side for side in (node.left, node.right) if _number(side) is None]
        if len(numbers) == len(others) == 1:
            name, exponent = _term(others[0], text, known)
            return name, (_number(numbers[0]) or 0.0) * exponent
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "log":
        match node.args:
            case [ast.Name(id=name)] if not node.keywords:
                return name, 1.0
    raise ValueError(_unread(text, known))


def _number(node: ast.expr) -> float | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _number(node.operand)
        return None if inner is None else -inner
    if not isinstance(node, ast.Constant) or isinstance(node.value, bool) or not isinstance(node.value, int | float):
        return None
    try:
        number = float(node.value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and number != 0 else None


def _unread(text: str, known: Sequence[str]) -> str:
    return (
        f"relevance '{text}' cannot be read: write terms such as log({known[0] if known else 'ctr'}) or "
        f"0.5*log({known[-1] if known else 'cvr'}), joined by + or -"
    )
