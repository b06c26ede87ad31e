"""Diversity within a slate: two similar candidates should not both get exposure."""

import torch

from equipoise.configs.objectives import DiversityConfig
from equipoise.train.objectives.base import Exposure, Step
from equipoise.train.objectives.placed import PlacedObjective, SpreadPlacer, WholeSlates


def attribute_similarity(codes_NA: torch.Tensor, index_SM: torch.Tensor) -> torch.Tensor:
    """S (S, M, M): the share of a path of attributes, coarse to fine, that two candidates have in common."""
    codes_SMA = codes_NA[index_SM]
    equal = (codes_SMA[:, :, None] == codes_SMA[:, None, :]).float()
    return equal.cumprod(dim=-1).mean(-1)


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

    def placer(self, step: Step, slates: WholeSlates) -> SpreadPlacer:
        """Distances by the attribute path."""
        codes_SMA = torch.stack([slates.codes[name] for name in self.attributes], dim=-1)
        return SpreadPlacer(slates, self.options.places, codes_SMA, self.options.samples)

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
