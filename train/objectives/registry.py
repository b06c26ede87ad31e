"""From the config's objectives to their classes, in the order of towers, losses and weights."""

from equipoise.common.errors import UserError
from equipoise.configs.objectives import ObjectivesConfig
from equipoise.train.objectives.base import Objective


def build_objectives(config: ObjectivesConfig) -> dict[str, Objective]:
    """The configured objectives by name, in their fixed order.

    Raises:
        UserError: the loss of an objective cannot be imported, or is not one of its kind.
    """
    specs, built = config.specs(), {}
    for name, spec in specs.items():
        loss = spec.loss_class()
        if not (issubclass(loss, Objective) and loss.kind == spec.kind):
            raise UserError(
                f"objective {name}: {loss.__name__} is not a {spec.kind} Objective: derive it from one, or correct the "
                "kind of its spec"
            )
        built[name] = loss(name, config.options(name), specs)
    return built
