"""Model engines, one a module, all behind `hybrid.protocols.Backend`."""
