"""People's own prompts: any table of them, asked any number of times, by any number of arms (docs/prompts.md)."""
