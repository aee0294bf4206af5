"""Ways out for notices: to URLs of other people's, and nowhere else."""
