"""Where the numbers of a run go besides metrics.jsonl: one file a tracker, one row in the table."""
