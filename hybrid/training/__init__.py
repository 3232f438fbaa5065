"""Many LoRA adapters trained at once over one frozen model: jobs in, adapters and losses out. Knows no experiment."""
