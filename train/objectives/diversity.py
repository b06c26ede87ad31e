"""Diversity within a slate: two similar candidates should not both get exposure."""

import torch

from equipoise.configs.objectives import DiversityConfig
from equipoise.modeling.operations import operation
from equipoise.train.objectives.base import Exposure, Step
from equipoise.train.objectives.placed import PlacedObjective, WholeSlates, Wish


def attribute_similarity(codes_NA: torch.Tensor, index_SM: torch.Tensor) -> torch.Tensor:
    """S (S, M, M): the share of a path of attributes, coarse to fine, that two candidates have in common."""
    codes_SMA = codes_NA[index_SM]
    equal = (codes_SMA[:, :, None] == codes_SMA[:, None, :]).float()
    return equal.cumprod(dim=-1).mean(-1)


def _path_distance(codes: list[torch.Tensor]) -> torch.Tensor:
    alike_SMM = codes[0][:, :, None] == codes[0][:, None]
    total_SMM = alike_SMM.float()
    for codes_SM in codes[1:]:
        alike_SMM = alike_SMM & (codes_SM[:, :, None] == codes_SM[:, None])
        total_SMM = total_SMM + alike_SMM.float()
    return 1 - total_SMM / len(codes)


path_distance = operation(
    "path_distance(Tensor[] codes) -> Tensor",
    _path_distance,
    lambda codes: codes[0].new_empty((*codes[0].shape, codes[0].shape[1]), dtype=torch.float32),
)
"""1 − the share that two candidates have in common of a path of attributes, (S, M) each, coarse to fine; (S, M, M)."""


def text_similarity(embeddings_NH: torch.Tensor, centre_H: torch.Tensor, index_SM: torch.Tensor) -> torch.Tensor:
    """S (S, M, M): the cosine of frozen text embeddings about their centre, negative ones cut to 0."""
    unit_SMH = torch.nn.functional.normalize(embeddings_NH - centre_H, dim=-1)[index_SM]
    return (unit_SMH @ unit_SMH.transpose(1, 2)).clamp(min=0.0)


class Diversity(PlacedObjective):
    """Lists are measured by ILD@K; as `parallel` J = Σ_ij π_i π_j S_ij, the expected similarity of two exposures (Rao's
    quadratic entropy, reversed)."""

    options: DiversityConfig

    @property
    def attributes(self) -> list[str]:
        return list(self.options.attributes) if self.options.similarity == "attributes" else []

    @property
    def needs_embeddings(self) -> bool:
        return self.options.similarity == "text"

    def wish(self, step: Step, slates: WholeSlates) -> Wish:
        """Distances by the attribute path."""
        return Wish(distance_SMM=path_distance([slates.codes[name] for name in self.attributes]))

    def goal(self, step: Step, exposure: Exposure) -> torch.Tensor:
        """Mean J over the slates of the global batch, in [0, 1]."""
        if self.needs_embeddings:
            embeddings_NH = step.outputs["embeddings"]
            counts = torch.tensor(float(len(embeddings_NH)), device=embeddings_NH.device)
            centre_H = step.world.sum(embeddings_NH.sum(0)) / step.world.sum(counts)
            similarity_SMM = text_similarity(embeddings_NH, centre_H, exposure.candidates_SM)
        else:
            codes_NA = torch.stack([step.batch.attributes[name] for name in self.attributes], dim=-1)
            similarity_SMM = attribute_similarity(codes_NA, exposure.candidates_SM)
        pi_SM = exposure.pi_SM
        expected_S = torch.einsum("si,sij,sj->s", pi_SM, similarity_SMM.to(pi_SM.dtype), pi_SM)
        return exposure.mean(step, expected_S)
