"""Backends that train adapters before they answer with them."""
