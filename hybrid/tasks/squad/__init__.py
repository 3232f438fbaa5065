"""SQuAD: questions, passages and answers."""
