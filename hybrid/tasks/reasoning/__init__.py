"""Nine tasks of reasoning-gym: questions by index, prompts, scoring."""
