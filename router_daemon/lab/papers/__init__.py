"""The published systems' own experiments, run again with the policies that route live traffic."""
