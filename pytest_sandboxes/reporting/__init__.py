"""What a run says: verdicts, JUnit properties, the summary."""
