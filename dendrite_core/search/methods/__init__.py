"""The ways to search: thought trees, Monte Carlo, beams, and independent samples."""
