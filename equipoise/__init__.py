"""Balanced multi-objective LoRA fine-tuning of language-model backbones for e-commerce recommendation."""
