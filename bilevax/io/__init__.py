"""What a run leaves on disk: checkpoint, history, solution, figures and a report."""
