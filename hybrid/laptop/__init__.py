"""What a laptop does for a run that workers execute: submits it, fetches its records, retries failures."""
