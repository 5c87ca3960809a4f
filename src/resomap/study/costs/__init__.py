"""What a study costs: predicted before it runs, measured, stored."""
