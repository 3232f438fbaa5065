"""The engine of `hybrid`: library and command line. It knows no experiment."""
