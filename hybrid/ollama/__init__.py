"""An Ollama server on a rented machine: find or unpack the program, start it with a store on the own disk, stop it."""
