"""What a run will need and cost before it starts: memory, items, tokens, time, sessions and money on each GPU."""
