"""What several benchmarks are measured beside: the same work done by other software."""
