"""An Ollama server on a rented machine: find or unpack the program, start it on the machine's own disk, end it."""
