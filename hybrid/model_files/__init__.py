"""Model files on disk: where they are, their digests, GGUF and safetensors checked before they are loaded."""
