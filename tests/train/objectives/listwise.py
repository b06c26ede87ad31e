"""List-wise objectives by the names of their tests, on the attributes category and brand."""

from equipoise.configs.objectives import CoverageConfig, DiversityConfig, FairnessConfig
from equipoise.train.objectives.coverage import Coverage
from equipoise.train.objectives.diversity import Diversity
from equipoise.train.objectives.fairness import Fairness
from equipoise.train.objectives.placed import PlacedObjective


def listwise(name: str, groups: int, **options: object) -> PlacedObjective:
    """`diversity`, `text`, `coverage`, or fairness by the target that is its name, of so many groups."""
    if name in ("diversity", "text"):
        kind = {"similarity": "text"} if name == "text" else {"attributes": ["category", "brand"]}
        return Diversity("goal", DiversityConfig.model_validate({**kind, **options}))
    built: Fairness | Coverage
    if name == "coverage":
        built = Coverage("goal", CoverageConfig.model_validate({"attribute": "category", **options}))
    else:
        built = Fairness("goal", FairnessConfig.model_validate({"attribute": "category", "target": name, **options}))
    built.groups = groups
    return built
