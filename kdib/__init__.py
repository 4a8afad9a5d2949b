"""kdib: which inductive biases does knowledge distillation transfer? See ARCHITECTURE.md for the rooms."""

__version__ = "0.1.0"
