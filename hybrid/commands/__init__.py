"""The commands: each reads its arguments, calls the library and prints. Loaded only when it is asked for."""
