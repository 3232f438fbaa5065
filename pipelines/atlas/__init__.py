"""ATLAS: federated fine-tuning of LoRA adapters, with exact aggregation of unequal ranks."""
