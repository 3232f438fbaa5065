"""Questions about passages, as SQuAD and its kin have them."""
