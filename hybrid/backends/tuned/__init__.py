"""Backends that train LoRA adapters and then generate with them."""
