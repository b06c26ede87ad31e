"""Export: one standard PEFT adapter per objective, what serving must know, and golden prompts that prove both."""
