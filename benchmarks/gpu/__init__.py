"""The checks of `gpu_check`: what only a GPU can confirm."""
